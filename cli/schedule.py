"""Numbers that vary from tensor to tensor: a weight or a hyperparameter of a merge.

As recipes write them:

    0.5                                       everywhere
    [0, 0.5, 1]                               over the layers, straight lines between
    [{filter: mlp, value: 0.5}, {value: 0}]   by the tensors' names; the first that fits

The anchors of a list are spread evenly from the first layer to the last. A tensor outside
all layers has the first anchor, and where there is but one layer it has the last one: as
mergekit does it.
"""

from dataclasses import dataclass
from typing import Self

from weft.checkpoints.stacking import stands_before
from weft.cli.recipe_values import BadRecipe, is_number, keys, number, rows, text, wrong


@dataclass(frozen=True, slots=True)
class Rule:
    """Values over the layers for the tensors whose name contains `filter`; None: all."""

    anchors: tuple[float, ...]
    filter: str | None = None

    def fits(self, name: str) -> bool:
        """Whether the rule speaks of this tensor."""
        return self.filter is None or self.filter in name

    def at(self, position: float) -> float:
        """The value at a position in depth, 0 to 1."""
        place = position * (len(self.anchors) - 1)
        lower = min(int(place), len(self.anchors) - 1)
        upper = min(lower + 1, len(self.anchors) - 1)
        share = place - lower
        return (1 - share) * self.anchors[lower] + share * self.anchors[upper]


@dataclass(frozen=True, slots=True)
class Piece:
    """The rules for some layers; of several that fit the first counts.

    Attributes:
        layers: how many; None: all that the model has.
    """

    rules: tuple[Rule, ...]
    layers: int | None = None

    def at(self, name: str, layer: int, layers: int) -> float:
        """The value of a tensor in one of the piece's layers."""
        return self._rule(name).at(layer / (layers - 1) if layers > 1 else 1.0)

    def outside(self, name: str) -> float:
        """The value of a tensor outside all layers."""
        return self._rule(name).at(0.0)

    def _rule(self, name: str) -> Rule:
        return next(rule for rule in self.rules if rule.fits(name))


@dataclass(frozen=True, slots=True)
class Schedule:
    """One number, or one for each tensor.

    Several pieces are those of a stack of slices: each has its own rules, and its anchors
    are spread over its own layers.

    Raises:
        BadRecipe: a piece leaves tensors without a value.
    """

    pieces: tuple[Piece, ...]

    def __post_init__(self) -> None:
        for piece in self.pieces:
            if all(rule.filter is not None for rule in piece.rules):
                raise BadRecipe("no value for tensors that no filter fits; add one without filter")

    @classmethod
    def constant(cls, value: float) -> Self:
        """The same for every tensor."""
        return cls((Piece((Rule((value,)),)),))

    @property
    def is_constant(self) -> bool:
        """Whether every tensor has the same value, `anchors[0]`."""
        return len(set(self.anchors)) == 1

    @property
    def anchors(self) -> tuple[float, ...]:
        """All numbers that were written; every value lies between two of them."""
        return tuple(
            anchor for piece in self.pieces for rule in piece.rules for anchor in rule.anchors
        )

    def at(self, tensor_name: str, layer: int | None, layers: int) -> float:
        """The value for one tensor.

        Args:
            tensor_name: as in the merged model.
            layer: the tensor's, from zero; None for one outside all layers.
            layers: how many layers the merged model has.
        """
        if layer is None:
            first = stands_before(tensor_name)
            return self.pieces[0 if first else -1].outside(tensor_name)
        for piece in self.pieces:
            if piece.layers is None:
                return piece.at(tensor_name, layer, layers)
            if layer < piece.layers:
                return piece.at(tensor_name, layer, piece.layers)
            layer -= piece.layers
        held = sum(piece.layers or 0 for piece in self.pieces)
        raise BadRecipe(f"tensor {tensor_name}: the recipe's slices have only {held} layers")


def read_rules(value: object, where: str) -> tuple[Rule, ...]:
    """What a file says of a number, as rules; the last may have a filter.

    Raises:
        BadRecipe: neither a number, nor a list of numbers, nor a list of filters.
    """
    if is_number(value):
        return (Rule((number(value, where),)),)
    if isinstance(value, dict):
        return (_rule(value, where),)
    if not isinstance(value, list) or not value:
        raise wrong(where, value, "a number, a list of numbers, or a list of filters and values")
    if isinstance(value[0], dict):
        return tuple(_rule(row, f"{where}[{place}]") for place, row in enumerate(value))
    return (Rule(_anchors(value, where)),)


def read_schedule(value: object, where: str) -> Schedule:
    """What a file says of a number, whole.

    Raises:
        BadRecipe: see `read_rules`; also where tensors are left without a value.
    """
    rules = read_rules(value, where)
    try:
        return Schedule((Piece(rules),))
    except BadRecipe as error:
        raise BadRecipe(f"{where}: {error}") from None


def _rule(row: object, where: str) -> Rule:
    found = keys(row, where, ("filter", "value"))
    if "value" not in found:
        raise BadRecipe(f"{where}: no 'value'")
    value = found["value"]
    anchors = _anchors(value if isinstance(value, list) else [value], f"{where}.value")
    named = found.get("filter")
    fits = None if named is None or named == "*" else text(named, f"{where}.filter")
    return Rule(anchors, fits)


def _anchors(values: object, where: str) -> tuple[float, ...]:
    anchors = tuple(number(value, where) for value in rows(values, where))
    if not anchors:
        raise wrong(where, values, "one number or more")
    return anchors
