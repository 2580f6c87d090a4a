"""Plain addition."""

from dataclasses import dataclass
from typing import ClassVar

from loramix.methods.base import Law
from loramix.tensors import F64


@dataclass(frozen=True, slots=True)
class Linear:
    """Sum of the weighted deltas: what loading the adapters one after the other gives.

    ``M = sum_i w_i delta_i``

    References
    ----------
    Ilharco et al. 2023, arXiv:2212.04089 (task arithmetic).
    """

    name: ClassVar[str] = "linear"
    mean: ClassVar[bool] = False
    reads_gram: ClassVar[bool] = False
    breaks: ClassVar[frozenset[Law]] = frozenset()

    def coefficients(self, gram: F64, weights: F64) -> F64:
        """The weights themselves."""
        del gram
        return weights.copy()
