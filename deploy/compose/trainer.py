"""An example to replace: six clusters of points, of which a node sees two and few of the rest."""

import torch
from torch import Tensor, nn

CLUSTERS, WIDTH = 6, 16


class Clusters:
    """Tells which cluster a point belongs to, knowing well only the clusters of its shard."""

    def __init__(self, shard: int = 0, samples: int = 600) -> None:
        self.train_x, self.train_y = draw(samples, seed=shard, mostly=(2 * shard, 2 * shard + 1))
        self.test_x, self.test_y = draw(2000, seed=1000, mostly=tuple(range(CLUSTERS)))
        self.data_size = samples

    def model(self) -> nn.Module:
        """A small network, its parameters drawn as torch is seeded."""
        return nn.Sequential(nn.Linear(WIDTH, 32), nn.ReLU(), nn.Linear(32, CLUSTERS))

    def train(self, model: nn.Module, round: int) -> dict[str, float]:
        """Twenty steps on this node's own points."""
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        device = next(model.parameters()).device
        for _ in range(20):
            batch = torch.randint(len(self.train_x), (64,))
            x, y = self.train_x[batch].to(device), self.train_y[batch].to(device)
            loss = nn.functional.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return {"loss": loss.item()}

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """The share of right answers on points of every cluster."""
        answers = model(self.test_x.to(next(model.parameters()).device)).argmax(1).cpu()
        return {"accuracy": (answers == self.test_y).float().mean().item()}


def draw(count: int, *, seed: int, mostly: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Points around the clusters' centres, nine in ten from the named clusters."""
    centres = torch.randn(CLUSTERS, WIDTH, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(seed + 1)
    named = torch.tensor(mostly)[torch.randint(len(mostly), (count,), generator=generator)]
    any_at_all = torch.randint(CLUSTERS, (count,), generator=generator)
    labels = torch.where(torch.rand(count, generator=generator) < 0.9, named, any_at_all)
    return centres[labels] + torch.randn(count, WIDTH, generator=generator), labels
