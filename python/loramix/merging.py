"""Files in, file out: the stages in a row."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from loramix import executing, opening, placing, planning
from loramix.analysis.passing import nothing, products
from loramix.analysis.statistics import Analysis
from loramix.backends import backend_of
from loramix.backends.base import Backend
from loramix.errors import ParamError
from loramix.executing import Merged
from loramix.formats.dialects import Dialect
from loramix.groups import align, common_architecture
from loramix.methods import Coefficients, Level, Method, Space, method_of
from loramix.output import Output
from loramix.policies import POLICIES, policy_of
from loramix.policies.base import Policy, Stack
from loramix.policies.fixed import Fixed
from loramix.policies.modified import Modified
from loramix.steps import Plan
from loramix.types import Adapter, Dtype, Group, Progress, StrPath, Weight


def merge(  # noqa: PLR0913 - the one call with every option
    sources: Sequence[StrPath | Adapter],
    method: str | Method | Policy = "linear",
    *,
    weights: Sequence[Weight] | None = None,
    sparsify: str | Method | None = None,
    refine: Level = "none",
    space: Space = "weight",
    output: Output | None = None,
    path: StrPath | None = None,
    auto_strength: bool = False,
    floor: float | None = None,
    seed: int = 0,
    threads: int | None = None,
    backend: str | Backend = "rust",
    progress: Progress | None = None,
    architecture: str | None = None,
    skip: Sequence[str] = (),
) -> Merged:
    """Merge adapters into one adapter.

    Parameters
    ----------
    sources : files, folders or loaded adapters, at least one.
    method : a name of `METHODS` or of `POLICIES`, with parameters such as ``ties:density=0.3``, or
        such an object.  A policy chooses a method for every group.
    weights : one number per source, any sign, default 1; or a mapping from globs of target keys
        to numbers, first match wins, such as ``{"text_encoder*": 0.5, "*": 0.8}``.
    sparsify : what is applied to the deltas first, such as ``dare:density=0.5``.
    refine : ``none``, ``refine`` or ``full``: take out what belongs to one adapter, make the rest
        orthogonal; ``refine-published`` or ``full-published``: to the letter of the publication,
        for comparison (the latter takes seconds to minutes per target); see `Composite`.
    space : ``weight``, ``knots`` or ``core``: where the entries are looked at; see `Composite`.
        ``core(ties)`` as the method says the same.  With a policy these three modify whatever it
        chooses.
    output : rank, type and dialect; default: exact, widest type, dialect of the first source.
        Results of full rank are exact with ``Output(dense=True)`` only.
    path : where to write; a folder for the PEFT dialect; None keeps the result in memory.
    auto_strength : shrink each branch (model, text encoders) so that its norm is at most that of
        its strongest contributor.  Policies see to the strength themselves.
    floor : least scale of a branch of independent adapters under ``auto_strength``, (0, 1].
    seed : of the random draws of methods that have them, 0 to 2^64 - 1.
    threads : default all cores.  The result does not depend on it.
    backend : ``rust``, or ``torch`` (on a GPU if there is one; ``torch:cpu`` names the device).
    progress : called with steps done and steps in all.
    architecture, skip : see `load`; for the sources that are paths.

    Returns
    -------
    The opened result, with the rank and the measured error of every target.

    Raises
    ------
    FormatError, ShapeError, ParamError, OutputError, OSError : nothing was written.

    Examples
    --------
    >>> import loramix
    >>> merged = loramix.merge(["style.safetensors", "face.safetensors"], "slerp",
    ...                        weights=[0.8, 0.6], path="both.safetensors")  # doctest: +SKIP
    """
    rule = _rule(method, sparsify, refine, space, auto_strength=auto_strength, floor=floor)
    device = backend_of(backend)
    _check_numbers(threads, seed)
    stack = _Stack.of(sources, weights, rule, output, architecture=architecture, skip=skip)
    target = None if path is None else Path(path)
    if target is not None:
        placing.check(target, stack.adapters, stack.dialect)
    ticker = _Ticker(progress, 3 * len(stack.groups))
    made = stack.plan(rule, device, ticker, seed=seed, threads=threads)
    return _execute(made, target, device, ticker, threads)


def plan(  # noqa: PLR0913 - what merge takes, but for the path
    sources: Sequence[StrPath | Adapter],
    method: str | Method | Policy = "linear",
    *,
    weights: Sequence[Weight] | None = None,
    sparsify: str | Method | None = None,
    refine: Level = "none",
    space: Space = "weight",
    output: Output | None = None,
    auto_strength: bool = False,
    floor: float | None = None,
    seed: int = 0,
    threads: int | None = None,
    backend: str | Backend = "rust",
    progress: Progress | None = None,
    architecture: str | None = None,
    skip: Sequence[str] = (),
) -> Plan:
    """Decide everything that `merge` would do, and do nothing.

    Parameters
    ----------
    sources, method, weights, sparsify, refine, space, output, auto_strength, floor, seed, threads,
    backend, progress, architecture, skip : see `merge`.

    Returns
    -------
    What will be done with every group and why (`Plan.choices`), for `execute`.

    Raises
    ------
    FormatError, ShapeError, ParamError, OSError : see `merge`.
    """
    rule = _rule(method, sparsify, refine, space, auto_strength=auto_strength, floor=floor)
    device = backend_of(backend)
    _check_numbers(threads, seed)
    stack = _Stack.of(sources, weights, rule, output, architecture=architecture, skip=skip)
    ticker = _Ticker(progress, len(stack.groups))
    return stack.plan(rule, device, ticker, seed=seed, threads=threads)


def execute(
    plan: Plan,
    path: StrPath | None = None,
    *,
    threads: int | None = None,
    backend: str | Backend = "rust",
    progress: Progress | None = None,
) -> Merged:
    """Carry a plan out, to the letter.

    Parameters
    ----------
    path : where to write; a folder for the PEFT dialect; None keeps the result in memory.
    threads, backend, progress : see `merge`.
    """
    _check_numbers(threads, plan.seed)
    device = backend_of(backend)
    target = None if path is None else Path(path)
    if target is not None:
        placing.check(target, plan.adapters, plan.dialect)
    return _execute(plan, target, device, _Ticker(progress, 0), threads)


def resize(
    source: StrPath | Adapter,
    *,
    path: StrPath | None = None,
    rank: int | None = None,
    energy: float | None = None,
    max_error: float | None = None,
    dtype: Dtype | None = None,
    dialect: str | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Merged:
    """Give one adapter another rank: the best approximation there is, with its error measured.

    Parameters
    ----------
    rank, energy, max_error, dtype, dialect : see `Output`.
    path, threads, progress : see `merge`.
    """
    output = Output(rank=rank, energy=energy, max_error=max_error, dtype=dtype, dialect=dialect)
    return merge([source], path=path, output=output, threads=threads, progress=progress)


def save(
    adapter: Adapter,
    path: StrPath,
    *,
    dialect: str | None = None,
    dtype: Dtype | None = None,
) -> Path:
    """Write an adapter, exactly, in any dialect that can hold it.

    Returns
    -------
    The file, or the folder for the PEFT dialect.
    """
    merge([adapter], path=path, output=Output(dialect=dialect, dtype=dtype))
    return Path(path)


def _execute(
    plan: Plan, target: Path | None, device: Backend, ticker: "_Ticker", threads: int | None
) -> Merged:
    ticker.total = ticker.done + 2 * len(plan.steps)
    return executing.execute(plan, target, backend=device, threads=threads, step=ticker.add)


def _check_numbers(threads: int | None, seed: int) -> None:
    if threads is not None and threads < 1:
        message = f"threads = {threads}: at least 1, or None for all cores"
        raise ParamError(message)
    if not 0 <= seed < 2**64:
        message = f"seed = {seed}: allowed is 0 to 2^64 - 1"
        raise ParamError(message)


def _rule(
    method: str | Method | Policy,
    sparsify: str | Method | None,
    refine: Level,
    space: Space,
    *,
    auto_strength: bool,
    floor: float | None,
) -> Policy:
    """What decides: a policy, or one method for all."""
    if floor is not None and not 0 < floor <= 1:
        message = f"floor = {floor}: allowed is (0, 1]"
        raise ParamError(message)
    found = None
    if isinstance(method, Policy) or (isinstance(method, str) and _is_policy(method)):
        found = policy_of(method)
    if found is None:
        chosen = method_of(
            cast("str | Method", method), sparsify=sparsify, refine=refine, space=space
        )
        return Fixed(chosen, auto_strength, floor)
    if auto_strength or floor is not None:
        message = (
            f"auto_strength and floor go with a method; the policy {found.name} sees to the "
            "strength itself"
        )
        raise ParamError(message)
    if sparsify is None and refine == "none" and space == "weight":
        return found
    thin = method_of(sparsify) if sparsify is not None else None
    return Modified(found, thin, refine, space)


def _is_policy(text: str) -> bool:
    return text.partition(":")[0] in POLICIES


@dataclass(frozen=True, slots=True)
class _Stack:
    """Opened sources with what the user wants of them."""

    adapters: list[Adapter]
    groups: tuple[Group, ...]
    weights: tuple[Weight, ...]
    output: Output
    dialect: Dialect
    split: bool

    @classmethod
    def of(
        cls,
        sources: Sequence[StrPath | Adapter],
        weights: Sequence[Weight] | None,
        rule: Policy,
        output: Output | None,
        *,
        architecture: str | None,
        skip: Sequence[str],
    ) -> "_Stack":
        if not sources:
            message = "no adapters: merge needs at least one file, folder or loaded adapter"
            raise ParamError(message)
        each = opening.weights_of(sources, weights)
        wish = output or Output()
        opening.refuse_twice(sources)
        adapters = opening.open_all(sources, architecture=architecture, skip=skip)
        dialect = planning.dialect_of(adapters, wish)
        # What is no sum must not depend on how the output spells its names.
        joined = isinstance(rule, Fixed) and isinstance(rule.method, Coefficients) and dialect.fused
        groups = align(adapters, split=not joined)
        opening.refuse_strangers(adapters, groups)
        return cls(adapters, groups, each, wish, dialect, not joined)

    def plan(
        self, rule: Policy, device: Backend, ticker: "_Ticker", *, seed: int, threads: int | None
    ) -> Plan:
        """Analysis as far as it is needed, decisions, steps."""
        analysis = self._analysis(rule, device, ticker, threads)
        asked = planning.asked(self.groups, self.weights)
        architecture = common_architecture(self.adapters)
        verdict = rule.decide(Stack(tuple(self.adapters), analysis, asked, architecture))
        return planning.plan(
            self.adapters,
            self.groups,
            analysis,
            planning.choices(self.groups, asked, verdict),
            self.output,
            weights=self.weights,
            method=rule.describe(),
            verdict=verdict,
            seed=seed,
            split=self.split,
        )

    def _analysis(
        self, rule: Policy, device: Backend, ticker: "_Ticker", threads: int | None
    ) -> Analysis:
        if rule.reads == "nothing":
            ticker.add(len(self.groups))
            return nothing(self.groups)
        return products(self.groups, self.adapters, device, threads=threads, step=ticker.add)


class _Ticker:
    """Counts steps for a callback."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress = progress
        self.done = 0
        self.total = total

    def add(self, count: int) -> None:
        self.done += count
        if self._progress is not None:
            self._progress(self.done, self.total)
