"""`weft inspect --groups TRAINER`: what of a model can change places, and what cannot."""

import io
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn

    from weft.merging.alignment.groups import Group, Groups
    from weft.merging.alignment.tracing import Traced

EXAMPLES = 4
"""So many tensors are named of those that are fixed for one reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupFacts:
    """A group of units.

    Attributes:
        size: how many change places with each other.
        orders: for each unit of so many others they have an order of their own.
        units: how many can be put in another order, in all orders together.
        tensors: names of the tensors that have them.
        share: of all units that can be put in another order.
    """

    name: str
    size: int
    orders: Sequence[int]
    units: int
    tensors: Sequence[str]
    share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedFacts:
    """Axes of tensors, wholly or in part, that stay in their order for one reason."""

    why: str
    axes: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupsDocument:
    """What is printed; the fields are those of the JSON document.

    Attributes:
        units: how many can be put in another order.
        movable: share of the elements of all tensors that some order moves.
        unruled: operators that weft has no rule for, and how often they occur.
    """

    trainer: str
    units: int
    movable: float
    groups: Sequence[GroupFacts]
    fixed: Sequence[FixedFacts]
    unruled: Mapping[str, int]


def groups_document(
    trainer: str, settings: Sequence[str], overrides: Path | None
) -> GroupsDocument:
    """Build a trainer's model, trace it, and tell its groups.

    Args:
        trainer: `module:Class`; the module is looked for in the current folder first.
        settings: `key=value`, the trainer's options, values as TOML writes them.
        overrides: a file.

    Raises:
        InvalidInput: no such trainer, options that do not fit, no calibration data, a model
            that cannot be traced, or overrides of groups that it does not have.
    """
    from weft.merging.alignment.overrides import Overrides, overridden_groups
    from weft.merging.alignment.tracing import trace
    from weft.node.overrides import load_overrides

    wanted = Overrides() if overrides is None else load_overrides(overrides)
    # What the user's code prints must not get between the lines of --json.
    with redirect_stdout(sys.stderr):
        model, inputs, keywords = _built(trainer, settings)
    # Where torch cannot trace a model it prints all that it had so far; a sentence is enough.
    with redirect_stderr(io.StringIO()):
        traced = trace(model, inputs, keywords)
    return _document(trainer, traced, overridden_groups(traced, wanted), _sizes(model))


def _built(
    target: str, settings: Sequence[str]
) -> "tuple[nn.Module, Sequence[Tensor], Mapping[str, Tensor]]":
    """A trainer's model, and the first of its calibration batches."""
    import torch

    from weft.cli.merge_options import pairs_of
    from weft.node.calibration import arguments_of
    from weft.node.errors import BadTrainer
    from weft.node.trainer import Calibrates, load_trainer

    options = {key: _scalar(text) for key, text in pairs_of(settings, "--option").items()}
    trainer = load_trainer(target, options, Path())
    if not isinstance(trainer, Calibrates):
        raise BadTrainer(
            f"trainer {target!r} has no calibration(): what its model is called with is not "
            "known; let it give a batch at least"
        )
    first = next(iter(trainer.calibration()), None)
    if first is None:
        raise BadTrainer(f"trainer {target!r}: calibration() gave no batch; give at least one")
    model = trainer.model().to("cpu")
    return (model, *arguments_of(first, torch.device("cpu")))


def _scalar(text: str) -> bool | int | float | str:
    """A value as TOML writes it; a text needs no quotes."""
    import tomllib

    try:
        found = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
    return found if isinstance(found, bool | int | float | str) else text


def _sizes(model: "nn.Module") -> dict[str, int]:
    """Elements of each parameter; tied ones once."""
    return {name: parameter.numel() for name, parameter in model.named_parameters()}


def _document(
    trainer: str, traced: "Traced", groups: "Groups", sizes: Mapping[str, int]
) -> GroupsDocument:
    units = sum(group.units for group in groups.groups)
    moved = {name for group in groups.groups for name in group.tensors}
    return GroupsDocument(
        trainer=trainer,
        units=units,
        movable=sum(sizes.get(name, 0) for name in moved) / max(sum(sizes.values()), 1),
        groups=[_facts(group, units) for group in groups.groups],
        fixed=_fixed(groups),
        unruled=_unruled(traced),
    )


def _facts(group: "Group", units: int) -> GroupFacts:
    return GroupFacts(
        name=group.name,
        size=group.size,
        orders=group.orders,
        units=group.units,
        tensors=group.tensors,
        share=group.units / units,
    )


def _fixed(groups: "Groups") -> list[FixedFacts]:
    """By reason, the commonest first."""
    found: dict[str, dict[str, None]] = {}
    for line in groups.fixed:
        found.setdefault(line.why, {})[f"{line.tensor}[{line.axis}]"] = None
    ordered = sorted(found.items(), key=lambda item: -len(item[1]))
    return [FixedFacts(why=why, axes=list(axes)) for why, axes in ordered]


def _unruled(traced: "Traced") -> dict[str, int]:
    from weft.merging.alignment.calls import operator_name

    calls = (node for node in traced.program.graph.nodes if node.op == "call_function")
    counts = Counter(operator_name(node) for node in calls)
    return {name: counts[name] for name in sorted(traced.unruled)}


def groups_text(document: GroupsDocument) -> str:
    """For a person: a line for each group, for each reason, and for what has no rule."""
    width = max((len(group.name) for group in document.groups), default=0)
    movable = f"{100 * document.movable:.3g} % of the parameters"
    head = f"{len(document.groups)} groups, {document.units:,} units can change places"
    lines = [
        f"{document.trainer}: {head}; they reach {movable}",
        *(_group_line(group, width) for group in document.groups),
        *(["fixed"] * bool(document.fixed)),
        *(_fixed_line(fixed) for fixed in document.fixed),
        *(["no rule, so all that they read and make is fixed"] * bool(document.unruled)),
        *(f"  {name}, {count} x" for name, count in document.unruled.items()),
    ]
    return "\n".join(lines)


def _group_line(group: GroupFacts, width: int) -> str:
    orders = f" in {' x '.join(map(str, group.orders))} orders" if group.orders else ""
    tensors = f"{len(group.tensors)} tensor{'s' * (len(group.tensors) != 1)}"
    return (
        f"  {group.name:<{width}}  {group.size:>5} units{orders}, {tensors},"
        f" {100 * group.share:.3g} %"
    )


def _fixed_line(fixed: FixedFacts) -> str:
    more = len(fixed.axes) - EXAMPLES
    named = ", ".join(fixed.axes[:EXAMPLES]) + (f" and {more} more" if more > 0 else "")
    return f"  {fixed.why}: {named}"
