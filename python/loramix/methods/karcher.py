"""Riemannian mean of the directions."""

from dataclasses import dataclass
from typing import ClassVar

from loramix.methods.base import Law
from loramix.methods.sphere import spherical, until_settled
from loramix.tensors import F64


@dataclass(frozen=True, slots=True)
class Karcher:
    """The point of the sphere with the least weighted sum of squared angles to all deltas.

    Equal to `Slerp` for two adapters; for more, `Slerp` is its first iterate.  Norms as there.

    References
    ----------
    Karcher 1977; Buss and Fillmore 2001, "Spherical averages", algorithm A1.
    """

    name: ClassVar[str] = "karcher"
    mean: ClassVar[bool] = True
    reads_gram: ClassVar[bool] = True
    breaks: ClassVar[frozenset[Law]] = frozenset()

    def coefficients(self, gram: F64, weights: F64) -> F64:
        """Coefficients of the mean delta."""
        return spherical(gram, weights, until_settled)
