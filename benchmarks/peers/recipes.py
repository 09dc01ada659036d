"""Merges of the same models as mergekit and weft are asked for them.

Both read the same file, mergekit's form of a recipe, so both do the same work.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from peers.checkpoints import Models

Parameters = Mapping[str, float | bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """One merge in mergekit's words.

    Attributes:
        method: its name there.
        each: parameters of each fine-tune.
        all: parameters of the merge.
        based: whether there is a base.
        count: how many fine-tunes at most.
    """

    method: str
    each: Parameters = field(default_factory=dict)
    all: Parameters = field(default_factory=dict)
    based: bool = True
    count: int = 4

    def write(self, path: Path, models: Models, dtype: str) -> Path:
        """The file; JSON is YAML too."""
        found: dict[str, object] = {
            "merge_method": self.method,
            "models": [
                {"model": str(tuned), "parameters": dict(self.each)}
                for tuned in models.tuned[: self.count]
            ],
            "parameters": dict(self.all),
            "dtype": dtype,
        }
        if self.based:
            found["base_model"] = str(models.base)
        path.write_text(json.dumps(found, indent=1))
        return path


SPARSE: Parameters = {"weight": 0.3, "density": 0.2}

RECIPES: Mapping[str, Recipe] = {
    "mean": Recipe(method="linear", each={"weight": 1.0}, based=False),
    "task_arithmetic": Recipe(method="task_arithmetic", each={"weight": 0.3}),
    "ties": Recipe(method="ties", each=SPARSE),
    "dare_linear": Recipe(method="dare_linear", each=SPARSE),
    "dare_ties": Recipe(method="dare_ties", each=SPARSE),
    "della_linear": Recipe(method="della_linear", each={**SPARSE, "epsilon": 0.1}),
    "della": Recipe(method="della", each={**SPARSE, "epsilon": 0.1}),
    "breadcrumbs": Recipe(method="breadcrumbs", each={**SPARSE, "gamma": 0.01}),
    "breadcrumbs_ties": Recipe(method="breadcrumbs_ties", each={**SPARSE, "gamma": 0.01}),
    "sce": Recipe(method="sce", all={"select_topk": 0.1}),
    "sce, all": Recipe(method="sce", all={"select_topk": 1.0}),
    "model_stock": Recipe(method="model_stock"),
    "slerp": Recipe(method="slerp", all={"t": 0.4}, count=1),
    "nuslerp": Recipe(method="nuslerp", each={"weight": 0.5}, based=False, count=2),
    "multislerp": Recipe(method="multislerp", each={"weight": 1.0}),
    "karcher": Recipe(method="karcher", based=False, all={"max_iter": 100, "tol": 1e-7}),
    "ram": Recipe(method="ram"),
    "ramplus_tl": Recipe(method="ramplus_tl"),
}
"""By what the tables call them."""


def weft(recipe: Path, out: Path, *more: str) -> list[str | Path]:
    """The command of weft; to be begun with an interpreter."""
    return ["-m", "weft.cli", "merge", "--config", recipe, "--out", out, "--json", *more]


def mergekit(recipe: Path, out: Path) -> list[str | Path]:
    """The command of mergekit, with the options that save it memory and time."""
    flags = ("--lazy-unpickle", "--no-copy-tokenizer", "--quiet")
    return ["-m", "mergekit.scripts.run_yaml", recipe, out, *flags]
