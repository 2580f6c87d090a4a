"""What the options of the published policy may be."""

from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias, get_args

from loramix.errors import ParamError
from loramix.policies.base import Stack
from loramix.policies.published.members import ConflictMode, KeyFilter
from loramix.policies.published.presets import PresetName
from loramix.policies.published.tree import Regime, StrategySet

Mode: TypeAlias = Literal["per_group", "global", "additive"]

_WORDS: Mapping[str, tuple[object, ...]] = {
    "preset": ("auto", *get_args(PresetName)),
    "strategy_set": get_args(StrategySet),
    "mode": get_args(Mode),
    "override": (None, *get_args(Regime)),
    "smooth_slerp_gate": (True, False),
    "auto_strength": (True, False),
    "key_filters": get_args(KeyFilter),
    "conflict_modes": get_args(ConflictMode),
}
_EACH = ("key_filters", "conflict_modes")


def check_options(options: Mapping[str, object]) -> None:
    """Refuse what no option allows.

    Raises
    ------
    ParamError : a word that is not known, or a share outside [0, 1].
    """
    for name, value in options.items():
        if name in _EACH:
            if not isinstance(value, tuple):
                message = f"published: {name} = {value!r}: allowed is a tuple of words"
                raise ParamError(message)
            for one in value:
                _check_word(name, one)
        elif name in _WORDS:
            _check_word(name, value)
        else:
            _check_share(name, value, none=name == "floor")


def check_stack(stack: Stack, each: Mapping[str, Sequence[object]]) -> None:
    """Refuse a stack that the options do not go with, or that nobody has looked at.

    Parameters
    ----------
    each : options with a word for every adapter, by name.

    Raises
    ------
    ParamError : a filter or a mode is not there for every adapter, or statistics are missing.
    """
    adapters = len(stack.adapters)
    for name, words in each.items():
        if len(words) not in (0, adapters):
            message = (
                f"published: {name} has {len(words)} entries for {adapters} adapters; give one for "
                "each adapter, or none"
            )
            raise ParamError(message)
    for group in stack.analysis.groups:
        n = len(group.owners)
        if len(group.deltas) != n or len(group.pairs) != n * (n - 1) // 2:
            message = (
                f"published: the analysis has no statistics of {group.target.key}, only inner "
                "products; analyse the stack for this policy"
            )
            raise ParamError(message)


def _check_word(name: str, value: object) -> None:
    allowed: Sequence[object] = _WORDS[name]
    if type(value) not in {type(one) for one in allowed} or value not in allowed:
        words = ", ".join(str(one).lower() for one in allowed)
        message = f"published: {name} = {value!r}: allowed is {words}"
        raise ParamError(message)


def _check_share(name: str, value: object, *, none: bool) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1
    if not number and not (none and value is None):
        hint = ", or none for the preset's" if none else ""
        message = f"published: {name} = {value!r}: allowed is a number in [0, 1]{hint}"
        raise ParamError(message)
