"""One adapter in another dialect: the same deltas under other names."""

from collections.abc import Sequence
from pathlib import Path

from loramix.arguments import check_threads
from loramix.backends import backend_of
from loramix.deciding import Opened, Ticker, Wish, policy_for
from loramix.digests import Hashing
from loramix.executing import placing, running
from loramix.executing.running import Merged
from loramix.finding import find
from loramix.planning.output import Output
from loramix.tensors import Dtype
from loramix.types import Adapter, Base, Progress, StrPath


def convert(  # noqa: PLR0913 - one keyword for each thing that may be said
    source: StrPath | Adapter,
    path: StrPath | None,
    *,
    dialect: str | None = None,
    client: str | None = None,
    dtype: Dtype | None = None,
    rank: int | None = None,
    energy: float | None = None,
    max_error: float | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
    architecture: str | None = None,
    skip: Sequence[str] = (),
    base: Base | StrPath | None = None,
    rslora: bool = False,
) -> Merged:
    """Write an adapter in another dialect, for another program.

    Exact, unless rank, energy or max_error asks for less: pairs are written as they are, bit by
    bit, if the type stays.  What the new dialect's alpha does not say is multiplied into the up
    side; by a power of two no digit changes.

    Parameters
    ----------
    source : file, folder or loaded adapter, in any dialect and of any family.
    path : where to write; a folder for the PEFT dialect; None keeps the result in memory.
    dialect : one of `loramix.formats.dialects.DIALECTS`; default: that of the input.
    client : the program that is to load it, instead; see `Output`.
    dtype, rank, energy, max_error : see `Output`.
    threads, progress : see `merge`.
    architecture, skip, base, rslora : see `load`; for a path.

    Returns
    -------
    The opened result, with the rank and the measured error of every target.

    Raises
    ------
    FormatError : a module has no name in the dialect, or the client does not load it.
    ParamError, ShapeError, OutputError, OSError : see `merge`; nothing was written.

    Notes
    -----
    Cost: one read for the digest, one to copy, one to check, all of them of pages in memory.

    Examples
    --------
    >>> import loramix
    >>> made = loramix.convert("style.safetensors", "for_comfy.safetensors",
    ...                        client="comfyui")  # doctest: +SKIP
    """
    output = Output(
        rank=rank, energy=energy, max_error=max_error, dtype=dtype, dialect=dialect,
        client=client, verbatim=True,
    )  # fmt: skip
    check_threads(threads)
    wish = Wish(policy_for("linear"), output=output)
    device = backend_of("rust")
    with Hashing() as hashing:
        if not isinstance(source, Adapter):
            hashing.begin(find(source).file)
        stack = Opened.of(
            [source], None, wish, architecture=architecture, skip=skip, base=base, rslora=rslora
        )
        target = None if path is None else Path(path)
        if target is not None:
            placing.check(target, stack.adapters, stack.dialect)
        ticker = Ticker(progress, 3 * len(stack.groups))
        plan = stack.plan(wish, device, ticker, threads)
        ticker.total = ticker.done + 2 * len(plan.steps)
        return running.execute(
            plan, target, backend=device, threads=threads, step=ticker.add, hashing=hashing
        )
