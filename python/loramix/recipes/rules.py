"""Rules: what is different for some targets.

A rule names targets, by a glob or a regular expression of whole keys, and what it says about
them.  For each property the first rule that matches and says it decides, so a rule for the
attention's method and one for the text encoders' weights do not get in each other's way.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Literal, TypeAlias

from loramix.errors import ParamError
from loramix.formats.layout import load_layout
from loramix.methods import Composite, Method, Space
from loramix.methods.composite import SPACES
from loramix.recipes import choosing
from loramix.recipes.strict import finite
from loramix.spelling import hint

Property: TypeAlias = Literal["method", "weight", "rank", "space"]
PROPERTIES: tuple[Property, ...] = ("method", "weight", "rank", "space")
HEADER = ("rules", "targets", "first target", "method", "space", "rank", "weights")


@dataclass(frozen=True, slots=True)
class Rule:
    """What is different for some targets.

    Attributes
    ----------
    target : glob of target keys, such as ``*.attn1.*``; or
    regex : a regular expression that a whole key must match.
    method : instead of the recipe's, whose ``sparsify``, ``refine`` and ``space`` go with it.
    weight : multiplies the weights of all adapters, or of some: by name, or by position from 1.
    rank : at most this rank, instead of the output's.
    space : of whatever method there is.
    """

    target: str | None = None
    regex: str | None = None
    method: Method | None = None
    weight: float | Mapping[str, float] | None = None
    rank: int | None = None
    space: Space | None = None

    def __post_init__(self) -> None:
        if (self.target is None) == (self.regex is None):
            message = "give target (a glob) or regex, one of them"
            raise ParamError(message)
        if not self.says:
            message = f"says nothing of its targets: give {', '.join(PROPERTIES)}"
            raise ParamError(message)
        if self.rank is not None and self.rank < 1:
            message = f"rank = {self.rank}: allowed is an integer of at least 1"
            raise ParamError(message)
        if self.space is not None and self.space not in SPACES:
            message = f"space = {self.space!r}: allowed is {', '.join(SPACES)}"
            raise ParamError(message)
        weight = self.weight
        numbers = weight.values() if isinstance(weight, Mapping) else (weight,)
        if weight is not None and any(finite(number) is None for number in numbers):
            message = f"weight = {weight}: allowed is a finite number of any sign for each"
            raise ParamError(message)
        if self.method is not None and self.space is not None:
            self._check_space(self.method, self.space)
        try:
            re.compile(self.regex or "")
        except (re.error, OverflowError, RecursionError) as error:
            message = f"regex = {self.regex!r} is no regular expression: {error}"
            raise ParamError(message) from None

    @staticmethod
    def _check_space(method: Method, space: Space) -> None:
        if isinstance(method, Composite) and method.space not in ("weight", space):
            message = f"space {space} around {choosing.text_of(method)}: say it once"
            raise ParamError(message)
        choosing.spaced(method, space)

    @property
    def says(self) -> tuple[Property, ...]:
        """The properties that the rule decides."""
        return tuple(name for name in PROPERTIES if getattr(self, name) is not None)

    @property
    def pattern(self) -> str:
        """The glob or the regular expression, for messages."""
        return f"target {self.target!r}" if self.target is not None else f"regex {self.regex!r}"

    def matches(self, key: str) -> bool:
        """Whether the rule is about this target."""
        if self.target is not None:
            return fnmatchcase(key, self.target)
        return re.fullmatch(self.regex or "", key) is not None


@dataclass(frozen=True, slots=True)
class Setting:
    """What the rules say of one target; None: nothing.

    Attributes
    ----------
    key : of the target.
    factors : what the weight of every adapter of the stack is multiplied by.
    by : for every property that a rule decided, its place from 1.
    """

    key: str
    method: Method | None = None
    space: Space | None = None
    rank: int | None = None
    factors: tuple[float, ...] = ()
    by: Mapping[Property, int] = field(default_factory=dict)

    def chosen(self, default: Method) -> Method:
        """The method of the target.

        Parameters
        ----------
        default : that of the recipe or of a policy, where no rule has one.

        Raises
        ------
        ParamError : the method has no spaces, and a rule gives it one.
        """
        method = self.method or default
        if self.space is None:
            return method
        try:
            return choosing.spaced(method, self.space)
        except ParamError as error:
            message = f"rule {self.by['space']}: {self.key}: {error}"
            raise ParamError(message) from None


@dataclass(frozen=True, slots=True)
class Resolved:
    """Rules on the targets of a stack.

    Attributes
    ----------
    settings : one for each target, in their order.
    notes : one line for each rule that changes nothing here.
    """

    settings: tuple[Setting, ...] = field(repr=False)
    notes: tuple[str, ...] = ()

    @property
    def rows(self) -> list[tuple[str, ...]]:
        """Cells under `HEADER`: one row for all targets of which the same rules decide the same.

        Targets that no rule is about are in the row of rule ``-``.
        """
        alike: dict[tuple[tuple[Property, int], ...], list[Setting]] = {}
        for setting in self.settings:
            alike.setdefault(tuple(setting.by.items()), []).append(setting)
        return [
            (_places(group[0]), str(len(group)), group[0].key, *cells(group[0]))
            for group in alike.values()
        ]


def cells(setting: Setting) -> tuple[str, str, str, str]:
    """Method, space, rank and factors of a target, as text; ``-`` where no rule says any."""
    weights = " ".join(f"{factor:g}" for factor in setting.factors)
    return (
        choosing.text_of(setting.method) if setting.method else "-",
        setting.space or "-",
        str(setting.rank or "-"),
        weights if "weight" in setting.by else "-",
    )


def _places(setting: Setting) -> str:
    return ", ".join(map(str, sorted(set(setting.by.values())))) or "-"


def keys_of(architecture: str) -> tuple[str, ...]:
    """Keys of all targets that the base model has."""
    return tuple(f"{m.component}.{m.name}" for m in load_layout(architecture).modules)


def resolve(
    rules: Sequence[Rule],
    keys: Sequence[str],
    adapters: Sequence[str],
    *,
    known: Collection[str] = (),
) -> Resolved:
    """What the rules say of every target of a stack.

    Parameters
    ----------
    keys : of the targets; of weights that the base model fuses, those of the parts (see
        `loramix.groups.align`), so that a rule does not depend on the dialect.
    adapters : names in the order of the stack.
    known : keys that the base model has besides, see `keys_of`.  A rule that matches only those
        is noted; without them any rule without a match is refused, because a mistyped glob
        looks the same.

    Raises
    ------
    ParamError : a rule that matches nothing, or a weight for an adapter that is not there.

    Notes
    -----
    Cost: each rule is compared with each key once.
    """
    factors = [_factors(rule, place, adapters) for place, rule in enumerate(rules, 1)]
    found = [_setting(rules, key, factors, len(adapters)) for key in keys]
    used = {place for setting in found for place in setting.by.values()}
    notes = []
    for place, rule in enumerate(rules, 1):
        if place in used:
            continue
        if any(map(rule.matches, keys)):
            notes.append(f"rule {place} ({rule.pattern}) decides nothing: rules before it do")
        elif any(map(rule.matches, known)):
            notes.append(f"rule {place} ({rule.pattern}): no adapter changes any of its targets")
        else:
            _refuse(rule, place, keys, known)
    return Resolved(tuple(found), tuple(notes))


def _setting(
    rules: Sequence[Rule], key: str, factors: Sequence[tuple[float, ...]], count: int
) -> Setting:
    by: dict[Property, int] = {}
    for place, rule in enumerate(rules, 1):
        news = [name for name in rule.says if name not in by]
        if news and rule.matches(key):
            by.update(dict.fromkeys(news, place))
    said: dict[str, Any] = {
        name: getattr(rules[place - 1], name) for name, place in by.items() if name != "weight"
    }
    own = factors[by["weight"] - 1] if "weight" in by else (1.0,) * count
    return Setting(key, **said, factors=own, by=by)


def _factors(rule: Rule, place: int, adapters: Sequence[str]) -> tuple[float, ...]:
    if not isinstance(rule.weight, Mapping):
        return (1.0 if rule.weight is None else rule.weight,) * len(adapters)
    found: dict[int, float] = {}
    for name, number in rule.weight.items():
        position = _position(name, place, adapters)
        if position in found:
            message = f"rule {place}: weight: {adapters[position]} is given twice"
            raise ParamError(message)
        found[position] = number
    return tuple(found.get(position, 1.0) for position in range(len(adapters)))


def _position(name: str, place: int, adapters: Sequence[str]) -> int:
    named = {i for i, adapter in enumerate(adapters) if adapter == name}
    counted = {i for i in range(len(adapters)) if str(i + 1) == name}
    fitting = sorted(named | counted)
    if len(fitting) == 1:
        return fitting[0]
    span = f"1 to {len(adapters)}"
    if fitting:
        message = (
            f"rule {place}: weight: {name!r} is several adapters: give a position, {span}, and "
            "rename files that are called like one"
        )
        raise ParamError(message)
    message = (
        f"rule {place}: weight: no adapter {name!r}{hint(name, adapters)}; there are "
        f"{', '.join(adapters)}, or positions {span}"
    )
    raise ParamError(message)


def _refuse(rule: Rule, place: int, keys: Sequence[str], known: Collection[str]) -> None:
    """Name the word of the pattern that no key has, and one like it."""
    words = {word for key in (*keys, *known) for word in key.split(".")}
    pattern = rule.target if rule.target is not None else rule.regex or ""
    strange = [word for word in re.findall(r"\w+", pattern) if word not in words]
    near = next((found for found in (hint(word, sorted(words)) for word in strange) if found), "")
    such = f", such as {keys[0]}" if keys else ""
    message = (
        f"rule {place}: {rule.pattern} matches none of {len(keys)} targets{near}; "
        f"it is compared with whole keys{such}"
    )
    raise ParamError(message)
