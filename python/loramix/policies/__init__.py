"""Policies: functions from what a stack's adapters do to each other to a method per group."""

from loramix.policies.base import Policy


def policy_of(text: object) -> Policy | None:
    return text if isinstance(text, Policy) else None
