"""Pairs that nothing changes, carried over: written and compared beside everything else.

Resident at a time: what two batches of pairs are multiplied out to; pairs that are the same to the
last bit go from page to page.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self, TypeAlias

from loramix import _core
from loramix.batching import READ_BYTES, WRITE_BYTES, batches, bytes_of
from loramix.errors import OutputError
from loramix.executing import copying
from loramix.executing.verifying import Done, release
from loramix.io.writing import Announced, Writer
from loramix.planning.output import CODES
from loramix.planning.steps import Plan, Step
from loramix.tensors import ITEM_BYTES

_Sides: TypeAlias = list[copying.Bytes]


class Carrying:
    """The copies of a plan on their way into its file; use as a context manager.

    Their room in the file is reserved at once, so that all else goes on without them.  Leaving
    without `wait` stops them.

    Attributes
    ----------
    done : what they will be.
    """

    def __init__(self, plan: Plan, writer: Writer) -> None:
        self._plan = plan
        self._writer = writer
        copies = [
            copying.trimmed(plan, one)
            for one in plan.steps
            if copying.factor_of(plan, one) is not None
        ]
        self.done = [Done(one, copying.unmeasured(one), copied=True) for one in copies]
        self._filling, self._comparing = ThreadPoolExecutor(1), ThreadPoolExecutor(1)
        self._there: list[Future[None]] = []
        self._touched = 0
        self._batches = list(batches(copies, lambda one: bytes_of(one.group()), WRITE_BYTES))
        for batch in self._batches:
            writer.reserve(tensor for one in batch for tensor in _tensors(plan, one))
        for index, batch in enumerate(self._batches):
            before = self._there[index - 2] if index > 1 else None
            filled = self._filling.submit(self._fill, batch, before)
            self._there.append(self._comparing.submit(self._compare, batch, filled))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for pool in (self._filling, self._comparing):
            pool.shutdown(wait=False, cancel_futures=True)
        for pool in (self._filling, self._comparing):
            pool.shutdown()

    def wait(self, step: Callable[[int], None]) -> None:
        """Until all of them are in the file, and found to be.

        Parameters
        ----------
        step : called with numbers of finished steps.

        Raises
        ------
        FormatError, OutputError, OSError : see `loramix.executing.running.execute`.
        """
        for batch, there in zip(self._batches, self._there, strict=True):
            there.result()
            step(len(batch))

    def _fill(self, batch: Sequence[Step], before: Future[None] | None) -> _Sides:
        if before is not None:
            before.result()
        data = [side for one in batch for side in copying.sides(self._plan, one)]
        self._writer.fill(batch[0].tensors(self._plan.dialect)[0], data)
        return data

    def _compare(self, batch: Sequence[Step], filled: "Future[_Sides]") -> None:
        """Compare the file with what was to be in it; nobody else looks for NaN."""
        meant, code = filled.result(), CODES[self._plan.dtype]
        names = [name for one in batch for name in one.tensors(self._plan.dialect)]
        there = zip(meant, self._writer.written(names), strict=True)
        wrong = _core.first_wrong([(code, *pair) for pair in there])
        if wrong is not None:
            place, finite = wrong
            if not finite:
                copying.refuse_not_finite(batch[place // 2], place % 2)
            message = (
                f"{names[place]}: the file does not hold the bytes just written; nothing was kept"
            )
            raise OutputError(message)
        self._give_back(sum(map(len, meant)))

    def _give_back(self, size: int) -> None:
        """Pages of the inputs, now and then: those of the next batch are there already."""
        self._touched += size
        if self._touched > READ_BYTES:
            self._touched = 0
            release(self._plan)


def _tensors(plan: Plan, one: Step) -> Iterator[Announced]:
    """Both sides of a pair."""
    code, rank, kernel = CODES[plan.dtype], one.pieces[0].factors.rank, one.target.shape[1:]
    shapes = (one.target.rows, rank, *(1,) * (len(kernel) - 1)), (rank, *kernel)
    sizes = one.target.rows * rank, one.target.cols * rank
    for name, shape, size in zip(one.tensors(plan.dialect), shapes, sizes, strict=True):
        yield name, code, shape, size * ITEM_BYTES[code]
