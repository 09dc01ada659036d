"""A trainer with every method that a node knows; `model` and `train` are the required two.

In a node's configuration:

    [train]
    trainer = "trainer:DigitsTrainer"
    options = { node = 0, nodes = 4 }
"""

from collections.abc import Iterator

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

TEST = 297


class DigitsTrainer:
    def __init__(self, node: int = 0, nodes: int = 1, lr: float = 0.05) -> None:
        data = load_digits()
        self.inputs = torch.tensor(data.images[:, None] / 16, dtype=torch.float32)
        self.labels = torch.tensor(data.target)
        self.mine = torch.arange(node, len(self.labels) - TEST, nodes)
        self.lr = lr
        self.momenta: dict[str, object] | None = None

    @property
    def data_size(self) -> int:
        """What merges that weigh by data go by."""
        return len(self.mine)

    def model(self) -> nn.Module:
        """Called once, with torch seeded: all nodes of a run start from the same base."""
        return nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(16 * 64, 10),
        )

    def train(self, model: nn.Module, round: int) -> dict[str, float]:
        """One round, in place. Everything is seeded from (run, node, round) before."""
        optimizer = torch.optim.SGD(model.parameters(), lr=self.lr, momentum=0.9)
        if self.momenta is not None:
            optimizer.load_state_dict(self.momenta)
        losses = []
        for batch in self.mine[torch.randperm(len(self.mine))].split(32):
            loss = nn.functional.cross_entropy(model(self.inputs[batch]), self.labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        self.momenta = optimizer.state_dict()
        return {"loss": sum(losses) / len(losses)}

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """For curves and status; called in evaluation mode, without gradients."""
        right = model(self.inputs[-TEST:]).argmax(dim=1) == self.labels[-TEST:]
        return {"accuracy": right.float().mean().item()}

    def calibration(self) -> Iterator[tuple[Tensor]]:
        """Inputs from which BatchNorm's statistics are measured anew after a merge."""
        for batch in self.mine.split(256):
            yield (self.inputs[batch],)

    def state(self) -> dict[str, object]:
        """Saved with the round, so that a node that is killed goes on where it was."""
        return {} if self.momenta is None else {"optimizer": self.momenta}

    def load_state(self, state: dict[str, object]) -> None:
        """Without "optimizer" where the run says optimizer = "reset"."""
        found = state.get("optimizer")
        self.momenta = found if isinstance(found, dict) else None
