"""Experts: one encoder, fine-tuned on one task at a time, kept as files.

The head of a task is made of what the base makes of a few texts of each class, and never
changes, so that whatever is merged, and the base itself, is scored with the same head.
As with the text heads of CLIP, the base does somewhat, an expert much better.
"""

import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from multiprocessing import get_context
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional

from quality.encoder import Encoder, States
from quality.tasks import Settings, Texts, read_task
from quality.wordpiece import WordPiece

SHARPNESS = 16.0
"""Length of a head's rows; what they are multiplied with are unit vectors."""


@dataclass(frozen=True, slots=True)
class Places:
    """Folders: the encoder's, the data's, and the one for what is made of them."""

    encoder: Path
    data: Path
    cache: Path

    @property
    def base(self) -> Path:
        """The layers that are fine-tuned, as they were."""
        return self.cache / "base.safetensors"

    def expert(self, task: str) -> Path:
        """These layers, fine-tuned."""
        return self.cache / f"{task}.safetensors"

    def head(self, task: str) -> Path:
        """`weight` (classes, width) and `bias` (classes)."""
        return self.cache / f"{task}.head.safetensors"


def prepare(places: Places, settings: Settings, workers: int, note: Callable[[str], None]) -> None:
    """Fine-tune what the cache does not have, a process a task; `note` is told of each."""
    places.cache.mkdir(parents=True, exist_ok=True)
    if not places.base.exists():
        _save(places.base, Encoder(places.encoder, settings.layers).tuned())
    missing = [task for task in settings.tasks if not places.expert(task).exists()]
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for line in pool.map(partial(_make, places, settings), missing):
            note(line)


def head_of(places: Places, task: str) -> Mapping[str, Tensor]:
    """A task's head."""
    return load_file(places.head(task))


def scores(pooled: Tensor, head: Mapping[str, Tensor], labels: Tensor) -> tuple[float, float]:
    """Accuracy and mean cross-entropy."""
    logits = functional.linear(pooled, head["weight"], head["bias"])
    loss = functional.cross_entropy(logits, labels)
    return (logits.argmax(1) == labels).double().mean().item(), loss.item()


def _make(places: Places, settings: Settings, name: str) -> str:
    torch.set_num_threads(1)
    began = time.perf_counter()
    tokenizer = WordPiece(places.encoder / "vocab.txt")
    task = read_task(places.data, name, tokenizer, settings)
    train = task.train
    encoder = Encoder(places.encoder, settings.layers)
    states = States(encoder, train.tokens)
    head = _prototypes(encoder, states, train, task.classes, settings.shots)
    before = encoder.tuned()
    loss = _tune(encoder, states, train, head, settings)
    after = encoder.tuned()
    norm = sum((after[key] - before[key]).double().square().sum() for key in before) ** 0.5
    _save(places.head(name), head)
    _save(places.expert(name), after)
    seconds = time.perf_counter() - began
    return f"fine-tuned on {name}: last loss {loss:.3f}, task vector {norm:.2f}, {seconds:.0f} s"


def _prototypes(
    encoder: Encoder, states: States, train: Texts, classes: int, shots: int
) -> dict[str, Tensor]:
    """The mean direction of the first texts of each class, times a temperature."""
    places: list[list[int]] = [[] for _ in range(classes)]
    for row, label in enumerate(train.labels):
        places[label].append(row)
    weight = torch.zeros(classes, encoder.width)
    with torch.inference_mode():
        for label, rows in enumerate(places):
            if rows:
                pooled = encoder.upper(*states.batch(rows[:shots]))
                weight[label] = functional.normalize(pooled.mean(0), dim=0) * SHARPNESS
    return {"weight": weight, "bias": torch.zeros(classes)}


def _tune(
    encoder: Encoder, states: States, train: Texts, head: Mapping[str, Tensor], settings: Settings
) -> float:
    """Train the upper layers; the mean loss of the last tenth of the steps."""
    labels = torch.tensor(train.labels)
    tuned = [parameter for parameter in encoder.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(tuned, lr=settings.rate, fused=True)
    generator = torch.Generator().manual_seed(settings.seed)
    rising = max(settings.steps // 10, 1)
    losses: list[float] = []
    for step in range(settings.steps):
        part = min((step + 1) / rising, (settings.steps - step) / (settings.steps - rising))
        for group in optimiser.param_groups:
            group["lr"] = settings.rate * part
        rows = torch.randint(len(labels), (settings.batch,), generator=generator)
        pooled = encoder.upper(*states.batch(rows.tolist()))
        loss = functional.cross_entropy(
            functional.linear(pooled, head["weight"], head["bias"]), labels[rows]
        )
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(tuned, 1.0)
        optimiser.step()
        losses.append(loss.item())
    last = list(islice(reversed(losses), rising))
    return sum(last) / len(last)


def _save(path: Path, tensors: dict[str, Tensor]) -> None:
    """Whole or not at all."""
    partial_path = path.with_suffix(".partial")
    save_file(tensors, partial_path)
    os.replace(partial_path, path)
