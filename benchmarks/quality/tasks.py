"""What the experts are trained and scored on: packs of labelled texts."""

import gzip
import hashlib
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from quality.wordpiece import WordPiece


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the experts are, and what they are scored on.

    Attributes:
        tasks: names of packs.
        shots: texts of each class that its task's head is made of, at most.
        layers: how many layers are fine-tuned, from the top.
        steps: of AdamW for each expert.
        rate: its largest learning rate; it rises for a tenth of the steps, then falls.
        batch: texts a step.
        train: texts of each task to train on, at most.
        held: texts of each half of each task's test split, at most.
        tokens: of a text, at most.
    """

    tasks: tuple[str, ...]
    layers: int
    shots: int
    steps: int
    rate: float
    batch: int
    train: int
    held: int
    tokens: int
    seed: int

    @property
    def key(self) -> str:
        """Of what an expert depends on: not of the other tasks, nor of the held texts."""
        decisive = asdict(replace(self, tasks=(), held=0))
        return hashlib.sha256(json.dumps(decisive).encode()).hexdigest()[:12]


@dataclass(frozen=True, slots=True)
class Texts:
    """Texts as tokens, and their labels."""

    tokens: list[list[int]]
    labels: list[int]


@dataclass(frozen=True, slots=True)
class Task:
    """A pack; `validation` and `test` are the two halves of its test split."""

    name: str
    classes: int
    train: Texts
    validation: Texts
    test: Texts


def read_task(data: Path, name: str, tokenizer: WordPiece, settings: Settings) -> Task:
    """A pack of `text/NAME.jsonl.gz`: one object a line, of `split`, `text`, `label`."""
    with gzip.open(data / "text" / f"{name}.jsonl.gz", "rt", encoding="utf8") as file:
        rows = [json.loads(line) for line in file]
    train = [row for row in rows if row["split"] == "train"][: settings.train]
    held = [row for row in rows if row["split"] == "test"][: 2 * settings.held]
    half = len(held) // 2

    def texts(some: list[dict[str, str]]) -> Texts:
        tokens = [tokenizer.encode(row["text"], settings.tokens) for row in some]
        return Texts(tokens, [int(row["label"]) for row in some])

    classes = 1 + max(int(row["label"]) for row in rows)
    return Task(name, classes, texts(train), texts(held[:half]), texts(held[half:]))
