"""TIES by the conventions of other tools, for comparison; each is tied to that tool's output.

All of them leave out adapters of weight 0 and take a single adapter as it is, like every method
here; PEFT and mergekit trim a single one, and PEFT lets one of weight 0 vote.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

from loramix.errors import ParamError
from loramix.methods.base import Keep, Law, Program, check_shares

_BREAKS: frozenset[Law] = frozenset({"odd", "identical", "continuity"})


@dataclass(frozen=True, slots=True)
class TiesPeft:
    """What PEFT's ``ties_svd`` makes of the deltas, before its decomposition.

    ``int(density * n)`` entries are kept (maybe none).  The plain entries vote, without their
    weights; a draw is positive.  The weighted entries that agree are summed and divided by their
    number.  Breaks oddness where a vote is a draw, and the laws that `Ties` breaks.

    Parameters
    ----------
    density : share of entries kept, (0, 1].
    vote : ``total``: by the sum; ``frequency``: by heads.

    References
    ----------
    PEFT 0.21, ``peft.utils.merge_utils.ties``.
    """

    name: ClassVar[str] = "ties-peft"
    mean: ClassVar[bool] = True
    breaks: ClassVar[frozenset[Law]] = _BREAKS

    density: float = 0.2
    vote: Literal["total", "frequency"] = "total"

    def __post_init__(self) -> None:
        check_shares(self.name, {"density": self.density})
        _check_vote(self.name, self.vote)

    def program(self) -> Program:
        """Trim, elect by plain entries, divide by the count."""
        keep = Keep("truncated", self.density, least=0)
        return Program(keep, vote=_vote(self.vote), ballot="plain", reduce="count")


@dataclass(frozen=True, slots=True)
class TiesMergekit:
    """What mergekit's ``ties`` makes of task vectors.

    ``max(1, int(density * n))`` entries are kept.  The weighted entries vote; a draw is positive.
    Those that agree are summed and, with ``normalize``, divided by the sum of their weights with
    their signs (1 where that is 0): the size of all weights then cancels out, so that 0.1 and 0.1
    give what 1 and 1 give, and weights of opposite signs may make the result explode.

    Parameters
    ----------
    density : share of entries kept, (0, 1].
    normalize : the tool's default for this method.

    References
    ----------
    mergekit 0.1.5, by its output.
    """

    name: ClassVar[str] = "ties-mergekit"
    mean: ClassVar[bool] = True
    breaks: ClassVar[frozenset[Law]] = _BREAKS | {"homogeneous"}

    density: float = 0.2
    normalize: bool = True

    def __post_init__(self) -> None:
        check_shares(self.name, {"density": self.density})
        if not isinstance(self.normalize, bool):
            message = f"{self.name}: normalize = {self.normalize!r}: true or false"
            raise ParamError(message)

    def program(self) -> Program:
        """Trim, elect by weighted entries, divide by the signed weights."""
        reduce: Literal["signed-share", "sum"] = "signed-share" if self.normalize else "sum"
        return Program(Keep("truncated", self.density), vote="mass-or-positive", reduce=reduce)


@dataclass(frozen=True, slots=True)
class TiesPublished:
    """TIES of the published adaptive composition.

    The sign of the weight is folded into the delta, which votes without the weight's size; a draw
    is positive, so of two adapters that disagree the positive entry wins under ``frequency``,
    and the result is biased.  The weighted entries that agree are divided by their number.

    Of deltas refined as published (`Composite`) whole rows vote: each delta has one ballot for a
    row, the sum of its entries there, and those that agree give the row, zeros included.

    Parameters
    ----------
    density : share of entries kept, (0, 1].
    vote : ``frequency``: by heads; ``total``: by the sum.
    """

    name: ClassVar[str] = "ties-published"
    mean: ClassVar[bool] = True
    breaks: ClassVar[frozenset[Law]] = _BREAKS

    density: float = 0.5
    vote: Literal["total", "frequency"] = "frequency"

    def __post_init__(self) -> None:
        check_shares(self.name, {"density": self.density})
        _check_vote(self.name, self.vote)

    def program(self) -> Program:
        """Trim, elect by signed entries, divide by the count."""
        keep = Keep("truncated", self.density)
        return Program(keep, vote=_vote(self.vote), ballot="signed", reduce="count")


def _check_vote(owner: str, vote: str) -> None:
    if vote not in ("total", "frequency"):
        message = f"{owner}: vote = {vote!r}: total or frequency"
        raise ParamError(message)


def _vote(vote: str) -> Literal["mass-or-positive", "count-or-positive"]:
    return "mass-or-positive" if vote == "total" else "count-or-positive"
