"""From sources and wishes to a plan: open, align, analyse as far as needed, decide."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

from loramix import opening
from loramix.analysis import passing, storing
from loramix.analysis.statistics import Analysis
from loramix.backends.base import Backend
from loramix.errors import ParamError
from loramix.formats.dialects import Dialect
from loramix.groups import align, common_architecture
from loramix.methods import METHODS, Coefficients, Level, Method, Space, method_of, reads_gram
from loramix.planning import stepping
from loramix.planning.output import Output
from loramix.planning.steps import Choice, Plan
from loramix.policies import POLICIES, policy_of
from loramix.policies.base import Policy, Stack
from loramix.policies.filtered import Filtered, filtered
from loramix.policies.fixed import Fixed
from loramix.policies.modified import Modified
from loramix.recipes.recipe import Recipe
from loramix.recipes.recounting import portable, recipe_of
from loramix.recipes.rules import Resolved, Rule, keys_of, resolve
from loramix.recipes.writing import to_toml
from loramix.spelling import hint
from loramix.types import Adapter, Base, Group, Progress, StrPath, Weight


@dataclass(frozen=True, slots=True)
class Wish:
    """What a user wants of a stack.

    Attributes
    ----------
    policy : decides; one method for all groups is a policy, too.
    rules : what is different for some targets.
    seed : of the random draws.
    samples : see `loramix.analyze`; None: all entries.
    analysis : statistics that are there already, or the file that they are in.
    """

    policy: Policy
    rules: tuple[Rule, ...] = ()
    output: Output = field(default_factory=Output)
    seed: int = 0
    samples: int | None = passing.SAMPLES
    analysis: Analysis | StrPath | None = None

    @classmethod
    def of(cls, recipe: Recipe) -> "Wish":
        """What a recipe asks for; `auto` decides where it does not say what does."""
        policy = policy_for(
            recipe.policy or recipe.method or "auto",
            sparsify=recipe.sparsify,
            refine=recipe.refine,
            space=recipe.space,
            auto_strength=recipe.auto_strength,
            floor=recipe.floor,
        )
        filters = tuple(entry.key_filter for entry in recipe.adapters)
        modes = tuple(entry.conflict_mode for entry in recipe.adapters)
        return cls(filtered(policy, filters, modes), recipe.rules, recipe.output, recipe.seed)

    @property
    def unfiltered(self) -> Policy:
        """The policy without filters of adapters around it."""
        return self.policy.inner if isinstance(self.policy, Filtered) else self.policy

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**64:
            message = f"seed = {self.seed}: allowed is 0 to 2^64 - 1"
            raise ParamError(message)
        if self.samples is not None and self.samples < 1:
            message = f"samples = {self.samples}: at least 1, or None for all entries"
            raise ParamError(message)


def policy_for(
    method: str | Method | Policy,
    *,
    sparsify: str | Method | None = None,
    refine: Level = "none",
    space: Space = "weight",
    auto_strength: bool = False,
    floor: float | None = None,
) -> Policy:
    """What decides: a policy, or one method for all.

    Raises
    ------
    ParamError : no such method or policy, a parameter out of its range, or options that do not go
        together.
    """
    if floor is not None and not 0 < floor <= 1:
        message = f"floor = {floor}: allowed is (0, 1]"
        raise ParamError(message)
    if isinstance(method, str):
        _refuse_unknown(method)
    if not _is_policy(method):
        plain = cast("str | Method", method)
        chosen = method_of(plain, sparsify=sparsify, refine=refine, space=space)
        return Fixed(chosen, auto_strength, floor)
    policy = policy_of(cast("str | Policy", method))
    if auto_strength or floor is not None:
        message = (
            f"auto_strength and floor go with a method; the policy {policy.name} sees to the "
            "strength itself"
        )
        raise ParamError(message)
    if sparsify is None and refine == "none" and space == "weight":
        return policy
    thin = method_of(sparsify) if sparsify is not None else None
    return Modified(policy, thin, refine, space)


def _is_policy(method: str | Method | Policy) -> bool:
    if isinstance(method, str):
        return method.partition(":")[0] in POLICIES
    return isinstance(method, Policy)


def _refuse_unknown(text: str) -> None:
    """Refuse a name that neither is; methods, which are looked up next, know only themselves."""
    name, known = text.partition(":")[0], [*METHODS, *POLICIES]
    if name not in known and "(" not in name:
        message = (
            f"method {name!r}{hint(name, known)}; known are the methods {', '.join(METHODS)}, and "
            f"the policies {', '.join(POLICIES)}"
        )
        raise ParamError(message)


@dataclass(frozen=True, slots=True)
class Opened:
    """Opened sources, aligned.

    Attributes
    ----------
    weights : one per adapter.
    split : whether weights that the original code fuses are groups of their parts.
    """

    adapters: tuple[Adapter, ...]
    groups: tuple[Group, ...] = field(repr=False)
    weights: tuple[Weight, ...]
    dialect: Dialect
    split: bool

    @classmethod
    def of(
        cls,
        sources: Sequence[StrPath | Adapter],
        weights: Sequence[Weight] | None,
        wish: Wish,
        *,
        architecture: str | None = None,
        skip: Sequence[str] = (),
        base: Base | StrPath | None = None,
        rslora: bool = False,
        dialect: Dialect | None = None,
    ) -> "Opened":
        """Open and align what a user named.

        Parameters
        ----------
        architecture, skip, base, rslora : see `loramix.load`; for the sources that are paths.
        dialect : how to spell the result; default: what the wish says.  Fused weights stay joined
            only where it says so.

        Raises
        ------
        FormatError, ShapeError, ParamError, OSError : see `loramix.merge`.
        """
        if not sources:
            message = "no adapters: there must be at least one file, folder or loaded adapter"
            raise ParamError(message)
        each = opening.weights_of(sources, weights)
        opening.refuse_twice(sources)
        adapters = opening.open_all(
            sources, architecture=architecture, skip=skip, base=base, rslora=rslora
        )
        dialect = dialect or stepping.dialect_of(adapters, wish.output)
        # What is no sum must not depend on how the output spells its names.
        whole = wish.rules == () and wish.analysis is None and _is_sum(wish.policy)
        joined = dialect.fused and not dialect.partial and whole
        groups = align(adapters, split=not joined)
        opening.refuse_strangers(adapters, groups)
        opening.refuse_idle_globs(adapters, groups, each)
        return cls(tuple(adapters), groups, each, dialect, not joined)

    def plan(self, wish: Wish, device: Backend, ticker: "Ticker", threads: int | None) -> Plan:
        """Analysis as far as it is needed, decisions, steps."""
        architecture = common_architecture(self.adapters)
        known = keys_of(architecture) if architecture else ()
        keys = [group.target.key for group in self.groups]
        names = [adapter.name for adapter in self.adapters]
        resolved = resolve(wish.rules, keys, names, known=known)
        asked = self._asked(resolved)
        analysis = self._analysis(wish, resolved, device, ticker, threads)
        verdict = wish.policy.decide(Stack(self.adapters, analysis, asked, architecture))
        chosen = stepping.choices(self.groups, asked, verdict)
        made = stepping.plan(
            self.adapters,
            self.groups,
            analysis,
            _ruled(chosen, resolved, keep=isinstance(wish.unfiltered, Fixed)),
            wish.output,
            weights=self.weights,
            method=wish.policy.describe(),
            verdict=replace(
                verdict, notes=(*opening.notes_of(self.adapters), *verdict.notes, *resolved.notes)
            ),
            seed=wish.seed,
            split=self.split,
            backend=device.name,
            dialect=self.dialect,
        )
        rows = tuple(resolved.rows) if wish.rules else ()
        named, placed = self._recipes(wish, analysis, device)
        return replace(made, recipe=named, portable=placed, rules=rows)

    def _recipes(self, wish: Wish, analysis: Analysis, device: Backend) -> tuple[str, str]:
        """Texts of recipes that ask for the same, by paths and by places; empty if none can."""
        try:
            found = recipe_of(
                self.adapters, self.weights, wish.policy,
                rules=wish.rules, output=wish.output, seed=wish.seed, backend=device.name,
            )  # fmt: skip
            placed = portable(found)
        except ParamError:  # a method, a policy or a backend that has no name
            return "", ""
        # No recipe says how much was looked at; other numbers than a policy reads, it has not made.
        if wish.policy.reads == "statistics":
            usual = analysis.samples == passing.SAMPLES
        else:
            usual = wish.analysis is None
        placed = placed if usual else ""
        if any(adapter.source.path is None for adapter in self.adapters):
            return "", placed
        try:
            return to_toml(found), placed
        except ParamError:  # a path that is not Unicode
            return "", placed

    def _asked(self, resolved: Resolved) -> tuple[tuple[float, ...], ...]:
        """The users' weights of the members of every group, those of rules included."""
        rows = zip(
            self.groups,
            stepping.asked(self.groups, self.weights),
            resolved.settings,
            strict=True,
        )
        return tuple(
            tuple(w * one.factors[owner] for w, owner in zip(row, group.owners, strict=True))
            for group, row, one in rows
        )

    def _analysis(
        self,
        wish: Wish,
        resolved: Resolved,
        device: Backend,
        ticker: "Ticker",
        threads: int | None,
    ) -> Analysis:
        if wish.analysis is not None:
            ticker.add(len(self.groups))
            return self._given(wish.analysis)
        if wish.policy.reads == "statistics":
            return passing.analyze(
                self.groups,
                self.adapters,
                samples=wish.samples,
                threads=threads,
                step=ticker.add,
            )
        methods = {setting.method for setting in resolved.settings if setting.method is not None}
        if wish.policy.reads == "nothing" and not any(map(reads_gram, methods)):
            ticker.add(len(self.groups))
            return passing.nothing(self.groups)
        return passing.products(
            self.groups, self.adapters, device, threads=threads, step=ticker.add
        )

    def _given(self, analysis: Analysis | StrPath) -> Analysis:
        """Statistics from elsewhere, if they are of this stack."""
        if not isinstance(analysis, Analysis):
            path = Path(analysis)
            text, name = path.read_text(encoding="utf-8"), str(path)
            samples = storing.read_origin(text, name).samples
            analysis = storing.from_json(text, name, storing.origin_of(self.adapters, samples))
        there = [(group.target, group.owners) for group in analysis.groups]
        if there != [(group.target, group.owners) for group in self.groups]:
            message = "the analysis is of other adapters, or of their targets in another form"
            raise ParamError(message)
        return analysis


