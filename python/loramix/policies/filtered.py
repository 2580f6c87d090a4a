"""A policy for adapters of which some take part only here or there."""

from dataclasses import dataclass, replace

from loramix.errors import ParamError
from loramix.policies.base import Policy, Reads, Side, Stack, Verdict
from loramix.policies.published import Published
from loramix.policies.published.members import ConflictMode, KeyFilter, members_of, sides_of


@dataclass(frozen=True, slots=True)
class Filtered:
    """Key filters and conflict modes around any policy; see `Published`, which has its own.

    The inner policy sees weight 0 where a filter leaves an adapter out.  Its statistics are of
    whole deltas, also where a conflict mode keeps only a side of them.

    Parameters
    ----------
    inner : chooses.
    key_filters, conflict_modes : one for each adapter.
    """

    inner: Policy
    key_filters: tuple[KeyFilter, ...]
    conflict_modes: tuple[ConflictMode, ...]

    @property
    def name(self) -> str:
        """The inner policy's."""
        return self.inner.name

    @property
    def reads(self) -> Reads:
        """What the inner policy reads."""
        return self.inner.reads

    def describe(self) -> dict[str, object]:
        """The inner policy and the filters."""
        filters = {"key_filters": self.key_filters, "conflict_modes": self.conflict_modes}
        return {**self.inner.describe(), **filters}

    def decide(self, stack: Stack) -> Verdict:
        """The inner policy's decisions, with the sides that the modes leave."""
        rows = members_of(stack, self.key_filters)
        weights = tuple(tuple(row.weights.tolist()) for row in rows)
        verdict = self.inner.decide(replace(stack, weights=weights))
        found = []
        for row, decision in zip(rows, verdict.decisions, strict=True):
            sides = sides_of(row, self.conflict_modes)
            if sides and decision.sides:
                sides = tuple(map(_both, decision.sides, sides))
            found.append(replace(decision, sides=sides or decision.sides))
        return replace(verdict, decisions=tuple(found))


def _both(decided: Side, mode: Side) -> Side:
    """What goes around the method goes around whole."""
    return decided if decided == "around" else mode


def filtered(
    policy: Policy,
    key_filters: tuple[KeyFilter, ...],
    conflict_modes: tuple[ConflictMode, ...],
) -> Policy:
    """A policy with filters, if there are any.

    Raises
    ------
    ParamError : the policy has filters of its own.
    """
    if set(key_filters) | set(conflict_modes) <= {"all"}:
        return policy
    if not isinstance(policy, Published):
        return Filtered(policy, key_filters, conflict_modes)
    if policy.key_filters or policy.conflict_modes:
        message = "key_filters and conflict_modes are given for the policy and for the adapters"
        raise ParamError(message)
    return replace(policy, key_filters=key_filters, conflict_modes=conflict_modes)
