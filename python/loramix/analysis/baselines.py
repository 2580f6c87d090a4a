"""What two deltas would do to each other if nothing but their angle and their sizes counted.

Closed forms for coordinates that are jointly elliptical (Gaussian among them) with correlation
``rho = cos(theta)`` and ratio of scales ``k``.  All are functions of the angle alone, so what is
measured beyond them is structure that the inner product does not see.
"""

import math


def conflict(rho: float) -> float:
    """Share of positions whose signs differ: ``theta / pi``.

    Parameters
    ----------
    rho : correlation, -1 to 1.
    """
    return math.acos(max(-1.0, min(1.0, rho))) / math.pi


def weighted_conflict(rho: float, k: float) -> float:
    """Share of the smaller magnitudes that stands at positions whose signs differ.

    ``D(theta) / (D(theta) + D(pi - theta))`` with
    ``D(t) = (1 - cos u) + k (1 - cos(t - u))``, ``u = atan2(k sin t, 1 + k cos t)``;
    for k = 1: ``(1 - cos(theta/2)) / (2 - cos(theta/2) - sin(theta/2))``.

    Parameters
    ----------
    rho : correlation, -1 to 1.
    k : ratio of the scales, > 0; k and 1 / k give the same.
    """
    theta = math.acos(max(-1.0, min(1.0, rho)))
    here, there = _corner(theta, k), _corner(math.pi - theta, k)
    return here / (here + there)


def _corner(t: float, k: float) -> float:
    """Mean of ``min(|x|, k |y|)`` over directions inside an angle, up to a factor."""
    u = math.atan2(k * math.sin(t), 1 + k * math.cos(t))
    return (1 - math.cos(u)) + k * (1 - math.cos(t - u))


def lost_energy(rho: float, k: float) -> float:
    """Energy that a plain sum loses where signs differ, over the energy of both.

    ``L = sum over differing positions of 2 |a b| / sum(a^2 + b^2)``; for elliptical coordinates
    ``2 k / (1 + k^2) * (sin(theta) - theta cos(theta)) / pi``.

    Parameters
    ----------
    rho, k : see `weighted_conflict`.
    """
    theta = math.acos(max(-1.0, min(1.0, rho)))
    return 2 * k / (1 + k * k) * (math.sin(theta) - theta * math.cos(theta)) / math.pi
