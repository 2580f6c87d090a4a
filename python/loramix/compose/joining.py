"""The predictions of a step as one: weighed by the mode, inside masks, guided."""

from collections.abc import Mapping, Sequence

import numpy as np

from loramix.compose.functional.arrays import Array, like
from loramix.compose.functional.masking import fit
from loramix.compose.functional.parts import parts_of, whole
from loramix.compose.guidance import Cfg, Guidance, Side
from loramix.compose.modes.base import BASE, Blend, Moment, Pass, Seen, Weigher


class Joining:
    """Joins predictions, part by part.

    Parameters
    ----------
    mode : with what saves work around it.
    guidance : what happens to composed predictions.
    masks : for each adapter (rows, columns), or None for everywhere; None: no masks at all.
    """

    def __init__(
        self, mode: Weigher, guidance: Guidance, masks: Sequence[Array | None] | None
    ) -> None:
        self._mode = mode
        self._guidance = guidance
        self._masks = masks
        self._fitted: tuple[tuple[int, ...], Array] | None = None

    def guidance(self, passes: Sequence[Pass]) -> Guidance:
        """What happens to the composition of these passes."""
        return Cfg() if all(one.plain for one in passes) else self._guidance

    def weigh(
        self, moment: Moment, latents: Mapping[Pass, Array], memory: object
    ) -> tuple[Blend, object]:
        """The blend of a step, and what the mode remembers.

        Parameters
        ----------
        latents : conditional predictions, (batch, channels, *space) each.
        """
        members = {one: value for one, value in latents.items() if one != BASE}
        first = next(iter(members.values()))
        masks = self._fit(first)
        seen = Seen(tuple(members), tuple(members.values()), latents.get(BASE), masks)
        return self._mode.weigh(moment, seen, memory)

    def combine(self, blend: Blend, side: Side, latents: Mapping[Pass, Array], into: Array) -> None:
        """One side of a call, as the pipeline gets it, part by part.

        Parameters
        ----------
        into : where it is written; one of the predictions may be there.
        """
        guidance, base = self.guidance(blend.used), latents.get(BASE)
        for part in parts_of(into) if blend.pointwise else [whole(into)]:
            own = None if base is None else part.of(base)
            composed = blend.combine([part.of(latents[one]) for one in blend.used], own, part)
            guided = guidance.apply(side, own if guidance.reads(side) else None, composed)
            part.of(into)[...] = guided

    def _fit(self, prediction: Array) -> Array | None:
        """The masks in the size of a prediction, (n, *space)."""
        if self._masks is None:
            return None
        space = tuple(prediction.shape[2:])
        if self._fitted is None or self._fitted[0] != space:
            plain = [
                np.ones(space[-2:]) if one is None else fit(one, *space[-2:]) for one in self._masks
            ]
            stack = np.stack([np.broadcast_to(one, space) for one in plain])
            self._fitted = (space, like(stack, prediction))
        return self._fitted[1]
