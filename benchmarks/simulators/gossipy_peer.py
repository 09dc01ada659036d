"""gossipy: push gossip, merge then update, one pass over a round's images a message."""

import copy

import torch
from gossipy.core import AntiEntropyProtocol, CreateModelMode, StaticP2PNetwork
from gossipy.data import DataDispatcher
from gossipy.data.handler import ClassificationDataHandler
from gossipy.model import TorchModel
from gossipy.model.handler import TorchModelHandler
from gossipy.node import GossipNode
from gossipy.simul import GossipSimulator
from task import BATCH, MOMENTUM, RATE, Clock, arguments, report, shares
from torch import nn

from weft.simulations.tasks.models import build_model


class Net(TorchModel):
    """The same net as in all rows."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        for layer in net.modules():
            if isinstance(layer, nn.BatchNorm2d):
                # gossipy divides all entries in place, which a whole number refuses.
                layer.num_batches_tracked = None

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """The net's outputs."""
        return self.net(images)

    def init_weights(self) -> None:
        """As they are."""


class Counting(TorchModelHandler):
    """Counts the steps of all nodes."""

    steps = 0

    def _local_step(self, x: torch.Tensor, y: torch.Tensor) -> None:
        Counting.steps += 1
        super()._local_step(x, y)


def main() -> None:
    given = arguments()
    images, labels = (torch.from_numpy(part) for part in shares(given))
    net = build_model(given.model, shape=tuple(images.shape[2:]), classes=10)
    dispatcher = DataDispatcher(
        ClassificationDataHandler(images.flatten(0, 1), labels.flatten(), test_size=0),
        n=given.nodes,
        eval_on_user=False,
        auto_assign=False,
    )
    size = images.shape[1]
    dispatcher.set_assignments(
        [list(range(node * size, (node + 1) * size)) for node in range(given.nodes)], None
    )
    handler = Counting(
        net=Net(net),
        optimizer=torch.optim.SGD,
        optimizer_params={"lr": RATE, "momentum": MOMENTUM},
        criterion=nn.functional.cross_entropy,
        batch_size=BATCH,
        create_model_mode=CreateModelMode.MERGE_UPDATE,
    )
    nodes = GossipNode.generate(
        data_dispatcher=dispatcher,
        p2p_net=StaticP2PNetwork(given.nodes),
        model_proto=copy.deepcopy(handler),
        round_len=10,
        sync=True,
    )
    simulator = GossipSimulator(
        nodes=nodes, data_dispatcher=dispatcher, delta=10, protocol=AntiEntropyProtocol.PUSH
    )
    simulator.init_nodes()
    Counting.steps = 0
    clock = Clock()
    simulator.start(n_rounds=given.rounds)
    report(Counting.steps, clock.seconds)


if __name__ == "__main__":
    main()
