"""Pairs of networks trained from different starts, kept from one run to the next."""

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_model, save_model
from torch import Tensor, nn

from weft.simulations.tasks.arrays import ArrayTask, load_npz
from weft.simulations.tasks.classification import ClassificationTrainer
from weft.simulations.tasks.dealt import DealtTask

Note = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How parents are trained; equal ones are trained once."""

    model: str
    options: str
    images: int
    held: int
    rounds: int
    steps: int
    batch: int = 64
    rate: float = 0.003
    decay: float = 0.75


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two networks from different starts on the same images, and what they are judged by.

    Attributes:
        calibration: inputs that both were trained on.
        accuracy: of a network on the held images, as a fraction.
        seconds: CPU time of training, 0 where they were kept.
    """

    recipe: Recipe
    models: tuple[nn.Module, nn.Module]
    calibration: Tensor
    accuracy: Callable[[nn.Module], float]
    seconds: float


def trained(recipe: Recipe, data: Path, samples: int, cache: Path, note: Note) -> Pair:
    """Two trained networks, from the cache where they were trained before.

    Args:
        recipe: of both.
        data: an .npz of a classification task.
        samples: for calibration, from the first training image on.
        cache: a folder; made where it is not there.
        note: is told what takes long.
    """
    task = _cut(load_npz(data), recipe)
    began = time.process_time()
    models = tuple(_parent(recipe, task, data, seed, cache, note) for seed in (1, 2))
    trainer = _trainer(recipe, task, 0)
    return Pair(
        recipe=recipe,
        models=(models[0], models[1]),
        calibration=trainer.inputs[:samples],
        accuracy=lambda model: trainer.evaluate(model)["accuracy"],
        seconds=time.process_time() - began,
    )


def _parent(
    recipe: Recipe, task: DealtTask, data: Path, seed: int, cache: Path, note: Note
) -> nn.Module:
    torch.manual_seed(seed)
    trainer = _trainer(recipe, task, seed)
    model = trainer.model()
    kept = cache / f"{_key(recipe, data)}-{seed}.safetensors"
    if kept.is_file():
        load_model(model, kept)
        return model.eval()
    for round in range(recipe.rounds):
        loss = trainer.train(model, round)["loss"]
        note(f"{recipe.model}, start {seed}: round {round + 1} of {recipe.rounds}, loss {loss:.3f}")
    cache.mkdir(parents=True, exist_ok=True)
    save_model(model.eval(), str(kept))
    return model


def _trainer(recipe: Recipe, task: DealtTask, seed: int) -> ClassificationTrainer:
    return ClassificationTrainer(
        task=task,
        seed=seed,
        steps=recipe.steps,
        batch=recipe.batch,
        optimizer="adam",
        lr=recipe.rate,
        decay=recipe.decay,
        model=recipe.model,
        model_options=recipe.options,
    )


def _cut(task: ArrayTask, recipe: Recipe) -> DealtTask:
    whole = ArrayTask(
        x_train=task.x_train[: recipe.images],
        y_train=task.y_train[: recipe.images],
        x_test=task.x_test[: recipe.held],
        y_test=task.y_test[: recipe.held],
        classes=task.classes,
    )
    return DealtTask.of(whole, "iid", nodes=1, alpha=1.0, seed=0)


def _key(recipe: Recipe, data: Path) -> str:
    """Of the recipe and of the file, by name and size."""
    text = f"{recipe} {data.name} {data.stat().st_size}"
    return f"{recipe.model}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
