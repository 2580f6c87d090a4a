"""Singular value decompositions of cores that know what is zero.

A core comes with rounding noise, and a direction that is only noise must not be given a singular
value.  What counts is compared with `ZERO` times the size of what went in, not with the largest
singular value of the result: a sum that cancels is nothing but noise.
"""

from typing import NamedTuple

import numpy as np

from loramix.errors import ParamError
from loramix.tensors import F64

ZERO = 1e-7
"""Relative size of a singular value that is taken for zero: above the 1e-8 of Gram matrices."""


class Spectrum(NamedTuple):
    """Singular values that count, largest first, and their directions.

    Attributes
    ----------
    left : (p, k) orthonormal columns.
    values : (k,) above the threshold.
    right : (k, q) orthonormal rows.
    """

    left: F64
    values: F64
    right: F64

    def head(self, count: int) -> "Spectrum":
        """The largest ``count``, or all if there are fewer."""
        return Spectrum(self.left[:, :count], self.values[:count], self.right[:count])


def spectrum(matrix: F64, size: float | None = None) -> Spectrum:
    """Thin singular value decomposition without the directions that are zero.

    Parameters
    ----------
    matrix : (p, q).
    size : what zero is relative to; the largest singular value if none is given.
    """
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    count = int(
        np.count_nonzero(values > ZERO * (values.max(initial=0.0) if size is None else size))
    )
    return Spectrum(left, values, right).head(count)


def size_of(terms: F64) -> float:
    """Sum of the largest singular values of the terms (n, p, q), which bounds those of any sum."""
    return float(np.linalg.norm(terms, 2, axis=(1, 2)).sum())


def isometry(columns: F64) -> F64:
    """The closest matrix with orthonormal columns: P Q^T of ``columns = P D Q^T``.

    Of dependent columns, which have no such neighbour, it is the partial isometry on the space
    they do span: equal columns stay equal, and nothing is invented.

    Parameters
    ----------
    columns : (p, c) of unit length.
    """
    found = spectrum(columns)
    return found.left @ found.right


def check_part(owner: str, name: str, value: float) -> None:
    """Refuse a part outside [0, 1].

    Raises
    ------
    ParamError : it is, or is no number.
    """
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (number and 0 <= value <= 1):
        message = f"{owner}: {name} = {value}: allowed is a number in [0, 1]"
        raise ParamError(message)
