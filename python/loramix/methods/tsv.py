"""Singular directions of all adapters, made orthogonal."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from loramix.methods.base import Law, check_shares
from loramix.methods.spectra import Spectrum, isometry, spectrum
from loramix.tensors import F64


@dataclass(frozen=True, slots=True)
class Tsv:
    """Sum of the weighted deltas after their singular directions are made orthogonal.

    The directions of all adapters are put side by side, ``[U_1 | U_2 | ...]`` and
    ``[V_1 | V_2 | ...]``, each of the two is replaced by the closest orthonormal set, and the
    weighted singular values are put back: adapters no longer disturb each other.  Orthogonal
    deltas come out as their sum, equal ones as their mean.  Where there are more directions than
    the stack spans, the closest set is the partial isometry.

    Breaks one law: all directions are bent alike, however small their singular value (light
    adapters bend heavy ones), and almost equal directions of two adapters are pushed apart until
    they are orthogonal, which equal ones are not.  Such stacks belong to another method.

    Parameters
    ----------
    density : share of the directions of each delta that is kept, the largest ones,
        ``max(1, floor(density * rank))``, (0, 1].  The publication keeps min(m, n) / N, which is
        more than a low-rank delta has, so the default is all.

    Notes
    -----
    The rank of a delta counts singular values above 1e-7 of its largest.
    Cost: n singular value decompositions of (p, q), two of (p, R) and (q, R).

    References
    ----------
    Gargiulo et al. 2024, arXiv:2412.00081, TSV-Merge.
    """

    name: ClassVar[str] = "tsv"
    mean: ClassVar[bool] = True
    breaks: ClassVar[frozenset[Law]] = frozenset({"continuity"})

    density: float = 1.0

    def __post_init__(self) -> None:
        check_shares(self.name, {"density": self.density})

    def merge(self, cores: F64, weights: F64) -> F64:
        """Decompose, orthogonalise both sides, put together."""
        parts = [self._main(core) for core in cores]
        values = [weight * part.values for weight, part in zip(weights, parts, strict=True)]
        left = np.concatenate([part.left for part in parts], axis=1)
        right = np.concatenate([part.right for part in parts]).T
        return np.asarray((isometry(left) * np.concatenate(values)) @ isometry(right).T)

    def _main(self, core: F64) -> Spectrum:
        """The largest directions of one delta."""
        found = spectrum(core)
        return found.head(max(1, int(self.density * found.values.size)))
