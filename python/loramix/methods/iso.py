"""Sums whose singular values are made (more) equal."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from loramix.methods.base import Law
from loramix.methods.spectra import check_part, isometry, size_of, spectrum
from loramix.tensors import F64

_BREAKS: frozenset[Law] = frozenset({"identical", "continuity"})
_FLATTEN = 0.25


def _change(values: F64, flatten: float) -> F64:
    """What flattening adds to each singular value; their sum stays."""
    return np.asarray(flatten * (values.mean() - values)) if values.size else values


@dataclass(frozen=True, slots=True)
class IsoC:
    """Sum of the weighted deltas with its singular values moved towards their mean.

    ``sum_i w_i delta_i = U S V^T`` becomes ``U ((1 - b) S + b mean(S)) V^T``, b = ``flatten``.  A
    few directions that many adapters share dominate a sum; this evens them out.

    The mean is over the directions in which the sum is not zero (singular value above 1e-7 of
    the sum of the largest ones of the weighted deltas), the others stay as they are: the
    published mean over all min(m, n) would hide the low rank, and energy would go to noise.

    Breaks two laws: equal adapters come back flattened, and a direction that dwindles keeps a
    share of the mean until it is zero, so the result jumps there.

    Parameters
    ----------
    flatten : b, [0, 1].  1 is the published method, 0 the plain sum.  The default is ours: the
        weak directions of an image adapter are as much noise as content, and on a spectrum
        that decays by 30 the published method turns the delta by 42 degrees, one quarter of it
        by 8, while the largest values already shrink and the smallest triple.

    Notes
    -----
    Cost: one singular value decomposition of (p, q).

    References
    ----------
    Marczak et al. 2025, arXiv:2502.04959, Iso-C.
    """

    name: ClassVar[str] = "iso-c"
    mean: ClassVar[bool] = False
    breaks: ClassVar[frozenset[Law]] = _BREAKS

    flatten: float = _FLATTEN

    def __post_init__(self) -> None:
        check_part(self.name, "flatten", self.flatten)

    def merge(self, cores: F64, weights: F64) -> F64:
        """The flattened sum."""
        terms = weights[:, None, None] * cores
        total = terms.sum(axis=0)
        left, values, right = spectrum(total, size_of(terms))
        return np.asarray(total + (left * _change(values, self.flatten)) @ right)


@dataclass(frozen=True, slots=True)
class IsoCts:
    """Flattened sum of common directions and of directions that single adapters have.

    Of the r directions that the stack spans, k are the largest of the sum.  Every weighted delta
    loses its component in the column space of these k, and gives its ``(r - k) / n`` largest
    remaining directions.  All of them, with their singular values, are orthogonalised on both
    sides at once (the closest orthonormal set) and flattened as in `IsoC`.  A small adapter thus
    keeps its own directions, which the sum alone would cut.

    r is the smaller of the ranks of all rows and of all columns (in the publication, where
    deltas have full rank, min(m, n)); the threshold of zero is that of `IsoC`.
    ``k = r - n floor((r - floor(common r)) / n)``, or what the sum has if it cancels.

    Breaks the laws that `IsoC` breaks: directions are also cut by number, and almost equal
    directions of two adapters are pushed apart until they are orthogonal.

    Parameters
    ----------
    common : share of common directions, [0, 1].  Default 0.8, the published one; 1 is `IsoC`, and
        so is what leaves less than one own direction per adapter.
    flatten : see `IsoC`; 1 is published.

    Notes
    -----
    Cost: n + 5 singular value decompositions, the largest of (p, n q).

    References
    ----------
    Marczak et al. 2025, arXiv:2502.04959, Iso-CTS.
    """

    name: ClassVar[str] = "iso-cts"
    mean: ClassVar[bool] = False
    breaks: ClassVar[frozenset[Law]] = _BREAKS

    common: float = 0.8
    flatten: float = _FLATTEN

    def __post_init__(self) -> None:
        check_part(self.name, "common", self.common)
        check_part(self.name, "flatten", self.flatten)

    def merge(self, cores: F64, weights: F64) -> F64:
        """Common and own directions, orthogonalised and flattened."""
        terms = weights[:, None, None] * cores
        size = size_of(terms)
        rank = min(
            spectrum(np.concatenate(list(terms), axis=1), size).values.size,
            spectrum(np.concatenate(list(terms), axis=0), size).values.size,
        )
        own = (rank - int(self.common * rank)) // len(terms)
        shared = spectrum(terms.sum(axis=0), size).head(rank - own * len(terms))
        rest = terms - shared.left @ (shared.left.T @ terms)
        parts = [shared, *(spectrum(term, size).head(own) for term in rest)]
        left = isometry(np.concatenate([part.left for part in parts], axis=1))
        right = isometry(np.concatenate([part.right for part in parts]).T)
        values = np.concatenate([part.values for part in parts])
        return np.asarray((left * (values + _change(values, self.flatten))) @ right.T)
