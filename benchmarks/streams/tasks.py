"""The tasks of both streams, and those outside them that hyperparameters are chosen on.

A task is a pack, or some classes of one; images may be turned or made negative as well,
which makes a new task of an old pack.
"""

import gzip
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from quality.encoder import Encoder, States
from quality.wordpiece import WordPiece
from torch import Tensor, nn

from streams.vision import FixedInputs, Vision, as_images, read_pack

LONGEST_TEXT = 24


class Inputs(Protocol):
    """What a model's upper part is run on, computed once."""

    def batch(self, rows: Sequence[int]) -> tuple[Tensor, ...]:
        """The arguments of `upper` for some rows."""
        ...

    def pooled(self, encoder: Any) -> Tensor:
        """Unit vectors of all rows."""
        ...


@dataclass(frozen=True, slots=True)
class Part:
    """What a task is made of.

    Attributes:
        pack: of texts or images.
        first: the first class; `last` is one beyond the last, None for all.
        turns: quarter turns of the images.
        negative: whether black and white change places.
    """

    pack: str
    first: int = 0
    last: int | None = None
    turns: int = 0
    negative: bool = False


STREAMS: Mapping[str, Mapping[str, Part]] = {
    "images": {
        "fashion-low": Part("fashion_mnist", 0, 5),
        "fashion-high": Part("fashion_mnist", 5),
        "mnist-low": Part("mnist", 0, 5),
        "mnist-high": Part("mnist", 5),
        "omniglot-2": Part("omniglot_small", 60, 120),
        "omniglot-3": Part("omniglot_small", 120, 180),
        "signs-low": Part("sign_digits", 0, 5),
        "signs-high": Part("sign_digits", 5),
    },
    "texts": {
        "trec6": Part("trec6"),
        "subj": Part("subj"),
        "goemotions7": Part("goemotions7"),
        "cr": Part("cr"),
        "sst2": Part("sst2"),
        "smsspam": Part("smsspam"),
        "stackoverflow-low": Part("stackoverflow20", 0, 10),
        "clinc-low": Part("clinc150", 0, 75),
        "banking-low": Part("banking77", 0, 38),
    },
}
OUTSIDE: Mapping[str, Mapping[str, Part]] = {
    "images": {
        "omniglot-4": Part("omniglot_small", 180),
        "fashion-turned": Part("fashion_mnist", turns=1),
        "mnist-turned": Part("mnist", turns=1),
        "signs-negative": Part("sign_digits", turns=2, negative=True),
        "fashion-negative": Part("fashion_mnist", turns=3, negative=True),
        "mnist-negative": Part("mnist", turns=2, negative=True),
    },
    "texts": {
        "mr": Part("mr"),
        "stackoverflow-high": Part("stackoverflow20", 10),
        "clinc-middle": Part("clinc150", 75, 113),
        "clinc-high": Part("clinc150", 113),
        "banking-middle": Part("banking77", 38, 58),
        "banking-high": Part("banking77", 58),
    },
}


class Task:
    """One task; what it is trained on is only computed where it is asked for."""

    def __init__(self, classes: int, read: Callable[[str], tuple[Inputs, Tensor]]) -> None:
        self.classes = classes
        self._read = read
        self.held, self.held_labels = read("test")

    @cached_property
    def training(self) -> tuple[Inputs, Tensor]:
        """Inputs and labels to train on."""
        return self._read("train")


Backbone = Encoder | Vision


def read_text(
    data: Path, part: Part, encoder: Encoder, words: WordPiece, most: Mapping[str, int]
) -> Task:
    """A task of `text/PACK.jsonl.gz`."""
    with gzip.open(data / "text" / f"{part.pack}.jsonl.gz", "rt", encoding="utf8") as file:
        rows = [json.loads(line) for line in file]
    last = part.last or 1 + max(row["label"] for row in rows)
    rows = [row for row in rows if part.first <= row["label"] < last]

    def read(split: str) -> tuple[States, Tensor]:
        some = [row for row in rows if row["split"] == split][: most[split]]
        states = States(encoder, [words.encode(row["text"], LONGEST_TEXT) for row in some])
        return states, torch.tensor([row["label"] - part.first for row in some])

    return Task(last - part.first, read)


def read_images(data: Path, part: Part, model: Vision, most: Mapping[str, int]) -> Task:
    """A task of `vision/PACK.npz`."""
    pack = read_pack(data, part.pack)
    last = part.last or 1 + int(pack["y_train"].max())

    def read(split: str) -> tuple[FixedInputs, Tensor]:
        labels = pack[f"y_{split}"].astype(np.int64)
        chosen = np.flatnonzero((labels >= part.first) & (labels < last))[: most[split]]
        raw = np.rot90(pack[f"x_{split}"][chosen], part.turns, axes=(1, 2))
        images = as_images(255 - raw if part.negative else raw)
        return FixedInputs(model, images), torch.from_numpy(labels[chosen]) - part.first

    return Task(last - part.first, read)


def tuned(model: nn.Module, names: frozenset[str]) -> dict[str, Tensor]:
    """Copies of the tensors that are fine-tuned."""
    state = model.state_dict()
    return {name: state[name].clone() for name in sorted(names)}
