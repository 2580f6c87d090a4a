"""One of two adapters for every layer: the one whose largest entries are larger."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from loramix.arrays import is_torch, to_numpy
from loramix.compose.functional.arrays import Array
from loramix.compose.functional.checks import check_number
from loramix.compose.guidance import Cfg, Guidance
from loramix.compose.modes.base import Blend, Model, Moment, Pass, Seen
from loramix.compose.modes.blends import single
from loramix.errors import ParamError


@dataclass(frozen=True, slots=True)
class _Memory:
    """Sums of the largest magnitudes of subject and style by layer, and subject over style in all.

    A layer that only one of the two has is that one's: the other's sum is None.
    """

    sums: Mapping[str, tuple[float | None, float | None]]
    ratio: float


@dataclass(frozen=True, slots=True)
class KLora:
    """In every layer the subject or the style, whichever has the larger largest entries.

    With ``top_i`` the sum of the ``K = r_subject r_style`` largest magnitudes of a layer's delta,
    the style has the layer where ``gamma (alpha t + beta) top_style > top_subject``: t is the part
    of the run that is over, so the style has more layers towards the end; gamma is the sum of
    all magnitudes of the subject over that of the style, in all layers both have.

    Parameters
    ----------
    alpha, beta : [0, inf), how the style's part grows.  1.5 and 0.5, the published values as we
        remember them.

    Notes
    -----
    Two adapters, the subject first.  Forwards per step: 2 with classifier-free guidance, 1 without.
    Adapters of prior 0 are left out; other priors are not looked at.  Before the first step every
    delta is multiplied out once.

    The publication speaks of attention layers; here all layers with both adapters are treated
    so.  A layer of one adapter is always that one's.

    References
    ----------
    K-LoRA, arXiv:2502.18461.
    """

    name: ClassVar[str] = "k-lora"
    per_pixel: ClassVar[bool] = False
    in_place_of_priors: ClassVar[str | None] = "weights"
    settled: ClassVar[str | None] = (
        "every layer goes to one of two by their deltas and the step, in one forward"
    )
    guidance: ClassVar[Guidance] = Cfg()

    alpha: float = 1.5
    beta: float = 0.5

    def __post_init__(self) -> None:
        check_number(self.name, "alpha", self.alpha)
        check_number(self.name, "beta", self.beta)

    def prepare(self, model: Model) -> object:
        """Compare the deltas of every layer.

        Raises
        ------
        ParamError : not two adapters that take part.
        """
        pair = model.taking
        if len(pair) != 2:
            names = ", ".join(model.names[i] for i in pair)
            message = (
                f"k-lora: {len(pair)} adapters with a prior above 0 ({names}): give two, the "
                "subject first, then the style"
            )
            raise ParamError(message)
        sums: dict[str, tuple[float | None, float | None]] = {}
        totals = [0.0, 0.0]
        for layer in model.layers:
            deltas = [model.delta(layer, i) for i in pair]
            count = max(1, model.rank(layer, pair[0]) * model.rank(layer, pair[1]))
            both = [None if delta is None else top_sum(delta, count) for delta in deltas]
            sums[layer] = (both[0], both[1])
            if None not in both:
                sizes = [float(abs(delta).sum()) for delta in deltas if delta is not None]
                totals = [t + size for t, size in zip(totals, sizes, strict=True)]
        ratio = totals[0] / totals[1] if totals[1] > 0 else 1.0
        return _Memory(sums, ratio)

    def passes(self, moment: Moment, memory: object) -> tuple[Pass, ...]:
        """One, with an adapter for every layer."""
        pair = moment.taking
        if not isinstance(memory, _Memory) or len(pair) != 2:
            return (Pass(pair),)  # of two denoisers, one may have a single adapter
        factor = memory.ratio * (self.alpha * moment.share + self.beta)
        layers = {
            name: (pair[_winner(subject, style, factor)],)
            for name, (subject, style) in memory.sums.items()
        }
        return (Pass(pair, layers),)

    def weigh(self, moment: Moment, seen: Seen, memory: object) -> tuple[Blend, object]:
        """As it is; the account shows which part of the layers each has."""
        counts = [0.0] * len(moment.prior)
        for active in (seen.passes[0].layers or {}).values():
            counts[active[0]] += 1
        if not any(counts):
            return single(moment, seen, moment.taking), memory
        shown = replace(moment, prior=tuple(count / sum(counts) for count in counts))
        return single(shown, seen, moment.taking), memory


def _winner(subject: float | None, style: float | None, factor: float) -> int:
    if subject is None or style is None:
        return 1 if subject is None else 0
    return 1 if factor * style > subject else 0


def top_sum(values: Array, count: int) -> float:
    """Sum of the largest magnitudes.

    Parameters
    ----------
    values : any shape.
    count : how many, at least 1; all where there are no more.
    """
    if is_torch(values):
        flat = values.abs().flatten().float()
        return float(flat.topk(min(count, flat.numel())).values.double().sum())
    flat = np.abs(to_numpy(values)).ravel()
    largest = np.partition(flat, -count)[-count:] if count < flat.size else flat
    return float(largest.sum(dtype=np.float64))
