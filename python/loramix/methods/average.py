"""Weighted mean."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from loramix.methods.base import Law
from loramix.tensors import F64


@dataclass(frozen=True, slots=True)
class Average:
    """Weighted mean of the deltas, at the strength of the heaviest.

    ``M = max|w| * sum_i w_i delta_i / sum_i |w_i|``

    The factor ``max|w|`` gives the weights a scale: one adapter of weight w gives w times it, and
    halving all weights halves the result (a mean without it would not notice).

    References
    ----------
    Wortsman et al. 2022, arXiv:2203.05482 (model soups).
    """

    name: ClassVar[str] = "average"
    mean: ClassVar[bool] = True
    reads_gram: ClassVar[bool] = False
    breaks: ClassVar[frozenset[Law]] = frozenset()

    def coefficients(self, gram: F64, weights: F64) -> F64:
        """The weights, normalised by their absolute sum, times the largest."""
        del gram
        total = np.abs(weights).sum()
        return weights * (np.abs(weights).max() / total) if total > 0 else np.zeros_like(weights)
