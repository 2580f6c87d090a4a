"""Policies as recipes write them: a text, or a table with a name."""

from loramix.errors import ParamError
from loramix.policies import POLICIES, policy_from, policy_of
from loramix.policies.base import Policy
from loramix.recipes.strict import Table


def policy(table: Table, key: str) -> Policy:
    """A policy from ``"published:preset=dit"`` or ``{ name = "published", preset = "dit" }``.

    Raises
    ------
    ParamError : no such policy or parameter, or a value out of its range; with the place.
    """
    value = table.values[key]
    if isinstance(value, str):
        return table.placed(lambda: policy_of(value), key)
    inner = table.named(key)
    rest = {word: one for word, one in inner.values.items() if word != "name"}
    return inner.placed(lambda: policy_from(inner.text("name"), rest))


def plain(chosen: Policy) -> dict[str, object]:
    """A policy as a table of a recipe: what has its default is left out.

    Raises
    ------
    ParamError : a policy that has no name in `POLICIES`.
    """
    if POLICIES.get(chosen.name) is not type(chosen):
        message = f"policy {chosen.name!r} is not of loramix and cannot be written in a recipe"
        raise ParamError(message)
    usual = policy_from(chosen.name, {}).describe()
    found = {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in chosen.describe().items()
        if value != usual[key]
    }
    return {"name": chosen.name, **found}
