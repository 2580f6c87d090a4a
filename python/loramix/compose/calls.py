"""One call of a denoiser as several forwards, in turn or in one batch."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from loramix.compose.attaching import Attached
from loramix.compose.families import Family
from loramix.compose.functional.arrays import Array
from loramix.compose.modes.base import Pass
from loramix.compose.rows import repeated

Forward: TypeAlias = Callable[..., Any]
Arguments: TypeAlias = Mapping[str, Any]


class Forwards:
    """Runs passes of a denoiser.

    Parameters
    ----------
    family : which arguments have rows.
    attached : the adapters.
    size : passes in one forward, at least 1; halved where the memory of a GPU runs out.
    note : told when that happens.
    """

    def __init__(
        self, family: Family, attached: Attached, size: int, note: Callable[[str], None]
    ) -> None:
        self._family = family
        self._attached = attached
        self._size = size
        self._note = note

    def run(
        self, forward: Forward, arguments: Arguments, passes: Sequence[Pass]
    ) -> tuple[dict[Pass, Array], Callable[[Array], Any]]:
        """Predictions of every pass as (batch, channels, *space), in their order.

        Returns
        -------
        The predictions, and what makes of one what the denoiser would return.
        """
        found: dict[Pass, Array] = {}
        wrap: Callable[[Array], Any] = _wrap(())
        # Those whose weights are there go first, before they have to make room.
        left = sorted(passes, key=lambda one: not self._attached.is_near(one))
        while left:
            chunk = left[: self._size]
            # A row has one adapter: what has several, or others by layer, is alone.
            if any(len(one.active) > 1 or one.layers is not None for one in chunk):
                chunk = left[:1]
            returned = self._returned(forward, arguments, chunk)
            if returned is None:
                continue  # with smaller chunks
            wrap = _wrap(returned)
            parts = (
                prediction_of(returned).chunk(len(chunk))
                if len(chunk) > 1
                else [prediction_of(returned)]
            )
            for one, part in zip(chunk, parts, strict=True):
                found[one] = self._family.unpacked(part, arguments)
            left = left[len(chunk) :]
        return {one: found[one] for one in passes}, wrap

    def _returned(self, forward: Forward, arguments: Arguments, passes: list[Pass]) -> Any:  # noqa: ANN401
        """What the denoiser returns for passes; None where memory ran out for so many."""
        if len(passes) == 1:
            self._attached.switch(passes[0])
            return forward(**arguments)
        import torch

        try:
            return self._together(forward, arguments, passes)
        except torch.cuda.OutOfMemoryError:
            self._size = (len(passes) + 1) // 2
        torch.cuda.empty_cache()
        self._note(f"memory ran out: {self._size} passes in one forward from here on")
        return None

    def _together(self, forward: Forward, arguments: Arguments, passes: list[Pass]) -> Any:  # noqa: ANN401
        """All passes in one batch, one block of rows after the other."""
        rows = len(arguments[self._family.latents])
        larger = {
            name: repeated(self._family, name, value, rows, len(passes))
            for name, value in arguments.items()
        }
        names = [self._attached.names[p.active[0]] if p.active else None for p in passes]
        with self._attached.each_row([name for name in names for _ in range(rows)]):
            return forward(**larger)


def prediction_of(returned: Any) -> Any:  # noqa: ANN401 - diffusers'
    """The tensor in what a denoiser returns."""
    return returned[0] if isinstance(returned, tuple) else returned.sample


def _wrap(returned: Any) -> Callable[[Array], Any]:  # noqa: ANN401 - diffusers'
    """What makes of a prediction the same as what a denoiser returned; keeps no prediction."""
    if isinstance(returned, tuple):
        rest = returned[1:]
        return lambda prediction: (prediction, *rest)
    kind = type(returned)
    return lambda prediction: kind(sample=prediction)
