"""Files in, file out: the stages in a row."""

from collections.abc import Sequence
from pathlib import Path

from loramix.analysis.passing import SAMPLES
from loramix.analysis.statistics import Analysis
from loramix.analyzing import Analyzed
from loramix.arguments import check_threads
from loramix.backends import backend_of
from loramix.backends.base import Backend
from loramix.converting import convert
from loramix.deciding import Opened, Ticker, Wish, policy_for
from loramix.executing import placing, running
from loramix.executing.running import Merged
from loramix.methods import Level, Method, Space
from loramix.opening import open_all, open_recipe
from loramix.planning.output import Output
from loramix.planning.steps import Plan
from loramix.policies.base import Policy
from loramix.recipes.reading import read_recipe
from loramix.recipes.recipe import Recipe
from loramix.recipes.rules import Rule
from loramix.resizing.running import Budget, rules_for
from loramix.tensors import Dtype
from loramix.types import Adapter, Base, Progress, StrPath, Weight


def merge(  # noqa: PLR0913 - the one call with every option
    sources: Sequence[StrPath | Adapter],
    method: str | Method | Policy = "auto",
    *,
    weights: Sequence[Weight] | None = None,
    sparsify: str | Method | None = None,
    refine: Level = "none",
    space: Space = "weight",
    rules: Sequence[Rule] = (),
    output: Output | None = None,
    path: StrPath | None = None,
    auto_strength: bool = False,
    floor: float | None = None,
    samples: int | None = SAMPLES,
    analysis: Analysis | Analyzed | StrPath | None = None,
    seed: int = 0,
    threads: int | None = None,
    backend: str | Backend = "rust",
    progress: Progress | None = None,
    architecture: str | None = None,
    skip: Sequence[str] = (),
    base: Base | StrPath | None = None,
    rslora: bool = False,
) -> Merged:
    """Merge adapters into one adapter.

    Parameters
    ----------
    sources : files, folders or loaded adapters, at least one.
    method : a name of `METHODS` or of `POLICIES`, with parameters such as ``ties:density=0.3``, or
        such an object.  A policy chooses a method for every group; see `Auto` for the default.
    weights : one number per source, any sign, default 1; or a mapping from globs of target keys
        to numbers, first match wins, such as ``{"text_encoder*": 0.5, "*": 0.8}``.
    sparsify : what is applied to the deltas first, such as ``dare:density=0.5``.
    refine : ``none``, ``refine`` or ``full``: take out what belongs to one adapter, make the rest
        orthogonal; ``refine-published`` or ``full-published``: to the letter of the publication,
        for comparison (the latter takes seconds to minutes per target); see `Composite`.
    space : ``weight``, ``knots`` or ``core``: where the entries are looked at; see `Composite`.
        ``core(ties)`` as the method says the same.  With a policy these three modify whatever it
        chooses.
    rules : what is different for some targets, see `loramix.recipes.rules.Rule`.
    output : rank, type and dialect; default: exact, widest type, dialect of the first source.
        Results of full rank are exact with ``Output(dense=True)`` only.
    path : where to write; a folder for the PEFT dialect; None keeps the result in memory.
    auto_strength : shrink each branch (model, text encoders) so that its norm is at most that of
        its strongest contributor.  Policies see to the strength themselves.
    floor : least scale of a branch of independent adapters under ``auto_strength``, (0, 1].
    samples : for policies: rows, and columns, of the block of entries that is looked at in every
        target; None: all entries.
    analysis : statistics that `analyze` made of the same sources, or the file that it wrote.
    seed : of the random draws of methods that have them, 0 to 2^64 - 1.
    threads : default all cores.  The result does not depend on it.
    backend : ``rust``, or ``torch`` (on a GPU if there is one; ``torch:cpu`` names the device).
    progress : called with steps done and steps in all.
    architecture, skip, base, rslora : see `load`; for the sources that are paths.

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
    policy = policy_for(
        method, sparsify=sparsify, refine=refine, space=space, auto_strength=auto_strength,
        floor=floor,
    )  # fmt: skip
    there = analysis.analysis if isinstance(analysis, Analyzed) else analysis
    wish = Wish(policy, tuple(rules), output or Output(), seed, samples, there)
    device = backend_of(backend)
    check_threads(threads)
    stack = Opened.of(
        sources, weights, wish, architecture=architecture, skip=skip, base=base, rslora=rslora
    )
    target = None if path is None else Path(path)
    if target is not None:
        placing.check(target, stack.adapters, stack.dialect)
    ticker = Ticker(progress, 3 * len(stack.groups))
    made = stack.plan(wish, device, ticker, threads)
    return _execute(made, target, device, ticker, threads)


def plan(  # noqa: PLR0913 - what merge takes, but for the path
    sources: Sequence[StrPath | Adapter],
    method: str | Method | Policy = "auto",
    *,
    weights: Sequence[Weight] | None = None,
    sparsify: str | Method | None = None,
    refine: Level = "none",
    space: Space = "weight",
    rules: Sequence[Rule] = (),
    output: Output | None = None,
    auto_strength: bool = False,
    floor: float | None = None,
    samples: int | None = SAMPLES,
    analysis: Analysis | Analyzed | StrPath | None = None,
    seed: int = 0,
    threads: int | None = None,
    backend: str | Backend = "rust",
    progress: Progress | None = None,
    architecture: str | None = None,
    skip: Sequence[str] = (),
    base: Base | StrPath | None = None,
    rslora: bool = False,
) -> Plan:
    """Decide everything that `merge` would do, and do nothing.

    Parameters
    ----------
    sources, method, weights, sparsify, refine, space, rules, output, auto_strength, floor,
    samples, analysis, seed, threads, backend, progress, architecture, skip, base,
    rslora : see `merge`.

    Returns
    -------
    What will be done with every group and why (`Plan.choices`), for `execute`.

    Raises
    ------
    FormatError, ShapeError, ParamError, OSError : see `merge`.
    """
    policy = policy_for(
        method, sparsify=sparsify, refine=refine, space=space, auto_strength=auto_strength,
        floor=floor,
    )  # fmt: skip
    there = analysis.analysis if isinstance(analysis, Analyzed) else analysis
    wish = Wish(policy, tuple(rules), output or Output(), seed, samples, there)
    device = backend_of(backend)
    check_threads(threads)
    stack = Opened.of(
        sources, weights, wish, architecture=architecture, skip=skip, base=base, rslora=rslora
    )
    ticker = Ticker(progress, len(stack.groups))
    return stack.plan(wish, device, ticker, threads)


def follow(
    recipe: Recipe | StrPath,
    *,
    base: Base | StrPath | None = None,
    threads: int | None = None,
    backend: str | Backend | None = None,
    progress: Progress | None = None,
) -> Plan:
    """Decide what a recipe asks for.

    Parameters
    ----------
    recipe : a file (TOML, or JSON of the same shape), or what `read_recipe` made of it.
    base : see `load`; where the recipe names none.
    backend : default: that of the recipe.
    threads, progress : see `merge`.

    Returns
    -------
    For `execute`.

    Raises
    ------
    FormatError, ShapeError, ParamError, OSError : see `merge`.
    """
    found = recipe if isinstance(recipe, Recipe) else read_recipe(recipe)
    device = backend_of(found.backend if backend is None else backend)
    check_threads(threads)
    wish = Wish.of(found)
    adapters, weights = open_recipe(found, base)
    stack = Opened.of(adapters, weights, wish)
    ticker = Ticker(progress, len(stack.groups))
    return stack.plan(wish, device, ticker, threads)


def execute(
    plan: Plan,
    path: StrPath | None = None,
    *,
    threads: int | None = None,
    backend: str | Backend | None = None,
    progress: Progress | None = None,
) -> Merged:
    """Carry a plan out, to the letter.

    Parameters
    ----------
    path : where to write; a folder for the PEFT dialect; None keeps the result in memory.
    backend : default: that of the plan.
    threads, progress : see `merge`.
    """
    check_threads(threads)
    device = backend_of(backend or plan.backend)
    target = None if path is None else Path(path)
    if target is not None:
        placing.check(target, plan.adapters, plan.dialect)
    return _execute(plan, target, device, Ticker(progress, 0), threads)


def resize(  # noqa: PLR0913 - one keyword for each thing that may be said
    source: StrPath | Adapter,
    *,
    path: StrPath | None = None,
    rank: int | None = None,
    energy: float | None = None,
    max_error: float | None = None,
    total_error: float | None = None,
    size: int | None = None,
    dtype: Dtype | None = None,
    dialect: str | None = None,
    client: str | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
    architecture: str | None = None,
    skip: Sequence[str] = (),
    base: Base | StrPath | None = None,
    rslora: bool = False,
) -> Merged:
    """Give one adapter other ranks: the best approximation there is, with its error measured.

    Parameters
    ----------
    rank, energy, max_error : of every target for itself, see `Output`.
    total_error, size : of the whole file, instead; every target gets the rank that pays most, see
        `loramix.resizing.running.Budget`.
    dtype, dialect, client : see `Output`.
    path, threads, progress : see `merge`.
    architecture, skip, base, rslora : see `load`; for a path.

    Raises
    ------
    FormatError, ShapeError, ParamError, OutputError, OSError : nothing was written.

    Notes
    -----
    What is cut is known exactly, and held to the budget; `Merged.error` is measured on random
    vectors, and may be a few percent of itself above or below.

    Examples
    --------
    >>> import loramix
    >>> small = loramix.resize("style.safetensors", total_error=0.05,
    ...                        path="small.safetensors")  # doctest: +SKIP
    """
    check_threads(threads)
    output = Output(
        rank=rank, energy=energy, max_error=max_error, dtype=dtype, dialect=dialect, client=client
    )
    rules: tuple[Rule, ...] = ()
    budgeted = total_error is not None or size is not None
    budget = Budget(total_error, size) if budgeted else None
    (adapter,) = open_all([source], architecture=architecture, skip=skip, base=base, rslora=rslora)
    if budget is not None:
        rules = rules_for(adapter, budget, output, threads=threads)
    return merge(
        [adapter], "linear", rules=rules, path=path, output=output, threads=threads,
        progress=progress,
    )  # fmt: skip


def save(
    adapter: Adapter,
    path: StrPath,
    *,
    dialect: str | None = None,
    dtype: Dtype | None = None,
) -> Path:
    """Write an adapter, exactly, in any dialect that can hold it; see `convert`.

    Returns
    -------
    The file, or the folder for the PEFT dialect.
    """
    convert(adapter, path, dialect=dialect, dtype=dtype)
    return Path(path)


def _execute(
    plan: Plan, target: Path | None, device: Backend, ticker: Ticker, threads: int | None
) -> Merged:
    ticker.total = ticker.done + 2 * len(plan.steps)
    return running.execute(plan, target, backend=device, threads=threads, step=ticker.add)
