"""Trainers as users write them, for the tests of node/: small, and badly behaved on demand."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn


class Tiny:
    """Linear regression on data drawn as it trains, with Adam's state kept."""

    data_size = 32

    def __init__(self, steps: int = 3, lr: float = 0.05) -> None:
        self.steps, self.lr = steps, lr
        self.adam: dict[str, object] | None = None
        self.kept = 0

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))

    def train(self, model: nn.Module, round: int) -> dict[str, float]:
        print(f"training round {round}")
        optimizer = torch.optim.Adam(model.parameters(), self.lr)
        if self.adam is not None:
            optimizer.load_state_dict(self.adam)
        loss = torch.zeros(())
        for _ in range(self.steps):
            inputs = torch.randn(16, 4) + random.random() + float(np.random.rand())
            loss = (model(inputs) - inputs.sum(1, keepdim=True)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        self.adam, self.kept = optimizer.state_dict(), self.kept + 1
        return {"loss": loss.item(), "round": float(round)}

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        assert not model.training
        return {"error": float((model(torch.ones(1, 4)) - 4).abs())}

    def state(self) -> dict[str, object]:
        return {"optimizer": self.adam, "kept": self.kept}

    def load_state(self, state: dict[str, object]) -> None:
        adam, kept = state.get("optimizer"), state["kept"]
        assert adam is None or isinstance(adam, dict)
        assert isinstance(kept, int)
        self.adam, self.kept = adam, kept


class Normed:
    """BatchNorm after a convolution and after a linear layer, dropout between."""

    def model(self) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(1, 3, 3),
            nn.BatchNorm2d(3),
            nn.Flatten(),
            nn.Dropout(0.5),
            nn.Linear(48, 5),
            nn.BatchNorm1d(5),
        )

    def train(self, model: nn.Module, round: int) -> None:
        model(torch.randn(8, 1, 6, 6))

    def calibration(self) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(7)
        for size in (16, 16, 4):
            inputs = torch.randn(size, 1, 6, 6, generator=generator) * 2 + 1
            yield inputs, torch.zeros(size)


class TiedModel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(6, 4)
        self.body = nn.Linear(4, 4)
        self.head = nn.Linear(4, 6, bias=False)
        self.head.weight = self.embedding.weight


class Tied:
    def model(self) -> nn.Module:
        return TiedModel()

    def train(self, model: nn.Module, round: int) -> dict[str, float]:
        with torch.no_grad():
            next(model.parameters()).add_(1.0)
        return {}


class Misbehaving:
    """Does one thing wrong, by name."""

    def __init__(self, how: str = "") -> None:
        self.how = how
        if how == "constructor":
            raise RuntimeError("no data today")

    def model(self) -> nn.Module:
        return nn.Linear(2, 2)

    def train(self, model: nn.Module, round: int) -> object:
        linear = model
        assert isinstance(linear, nn.Linear)
        with torch.no_grad():
            match self.how:
                case "raise":
                    raise ValueError("labels are off\nsecond line")
                case "exit":
                    sys.exit("enough")
                case "nan loss":
                    return {"train/Loss": float("nan")}
                case "nan metric":
                    return {"auc": float("nan"), "tensor": torch.tensor(2.5), "int": np.int64(3)}
                case "nan parameter":
                    linear.bias[1] = float("inf")
                case "reshape":
                    linear.weight = nn.Parameter(torch.zeros(3, 2))
                case "cast":
                    linear.half()
                case "metrics":
                    return [1.0]
                case "text metric":
                    return {"loss": "low"}
        return {"loss": 1.0}


class OddState(Misbehaving):
    def state(self) -> dict[str, object]:
        return {"optimizer": {"steps": [1, {"rng": np.zeros(2)}]}}

    def load_state(self, state: dict[str, object]) -> None:
        raise AssertionError("nothing to load")


class Forgetful:
    """Keeps a counter where no state() sees it."""

    def __init__(self) -> None:
        self.rounds = 0

    def model(self) -> nn.Module:
        return nn.Linear(1, 1)

    def train(self, model: nn.Module, round: int) -> dict[str, float]:
        self.rounds += 1
        return {"rounds": float(self.rounds)}


class Drastic:
    """By round: what user code may do to its process. Even rounds are well behaved."""

    def model(self) -> nn.Module:
        return nn.Linear(1, 1)

    def train(self, model: nn.Module, round: int) -> dict[str, float]:
        print(f"drastic round {round}", flush=True)
        match round:
            case 1:
                raise ValueError("labels are off")
            case 3:
                os.kill(os.getpid(), signal.SIGKILL)
            case 5:
                child = subprocess.Popen(["sleep", "600"])
                print(f"pid {child.pid}", flush=True)
                time.sleep(600)
            case 7:
                os.kill(os.getpid(), signal.SIGSTOP)
        return {"loss": 0.5}


class NoTrain:
    def model(self) -> nn.Module:
        return nn.Linear(1, 1)


class HalfState:
    def model(self) -> nn.Module:
        return nn.Linear(1, 1)

    def train(self, model: nn.Module, round: int) -> dict[str, float]:
        return {}

    def state(self) -> dict[str, object]:
        return {}


class Picky:
    def __init__(self, path: str, batch_size: int = 8) -> None:
        self.path, self.batch_size = path, batch_size

    def model(self) -> nn.Module:
        return nn.Linear(1, 1)

    def train(self, model: nn.Module, round: int) -> dict[str, float]:
        return {}


class Cached:
    """Builds its model once, and hands out the same one again."""

    def __init__(self) -> None:
        self.built: nn.Module | None = None

    def model(self) -> nn.Module:
        if self.built is None:
            self.built = nn.Linear(3, 3)
        return self.built

    def train(self, model: nn.Module, round: int) -> dict[str, float]:
        return {"draw": float(torch.rand(())), "training": float(model.training)}

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        return {"gradients": float(torch.is_grad_enabled()), "training": float(model.training)}
