"""Experts of a stream: fine-tuned from the base, or from each other, with frozen heads.

A task's head is made of what the base makes of a few examples of each class, and never
changes; so base, experts and merges are all scored with the same head.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from quality.encoder import Encoder
from quality.wordpiece import WordPiece
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional

from streams.tasks import OUTSIDE, STREAMS, Backbone, Inputs, Task, read_images, read_text, tuned
from streams.vision import DEPTH, SHARPNESS, WIDTH, Vision, pretrain

Model = dict[str, Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How the experts of a stream are made.

    Attributes:
        stream: "images" or "texts".
        layers: of the text encoder that are fine-tuned, from the top.
        examples: that a head is made of, about; one of each class at least.
        steps: of AdamW; its largest rate is `rate`, it rises for a tenth, then falls.
        batch: examples a step.
        train: examples of a task to train on, at most; `held` to score on.
        pretraining: steps of pre-training, of the image model.
        probe: steps of fitting the heads to what the base makes of the training examples;
            0: they stay the mean directions. A base that knows the tasks already has more to
            lose.
    """

    stream: str
    layers: int = 6
    examples: int = 32
    steps: int = 80
    rate: float = 2e-4
    batch: int = 16
    train: int = 1200
    held: int = 150
    pretraining: int = 3000
    probe: int = 0

    @property
    def key(self) -> str:
        """Of what an expert depends on."""
        aside = {"held", "pretraining" if self.stream == "texts" else "layers"}
        if not self.probe:
            aside.add("probe")
        decisive = {name: value for name, value in asdict(self).items() if name not in aside}
        return hashlib.sha256(json.dumps(decisive).encode()).hexdigest()[:10]


OWN: Mapping[str, Mapping[str, float]] = {
    "images": {"examples": 100, "steps": 120, "rate": 1e-3},
    "texts": {},
}
"""Settings of a stream where they are not the defaults; found on tasks outside it."""


