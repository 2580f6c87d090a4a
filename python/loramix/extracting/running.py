"""The difference of two models as an adapter."""

from collections.abc import Sequence
from pathlib import Path

from loramix.arguments import check_threads
from loramix.backends import backend_of
from loramix.deciding import Ticker
from loramix.errors import OutputError
from loramix.executing import placing, running
from loramix.executing.running import Merged
from loramix.extracting.pairs import Pair
from loramix.extracting.subtracting import ALL, plan_of
from loramix.planning.output import Output
from loramix.tensors import Dtype
from loramix.types import Progress, StrPath

_RANK = 32


def extract(
    tuned: StrPath,
    base: StrPath,
    *,
    path: StrPath | None = None,
    rank: int | None = None,
    energy: float | None = None,
    max_error: float | None = None,
    dialect: str | None = None,
    dtype: Dtype | None = None,
    targets: Sequence[str] = ALL,
    architecture: str | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Merged:
    """Make an adapter of what training did to a model: ``W_tuned - W_base``, of low rank.

    Differences are made in f32, one after the other; their factors come from a randomised range
    finder, see ``rust/src/extract.rs``, and what they leave out is measured.  The two models may
    have different names for the same weights.  Weights that did not change are left out; biases and
    norms that did are written as they are, where the readers of the dialect know such differences.

    Parameters
    ----------
    tuned, base : see `open_checkpoint`.
    path : where to write; a folder for the PEFT dialect; None keeps the result in memory.
    rank : at most this rank per target; default 32, if neither energy nor max_error is given.
    energy, max_error : see `Output`; a change of all weights has a slow spectrum, and may need
        large ranks.
    dialect : default: kohya for models that have Kohya names, diffusers or peft for others.
    dtype : default: that of the tuned weights.
    targets : globs of canonical target keys; a weight that any of them matches is looked at.
    architecture : base model, if names and shapes cannot tell.
    threads, progress : see `merge`.

    Returns
    -------
    The opened adapter; what it does not hold is in the notes of its plan.

    Raises
    ------
    FormatError : models that do not fit each other, or do not differ.
    ParamError, OutputError, OSError : nothing was written.

    Notes
    -----
    Cost: one read of both models to compare them, one of what changed, and what the range finder
    takes: about 300 flops per entry and 16 ranks.  Resident: a few differences at a time.
    """
    check_threads(threads)
    if (rank, energy, max_error) == (None, None, None):
        rank = _RANK
    output = Output(rank=rank, energy=energy, max_error=max_error, dtype=dtype, dialect=dialect)
    pair = Pair.of(tuned, base, architecture)
    place = None if path is None else Path(path)
    return subtract(
        pair, output, place, targets=targets, threads=threads, progress=progress
    )  # fmt: skip


def subtract(
    pair: Pair,
    output: Output,
    place: Path | None,
    *,
    targets: Sequence[str] = ALL,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Merged:
    """Likewise, of two models that are open."""
    spelled = pair.dialect(output)
    ticker = Ticker(progress, len(pair.tuned.tensors))
    vectors, compared = pair.vectors(targets, spelled)
    changed, notes = pair.changed(targets, ticker.add, beside=len(vectors))
    plan = plan_of(
        pair, changed, vectors, output, spelled,
        [*notes, *pair.others(compared)], targets=targets,
    )  # fmt: skip
    if place is not None:
        placing.check(place, plan.adapters, spelled)
        _refuse_input(place, pair)
    ticker.total = ticker.done + 2 * len(plan.steps)
    return running.execute(
        plan, place, backend=backend_of("rust"), threads=threads, step=ticker.add
    )


def _refuse_input(place: Path, pair: Pair) -> None:
    for shard in (*pair.tuned.shards, *pair.base.shards):
        if place.exists() and place.samefile(shard.path):
            message = f"{place} is also an input; write to another place"
            raise OutputError(message)
