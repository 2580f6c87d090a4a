"""Files in, file out: the stages in a row."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from loramix import executing, placing, planning
from loramix.analysis.passing import nothing, products
from loramix.backends import backend_of
from loramix.backends.base import Backend
from loramix.errors import ParamError
from loramix.executing import Merged
from loramix.groups import align
from loramix.methods import Coefficients, Level, Method, Space, method_of, reads_gram
from loramix.opening import open_all, refuse_strangers, refuse_twice
from loramix.steps import Output
from loramix.types import Adapter, Dtype, Progress, StrPath, Weight


def merge(  # noqa: PLR0913 - the one call with every option
    sources: Sequence[StrPath | Adapter],
    method: str | Method = "linear",
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
    method : a name of `METHODS`, with parameters such as ``ties:density=0.3``, or a method object.
    weights : one number per source, any sign, default 1; or a mapping from globs of target keys
        to numbers, first match wins, such as ``{"text_encoder*": 0.5, "*": 0.8}``.
    sparsify : what is applied to the deltas first, such as ``dare:density=0.5``.
    refine : ``none``, ``refine`` or ``full``: take out what belongs to one adapter, make the rest
        orthogonal; ``refine-published`` or ``full-published``: to the letter of the publication,
        for comparison (the latter takes seconds to minutes per target); see `Composite`.
    space : ``weight``, ``knots`` or ``core``: where the entries are looked at; see `Composite`.
        ``core(ties)`` as the method says the same.
    output : rank, type and dialect; default: exact, widest type, dialect of the first source.
        Results of full rank are exact with ``Output(dense=True)`` only.
    path : where to write; a folder for the PEFT dialect; None keeps the result in memory.
    auto_strength : shrink each branch (model, text encoders) so that its norm is at most that of
        its strongest contributor.
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
    if not sources:
        message = "no adapters: merge needs at least one file, folder or loaded adapter"
        raise ParamError(message)
    if threads is not None and threads < 1:
        message = f"threads = {threads}: at least 1, or None for all cores"
        raise ParamError(message)
    if not 0 <= seed < 2**64:
        message = f"seed = {seed}: allowed is 0 to 2^64 - 1"
        raise ParamError(message)
    if floor is not None and not 0 < floor <= 1:
        message = f"floor = {floor}: allowed is (0, 1]"
        raise ParamError(message)
    chosen = method_of(method, sparsify=sparsify, refine=refine, space=space)
    device = backend_of(backend)
    each = _weights(sources, weights)
    output = output or Output()
    refuse_twice(sources)
    stack = open_all(sources, architecture=architecture, skip=skip)
    dialect = planning.dialect_of(stack, output)
    target = None if path is None else Path(path)
    if target is not None:
        placing.check(target, stack, dialect)
    # What is no sum must not depend on how the output spells its names.
    groups = align(stack, split=not (isinstance(chosen, Coefficients) and dialect.fused))
    refuse_strangers(stack, groups)
    ticker = _Ticker(progress, 3 * len(groups))
    if auto_strength or reads_gram(chosen):
        analysis = products(groups, stack, device, threads=threads, step=ticker.add)
    else:
        analysis = nothing(groups)
        ticker.add(len(groups))
    plan = planning.plan(
        stack,
        groups,
        analysis,
        chosen,
        each,
        output,
        auto_strength=auto_strength,
        floor=floor,
        seed=seed,
    )
    ticker.total = len(groups) + 2 * len(plan.steps)
    return executing.execute(plan, target, backend=device, threads=threads, step=ticker.add)


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


def _weights(
    sources: Sequence[StrPath | Adapter], weights: Sequence[Weight] | None
) -> tuple[Weight, ...]:
    if weights is None:
        return (1.0,) * len(sources)
    if len(weights) != len(sources):
        message = f"{len(weights)} weights for {len(sources)} adapters: one each"
        raise ParamError(message)
    for source, weight in zip(sources, weights, strict=True):
        numbers = weight.values() if isinstance(weight, Mapping) else (weight,)
        if not all(math.isfinite(number) for number in numbers):
            name = source.name if isinstance(source, Adapter) else source
            message = f"weight {weight} of {name}: a finite number of any sign"
            raise ParamError(message)
    return tuple(weights)


class _Ticker:
    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress = progress
        self._done = 0
        self.total = total

    def add(self, count: int) -> None:
        self._done += count
        if self._progress is not None:
            self._progress(self._done, self.total)