def _is_sum(policy: Policy) -> bool:
    return isinstance(policy, Fixed) and isinstance(policy.method, Coefficients)


def _ruled(chosen: Sequence[Choice], resolved: Resolved, *, keep: bool) -> tuple[Choice, ...]:
    """Choices with what the rules say instead.

    Parameters
    ----------
    keep : whether a rule's method gets the decided weights.  Those of a policy belong to the
        method that it chose, but for those that are 0: such members are left out.
    """
    found = []
    for choice, setting in zip(chosen, resolved.settings, strict=True):
        decision, by = choice.decision, setting.by
        if "method" in by or "space" in by:
            place = by.get("method", by.get("space"))
            decision = replace(decision, method=setting.chosen(decision.method))
            decision = replace(decision, regime="rule", why=f"rule {place}")
            if "method" in by and not keep:
                rows = zip(choice.asked, decision.weights, strict=True)
                weights = tuple(asked if decided != 0 else 0.0 for asked, decided in rows)
                decision = replace(decision, weights=weights)
        found.append(replace(choice, decision=decision, rank=setting.rank))
    return tuple(found)


class Ticker:
    """Counts steps for a callback."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress = progress
        self.done = 0
        self.total = total

    def add(self, count: int) -> None:
        """Some more are done."""
        self.done += count
        if self._progress is not None:
            self._progress(self.done, self.total)
