"""What the kernels take and give: plain tuples, and what a program must know of its group."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias, TypeVar

Side: TypeAlias = Literal["all", "low", "high", "around"]
"""What a member gives to its group: ``all`` of its delta; only entries with the sign of the
majority of the members (``low`` conflict), or only the others (``high``); or all of it, around the
method: it is added to the result, at its weight."""
RawMember: TypeAlias = tuple[str, memoryview, str, memoryview, int, float, int, int]
RawPart: TypeAlias = tuple["RawGroup", list[float], "Site", int, bool]
RawStep: TypeAlias = tuple[int, int, int, list[RawPart]]
RawGroup: TypeAlias = tuple[int, int, list[RawMember]]
RawWhole: TypeAlias = tuple[str, memoryview, float, int, int]
"""A member given entry by entry: type, bytes, factor, first row, rows."""
RawStrip: TypeAlias = tuple[str, memoryview, int, "RawGroup", list[RawWhole], int]
"""Rows of a base weight (type, bytes, rows), its delta in both forms, first row of that."""
RawBaked: TypeAlias = tuple[float, float, float, int]
"""``|delta|^2``, ``|moved|^2``, ``<moved, delta>``, checksum."""
RawFactored: TypeAlias = tuple[int, float, float, float, list[float], list[float], list[float]]


_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Site:
    """What a program needs to know of the group that it runs on.

    Attributes
    ----------
    key : stable hash of the target, for the random draws.
    seed : of the random draws.
    most : largest share of positions in conflict, for rules that are limited to those.
    norm : what the result is brought to; None leaves it.
    mix : (n * n) row-major, how much of each kept delta goes into each; empty for nothing.  n are
        the members that the program sees: those that do not go around it.
    sides : for every member; empty: all.

        Before anything else happens, all members that are seen vote on the sign of every position:
        one vote each, that of the weighted entry; a draw is decided by the sum of these entries.
        ``low`` leaves the entries with the sign that won, ``high`` the others.  Where that sum is 0
        too nobody has won: nothing is left of ``low`` and everything of ``high``.  So negated
        deltas give the negated result.  What is left is what the program takes for the delta, but
        for `norm`, which the caller chose, and for cleaning: noise is what is outside the span of
        whole deltas.

        ``around`` is added at the very end, after norm and cleaning: weight times delta, whatever
        the space.  Bases, votes, draws and divisors are those of a group without that member.
    published_sides : whether a draw is positive instead, as published.  Of two members, ``high``
        leaves the negative entries where they disagree, and nothing else.
    """

    key: int = 0
    seed: int = 0
    most: float = 1.0
    norm: float | None = None
    mix: Sequence[float] = ()
    sides: Sequence[Side] = ()
    published_sides: bool = False

    def seen(self, members: Sequence[_T]) -> list[_T]:
        """What there is one of for every member: that of those that the program sees."""
        sides = self.sides or ["all"] * len(members)
        return [own for own, side in zip(members, sides, strict=True) if side != "around"]

    def around(self, members: Sequence[_T]) -> list[_T]:
        """Likewise, that of those that go around it."""
        sides = self.sides or ["all"] * len(members)
        return [own for own, side in zip(members, sides, strict=True) if side == "around"]

    def alone(self) -> "Site":
        """Where the program sees one member at most, which is its delta as it is."""
        sides: tuple[Side, ...] = ()
        if "around" in self.sides:
            sides = tuple("around" if side == "around" else "all" for side in self.sides)
        return replace(self, norm=None, mix=(), sides=sides)
