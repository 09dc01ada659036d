"""Flower's simulation: federated averaging over all nodes, an actor a core."""

import os

import torch
from flwr.client import ClientApp, NumPyClient
from flwr.common import ndarrays_to_parameters
from flwr.server import ServerApp, ServerAppComponents, ServerConfig
from flwr.server.strategy import FedAvg
from flwr.simulation import run_simulation
from task import BATCH, MOMENTUM, RATE, Clock, arguments, report, shares
from torch import nn

from weft.simulations.tasks.models import build_model

GIVEN = arguments()
_HELD: list = []
"""An actor's data and net, kept from one client to the next."""


def held():
    """Images, labels and a net, loaded once an actor."""
    if not _HELD:
        torch.set_num_threads(1)
        images, labels = (torch.from_numpy(part) for part in shares(GIVEN))
        _HELD.extend((images, labels, new_net()))
    return _HELD


def new_net() -> nn.Module:
    return build_model(GIVEN.model, shape=(28, 28), classes=10)


class Client(NumPyClient):
    """One node."""

    def __init__(self, node: int) -> None:
        self.node = node

    def fit(self, parameters, config):
        """One pass over a round's images."""
        images, labels, net = held()
        names = list(net.state_dict())
        arrays = (torch.from_numpy(array) for array in parameters)
        net.load_state_dict(dict(zip(names, arrays, strict=True)))
        optimizer = torch.optim.SGD(net.parameters(), lr=RATE, momentum=MOMENTUM)
        order = torch.randperm(images.shape[1]).split(BATCH)
        for chosen in order:
            optimizer.zero_grad()
            outputs = net(images[self.node][chosen])
            nn.functional.cross_entropy(outputs, labels[self.node][chosen]).backward()
            optimizer.step()
        arrays = [tensor.detach().numpy().copy() for tensor in net.state_dict().values()]
        return arrays, len(order) * BATCH, {}


class Timed(FedAvg):
    """Starts a clock after the first round."""

    clock: Clock
    seconds = 0.0

    def aggregate_fit(self, server_round, results, failures):
        """The first round is the warm-up."""
        found = super().aggregate_fit(server_round, results, failures)
        if failures:
            raise RuntimeError(f"round {server_round}: {failures[0]}")
        if server_round == 1:
            self.clock = Clock()
        self.seconds = self.clock.seconds
        if server_round == GIVEN.rounds + 1:
            # The actors are still there; their memory is looked at now.
            report(GIVEN.nodes * GIVEN.steps * GIVEN.rounds, self.seconds)
        return found


def server(_) -> ServerAppComponents:
    weights = [tensor.numpy() for tensor in new_net().state_dict().values()]
    strategy = Timed(
        fraction_fit=1.0,
        fraction_evaluate=0.0,
        min_fit_clients=GIVEN.nodes,
        min_available_clients=GIVEN.nodes,
        initial_parameters=ndarrays_to_parameters(weights),
    )
    return ServerAppComponents(strategy=strategy, config=ServerConfig(num_rounds=GIVEN.rounds + 1))


def client(context):
    return Client(int(context.node_config["partition-id"])).to_client()


if __name__ == "__main__":
    run_simulation(
        ServerApp(server_fn=server),
        ClientApp(client_fn=client),
        num_supernodes=GIVEN.nodes,
        backend_config={
            "client_resources": {"num_cpus": 1},
            "init_args": {"num_cpus": os.cpu_count(), "include_dashboard": False},
        },
    )
