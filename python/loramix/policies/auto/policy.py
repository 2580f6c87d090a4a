"""A method for every group, from exact angles and what chance does not explain."""

import math
from collections.abc import Sequence, Set
from dataclasses import asdict, dataclass, replace
from typing import ClassVar

import numpy as np

from loramix.analysis.statistics import GroupStatistics
from loramix.errors import ParamError
from loramix.methods import Composite, Elect, Linear, Method, Retain, apply
from loramix.methods.base import Coefficients
from loramix.policies.auto import gains, notes, regimes
from loramix.policies.auto.evidence import Evidence, gather, is_low_rank, sizes_of
from loramix.policies.auto.recognise import recognise
from loramix.policies.base import Decision, Reads, Side, Stack, Verdict
from loramix.tensors import F64


@dataclass(frozen=True, slots=True)
class Auto:
    """The default policy.

    Two adapters that have nothing to do with each other are added: that is what loading both
    gives, and most pairs are like that.  What several say alike counts once, not as often as it
    is said (`Retain`, which at cosine 0 is the sum, and for copies is one of them).  What the
    weights ask to cancel, cancels.  Only where signs clash beyond what the angle explains, so
    that a sum would lose what both can give, the entries vote (`Elect`).

    ============  =====================================================  =========================
    regime        the pair that is strongest                             method
    ============  =====================================================  =========================
    alone         there is none                                          linear
    disjoint      shares no entry, or no direction on either side        linear
    independent   cosine and overlap as by chance                        linear
    partial       cosine or overlap beyond chance                        linear to retain
    aligned       cosine of at least `aligned`                           retain
    opposed       cosine of at most minus `opposed`                      linear
    conflicted    a sum loses more energy than the angle explains        elect, or core(elect)
    ============  =====================================================  =========================

    The words name what is seen; the coefficients follow the cosines continuously, by one rule:
    a share s of `Retain` and 1 - s of the sum, s rising smoothly from 0 to 1 while the largest
    signed cosine goes from its bound to twice that.  Pairs in which one is minor have less say,
    falling to none with its weight.  The one gate that is no blend leads to the votes, and has
    the significance of the clash as its guard.  There, too, `Retain` says first how much of
    whom; between members of low rank the vote is on coefficients in their joint bases
    (space ``core``), whose result a low-rank file holds exactly.

    Homogeneous of degree 1 and odd in the weights, independent of the order of the stack, and
    (unless they are balanced) of the unit of the deltas.

    Parameters
    ----------
    strength : energy (squared norm) of each branch, the model or the text encoders, at most, in
        energies of its strongest adapter.  Unrelated adapters of one size have as many as they are,
        so 2 leaves two as they are and scales eight by a half: without it many burn out.
        The best strength of those tried on the calibration half of the testbed (docs/QUALITY.md).
        The number of adapters leaves all unrelated ones as they are.
    balance : 1: adapters are made as long as the longest of their branch (at most twice as long as
        they are), times their weights, for stacks in which one drowns the others; 0: they stay as
        they are, so a weight of 1 is the adapter as its author made it; between: in part.
    mix : whether adapters for speed, editing or preferences take part like all others.  Default:
        no; they are added as they are, at their weight, around what becomes of the others.
    errors : standard errors beyond which a figure counts: at 3, one of 370 is chance.
    margin : and what it must exceed anyway: entries of low-rank products are not quite
        elliptical.  Their lost energy is at most 0.002 above the closed form at any cosine and
        rank (and far below it for rank 1), so a clash of 0.02 is none of theirs; their weighted
        conflict is up to 0.05 above it, which is why that decides nothing here.
    aligned, opposed : cosines that have a name: 0.5 and 0.25, the published thresholds.  They
        choose a word, and no coefficient.
    full : share of the possible rank above which a member counts as dense: votes then are on
        entries.  From there on joint bases save nothing.
    minor : norm, relative to the largest member of the group, from which on a member has its
        full say.  0.05: what is below moves the norm of a sum by 0.1 %.
    dominance : ratio of norms, over all targets, that is worth a note.
    """

    name: ClassVar[str] = "auto"
    reads: ClassVar[Reads] = "statistics"

    strength: float = 2.0
    balance: float = 0.0
    mix: bool = False
    errors: float = 3.0
    margin: float = 0.02
    aligned: float = 0.5
    opposed: float = 0.25
    full: float = 0.5
    minor: float = 0.05
    dominance: float = 3.0

    def __post_init__(self) -> None:
        if not isinstance(self.mix, bool):
            message = f"auto: mix = {self.mix!r}: true or false"
            raise ParamError(message)
        balance = self.balance
        if (
            isinstance(balance, bool)
            or not isinstance(balance, int | float)
            or not 0 <= balance <= 1
        ):
            message = f"auto: balance = {balance!r}: a number from 0 to 1"
            raise ParamError(message)
        for name, least, most in (
            ("strength", 0.0, math.inf),
            ("errors", 0.0, math.inf),
            ("margin", 0.0, 1.0),
            ("aligned", 0.0, 1.0),
            ("opposed", 0.0, 1.0),
            ("full", 0.0, 1.0),
            ("minor", 0.0, 1.0),
            ("dominance", 1.0, math.inf),
        ):
            value = getattr(self, name)
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not (number and least < value < math.inf and value <= most):
                message = f"auto: {name} = {value}: a number above {least:g}"
                raise ParamError(message + (f", at most {most:g}" if most < math.inf else ""))

    def describe(self) -> dict[str, object]:
        """Name and parameters."""
        return {"name": self.name, **asdict(self)}

    def decide(self, stack: Stack) -> Verdict:
        """One decision for every group."""
        known = () if self.mix else recognise(stack.adapters)
        around = {one.owner for one in known}
        names = [adapter.name for adapter in stack.adapters]
        if self.balance > 0:
            stack = replace(stack, weights=gains.balanced(stack, self.balance, around))
        decisions = tuple(
            self._decide(group, weights, around, names) for group, weights in stack.groups
        )
        found = gains.held(stack, decisions, self.strength)
        decisions = tuple(
            replace(made, weights=gains.scaled(made, found.get(group.target.branch)))
            for (group, _), made in zip(stack.groups, decisions, strict=True)
        )
        remarks = notes.remarks(
            stack, known, opposed=self.opposed, dominance=self.dominance, mix=self.mix
        )
        return Verdict(decisions, found, notes=remarks)

    def _decide(
        self,
        group: GroupStatistics,
        weights: Sequence[float],
        around: Set[int],
        names: Sequence[str],
    ) -> Decision:
        aside = [owner in around for owner in group.owners]
        inner = tuple(0.0 if out else w for w, out in zip(weights, aside, strict=True))
        pairs = gather(group, inner, errors=self.errors, margin=self.margin, minor=self.minor)
        finding = regimes.find(pairs, aligned=self.aligned, opposed=self.opposed)
        coefficients, sent, gain = self._coefficients(pairs), np.array(inner), 1.0
        method: Method = coefficients
        if finding.regime == "conflicted":
            method = self._election(group, inner)
            sent = apply(coefficients, group.gram, sent)
            gain = _gain(group, inner, sent, pairs)
        decided = (
            w if out else float(gain * own)
            for w, own, out in zip(weights, sent, aside, strict=True)
        )
        sides: tuple[Side, ...] = tuple("around" if out else "all" for out in aside)
        members = [names[owner] for owner in group.owners]
        return Decision(
            method=method,
            weights=tuple(decided),
            regime=finding.regime,
            why=regimes.explain(finding, _spelled(method), members),
            numbers={**finding.pair.numbers, "gain": gain} if finding.pair else {},
            sides=sides if any(aside) else (),
        )

    def _coefficients(self, pairs: Sequence[Evidence]) -> Coefficients:
        share = max((_share(pair) for pair in pairs), default=0.0)
        return Retain(share) if share > 0 else Linear()

    def _election(self, group: GroupStatistics, weights: Sequence[float]) -> Method:
        used = [delta for delta, w in zip(group.deltas, weights, strict=True) if w != 0]
        rows, cols = group.target.rows, group.target.cols
        low = is_low_rank(used, rows=rows, cols=cols, most=self.full)
        return Composite(Elect(), space="core") if low else Elect()


def _gain(
    group: GroupStatistics, weights: Sequence[float], sent: F64, pairs: Sequence[Evidence]
) -> float:
    """What makes the winners of a vote no longer than unrelated members together."""
    norm = gains.norm_of_election(sizes_of(group.gram, list(sent)), pairs)
    most = float(np.linalg.norm(sizes_of(group.gram, weights)))
    return min(1.0, most / norm) if norm > 0 else 1.0


def _share(pair: Evidence) -> float:
    """How far a pair asks to go from the sum to `Retain`: a smoothstep of its cosine."""
    x = max(0.0, min(1.0, pair.cosine / pair.cosine_bound - 1))
    return pair.say * x * x * (3 - 2 * x)


def _spelled(method: Method) -> str:
    if isinstance(method, Composite):
        return f"{method.space}({method.name})"
    if isinstance(method, Retain) and method.share < 1:
        return f"retain:share={method.share:.3g}"
    return method.name
