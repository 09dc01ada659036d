"""What a merged model is measured against, trained with the very same trainer.

*Local only*: each node trains as many steps on its own share and never merges.
*Central*: one model trains as many steps on everybody's examples, which nodes
that share no data cannot have. *Counterfactual average*: what the plain mean of
all contributions to a round would score, round by round, though nobody merged it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from weft.node.errors import BadTrainer
from weft.node.trainer import Trainer
from weft.simulations.tasks.classification import ClassificationTrainer, load_task
from weft.simulations.tasks.dealt import DealtTask
from weft.simulations.tasks.models import written

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskOptions:
    """The options of `ClassificationTrainer` that all nodes of a study share."""

    data: str = "digits"
    nodes: int = 4
    split: str = "dirichlet"
    alpha: float = 0.3
    seed: int = 0
    steps: int = 20
    batch: int = 32
    optimizer: str = "sgd"
    lr: float = 0.0
    decay: float = 0.93
    model: str = "mlp"
    model_options: Mapping[str, int] | str = ""
    limit: int = 0
    test_limit: int = 0

    def of_node(self, node: int) -> dict[str, Any]:
        """The keyword arguments of one node's trainer, each one that a line of a file can say."""
        options = {name: getattr(self, name) for name in self.__slots__}
        return options | {"model_options": written(self.model_options), "node": node}

    def trainer(self, node: int, task: DealtTask | None = None) -> ClassificationTrainer:
        """One node's trainer; `task`, as `dealt` gave it, is for many in one process."""
        return ClassificationTrainer(**self.of_node(node), task=task)

    def dealt(self) -> DealtTask:
        """The task, dealt out to all nodes."""
        whole = load_task(self.data, self.limit, self.test_limit)
        return DealtTask.of(whole, self.split, nodes=self.nodes, alpha=self.alpha, seed=self.seed)

    @property
    def central(self) -> "TaskOptions":
        """The same task with all examples in one place."""
        return replace(self, nodes=1, split="whole")


def initial_model(trainer: Trainer, seed: int) -> nn.Module:
    """The trainer's model, drawn from the seed as a run's base is; global generator untouched.

    Raises:
        BadTrainer: it is no model.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = trainer.model()
    if not isinstance(model, nn.Module):
        raise BadTrainer(
            f"{type(trainer).__name__}.model gave {type(model).__name__}; expected a torch module"
        )
    return model


def initial_model_of(trainer: Trainer, seed: int, node: int) -> nn.Module:
    """One of a node's own, where all start from different models; as `initial_model`."""
    drawn = np.random.SeedSequence([seed, node]).generate_state(1, np.uint64)[0]
    return initial_model(trainer, int(drawn) >> 1)


def learn(trainer: ClassificationTrainer, *, rounds: int, seed: int) -> list[float]:
    """Train without merging; the accuracy (a fraction) after each round."""
    model = initial_model(trainer, seed)
    accuracies = []
    for round in range(rounds):
        trainer.train(model, round)
        accuracies.append(trainer.evaluate(model)["accuracy"])
    return accuracies


def local_only(options: TaskOptions, *, rounds: int) -> list[list[float]]:
    """For each node, its accuracy after each round of training alone."""
    return [
        learn(options.trainer(node), rounds=rounds, seed=options.seed)
        for node in range(options.nodes)
    ]


def central(options: TaskOptions, *, rounds: int) -> list[float]:
    """The accuracy after each round of one model that sees all examples."""
    return learn(options.central.trainer(0), rounds=rounds, seed=options.seed)


def mean_tensors(models: Sequence[Tensors]) -> dict[str, Tensor]:
    """The plain mean, tensor by tensor, in float64 and rounded once.

    Tensors that are no floating point numbers are the first model's.
    """
    first = models[0]
    return {
        name: _mean([model[name] for model in models]) if tensor.is_floating_point() else tensor
        for name, tensor in first.items()
    }


def consensus_distance(models: Sequence[Tensors]) -> float:
    """How far models are from agreeing: sqrt(mean_i ||theta_i - theta_bar||^2).

    Over floating tensors, in float64, in the units of the parameters; zero where
    all models are equal.

    Source: Kong et al. 2021, "Consensus Control for Decentralized Deep Learning",
        the root of their consensus distance squared.
    """
    total = 0.0
    for name, tensor in models[0].items():
        if tensor.is_floating_point():
            stacked = torch.stack([model[name].double() for model in models])
            total += float((stacked - stacked.mean(dim=0)).square().sum()) / len(models)
    return float(total**0.5)


def accuracy(trainer: ClassificationTrainer, tensors: Tensors) -> float:
    """The accuracy (a fraction) of a model given by its tensors."""
    model = initial_model(trainer, 0)
    model.load_state_dict(dict(tensors))
    return trainer.evaluate(model)["accuracy"]


def counterfactual(
    trainer: ClassificationTrainer, rounds: Iterable[Sequence[Tensors]]
) -> list[float]:
    """What the mean of all contributions to a round scores, round by round.

    Running statistics are averaged as well, without re-estimation: a rough
    figure for models with BatchNorm.
    """
    return [accuracy(trainer, mean_tensors(models)) for models in rounds]


def _mean(tensors: Sequence[Tensor]) -> Tensor:
    return torch.stack([tensor.double() for tensor in tensors]).mean(dim=0).to(tensors[0].dtype)
