"""The published decision tree: from the figures of a group to what becomes of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from loramix.methods import Linear, Method
from loramix.methods.average import Average
from loramix.methods.consensus import Consensus
from loramix.methods.slerp import Slerp
from loramix.methods.ties_upstream import TiesPublished
from loramix.policies.published.measures import Figures
from loramix.policies.published.presets import Preset
from loramix.tensors import F64

Regime: TypeAlias = Literal["weighted_sum", "weighted_average", "slerp", "consensus", "ties"]
StrategySet: TypeAlias = Literal["full", "no_slerp", "basic"]
Vote: TypeAlias = Literal["total", "frequency"]

OVERLAP = 0.35
"""Between little and much overlap of subspaces: in no preset, alike for all."""

DENSITY = 0.5
"""Where there is nothing to measure, and for ties that the tree did not choose."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What becomes of a group.

    Attributes
    ----------
    regime : in the publication's words.
    why : a sentence with the numbers that decided.
    density, vote : of ties.
    """

    regime: Regime
    why: str
    density: float = DENSITY
    vote: Vote = "frequency"

    @property
    def method(self) -> Method:
        """The method that does it."""
        if self.regime == "ties":
            return TiesPublished(self.density, self.vote)
        return _METHODS[self.regime]()

    @property
    def numbers(self) -> dict[str, float]:
        """The density of ties."""
        return {"density": self.density} if self.regime == "ties" else {}


_METHODS: Mapping[Regime, Callable[[], Method]] = {
    "weighted_sum": Linear,
    "weighted_average": Average,
    "slerp": Slerp,
    "consensus": Consensus,
}


@dataclass(frozen=True, slots=True)
class Tree:
    """The tree with its constants.

    Attributes
    ----------
    preset : thresholds.
    strategy_set : ``full``; without slerp, and without consensus either (``no_slerp``, as
        published); or ties and mean alone (``basic``).
    full_rank : whether the stack counts as one of full rank.
    override : what groups of two and more contributors become, whatever the tree says.
    """

    preset: Preset
    strategy_set: StrategySet
    full_rank: bool
    override: Regime | None

    def choose(self, figures: Figures, gate: float, magnitudes: Sequence[F64]) -> Choice:
        """First rule that holds; then slerp, the rule for full rank, the override.

        Parameters
        ----------
        figures : that the rules read.
        gate : the cosine that slerp and the rule for full rank read.
        magnitudes : samples of the weighted deltas, for the density of ties.
        """
        if figures.contributors <= 1:
            return alone(figures.contributors)
        choice = self._ruled(figures, magnitudes)
        if choice.regime == "weighted_average":
            choice = self._raised(choice, gate)
        if self.override is None:
            return choice
        why = f"The override makes it {self.override}; the tree says {choice.regime}: {choice.why}"
        return Choice(self.override, why, choice.density, choice.vote)

    def _ruled(self, figures: Figures, magnitudes: Sequence[F64]) -> Choice:
        """Table 1."""
        p, c, e, o = self.preset, figures.cosine, figures.effective_conflict, figures.overlap
        shown = f"Cosine {c:.3g}, effective conflict {e:.3g}, overlap {o:.3g}:"
        if (
            self.strategy_set == "full"
            and c > p.consensus_cosine
            and e < p.consensus_conflict
            and o >= OVERLAP
        ):
            limits = f"> {p.consensus_cosine}, < {p.consensus_conflict}, >= {OVERLAP}"
            return Choice("consensus", f"{shown} aligned ({limits}).")
        if (
            self.strategy_set != "basic"
            and abs(c) < p.orthogonal_cosine
            and e < p.orthogonal_conflict
            and o < OVERLAP
        ):
            limits = f"within {p.orthogonal_cosine}, < {p.orthogonal_conflict}, < {OVERLAP}"
            return Choice("weighted_average", f"{shown} orthogonal ({limits}).")
        if e > p.ties_conflict:
            ratio = figures.magnitude_ratio
            vote: Vote = "total" if ratio > p.total_ratio else "frequency"
            sign = ">" if vote == "total" else "<="
            why = (
                f"{shown} in conflict (> {p.ties_conflict}); magnitude ratio {ratio:.3g} "
                f"{sign} {p.total_ratio} elects by {vote}."
            )
            return Choice("ties", why, density_of(magnitudes, p), vote)
        return Choice("weighted_average", f"{shown} no rule holds, the mean is left.")

    def _raised(self, choice: Choice, gate: float) -> Choice:
        """A mean becomes slerp, or a sum in a stack of full rank, or stays."""
        p = self.preset
        may = p.full_rank_slerp or not self.full_rank
        if self.strategy_set == "full" and may and gate >= 0:
            why = f"{choice.why} Slerp keeps the norm, as the cosine {gate:.3g} is >= 0."
            return Choice("slerp", why)
        if self.full_rank and p.full_rank_sum and abs(gate) < p.orthogonal_cosine:
            why = (
                f"{choice.why} The stack is of full rank, and the cosine {gate:.3g} within "
                f"{p.orthogonal_cosine}: a sum."
            )
            return Choice("weighted_sum", why)
        return choice


def alone(contributors: int) -> Choice:
    """What becomes of a group in which nobody meets anybody."""
    if contributors == 0:
        return Choice("weighted_sum", "Nobody contributes: weights of 0 or key filters.")
    return Choice("weighted_sum", "One contributor: added at its full strength.")


def density_of(magnitudes: Sequence[F64], preset: Preset) -> float:
    """Share of the pooled magnitudes above the noise, ``noise * largest``, clamped.

    Every delta counts by its 64 order statistics, so the share is good to 1/64.  The largest of
    all decides about everything below it: a flaw of the publication.
    """
    pooled = np.concatenate([*magnitudes, np.zeros(0)])
    largest = float(pooled.max(initial=0.0))
    if largest <= 0:
        return DENSITY
    share = float(np.mean(pooled > preset.noise * largest))
    return min(max(share, preset.least_density), preset.most_density)
