"""Which units lie along an axis, as terms that are made equal.

An axis of a tensor holds units: the channels of a layer, heads by the units of a head, two
halves one after the other. That is written as a term:

    Units         so many units, not known to have parts
    Product       an outer and an inner term, row by row: heads by units of a head
    Sum           terms one after the other: what a concatenation makes

Where an operator reads two axes side by side (the inputs of a layer and the columns of its
weight, both sides of an addition), the two hold the same units, and `Axes.equate` makes
their terms equal, taking units apart as far as is needed: 12 units that are equal to a
product of 3 and 4 become such a product everywhere. Units that some operator tells apart
are *pinned*: they stay where they are.

>>> axes = Axes()
>>> channels, flat = axes.units(3), axes.units(12)
>>> axes.equate(flat, Product((channels, axes.units(4))))
>>> [leaf.size for leaf in axes.leaves(flat)]
[3, 4]
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count, product
from math import gcd, prod
from typing import TypeAlias


@dataclass(slots=True, eq=False)
class Units:
    """So many units in a row.

    Attributes:
        size: how many.
        number: tells them apart, for people.
        pinned: why they must stay in their order; empty: they need not.
        meaning: the term that these units turned out to be; None: units like any.
    """

    size: int
    number: int
    pinned: str = ""
    meaning: "Term | None" = None


@dataclass(frozen=True, slots=True, eq=False)
class Product:
    """Terms one within the other: the last one runs fastest."""

    parts: tuple["Term", ...]

    @property
    def size(self) -> int:
        """How many units."""
        return prod(part.size for part in self.parts)


@dataclass(frozen=True, slots=True, eq=False)
class Sum:
    """Terms one after the other."""

    parts: tuple["Term", ...]

    @property
    def size(self) -> int:
        """How many units."""
        return sum(part.size for part in self.parts)


Term: TypeAlias = Units | Product | Sum


@dataclass(slots=True)
class Axes:
    """All terms of a model, and what is known of them."""

    _numbers: Iterator[int] = field(default_factory=count)

    def units(self, size: int, pinned: str = "") -> Units:
        """New units, of which nothing is known but why they are pinned, if they are."""
        return Units(size, next(self._numbers), pinned)

    def resolved(self, term: Term) -> Term:
        """The term as it is known by now: products of products and sums of sums flattened."""
        match term:
            case Units():
                return term if term.meaning is None else self.resolved(term.meaning)
            case Product():
                factors = [factor for part in term.parts for factor in self.factors(part)]
                return factors[0] if len(factors) == 1 else Product(tuple(factors))
            case Sum():
                pieces = [piece for part in term.parts for piece in self.pieces(part)]
                return pieces[0] if len(pieces) == 1 else Sum(tuple(pieces))

    def factors(self, term: Term) -> tuple[Term, ...]:
        """What a term is a product of; factors of size one are left out."""
        found = self.resolved(term)
        parts = found.parts if isinstance(found, Product) else (found,)
        return tuple(part for part in parts if part.size != 1)

    def pieces(self, term: Term) -> tuple[Term, ...]:
        """What a term is a sum of; pieces of size zero are left out."""
        found = self.resolved(term)
        parts = found.parts if isinstance(found, Sum) else (found,)
        return tuple(part for part in parts if part.size != 0)

    def leaves(self, term: Term) -> Iterator[Units]:
        """The units that a term is made of, from left to right; of size one as well."""
        found = self.resolved(term)
        if isinstance(found, Units):
            yield found
        else:
            for part in found.parts:
                yield from self.leaves(part)

    def strands(self, value: Sequence[Term]) -> Iterator[tuple[tuple[Units, ...], ...]]:
        """The leaves of each axis of a tensor, for every choice of pieces of sums.

        Of two halves one after the other a tensor holds one or the other in any one place,
        never both: each has a strand of its own.
        """
        return product(*([*self._runs(term)] for term in value))

    def _runs(self, term: Term) -> Iterator[tuple[Units, ...]]:
        """The leaves of a term from left to right, for every choice of pieces."""
        factors = self.factors(term)
        for place, factor in enumerate(factors):
            if isinstance(factor, Sum):
                for piece in factor.parts:
                    yield from self._runs(Product((*factors[:place], piece, *factors[place + 1 :])))
                return
        yield tuple(leaf for factor in factors for leaf in self.leaves(factor))

    def pin(self, term: Term, why: str) -> None:
        """Let all units of a term stay where they are."""
        for leaf in self.leaves(term):
            leaf.pinned = leaf.pinned or why

    def equate(self, one: Term, other: Term) -> None:
        """Let two terms of one size hold the same units.

        Where no common refinement is known, both are pinned: that is always safe.
        """
        one, other = self.resolved(one), self.resolved(other)
        if one is other:
            return
        if isinstance(one, Units):
            self._let_mean(one, other)
        elif isinstance(other, Units):
            self._let_mean(other, one)
        elif isinstance(one, Sum) and isinstance(other, Sum):
            self._equate_sums(list(one.parts), list(other.parts))
        elif isinstance(one, Product) and isinstance(other, Product):
            self._equate_products(list(one.parts), list(other.parts))
        else:
            self._give_up(one, other)

    def factored(self, term: Term, sizes: Sequence[int]) -> tuple[Units, ...]:
        """A term as a product of factors of given sizes."""
        factors = tuple(self.units(size) for size in sizes)
        self.equate(term, Product(factors))
        return factors

    def cut(self, term: Term, sizes: Sequence[int]) -> tuple[Units, ...]:
        """A term as a sum of pieces of given sizes."""
        pieces = tuple(self.units(size) for size in sizes)
        self.equate(term, Sum(pieces))
        return pieces

    def _let_mean(self, units: Units, term: Term) -> None:
        if any(leaf is units for leaf in self.leaves(term)):
            self._give_up(units, term)
            return
        if units.pinned:
            self.pin(term, units.pinned)
        units.meaning = term

    def _give_up(self, one: Term, other: Term) -> None:
        why = "its parts do not fit those of another axis"
        self.pin(one, why)
        self.pin(other, why)

    def _equate_products(self, one: list[Term], other: list[Term]) -> None:
        """Run by run: the shortest ones of equal size, from the left."""
        while one and other:
            left, right = [one.pop(0)], [other.pop(0)]
            while (size := _size(left)) != (wanted := _size(right)):
                short, rest = (left, one) if size < wanted else (right, other)
                if not rest:
                    self._give_up(Product(tuple(left)), Product(tuple(right)))
                    return
                short.append(rest.pop(0))
            self._equate_runs(left, right)
        for term in (*one, *other):
            self.pin(term, "its parts do not fit those of another axis")

    def _equate_runs(self, left: list[Term], right: list[Term]) -> None:
        if len(left) == 1 or len(right) == 1:
            self.equate(Product(tuple(left)), Product(tuple(right)))
            return
        # Neither is one factor: take the common part off the front where units allow it.
        common = gcd(left[0].size, right[0].size)
        if common == 1 or not self._split(left[0], common) or not self._split(right[0], common):
            self._give_up(Product(tuple(left)), Product(tuple(right)))
            return
        self._equate_products(
            [factor for term in left for factor in self.factors(term)],
            [factor for term in right for factor in self.factors(term)],
        )

    def _split(self, term: Term, outer: int) -> bool:
        """Take units apart into so many by the rest; false where they are no plain units."""
        found = self.resolved(term)
        if not isinstance(found, Units):
            return False
        if found.size != outer:
            self.factored(found, (outer, found.size // outer))
        return True

    def _equate_sums(self, one: list[Term], other: list[Term]) -> None:
        """Piece by piece; longer units are cut where the other side ends."""
        while one and other:
            left, right = one.pop(0), other.pop(0)
            if left.size != right.size:
                long, rest = (left, one) if left.size > right.size else (right, other)
                size = min(left.size, right.size)
                head, tail = self._cut_off(long, size)
                rest.insert(0, tail)
                left, right = (head, right) if long is left else (left, head)
            self.equate(left, right)

    def _cut_off(self, term: Term, size: int) -> tuple[Term, Term]:
        """A term in two pieces; a product only between its outermost units."""
        found = self.resolved(term)
        if isinstance(found, Product):
            inner = _size(found.parts[1:])
            outer = self.resolved(found.parts[0])
            if isinstance(outer, Units) and size % inner == 0:
                head, tail = self.cut(outer, (size // inner, outer.size - size // inner))
                rest = found.parts[1:]
                return Product((head, *rest)), Product((tail, *rest))
        if isinstance(found, Units):
            head, tail = self.cut(found, (size, found.size - size))
            return head, tail
        self.pin(found, "it is cut in the middle of a unit")
        why = "it is cut from units with parts"
        return self.units(size, why), self.units(found.size - size, why)


def _size(terms: Sequence[Term]) -> int:
    return prod(term.size for term in terms)
