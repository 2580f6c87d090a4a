"""The same method for every group: what a user asks for by the name of a method."""

from dataclasses import dataclass

import numpy as np

from loramix.analysis.strengths import energy_of, stand_in, strengths
from loramix.methods import Method, describe, reads_gram
from loramix.policies.base import Decision, Reads, Stack, Verdict


@dataclass(frozen=True, slots=True)
class Fixed:
    """One method for all groups.

    Parameters
    ----------
    method : the method.
    auto_strength : shrink each branch (model, text encoders) so that its norm is at most that of
        its strongest contributor.
    floor : least scale of a branch of independent adapters, (0, 1].
    """

    method: Method
    auto_strength: bool = False
    floor: float | None = None

    @property
    def name(self) -> str:
        """The method's."""
        return self.method.name

    @property
    def reads(self) -> Reads:
        """Inner products, if anything depends on them."""
        return "products" if self.auto_strength or reads_gram(self.method) else "nothing"

    def describe(self) -> dict[str, object]:
        """The method's name and parameters."""
        return describe(self.method)

    def decide(self, stack: Stack) -> Verdict:
        """The method, and weights that are normalised if that was asked for."""
        found = {}
        if self.auto_strength:
            energies = [
                energy_of(group.gram, stand_in(self.method, group.gram, np.array(weights)))
                for group, weights in stack.groups
            ]
            found = strengths(stack.analysis.groups, stack.weights, energies, floor=self.floor)
        decisions = []
        for group, weights in stack.groups:
            scale = found[group.target.branch].scale if found else 1.0
            own = tuple(scale * weight for weight in weights)
            decisions.append(Decision(self.method, own, "", ""))
        return Verdict(tuple(decisions), found)
