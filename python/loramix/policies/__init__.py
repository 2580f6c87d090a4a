"""Policies: functions from what a stack's adapters do to each other to a method per group.

The table: one line each.  To add one: a file or a folder beside this one, a line here.
"""

import dataclasses
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, cast

from loramix.errors import ParamError
from loramix.nearest import hint
from loramix.policies.auto import Auto
from loramix.policies.base import Decision as Decision
from loramix.policies.base import Policy as Policy
from loramix.policies.base import Side as Side
from loramix.policies.base import Stack as Stack
from loramix.policies.base import Verdict as Verdict
from loramix.policies.published import Published

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
    name, _, parameters = policy.partition(":")
    return policy_from(name, _parameters(name, parameters))


def policy_from(name: str, parameters: Mapping[str, object]) -> Policy:
    """A policy object from a name and values.

    Raises
    ------
    ParamError : no such name or parameter, or a value outside its range.
    """
    known = _fields(name)
    for key in parameters:
        _refuse_unknown(name, key, known)
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in parameters.items()}
    return cast("Callable[..., Policy]", POLICIES[name])(**values)


def _fields(name: str) -> dict[str, Any]:
    """Parameters of a policy and their defaults."""
    if name not in POLICIES:
        message = f"policy {name!r}{hint(name, POLICIES)}; known are {', '.join(POLICIES)}"
        raise ParamError(message)
    return {f.name: f.default for f in dataclasses.fields(cast("Any", POLICIES[name]))}


def _refuse_unknown(name: str, key: str, known: Mapping[str, object]) -> None:
    if key not in known:
        listed = ", ".join(known) or "none"
        message = f"{name}: no parameter {key!r}{hint(key, known)}; it has {listed}"
        raise ParamError(message)


def _parameters(name: str, text: str) -> dict[str, Any]:
    """Values of ``key=value,key=value`` in the types of the policy's fields."""
    known = _fields(name)
    found: dict[str, Any] = {}
    for part in filter(None, text.split(",")):
        key, _, value = part.partition("=")
        if key in found:
            message = f"{name}: {key} is given twice"
            raise ParamError(message)
        _refuse_unknown(name, key, known)
        found[key] = _value(known[key], value)
    return found


def _value(default: object, text: str) -> object:
    """A text as what the default is, or as it is: the policy says what it allows."""
    if isinstance(default, bool):
        return {"true": True, "yes": True, "false": False, "no": False}.get(text.lower(), text)
    if isinstance(default, tuple):
        return tuple(text.split("+"))
    if default is None and text.lower() == "none":
        return None
    try:
        return text if isinstance(default, str) else float(text)
    except ValueError:
        return text
