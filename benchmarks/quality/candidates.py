"""What is merged: every registered method, a few scales, and steps around fitting methods.

A method that nothing is said about here runs with its defaults, so a new line in the
table of methods is a new line in the result.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from weft.cli.recipe import Step
from weft.merging.method import Method
from weft.merging.registry import TABLE, create
from weft.merging.table import Kind

Options = Mapping[str, object]

COMPOSED = {Kind.TRANSFORM, Kind.CALIBRATION}
ADAPTERS = "on adapters"
STEPS = "with steps"
UNLEARNING = "unlearning"
GROUPS: Mapping[Kind, str] = {
    Kind.FOLD: "folds",
    Kind.JOINT: "joint methods",
    Kind.COMBINATION: "of whole models",
    Kind.SEQUENTIAL: "one after the other",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One merge.

    Attributes:
        group: where it stands in the table.
        family: candidates of one family differ in `options` alone; the best of them on
            the validation half stands for them.
        method: by its name.
        options: of the method, beyond its defaults.
        metrics: whether the weights are the experts' losses on the validation half.
        adapters: whether the experts come as low-rank adapters.
        one: only the first expert comes in.
    """

    group: str
    family: str
    method: str
    options: Options = field(default_factory=dict)
    before: tuple[Step, ...] = ()
    after: tuple[Step, ...] = ()
    metrics: bool = False
    adapters: bool = False
    one: bool = False

    @property
    def setting(self) -> str:
        """The options as a command line has them."""
        return " ".join(f"{name}={value}" for name, value in self.options.items()) or "defaults"

    @property
    def host(self) -> Method:
        """What it would be without its steps."""
        return create(self.method, **self.options)

    @property
    def chained(self) -> bool:
        """Whether the method takes two models, so that it is applied again and again."""
        return self.host.most == 2


def _scales(*values: float) -> list[Options]:
    return [{"scale": value} for value in values]


GRIDS: Mapping[str, Sequence[Options]] = {
    "ace": _scales(1.5),
    "consensus": _scales(0.8, 1.2),
    "dc_merge": _scales(1.5),
    "ema": [{"rate": 0.3}],
    "emr": _scales(0.5),
    "iso_c": _scales(0.5, 1.5, 2.5),
    "iso_cts": _scales(0.5, 1.5, 2.5),
    "knots": _scales(1.0),
    "magmax": _scales(1.0, 1.5),
    "pcb": _scales(0.4, 1.6),
    "r_tsvm": _scales(0.5, 1.5),
    "sce": [{"select": 0.5}],
    "task_arithmetic": _scales(0.1, 0.2, 0.4, 0.5, 0.7),
    "ties": _scales(0.3, 1.5),
    "tsv_m": _scales(0.5, 1.5),
    "wudi": [
        {"time": 300.0, "scale": 0.3},
        {"time": 300.0, "scale": 0.5},
        {"time": 30.0, "scale": 0.5},
        {"time": 30.0, "scale": 1.0},
        {"time": 30.0, "scale": 1.5},
    ],
}
"""Tried beside the defaults; the best on the validation half is named."""

PREFERRED: Mapping[str, Options] = {"metric_weighted": {"form": "inverse"}}
"""In place of the defaults: the metrics at hand are losses."""

BEFORE: Sequence[tuple[str, str, Sequence[Options]]] = (
    ("dare:density=0.5", "task_arithmetic", _scales(0.3, 0.5)),
    ("dare:density=0.1", "task_arithmetic", _scales(0.3, 0.5)),
    ("dare:density=0.5", "ties", _scales(1.0, 0.3)),
    ("della", "task_arithmetic", _scales(0.3, 0.5)),
    ("della", "ties", [{"density": 1.0}]),
    ("breadcrumbs", "task_arithmetic", _scales(0.3, 0.7)),
    ("trim", "task_arithmetic", _scales(0.3, 0.7)),
    ("trim", "mean", [{}]),
    ("norm_clip:longest=3.0", "task_arithmetic", _scales(0.3, 0.5)),
    ("larv", "task_arithmetic", _scales(0.3, 0.5)),
    ("lines", "task_arithmetic", _scales(0.3, 0.5, 0.7)),
)
"""A step before the merge, the method, and its options."""

AFTER: Sequence[tuple[str, str, Sequence[Options]]] = (
    ("svc", "task_arithmetic", _scales(0.3, 1.0)),
    ("svc", "mean", [{}]),
    ("svc:alpha=1.0", "wudi", [{"time": 30.0, "scale": 1.0}]),
    ("lines", "iso_c", _scales(1.5, 2.5)),
    ("larv", "iso_c", _scales(1.5)),
)
"""The same, after it."""

FOR_ADAPTERS = frozenset({"lora_lego"})
"""Not on whole experts: clusters of all their directions take minutes and say nothing."""

ON_ADAPTERS: Sequence[tuple[str, Sequence[Options]]] = (
    ("mean", [{}]),
    ("task_arithmetic", _scales(0.3, 0.5)),
    ("ties", _scales(1.0)),
    ("knots", [{}, {"scale": 1.0}]),
    ("lora_svd", [{}]),
    ("lora_lego", [{}]),
)


def candidates(grids: bool) -> list[Candidate]:
    """All of them; without grids only defaults, and one setting of each composition."""
    order = (*GROUPS.values(), STEPS, ADAPTERS, UNLEARNING)
    found = [*_methods(grids), *_steps(grids), *_adapters(grids), *_unlearning()]
    return sorted(found, key=lambda item: order.index(item.group))


def _methods(grids: bool) -> Iterator[Candidate]:
    for entry in TABLE:
        if entry.kind in COMPOSED or entry.name in FOR_ADAPTERS:
            continue
        settings = [PREFERRED.get(entry.name, {})]
        for options in [*settings, *(GRIDS.get(entry.name, ()) if grids else ())]:
            yield Candidate(
                group=GROUPS[entry.kind],
                family=entry.name,
                method=entry.name,
                options=options,
                metrics=entry.name == "metric_weighted",
            )


def _steps(grids: bool) -> Iterator[Candidate]:
    for place, table in (("before", BEFORE), ("after", AFTER)):
        for text, method, settings in table:
            arrow = f"{text} > {method}" if place == "before" else f"{method} > {text}"
            for options in settings if grids else settings[:1]:
                yield Candidate(
                    group=STEPS,
                    family=arrow,
                    method=method,
                    options=options,
                    **{place: (_step(text),)},  # type: ignore[arg-type]
                )


def _adapters(grids: bool) -> Iterator[Candidate]:
    for method, settings in ON_ADAPTERS:
        for options in settings if grids else settings[:1]:
            yield Candidate(
                group=ADAPTERS,
                family=f"{method} on adapters",
                method=method,
                options=options,
                adapters=True,
            )


def _unlearning() -> Iterator[Candidate]:
    yield Candidate(
        group=UNLEARNING,
        family="negate > task_arithmetic, first task",
        method="task_arithmetic",
        options={"scale": 1.0},
        before=(Step(name="negate"),),
        one=True,
    )


def _step(text: str) -> Step:
    """`della` or `dare:density=0.5`, as --before takes it."""
    name, _, option = text.partition(":")
    key, _, value = option.partition("=")
    return Step(name=name, options={key: float(value)} if key else {})


def uncovered() -> list[str]:
    """Registered methods that no candidate has."""
    found = candidates(grids=True)
    used = {item.method for item in found}
    used |= {step.name for item in found for step in (*item.before, *item.after)}
    return [entry.name for entry in TABLE if entry.name not in used]
