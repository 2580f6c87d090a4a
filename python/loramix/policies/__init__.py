"""Policies: functions from what a stack's adapters do to each other to a method per group.

The table: one line each.  To add one: a file or a folder beside this one, a line here.
"""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import cast

from loramix.policies.auto import Auto
from loramix.policies.base import Decision as Decision
from loramix.policies.base import Policy as Policy
from loramix.policies.base import Side as Side
from loramix.policies.base import Stack as Stack
from loramix.policies.base import Verdict as Verdict
from loramix.policies.published import Published
from loramix.spelling import listed, named, refuse_unknown

_ALL = (Auto, Published)
POLICIES: Mapping[str, type[Policy]] = MappingProxyType({p.name: p for p in _ALL})


def policy_of(policy: str | Policy) -> Policy:
    """A policy object from a text such as ``published`` or ``published:mode=global,floor=1``.

    Objects pass through.  Several values of one parameter are joined by ``+``:
    ``key_filters=all+shared_only``.

    Raises
    ------
    ParamError : no such name or parameter, or a value outside its range.
    """
    if not isinstance(policy, str):
        return policy
    return cast("Policy", named("policy", policy, POLICIES))


def policy_from(name: str, parameters: Mapping[str, object]) -> Policy:
    """A policy object from a name and values.

    Raises
    ------
    ParamError : no such name or parameter, or a value outside its range.
    """
    kind = listed("policy", name, POLICIES)
    for key in parameters:
        refuse_unknown(name, key, [field.name for field in dataclasses.fields(kind)])
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in parameters.items()}
    return cast("Policy", kind(**values))
