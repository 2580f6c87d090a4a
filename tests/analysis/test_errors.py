"""Standard errors are right, and excess is zero where there is nothing but an angle."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from analysis.cases import F64, Member, dense, factors, statistics

from loramix.analysis import baselines, uncertainty
from loramix.analysis.statistics import PairStatistics

RHOS = (-0.95, -0.7, -0.3, 0.0, 0.3, 0.7, 0.95)
STATISTICS = (("excess", "excess_error"), ("lost_excess", "loss_error"))


def gaussian(rho: float, k: float, seed: int, shape: tuple[int, int]) -> tuple[F64, F64]:
    """Two arrays of normal entries with this correlation and ratio of scales."""
    rng = np.random.default_rng([seed, round(100 * rho) + 100, round(k)])
    a, own = rng.normal(size=(2, *shape))
    return a, k * (rho * a + math.sqrt(1 - rho * rho) * own)


def pair_of(a: Member, b: Member, samples: int | None, key: str = "unet.x") -> PairStatistics:
    return statistics([a, b], samples, key=key).pairs[0]


@pytest.mark.parametrize("k", [1.0, 4.0])
@pytest.mark.parametrize("rho", RHOS)
@pytest.mark.parametrize("samples", [None, 100], ids=str)
def test_elliptical_pairs_have_no_excess(rho: float, k: float, samples: int | None) -> None:
    a, b = gaussian(rho, k, 1, (200, 240))
    pair = pair_of(dense(a), dense(b), samples)
    assert pair.cosine == pytest.approx(rho, abs=0.03)
    assert pair.ratio == pytest.approx(k, rel=0.03)
    for name, error in STATISTICS:
        size = getattr(pair, error)
        assert 0 < size < 0.01, name
        assert abs(getattr(pair, name)) < 3 * size, name


@pytest.mark.parametrize("k", [1.0, 4.0])
@pytest.mark.parametrize("rho", [0.3, 0.7, 0.95])
@pytest.mark.parametrize("samples", [None, 100], ids=str)
def test_planted_conflicts_are_seen(rho: float, k: float, samples: int | None) -> None:
    """Where large entries change their signs, a sum loses more than the angle says.

    The cosine falls by squares, the weighted conflict rises by magnitudes only: `excess` comes out
    below zero.
    """
    a, b = gaussian(rho, k, 2, (200, 240))
    large = np.abs(a) > np.quantile(np.abs(a), 0.9)
    rng = np.random.default_rng(3)
    b = np.where(large & (rng.random(a.shape) < 0.5), -b, b)
    pair = pair_of(dense(a), dense(b), samples)
    assert pair.lost_excess > 4 * pair.loss_error
    assert pair.excess < (-3 * pair.excess_error if k == 1 else 0)


def low_rank(seed: int, shape: tuple[int, int], rank: int) -> tuple[Member, Member]:
    rng = np.random.default_rng(seed)
    up, down = rng.normal(size=(shape[0], rank)), rng.normal(size=(rank, shape[1]))
    slope = 0.8 ** np.arange(rank)
    own = rng.normal(size=up.shape), rng.normal(size=down.shape)
    first = factors(up * slope, down)
    return first, factors((0.6 * up + 0.8 * own[0]) * slope, 0.6 * down + 0.8 * own[1])


@pytest.mark.parametrize("rank", [2, 8, 32])
def test_errors_are_the_spread_of_samples(rank: int) -> None:
    """Blocks of many targets with the same deltas, against all entries."""
    members = low_rank(rank, (1500, 1600), rank)
    exact = pair_of(*members, None)
    found = [pair_of(*members, 96, key=f"unet.{i}") for i in range(150)]
    for name, error in STATISTICS:
        away = [(getattr(p, name) - getattr(exact, name)) / getattr(p, error) for p in found]
        assert abs(np.mean(away)) < 0.5, name
        assert 0.75 < np.std(away) < 1.3, (name, np.std(away))


def test_errors_over_all_entries_are_the_spread_of_weights() -> None:
    """Other rows and columns of the same kind: a few hundred pairs of random deltas."""
    found = [pair_of(*low_rank(seed, (220, 240), 6), None) for seed in range(200)]
    for name, error in STATISTICS:
        middle = np.mean([getattr(p, name) for p in found])
        away = [(getattr(p, name) - middle) / getattr(p, error) for p in found]
        assert 0.7 < np.std(away) < 1.4, (name, np.std(away))


@pytest.mark.parametrize("k", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("rho", RHOS)
@pytest.mark.parametrize(
    ("slopes", "of"),
    [
        (uncertainty.weighted_conflict_slopes, baselines.weighted_conflict),
        (uncertainty.lost_energy_slopes, baselines.lost_energy),
    ],
)
def test_slopes_are_those_of_the_baselines(
    slopes: Callable[[F64, F64], tuple[F64, F64]],
    of: Callable[[float, float], float],
    rho: float,
    k: float,
) -> None:
    step = 1e-6
    by_rho, by_k = slopes(np.array([rho]), np.array([k]))
    assert by_rho[0] == pytest.approx((of(rho + step, k) - of(rho - step, k)) / (2 * step), 1e-4)
    assert by_k[0] == pytest.approx(
        (of(rho, k + step) - of(rho, k - step)) / (2 * step), 1e-4, 1e-9
    )


def test_a_single_line_has_the_errors_of_the_other_side() -> None:
    one = dense(np.array([[3.0]]))
    pair = pair_of(one, dense(np.array([[-2.0]])), None)
    assert (pair.excess, pair.excess_error, pair.loss_error) == (0.0, 0.0, 0.0)
    row = pair_of(dense(np.ones((1, 64))), dense(np.linspace(-1, 2, 64)[None]), None)
    assert row.excess_error > 0
