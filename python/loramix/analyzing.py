"""What adapters do to each other: the public call of pass 1."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from loramix.analysis import passing, storing
from loramix.analysis.statistics import Analysis
from loramix.arguments import check_threads
from loramix.errors import OutputError, ParamError
from loramix.groups import align
from loramix.io.text import refuse_place, write_text
from loramix.opening import open_all, refuse_strangers, refuse_twice
from loramix.types import Adapter, Base, Group, Progress, StrPath


@dataclass(frozen=True, slots=True)
class Analyzed:
    """A stack with its statistics.

    Attributes
    ----------
    adapters : in the order of the sources.
    groups : the finest slices that the stack shares, in order of their keys.
    analysis : statistics of every group, in the same order.
    """

    adapters: tuple[Adapter, ...]
    groups: tuple[Group, ...] = field(repr=False)
    analysis: Analysis


def analyze(
    sources: Sequence[StrPath | Adapter],
    *,
    samples: int = passing.SAMPLES,
    exact: bool = False,
    path: StrPath | None = None,
    architecture: str | None = None,
    skip: Sequence[str] = (),
    base: Base | StrPath | None = None,
    rslora: bool = False,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Analyzed:
    """Measure what adapters do to each other, target by target.

    Parameters
    ----------
    sources : files, folders or loaded adapters, at least one.
    samples : rows, and columns, of the block of entries that is looked at in every target.
    exact : look at all entries instead.
    path : where to write the statistics as JSON; the inputs are read once more for their digests.
    architecture, skip, base, rslora : see `load`; for the sources that are paths.
    threads : default all cores.  The result does not depend on it.
    progress : called with the groups done and the groups in all.

    Returns
    -------
    The opened adapters with their statistics, see `loramix.analysis.statistics`.

    Raises
    ------
    FormatError, ShapeError, ParamError, OutputError, OSError : nothing was written.

    Notes
    -----
    Inner products, norms, spectra and shared directions are exact in any case; what is sampled has
    standard errors.  Cost: see `loramix.analysis.passing.analyze`.

    Examples
    --------
    >>> import loramix
    >>> found = loramix.analyze(["style.safetensors", "face.safetensors"])  # doctest: +SKIP
    >>> found.analysis.groups[0].pairs[0].excess  # doctest: +SKIP
    """
    if not sources:
        message = "no adapters: analyze needs at least one file, folder or loaded adapter"
        raise ParamError(message)
    check_threads(threads)
    if samples is not None and samples < 1:
        message = f"samples = {samples}: at least 1"
        raise ParamError(message)
    refuse_twice(sources)
    stack = open_all(sources, architecture=architecture, skip=skip, base=base, rslora=rslora)
    target = None if path is None else Path(path)
    if target is not None:
        _check(target, stack)
    groups = align(stack, split=True)
    refuse_strangers(stack, groups)
    done = 0

    def step(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(done, len(groups))

    looked = None if exact else samples
    analysis = passing.analyze(groups, stack, samples=looked, threads=threads, step=step)
    if target is not None:
        origin = storing.origin_of(stack, looked)
        analysis = replace(analysis, key=origin.key)
        write_text(target, storing.to_json(analysis, origin))
    return Analyzed(tuple(stack), groups, analysis)


def _check(path: Path, stack: Sequence[Adapter]) -> None:
    refuse_place(path)
    for adapter in stack:
        base = adapter.reading.base
        inputs = (adapter.source.path, base.path if base is not None else None)
        if path.exists() and any(one is not None and path.samefile(one) for one in inputs):
            message = f"{path} is also an input; write to another place"
            raise OutputError(message)
