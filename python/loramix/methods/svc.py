"""The sum without what is counted several times."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from loramix.errors import ParamError
from loramix.methods.base import Law, check_shares
from loramix.methods.spectra import ZERO, check_part, size_of, spectrum
from loramix.tensors import F64


@dataclass(frozen=True, slots=True)
class Svc:
    """Sum of the weighted deltas, scaled down in the directions that several of them share.

    For every singular triple (u, s, v) of the sum, adapter i answers with the row
    ``a_i = w_i u^T delta_i``, and all of them with ``sum_i a_i = s v^T``.  The coefficient
    ``c_i = <s v, a_i> / |a_i|^2`` says how many times the answer of i is in the sum: once if the
    others add nothing to it, N times if all are equal.  The singular value is multiplied by

        heads (published):   g = N / sum_i max(floor, c_i)
        energy:              g = sum_i |a_i|^2 / sum_i |a_i|^2 max(floor, c_i)

    Directions stay.  Orthogonal deltas come out as their sum, equal ones as their mean.

    The mean by energy is ours.  The published one asks every adapter alike, so one with a faint
    answer decides: a copy of weight 0.1 beside one of weight 1 leaves 0.18 of it (the harmonic
    mean), and an almost silent one nothing.  By energy 0.92 are left, and what is faint counts
    little; where all answers are equally loud, both are the same.

    Breaks one law: at equal singular values of the sum the directions, and so the factors, are
    not unique.

    Parameters
    ----------
    strength : 1 the method, 0 the plain sum, between them linear, [0, 1].
    floor : least coefficient, (0, 1].  1 only ever scales down (the default, as the authors'
        ablation finds that safest); below it, directions in which adapters cancel are raised,
        at most by 1 / floor (published default 1 / N).
    by : ``energy`` or ``heads``.

    Notes
    -----
    Answers (and singular values) below 1e-7 of the sum of the largest singular values of the
    weighted deltas are silent: their coefficient is 0, their singular value stays.
    Cost: one singular value decomposition of (p, q), products of n p^2 q.

    References
    ----------
    Li et al. 2026, arXiv:2602.05536.
    """

    name: ClassVar[str] = "svc"
    mean: ClassVar[bool] = True
    breaks: ClassVar[frozenset[Law]] = frozenset({"continuity"})

    strength: float = 1.0
    floor: float = 1.0
    by: Literal["energy", "heads"] = "energy"

    def __post_init__(self) -> None:
        check_part(self.name, "strength", self.strength)
        check_shares(self.name, {"floor": self.floor})
        if self.by not in ("energy", "heads"):
            message = f"svc: by = {self.by!r}: energy or heads"
            raise ParamError(message)

    def merge(self, cores: F64, weights: F64) -> F64:
        """The sum with calibrated singular values."""
        terms = weights[:, None, None] * cores
        total, size = terms.sum(axis=0), size_of(terms)
        left, values, right = spectrum(total, size)
        answers = left.T @ terms / size
        energy = np.square(answers).sum(axis=2)
        along = np.einsum("irq,rq->ir", answers, (values / size)[:, None] * right)
        if self.by == "heads":
            heard = energy > ZERO**2
            along = np.divide(along, energy, out=np.zeros_like(along), where=heard)
            energy = np.ones_like(energy)
        factor = energy.sum(axis=0) / np.maximum(self.floor * energy, along).sum(axis=0)
        return np.asarray(total + (left * (self.strength * (factor - 1) * values)) @ right)