class Workshop:
    """One stream's base, tasks and heads; makes experts, and keeps them in a folder.

    Args:
        settings: how they are made.
        data: the folder of packs.
        encoder: of the text stream: the folder of its weights.
        cache: where everything is kept.
    """

    def __init__(self, settings: Settings, data: Path, encoder: Path, cache: Path) -> None:
        self.settings = settings
        self._data, self._words = data, encoder / "vocab.txt"
        self._cache = cache / f"{settings.stream}-{settings.key}"
        self._cache.mkdir(parents=True, exist_ok=True)
        self.model: Backbone
        if settings.stream == "texts":
            self.model = Encoder(encoder, settings.layers)
        else:
            self.model = _vision(
                cache / f"vision-{WIDTH}x{DEPTH}-{settings.pretraining}", data, settings
            )
        self.base: Model = tuned(self.model, self.model.tuned_names)
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(name in self.base)
        self._tasks: dict[str, Task] = {}
        self._heads: dict[str, Tensor] = {}

    @property
    def folder(self) -> Path:
        """Where the experts are."""
        return self._cache

    @property
    def names(self) -> list[str]:
        """Of the tasks in the stream."""
        return list(STREAMS[self.settings.stream])

    @property
    def outside(self) -> list[str]:
        """Of the tasks that hyperparameters are chosen on."""
        return list(OUTSIDE[self.settings.stream])

    def task(self, name: str) -> Task:
        """A task, read when it is first asked for."""
        if name not in self._tasks:
            settings = self.settings
            part = {**STREAMS[settings.stream], **OUTSIDE[settings.stream]}[name]
            most = {"train": settings.train, "test": settings.held}
            if isinstance(self.model, Encoder):
                words = WordPiece(self._words)
                self._tasks[name] = read_text(self._data, part, self.model, words, most)
            else:
                self._tasks[name] = read_images(self._data, part, self.model, most)
        return self._tasks[name]

    def head(self, name: str) -> Tensor:
        """(classes, width): mean directions of the first examples of each class."""
        if name in self._heads:
            return self._heads[name]
        path = self._cache / f"{name}.head"
        if not path.exists():
            _save(path, {"weight": self._made_head(name)})
        self._heads[name] = load_file(path)["weight"]
        return self._heads[name]

    def _made_head(self, name: str) -> Tensor:
        inputs, labels = self.task(name).training
        self.put(self.base)
        weight = torch.zeros(self.task(name).classes, self.model.width)
        shots = max(self.settings.examples // len(weight), 1)
        for label in range(len(weight)):
            rows = torch.nonzero(labels == label)[:shots, 0].tolist()
            with torch.no_grad():
                pooled = self.model.upper(*inputs.batch(rows))
            weight[label] = functional.normalize(pooled.mean(0), dim=0) * SHARPNESS
        if self.settings.stream == "images":
            # This base's directions are all near one another, and a head of such learns slowly.
            weight = functional.normalize(weight - weight.mean(0), dim=1) * SHARPNESS
        return self._probed(weight, inputs, labels) if self.settings.probe else weight

    def _probed(self, weight: Tensor, inputs: Inputs, labels: Tensor) -> Tensor:
        """A head fitted to the base's outputs, all examples a step."""
        with torch.no_grad():
            pooled = inputs.pooled(self.model).float()
        weight = weight.clone().requires_grad_()
        optimiser = torch.optim.AdamW([weight], lr=0.3, weight_decay=1e-3)
        for _ in range(self.settings.probe):
            loss = functional.cross_entropy(functional.linear(pooled, weight), labels)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        return weight.detach()

    def put(self, model: Mapping[str, Tensor]) -> None:
        """Load weights of the tuned part."""
        self.model.load_state_dict(dict(model), strict=False)

    def accuracy(self, name: str) -> float:
        """Of the loaded model on a task's held examples."""
        task = self.task(name)
        with torch.autocast("cpu", torch.bfloat16):
            pooled = task.held.pooled(self.model)
        guessed = functional.linear(pooled.float(), self.head(name)).argmax(1)
        return (guessed == task.held_labels).double().mean().item()

    def expert(self, names: Sequence[str], seed: int, start: Model | None = None) -> Model:
        """Fine-tuned on tasks together, from the base unless `start` is given; not cached then."""
        path = self._cache / f"{'+'.join(names)}.{seed}"[:200]
        if start is None and path.exists():
            return load_file(path)
        tasks = [(*self.task(name).training, self.head(name)) for name in names]
        self.put(self.base if start is None else start)
        self._tune(tasks, seed)
        found = tuned(self.model, self.model.tuned_names)
        if start is None:
            _save(path, found)
        return found

    def chain(self, names: Sequence[str], seed: int) -> list[Model]:
        """One model fine-tuned on one task after the other: after each of them."""
        found: list[Model] = []
        for count in range(1, len(names) + 1):
            path = self._cache / f"chain-{_digest(names[:count])}.{seed}"
            if not path.exists():
                _save(path, self.expert([names[count - 1]], seed, found[-1] if found else None))
            found.append(load_file(path))
        return found

    def _tune(self, tasks: Sequence[tuple[Inputs, Tensor, Tensor]], seed: int) -> None:
        settings, model = self.settings, self.model
        parameters = [each for each in model.parameters() if each.requires_grad]
        optimiser = torch.optim.AdamW(parameters, lr=settings.rate, fused=True)
        generator = torch.Generator().manual_seed(seed)
        steps = settings.steps * len(tasks)
        rising = max(steps // 10, 1)
        for step in range(steps):
            part = min((step + 1) / rising, (steps - step) / (steps - rising))
            optimiser.param_groups[0]["lr"] = settings.rate * part
            inputs, labels, head = tasks[step % len(tasks)]
            rows = torch.randint(len(labels), (settings.batch,), generator=generator)
            with torch.autocast("cpu", torch.bfloat16):
                pooled = model.upper(*inputs.batch(rows.tolist()))
            loss = functional.cross_entropy(functional.linear(pooled.float(), head), labels[rows])
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimiser.step()


def _vision(path: Path, data: Path, settings: Settings) -> Vision:
    model = Vision()
    if not path.exists():
        made, _ = pretrain(data, settings.pretraining)
        _save(path, {name: value.contiguous() for name, value in made.state_dict().items()})
    model.load_state_dict(load_file(path))
    return model


def _digest(names: Sequence[str]) -> str:
    return hashlib.sha256("+".join(names).encode()).hexdigest()[:10]


def _save(path: Path, tensors: Model) -> None:
    """Whole or not at all."""
    partial = path.with_suffix(".partial")
    save_file(tensors, partial)
    os.replace(partial, path)
