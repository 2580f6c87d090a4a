"""A policy whose methods all get the same modifiers."""

from dataclasses import dataclass, replace

from loramix.errors import ParamError
from loramix.methods import Composite, Level, Method, Space, Subspace, describe, method_of
from loramix.policies.base import Decision, Policy, Reads, Stack, Verdict


@dataclass(frozen=True, slots=True)
class Modified:
    """Sparsification, refinement or a space for whatever a policy chooses.

    Groups where fewer than two members meet have nothing to modify; methods that have modifiers
    of their own keep them, and rules on cores have no entries.

    Parameters
    ----------
    inner : chooses.
    sparsify, refine, space : see `Composite`.
    """

    inner: Policy
    sparsify: Method | None = None
    refine: Level = "none"
    space: Space = "weight"

    @property
    def name(self) -> str:
        """The inner policy's."""
        return self.inner.name

    @property
    def reads(self) -> Reads:
        """What the inner policy reads."""
        return self.inner.reads

    def describe(self) -> dict[str, object]:
        """The inner policy and the modifiers."""
        thin = describe(self.sparsify) if self.sparsify is not None else None
        modifiers = {"sparsify": thin, "refine": self.refine, "space": self.space}
        return {**self.inner.describe(), **modifiers}

    def decide(self, stack: Stack) -> Verdict:
        """The inner policy's decisions, modified."""
        verdict = self.inner.decide(stack)
        return replace(verdict, decisions=tuple(map(self._modified, verdict.decisions)))

    def _modified(self, decision: Decision) -> Decision:
        method = decision.method
        meeting = sum(weight != 0 for weight in decision.weights)
        if meeting < 2 or isinstance(method, Composite | Subspace):
            return decision
        try:
            new = method_of(method, sparsify=self.sparsify, refine=self.refine, space=self.space)
        except ParamError as error:
            message = f"{error}; the policy {self.name} chose {method.name}"
            raise ParamError(message) from None
        return replace(decision, method=new)
