"""Spherical interpolation of any number of deltas."""

from dataclasses import dataclass
from typing import ClassVar

from loramix.methods.base import Law
from loramix.methods.sphere import one_step, spherical
from loramix.tensors import F64


@dataclass(frozen=True, slots=True)
class Slerp:
    """Interpolate directions on the sphere and norms on the line; any number of adapters.

    Two adapters: ``sin((1-t) a) / sin a`` and ``sin(t a) / sin a`` on the *normalised* deltas,
    a their angle, t = |w_2| / (|w_1| + |w_2|).  More: the average in the tangent space at the
    normalised weighted mean, which is the same for two and does not depend on the order.  The
    norm is that of the weighted mean of the norms, so nothing is left for a separate "nuslerp".
    See `loramix.methods.sphere` for opposed deltas.

    References
    ----------
    Shoemake 1985; Buss and Fillmore 2001, "Spherical averages", section 3 (first iterate).
    """

    name: ClassVar[str] = "slerp"
    mean: ClassVar[bool] = True
    reads_gram: ClassVar[bool] = True
    breaks: ClassVar[frozenset[Law]] = frozenset()

    def coefficients(self, gram: F64, weights: F64) -> F64:
        """Coefficients of the interpolated delta."""
        return spherical(gram, weights, one_step)
