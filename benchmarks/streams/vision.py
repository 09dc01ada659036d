"""The small convolutional network of the image stream, and the packs it is trained on.

A stem of two convolutions, then blocks of the kind of ConvNeXt (Liu et al. 2022,
arXiv:2201.03545, section 2.6). It is pre-trained on one pack; the stem then stays as it is,
and the blocks are what is fine-tuned and merged. A vision transformer of this size learns too
little from so few images: of what its experts gained, a merge kept a third.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

SIDE = 28
WIDTH, DEPTH = 96, 4
SHARPNESS = 16.0
PRETRAIN_PACK = "cifar10_25k"


class Block(nn.Module):
    """Each channel over its neighbours, then a net of two linear maps over the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.spread = nn.Conv2d(WIDTH, WIDTH, 5, padding=2, groups=WIDTH)
        self.norm = nn.LayerNorm(WIDTH)
        self.up = nn.Linear(WIDTH, 4 * WIDTH)
        self.down = nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, hidden: Tensor) -> Tensor:
        """(images, places, width) to the same."""
        grid = hidden.transpose(1, 2).unflatten(2, (SIDE // 4, -1))
        spread = self.spread(grid).flatten(2).transpose(1, 2)
        return hidden + self.down(functional.gelu(self.up(self.norm(spread))))


class Vision(nn.Module):
    """Images (n, 3, 28, 28) to unit vectors (n, width)."""

    width = WIDTH

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, WIDTH // 2, 3, 2, 1), nn.GELU(), nn.Conv2d(WIDTH // 2, WIDTH, 3, 2, 1)
        )
        self.blocks = nn.ModuleList(Block() for _ in range(DEPTH))
        self.norm = nn.LayerNorm(WIDTH)

    @property
    def tuned_names(self) -> frozenset[str]:
        """Of the tensors that are fine-tuned."""
        return frozenset(name for name in self.state_dict() if name.startswith(("blocks.", "norm")))

    def lower(self, images: Tensor) -> Tensor:
        """(n, 3, 28, 28) to (n, places, width)."""
        return self.stem(images).flatten(2).transpose(1, 2)

    def upper(self, hidden: Tensor) -> Tensor:
        """(n, places, width) to unit vectors (n, width)."""
        for block in self.blocks:
            hidden = block(hidden)
        return functional.normalize(self.norm(hidden).mean(1), dim=1)


class FixedInputs:
    """Images as what the stem makes of them, computed once."""

    def __init__(self, model: Vision, images: Tensor) -> None:
        with torch.inference_mode():
            hidden = torch.cat([model.lower(part) for part in images.split(256)])
        self._hidden = hidden.clone()

    def __len__(self) -> int:
        return len(self._hidden)

    def batch(self, rows: Sequence[int]) -> tuple[Tensor]:
        """Hidden states of some images."""
        return (self._hidden[list(rows)],)

    def pooled(self, model: Vision) -> Tensor:
        """The upper part on all images: (n, width)."""
        with torch.inference_mode():
            pooled = torch.cat([model.upper(part) for part in self._hidden.split(128)])
        return pooled.clone()


def read_pack(data: Path, name: str) -> dict[str, np.ndarray]:
    """Arrays x_train, y_train, x_test, y_test, and the names of the classes."""
    with np.load(data / "vision" / f"{name}.npz") as file:
        return {key: file[key] for key in file.files}


def as_images(raw: np.ndarray) -> Tensor:
    """(n, h, w) or (n, h, w, 3) of bytes to (n, 3, 28, 28), about -1 to 1."""
    images = torch.from_numpy(np.ascontiguousarray(raw)).float().div_(127.5).sub_(1)
    images = images[:, None].expand(-1, 3, -1, -1) if images.ndim == 3 else images.movedim(3, 1)
    if images.shape[2] != SIDE:
        images = functional.interpolate(images, (SIDE, SIDE), mode="area")
    return images.contiguous()


def pretrain(data: Path, steps: int, batch: int = 64, rate: float = 2e-3) -> tuple[Vision, float]:
    """A model from nothing, and its accuracy on the pack's first 1,000 test images."""
    torch.manual_seed(0)
    pack = read_pack(data, PRETRAIN_PACK)
    images, labels = as_images(pack["x_train"]), torch.from_numpy(pack["y_train"]).long()
    model, head = Vision(), nn.Linear(WIDTH, int(labels.max()) + 1, bias=False)
    tuned = [*model.parameters(), *head.parameters()]
    optimiser = torch.optim.AdamW(tuned, lr=rate, weight_decay=0.05, fused=True)
    rising = max(steps // 10, 1)
    for step in range(steps):
        part = min((step + 1) / rising, (steps - step) / (steps - rising))
        optimiser.param_groups[0]["lr"] = rate * part
        rows = torch.randint(len(labels), (batch,))
        pooled = model.upper(model.lower(_varied(images[rows])))
        logits = SHARPNESS * functional.linear(pooled, functional.normalize(head.weight, dim=1))
        loss = functional.cross_entropy(logits, labels[rows])
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(tuned, 1.0)
        optimiser.step()
    test = FixedInputs(model, as_images(pack["x_test"][:1000])).pooled(model)
    guessed = functional.linear(test, functional.normalize(head.weight, dim=1)).argmax(1)
    right = guessed == torch.from_numpy(pack["y_test"][:1000]).long()
    return model, right.double().mean().item()


def _varied(images: Tensor) -> Tensor:
    """Mirrored or not, moved by up to two pixels; grey one time in four."""
    if torch.rand(()) < 0.5:
        images = images.flip(3)
    padded = functional.pad(images, (2, 2, 2, 2), mode="reflect")
    top, left = (int(place) for place in torch.randint(5, (2,)))
    images = padded[:, :, top : top + SIDE, left : left + SIDE]
    grey = (torch.rand(len(images), 1, 1, 1) < 0.25).float()
    return images.lerp(images.mean(1, keepdim=True).expand_as(images), grey)
