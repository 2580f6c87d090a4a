"""Model stock: shrink the mean by how much the adapters agree."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from loramix.methods.average import Average
from loramix.methods.base import Law
from loramix.tensors import F64


@dataclass(frozen=True, slots=True)
class ModelStock:
    """The mean, moved towards the base (zero) by ``t = n c / (1 + (n - 1) c)``.

    c is the mean cosine of the pairs (weighted by |w_i w_j|, signs of the weights applied, at
    least 0) and n the effective number of adapters, ``(sum|w|)^2 / sum w^2``; with equal weights
    both are the published ones.  Independent adapters have c near 0 and give a result near
    zero: the method assumes fine-tunings of one task.

    Breaks continuity where adapters appear: one adapter alone is taken as it is, and the
    slightest second one reveals how much of it is noise.

    References
    ----------
    Jang et al. 2024, arXiv:2403.19522, eq. 2 and its extension to N models (section 4).
    """

    name: ClassVar[str] = "model-stock"
    mean: ClassVar[bool] = True
    reads_gram: ClassVar[bool] = True
    breaks: ClassVar[frozenset[Law]] = frozenset({"continuity"})

    def coefficients(self, gram: F64, weights: F64) -> F64:
        """The coefficients of the mean times t."""
        mean = Average().coefficients(gram, weights)
        norms = np.sqrt(np.maximum(np.diag(gram), 0))
        size = np.abs(weights) * (norms > 0)
        pairs = np.outer(size, size) - np.diag(size**2)
        if pairs.sum() <= 0:
            return mean
        safe = np.where(norms > 0, norms, 1)
        cosines = gram / np.outer(safe, safe) * np.outer(np.sign(weights), np.sign(weights))
        cosine = float(np.clip((pairs * cosines).sum() / pairs.sum(), 0, 1))
        count = size.sum() ** 2 / (size**2).sum()
        return np.asarray(mean * (count * cosine / (1 + (count - 1) * cosine)))
