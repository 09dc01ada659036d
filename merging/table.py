"""Every merge method: a table that one can read from top to bottom.

Sorted by name. The module of a method bears its name.
"""

from dataclasses import dataclass
from enum import StrEnum
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from weft.merging.method import Method


class Kind(StrEnum):
    """Which contract of `weft.merging.method` a method keeps."""

    FOLD = "fold"
    COMBINATION = "combination"
    SEQUENTIAL = "sequential"
    JOINT = "joint"
    TRANSFORM = "transform"
    CALIBRATION = "calibration"


@dataclass(frozen=True, slots=True)
class Entry:
    """One method: its name, where it is, what it is, whose it is.

    Attributes:
        experimental: the paper's formula was not to be had, or is our own proposal.
    """

    name: str
    module: str
    class_name: str
    kind: Kind
    paper: str
    about: str = ""
    experimental: bool = False

    def load(self) -> "type[Method]":
        """The method's class; imports its module."""
        found: type[Method] = getattr(import_module(self.module), self.class_name)
        return found


def _entry(
    kind: Kind, name: str, class_name: str, paper: str, about: str, *, experimental: bool = False
) -> Entry:
    module = f"weft.merging.methods.{name}"
    return Entry(name, module, class_name, kind, paper, about, experimental)


TABLE = (
    _entry(
        Kind.FOLD,
        "ace",
        "Ace",
        "arXiv:2603.02945",
        "a regression on inputs that task vectors tell of",
    ),
    _entry(
        Kind.TRANSFORM,
        "breadcrumbs",
        "Breadcrumbs",
        "arXiv:2312.06795",
        "neither the largest nor the smallest",
    ),
    _entry(
        Kind.COMBINATION,
        "centred_clipping",
        "CenteredClipping",
        "arXiv:2012.10333",
        "no one pulls further than a radius",
    ),
    _entry(
        Kind.FOLD,
        "consensus",
        "Consensus",
        "arXiv:2405.07813",
        "what at least k of them want to keep",
    ),
    _entry(
        Kind.SEQUENTIAL,
        "continual_ties",
        "ContinualTies",
        "arXiv:2501.09522",
        "TIES of what is there and each newcomer, added again",
    ),
    _entry(
        Kind.JOINT,
        "coordinate_median",
        "CoordinateMedian",
        "arXiv:1803.01498",
        "the middle value, by element",
    ),
    _entry(
        Kind.TRANSFORM,
        "dare",
        "Dare",
        "arXiv:2311.03099",
        "drops at random, scales up what is left",
    ),
    _entry(
        Kind.JOINT, "dc_merge", "DcMerge", "arXiv:2603.06242", "covering bases, TIES between them"
    ),
    _entry(
        Kind.TRANSFORM,
        "della",
        "Della",
        "arXiv:2406.11617",
        "drops at random, the small ones more often",
    ),
    _entry(
        Kind.FOLD,
        "delta_guided",
        "DeltaGuided",
        "arXiv:2508.11442",
        "weights from how far each tensor moved",
        experimental=True,
    ),
    _entry(
        Kind.SEQUENTIAL,
        "dop",
        "Dop",
        "openreview:zD5cUX67b9",
        "close to what is there and to the newcomer, where each is strong",
    ),
    _entry(Kind.SEQUENTIAL, "ema", "Ema", "arXiv:2408.14471", "a moving average of what comes in"),
    _entry(
        Kind.FOLD, "emr", "Emr", "arXiv:2405.17461", "the furthest on the elected side, for masks"
    ),
    _entry(
        Kind.COMBINATION,
        "geometric_median",
        "GeometricMedian",
        "arXiv:1912.13445",
        "the smallest sum of distances",
    ),
    _entry(
        Kind.FOLD, "iso_c", "IsoC", "arXiv:2502.04959", "the sum with all singular values alike"
    ),
    _entry(
        Kind.JOINT,
        "iso_cts",
        "IsoCts",
        "arXiv:2502.04959",
        "what all share and what each has, alike",
    ),
    _entry(Kind.COMBINATION, "karcher", "Karcher", "arXiv:1407.2087", "the mean along the sphere"),
    _entry(
        Kind.JOINT, "knots", "Knots", "arXiv:2410.19735", "one basis for all adapters, then TIES"
    ),
    _entry(Kind.COMBINATION, "krum", "Krum", "arXiv:1703.02757", "the one closest to most others"),
    _entry(
        Kind.TRANSFORM,
        "larv",
        "Larv",
        "arXiv:2602.09413",
        "a factor a layer, by how structured its change is",
        experimental=True,
    ),
    _entry(Kind.TRANSFORM, "lines", "Lines", "arXiv:2410.17146", "a factor that grows with depth"),
    _entry(
        Kind.JOINT,
        "lora_lego",
        "LoraLego",
        "arXiv:2409.16167",
        "clusters of the rank-one units of adapters",
        experimental=True,
    ),
    _entry(
        Kind.JOINT,
        "lora_svd",
        "LoraSvd",
        "arXiv:2409.16167",
        "the best adapter for a mean or a sum",
    ),
    _entry(
        Kind.FOLD,
        "magmax",
        "MagMax",
        "arXiv:2407.06322",
        "at each place, the one that moved furthest",
    ),
    _entry(Kind.FOLD, "mean", "Mean", "arXiv:2203.05482", "the weighted mean: model soups"),
    _entry(
        Kind.FOLD,
        "metric_weighted",
        "MetricWeighted",
        "arXiv:2504.18580",
        "weights from losses, scores or steps",
        experimental=True,
    ),
    _entry(
        Kind.COMBINATION,
        "model_stock",
        "ModelStock",
        "arXiv:2403.19522",
        "as far from the base as the angles say",
    ),
    _entry(
        Kind.COMBINATION,
        "multi_krum",
        "MultiKrum",
        "arXiv:1703.02757",
        "the mean of those closest to most others",
    ),
    _entry(
        Kind.COMBINATION,
        "multi_slerp",
        "MultiSlerp",
        "arXiv:2403.13257",
        "the mean direction at the mean length",
    ),
    _entry(Kind.TRANSFORM, "negate", "Negate", "arXiv:2212.04089", "the opposite change: unlearns"),
    _entry(
        Kind.TRANSFORM,
        "norm_clip",
        "NormClip",
        "arXiv:1911.07963",
        "no task vector longer than so much",
    ),
    _entry(
        Kind.SEQUENTIAL,
        "nufilt",
        "Nufilt",
        "arXiv:2509.21413",
        "filters from each newcomer the leading inputs of what is there",
    ),
    _entry(
        Kind.SEQUENTIAL,
        "opcm",
        "Opcm",
        "arXiv:2501.09522",
        "of each newcomer what is orthogonal to what is there",
    ),
    _entry(
        Kind.JOINT,
        "pcb",
        "Pcb",
        "arXiv:2410.02396",
        "elements compete, within a model and between models",
    ),
    _entry(
        Kind.JOINT,
        "r_tsvm",
        "RTsvm",
        "arXiv:2502.06876",
        "TSV-M, columns by outliers, ranks by sparsity",
        experimental=True,
    ),
    _entry(
        Kind.FOLD,
        "ram",
        "Ram",
        "arXiv:2601.13572",
        "entries of one alone whole, shared ones averaged",
    ),
    _entry(
        Kind.FOLD, "ram_plus", "RamPlus", "arXiv:2601.13572", "as ram, entries of one alone raised"
    ),
    _entry(
        Kind.FOLD, "sce", "Sce", "arXiv:2408.07990", "weights from energies, minority signs erased"
    ),
    _entry(
        Kind.COMBINATION,
        "slerp",
        "Slerp",
        "arXiv:1609.04468",
        "between two models along the sphere",
    ),
    _entry(
        Kind.CALIBRATION, "svc", "Svc", "arXiv:2602.05536", "scales down what tasks counted twice"
    ),
    _entry(
        Kind.FOLD,
        "task_arithmetic",
        "TaskArithmetic",
        "arXiv:2212.04089",
        "the scaled sum; negative unlearns",
    ),
    _entry(
        Kind.FOLD, "ties", "Ties", "arXiv:2306.01708", "trims, elects signs, merges what agrees"
    ),
    _entry(Kind.TRANSFORM, "trim", "Trim", "arXiv:2306.01708", "keeps what moved furthest"),
    _entry(
        Kind.JOINT,
        "trimmed_mean",
        "TrimmedMean",
        "arXiv:1803.01498",
        "without the extremes, by element",
    ),
    _entry(
        Kind.JOINT, "tsv_m", "TsvM", "arXiv:2412.00081", "leading singular triplets made orthogonal"
    ),
    _entry(Kind.FOLD, "varm", "Varm", "arXiv:2402.16107", "weights from the energy of each tensor"),
    _entry(
        Kind.JOINT,
        "widen",
        "Widen",
        "arXiv:2408.03092",
        "columns weighed by change of length and direction",
    ),
    _entry(Kind.FOLD, "wudi", "Wudi", "arXiv:2503.08099", "the least interference, in closed form"),
)


def name_of(method: object) -> str:
    """What the table calls a method, as people type it; its class where it is not in it."""
    kind = type(method)
    known = {(entry.module, entry.class_name): entry.name for entry in TABLE}
    return known.get((kind.__module__, kind.__name__), kind.__name__)
