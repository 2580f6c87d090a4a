"""A mean in which every entry counts by its own square."""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from loramix.errors import ParamError
from loramix.methods.base import Law, Program
from loramix.types import F64


@dataclass(frozen=True, slots=True)
class Consensus:
    """Mean of the entries weighted by their importance ``d^2``, at the mean norm of the deltas.

    ``P = max|w| * sum w_i d_i^3 / sum |w_i| d_i^2`` entry by entry, brought to the norm
    ``max|w| * sum |w_i| |delta_i| / sum |w_i|`` (growing at most twofold, so that what cancels
    stays small).  With ``clean`` the noise that the entry by entry choice adds, which is the part
    of P outside the span of the deltas, is taken out by the optimal shrinkage of singular values
    for white noise of its size; where all deltas are equal there is none, and nothing changes.

    Breaks continuity where an adapter appears: its weight decides over entries that nobody else
    has, however small it is.

    Parameters
    ----------
    clean : whether singular values are shrunk.

    References
    ----------
    Importance: Fisher merging with the squared delta, Matena and Raffel 2022, arXiv:2111.09832.
    Shrinkage: Gavish and Donoho 2017, "Optimal shrinkage of singular values", eq. 7.
    """

    name: ClassVar[str] = "consensus"
    mean: ClassVar[bool] = True
    breaks: ClassVar[frozenset[Law]] = frozenset({"continuity"})

    clean: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.clean, bool):
            message = f"consensus: clean = {self.clean!r}: allowed is true, false"
            raise ParamError(message)

    def program(self) -> Program:
        """Weigh by the square, calibrate, clean."""
        return Program(reduce="importance", calibrate=True, clean=self.clean)


def shrinkage(values: F64, noise: float, rows: int, cols: int) -> F64:
    """Singular values without white noise: the optimum for the Frobenius norm.

    ``sqrt((y^2 - b - 1)^2 - 4 b) / y`` for ``y >= 1 + sqrt(b)`` and 0 below, in units of
    ``sigma sqrt(max(rows, cols))`` with b the ratio of the sides.

    Parameters
    ----------
    values : singular values of a (rows, cols) matrix.
    noise : sigma^2, mean square of the noise per entry.
    """
    if noise <= 0:
        return values.copy()
    long, short = max(rows, cols), min(rows, cols)
    unit, ratio = math.sqrt(noise * long), short / long
    y = values / unit
    inside = np.maximum((y**2 - ratio - 1) ** 2 - 4 * ratio, 0)
    above = y >= 1 + math.sqrt(ratio)
    return np.where(above, unit * np.sqrt(inside) / np.where(above, y, 1.0), 0.0)


def shrunk(matrix: npt.NDArray[np.float32], noise: float) -> npt.NDArray[np.float32]:
    """A matrix with its singular values shrunk, at the norm it had.

    Cost: a full singular value decomposition, O(rows * cols * min(rows, cols)).
    """
    if noise <= 0:
        return matrix
    u, values, vt = np.linalg.svd(matrix.astype(np.float64), full_matrices=False)
    left = shrinkage(values, noise, *matrix.shape)
    size = float(np.linalg.norm(left))
    if size == 0:
        return matrix
    scale = float(np.linalg.norm(values)) / size
    return np.asarray((u * (left * scale)) @ vt, dtype=np.float32)
