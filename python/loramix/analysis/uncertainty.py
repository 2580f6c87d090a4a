"""How far statistics of a pair would move with another choice of rows and columns.

A statistic f of sums S has, to first order, the variance ``g^T V g`` with g its gradient and V the
covariance of the sums.  Entries of one row, and of one column, depend on each other, so V comes
from clusters of both, ``V_rows + V_cols - V_cells`` (Cameron, Gelbach, Miller, "Robust inference
with multiway clustering", JBES 29, 2011).
"""

import math

import numpy as np

from loramix.tensors import F64

PARTS = 6
"""Sums that the statistics are made of: conflicting, total, dot, first2, second2, product."""
TRIANGLE = PARTS * (PARTS + 1) // 2
"""Numbers in the lower triangle of a covariance."""

_EDGE = 1e-6
"""Angles closer to 0 or pi than this: slopes by rho are infinite over zero there."""


def standard_errors(sums: F64, spread: F64) -> tuple[F64, F64]:
    """Standard errors of `PairStatistics.excess` and `PairStatistics.lost_excess`.

    The variance is at least that of the clusters of rows, and of columns, alone: the difference of
    three estimates can come out far too small, even below zero.

    Parameters
    ----------
    sums : (p, 6), see `PARTS`.
    spread : (p, 3, 21) lower triangles of the covariances by clusters of rows, of columns, of
        cells.

    Returns
    -------
    Two arrays (p,); 0 where a pair has no position.
    """
    excess, loss = _slopes(sums)
    lower = np.tril_indices(PARTS)
    whole = np.zeros((*spread.shape[:2], PARTS, PARTS))
    whole[..., lower[0], lower[1]] = spread
    whole[..., lower[1], lower[0]] = spread

    def error(slopes: F64) -> F64:
        rows, cols, cells = np.einsum("pi,pvij,pj->vp", slopes, whole, slopes)
        most: F64 = np.maximum(np.maximum(rows, cols), rows + cols - cells)
        return np.sqrt(np.maximum(most, 0))

    return error(excess), error(loss)


def _slopes(sums: F64) -> tuple[F64, F64]:
    """Gradients (p, 6) of both statistics; 0 where a sum of squares is zero."""
    conflicting, total, dot, first2, second2, product = sums.T
    there = (first2 > 0) & (second2 > 0) & (total > 0)
    first2, second2, total = (np.where(there, x, 1.0) for x in (first2, second2, total))
    size, energy = np.sqrt(first2 * second2), first2 + second2
    rho, k = np.clip(dot / size, -1, 1), np.sqrt(second2 / first2)
    zero = np.zeros_like(rho)
    of_rho = np.stack([zero, zero, 1 / size, -rho / (2 * first2), -rho / (2 * second2), zero])
    of_k = np.stack([zero, zero, zero, -k / (2 * first2), k / (2 * second2), zero])

    by_rho, by_k = weighted_conflict_slopes(rho, k)
    measured = np.stack([1 / total, -conflicting / total**2, zero, zero, zero, zero])
    excess = measured - by_rho * of_rho - by_k * of_k

    by_rho, by_k = lost_energy_slopes(rho, k)
    lost = -(product - dot) / energy**2
    measured = np.stack([zero, zero, -1 / energy, lost, lost, 1 / energy])
    loss = measured - by_rho * of_rho - by_k * of_k
    return np.where(there, excess, 0.0).T, np.where(there, loss, 0.0).T


def weighted_conflict_slopes(rho: F64, k: F64) -> tuple[F64, F64]:
    """Derivatives of `baselines.weighted_conflict` by rho and by k."""
    theta = np.clip(np.arccos(rho), _EDGE, math.pi - _EDGE)
    here, here_t, here_k = _corner(theta, k)
    there, there_t, there_k = _corner(math.pi - theta, k)
    both = (here + there) ** 2
    by_theta = (here_t * there + here * there_t) / both
    return -by_theta / np.sin(theta), (here_k * there - here * there_k) / both


def _corner(t: F64, k: F64) -> tuple[F64, F64, F64]:
    """``D`` of `baselines.weighted_conflict` and its derivatives by t and k; that by u is zero."""
    u = np.arctan2(k * np.sin(t), 1 + k * np.cos(t))
    by_k = 1 - np.cos(t - u)
    return (1 - np.cos(u)) + k * by_k, k * np.sin(t - u), by_k


def lost_energy_slopes(rho: F64, k: F64) -> tuple[F64, F64]:
    """Derivatives of `baselines.lost_energy` by rho and by k."""
    theta = np.arccos(rho)
    shape = (np.sin(theta) - theta * np.cos(theta)) / math.pi
    square = 1 + k * k
    return -2 * k / square * theta / math.pi, 2 * (1 - k * k) / square**2 * shape
