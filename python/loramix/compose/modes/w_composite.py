"""The mean of what all adapters predict, by their importance in the prompt."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from loramix.compose.functional.checks import check_number, number_of
from loramix.compose.guidance import Cfg, Guidance
from loramix.compose.modes.base import BASE, Blend, Model, Moment, Pass, Seen, alone
from loramix.compose.modes.composite import by_shares
from loramix.errors import ParamError

_WORD = re.compile(r"\w+")


def importance_of(prompt: str, triggers: Sequence[str]) -> tuple[float, ...]:
    """How much of a prompt is about each adapter: the share of its words that trigger it.

    Parameters
    ----------
    prompt : the text.
    triggers : for each adapter its trigger words, separated by spaces or commas.

    Returns
    -------
    One number per adapter, at least 0: the words of the prompt that are among its triggers, over
    all words of the prompt that are a trigger of anybody.

    Raises
    ------
    ParamError : no word of the prompt is a trigger.

    Notes
    -----
    The publication takes the importance of trigger words from the tokens of the prompt; how is not
    known to us.  This count is ours, and any other numbers can be given to the modes.
    """
    words = [word.casefold() for word in _WORD.findall(prompt)]
    known = [{word.casefold() for word in _WORD.findall(text)} for text in triggers]
    counts = [sum(word in own for word in words) for own in known]
    total = sum(any(word in own for own in known) for word in words)
    if total == 0:
        message = f"prompt {prompt!r} has none of the trigger words {list(triggers)}"
        raise ParamError(message)
    return tuple(count / total for count in counts)


def checked_importance(owner: str, importance: Sequence[float]) -> tuple[float, ...]:
    """Importances as Python has them.

    Parameters
    ----------
    importance : numbers in a list, an array, ...

    Raises
    ------
    ParamError : no list of numbers, a negative number, or none above 0.
    """
    if isinstance(importance, str) or not hasattr(importance, "__len__"):
        message = f"{owner}: importance = {importance!r}: give a number for each adapter"
        raise ParamError(message)
    found = tuple(check_number(owner, "importance", number_of(value)) for value in importance)
    if found and not any(found):
        message = f"{owner}: importance = {found}: at least one must be above 0"
        raise ParamError(message)
    return found


def weighed(owner: str, moment: Moment, importance: Sequence[float]) -> Moment:
    """The moment with importances times priors as its priors.

    Raises
    ------
    ParamError : not one importance per adapter, or nothing is left.
    """
    if not importance:
        return moment
    if len(importance) != len(moment.prior):
        message = (
            f"{owner}: importance = {tuple(importance)} for {len(moment.prior)} adapters: give "
            "one each"
        )
        raise ParamError(message)
    prior = tuple(p * v for p, v in zip(moment.prior, importance, strict=True))
    if not any(prior):
        message = f"{owner}: no adapter has both a prior and an importance above 0"
        raise ParamError(message)
    return replace(moment, prior=prior)


@dataclass(frozen=True, slots=True)
class WComposite:
    """`Composite` with weights.

    ``e = sum_i v_i e_i / sum_i v_i`` with v the importances, times the priors if there are any.

    Parameters
    ----------
    importance : one number per adapter, at least 0, as from `importance_of`; empty: all alike.

    Notes
    -----
    Forwards per step: as `Composite`; adapters of importance 0 are not run.  Known to us from its
    abstract.

    References
    ----------
    arXiv:2606.03792 (W-Composite).
    """

    name: ClassVar[str] = "w-composite"
    per_pixel: ClassVar[bool] = True
    in_place_of_priors: ClassVar[str | None] = None
    settled: ClassVar[str | None] = "they are your importances: give 0 to those that shall rest"
    guidance: ClassVar[Guidance] = Cfg()

    importance: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "importance", checked_importance(self.name, self.importance))

    def prepare(self, model: Model) -> object:
        """Nothing, but the numbers must fit."""
        weighed(self.name, Moment(0, None, (1.0,) * len(model.names)), self.importance)
        return None

    def passes(self, moment: Moment, memory: object) -> tuple[Pass, ...]:  # noqa: ARG002
        """Each alone, and the base if there are masks."""
        rest = [BASE] if moment.masked else []
        return (*rest, *alone(weighed(self.name, moment, self.importance).taking))

    def weigh(self, moment: Moment, seen: Seen, memory: object) -> tuple[Blend, object]:
        """By importance."""
        return by_shares(weighed(self.name, moment, self.importance), seen), memory
