"""What a mergekit recipe says in figures: parameters, by level, by slice, by model.

A parameter may stand at a model (or a slice's source), at a slice, and at the top; the
nearest level that has a value for the tensor at hand counts.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from weft.cli.recipe_values import BadRecipe, flag, show
from weft.cli.schedule import Piece, Rule, Schedule, read_rules


@dataclass(frozen=True, slots=True)
class Reference:
    """A model as mergekit names it: `path` or `path+adapter`."""

    path: str
    adapter: str | None = None

    def __str__(self) -> str:
        return self.path if self.adapter is None else f"{self.path}+{self.adapter}"


@dataclass(frozen=True, slots=True)
class Level:
    """The parameters at one place of the file."""

    where: str
    table: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Inputs:
    """What goes into some layers, or into all of them.

    Attributes:
        own: the parameters of each model, in the file's order.
        shared: those of the slice, then those at the top.
        ranges: the layers of each model; empty: all.
    """

    own: Mapping[Reference, Level]
    shared: tuple[Level, ...]
    ranges: Mapping[Reference, tuple[int, int]]

    @property
    def layers(self) -> int | None:
        """How many layers of the output these are; None: all."""
        return next((stop - first for first, stop in self.ranges.values()), None)

    def levels(self, model: Reference | None) -> tuple[Level, ...]:
        """Where a parameter is looked for, the nearest first."""
        own = self.own.get(model) if model is not None else None
        return self.shared if own is None else (own, *self.shared)


@dataclass(frozen=True, slots=True)
class Parameters:
    """All figures of a recipe; one `Inputs` a slice, or just one."""

    method: str
    inputs: tuple[Inputs, ...]

    def schedule(
        self, name: str, model: Reference | None = None, default: float | None = None
    ) -> Schedule:
        """A parameter as a number, or one for each tensor.

        Raises:
            BadRecipe: no value and no default, for all tensors or for some.
        """
        return Schedule(
            tuple(
                Piece(self._rules(each, name, model, default), each.layers) for each in self.inputs
            )
        )

    def number(self, name: str, default: float) -> float:
        """A parameter that has to be the same for every tensor.

        Raises:
            BadRecipe: it varies.
        """
        found = self.schedule(name, default=default)
        if not found.is_constant:
            raise BadRecipe(f"parameters.{name}: varies, and {self.method} takes one number")
        return found.anchors[0]

    def flag(self, name: str, default: bool) -> bool:
        """A parameter that is true or false, everywhere the same.

        Raises:
            BadRecipe: it varies, or is neither.
        """
        found = {self._flag(each, name, default) for each in self.inputs}
        if len(found) > 1:
            raise BadRecipe(f"parameters.{name}: true in one slice and false in another")
        return found.pop()

    def given(self) -> Iterator[tuple[Level, str, bool]]:
        """Every parameter in the file: its place, its name, whether it is a model's own."""
        seen: set[str] = set()
        for each in self.inputs:
            rows: Sequence[tuple[Level, bool]] = [
                *((level, True) for level in each.own.values()),
                *((level, False) for level in each.shared),
            ]
            for level, own in rows:
                if level.where not in seen:
                    yield from ((level, name, own) for name in level.table)
                seen.add(level.where)

    def _flag(self, each: Inputs, name: str, default: bool) -> bool:
        for level in each.shared:
            if level.table.get(name) is not None:
                return flag(level.table[name], f"{level.where}.{name}")
        return default

    def _rules(
        self, each: Inputs, name: str, model: Reference | None, default: float | None
    ) -> tuple[Rule, ...]:
        rules: list[Rule] = []
        for level in each.levels(model):
            if level.table.get(name) is not None:
                rules += read_rules(level.table[name], f"{level.where}.{name}")
            if any(rule.filter is None for rule in rules):
                break
        else:
            if default is None:
                raise self._missing(name, model, rules)
            rules.append(Rule((default,)))
        if each.layers is not None:
            _refuse_layer_filters(rules, name)
        return tuple(rules)

    def _missing(self, name: str, model: Reference | None, rules: Sequence[Rule]) -> BadRecipe:
        of = f" of model {model}" if model else ""
        if rules:
            return BadRecipe(
                f"parameter {name!r}{of}: no value for tensors that no filter fits; add one "
                "without filter"
            )
        return BadRecipe(f"parameter {name!r}{of} is missing; {self.method} needs it")


def _refuse_layer_filters(rules: Sequence[Rule], name: str) -> None:
    """A layer has one number in its model and another in the stack: which is meant?"""
    for rule in rules:
        if rule.filter and any(part.isdigit() for part in rule.filter.split(".")):
            raise BadRecipe(
                f"parameter {name!r}: the filter {show(rule.filter)} names a layer, which is "
                "not followed through slices"
            )
