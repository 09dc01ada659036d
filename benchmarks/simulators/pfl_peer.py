"""pfl-research: federated averaging over all nodes, in one process."""

import torch
from pfl.aggregate.simulate import SimulatedBackend
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.sampling import get_user_sampler
from pfl.hyperparam.base import NNEvalHyperParams, NNTrainHyperParams
from pfl.metrics import Metrics
from pfl.model.pytorch import PyTorchModel
from task import BATCH, MOMENTUM, RATE, Clock, arguments, report, shares
from torch import nn

from weft.simulations.tasks.models import build_model


class Net(nn.Module):
    """The same net as in all rows, in the form that pfl wants."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def loss(self, images, labels, eval: bool = False) -> torch.Tensor:
        """What a step minimises."""
        self.train(not eval)
        return nn.functional.cross_entropy(self.net(images), labels)

    def metrics(self, images, labels, eval: bool = True) -> dict:
        """Nothing is measured."""
        return {}


class Timed(TrainingProcessCallback):
    """Starts a clock after the first iteration."""

    clock: Clock
    seconds = 0.0

    def after_central_iteration(self, aggregate_metrics, model, *, central_iteration, **_):
        """The first iteration is the warm-up."""
        if central_iteration == 0:
            self.clock = Clock()
        self.seconds = self.clock.seconds
        return False, Metrics()


def main() -> None:
    given = arguments()
    images, labels = (torch.from_numpy(part) for part in shares(given))
    net = Net(build_model(given.model, shape=tuple(images.shape[2:]), classes=10))
    users = list(range(given.nodes))
    data = FederatedDataset(
        lambda user: Dataset((images[user], labels[user])),
        get_user_sampler("minimize_reuse", users),
    )
    model = PyTorchModel(
        net,
        lambda parameters, lr: torch.optim.SGD(parameters, lr=lr, momentum=MOMENTUM),
        torch.optim.SGD(net.parameters(), lr=1.0),
    )
    timed = Timed()
    FederatedAveraging().run(
        NNAlgorithmParams(
            central_num_iterations=given.rounds + 1,
            evaluation_frequency=10**6,
            train_cohort_size=given.nodes,
            val_cohort_size=0,
        ),
        SimulatedBackend(data, data),
        model,
        NNTrainHyperParams(local_num_epochs=1, local_learning_rate=RATE, local_batch_size=BATCH),
        NNEvalHyperParams(local_batch_size=BATCH),
        [timed],
    )
    report(given.nodes * given.steps * given.rounds, timed.seconds)


if __name__ == "__main__":
    main()
