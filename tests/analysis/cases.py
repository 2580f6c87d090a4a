"""Groups in memory with their dense truth, and the comparison with the oracle."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import oracles_analysis as oracle
from helpers import F64, decode, encode

from loramix.analysis.passing import analyze
from loramix.analysis.statistics import GroupStatistics, PairStatistics
from loramix.tensors import Tensor
from loramix.types import Factors, Group, Target

KEY = "unet.somewhere"
NEAR = 2e-5
"""Relative error of sums of f32 products."""
Shape: TypeAlias = tuple[int, int]


@dataclass(frozen=True)
class Member:
    """Factors as they are stored, and in float64 with the scale in ``up``."""

    stored: Factors
    up: F64
    down: F64

    @property
    def delta(self) -> F64:
        return self.up @ self.down


def tensor(values: F64, dtype: str) -> tuple[Tensor, F64]:
    """Encoded values, and what they are after rounding."""
    data = encode(dtype, values)
    return Tensor(dtype, values.shape, memoryview(data)), decode(dtype, data).reshape(values.shape)


def factors(up: F64, down: F64, *, scale: float = 1.0, dtype: str = "F32") -> Member:
    (left, up), (right, down) = tensor(up, dtype), tensor(down, dtype)
    return Member(Factors(left, right, scale, ("up", "down"), "file"), scale * up, down)


def dense(delta: F64, dtype: str = "F32") -> Member:
    """A dense difference."""
    stored, values = tensor(delta, dtype)
    rows, cols = values.shape
    both = (np.eye(rows), values) if rows <= cols else (values, np.eye(cols))
    return Member(Factors.of_dense(stored, "diff", "file"), *both)


def draw(
    shape: Shape, ranks: Sequence[int], *, seed: int = 0, dtype: str = "F32", slope: float = 0.5
) -> list[Member]:
    """Random members with decaying spectra that share a part of their directions."""
    rng = np.random.default_rng([seed, *shape, *ranks])
    most = max(ranks)
    common = rng.normal(size=(shape[0], most)), rng.normal(size=(most, shape[1]))
    found = []
    for index, rank in enumerate(ranks):
        up = rng.normal(size=(shape[0], rank)) + 0.5 * (-1) ** index * common[0][:, :rank]
        down = rng.normal(size=(rank, shape[1])) + 0.5 * common[1][:rank]
        up *= slope ** np.arange(rank)
        found.append(factors(up, down, scale=0.25 * (1 + index), dtype=dtype))
    return found


def group_of(members: Sequence[Member], key: str = KEY) -> Group:
    rows, cols = members[0].delta.shape
    owners = tuple(range(len(members)))
    return Group(Target(key, (rows, cols)), tuple(m.stored for m in members), owners)


def statistics(
    members: Sequence[Member],
    samples: int | None,
    *,
    threads: int | None = None,
    key: str = KEY,
) -> GroupStatistics:
    """What pass 1 says of one group."""
    found = analyze([group_of(members, key)], (), samples=samples, threads=threads)
    return found.groups[0]


def check(members: Sequence[Member], samples: int | None) -> None:
    """Compare everything with the oracle."""
    found = statistics(members, samples)
    key = group_of(members).target.key_hash
    deltas = [m.delta for m in members]
    gram = np.array([[float((a * b).sum()) for b in deltas] for a in deltas])
    np.testing.assert_allclose(found.gram, gram, rtol=0, atol=NEAR * gram.max())
    for member, got in zip(members, found.deltas, strict=True):
        assert got.rank == member.down.shape[0]
        expected = oracle.delta_statistics(member.delta, key, samples or 384)
        for name in ("norm", "stable_rank", "effective_rank", "participation"):
            near = getattr(expected, name)
            np.testing.assert_allclose(getattr(got, name), near, rtol=1e-4, err_msg=name)
        size = oracle.sample(member.delta.shape, samples or 384, key).of(member.delta).size
        assert abs(got.density - expected.density) <= 1.5 / size + 1e-4 * expected.density
        room = NEAR * max(expected.magnitudes)
        np.testing.assert_allclose(got.magnitudes, expected.magnitudes, atol=room, rtol=0)
    check_pairs(members, found, samples)


def check_pairs(members: Sequence[Member], found: GroupStatistics, samples: int | None) -> None:
    """Compare all pairs with the oracle."""
    met = [(i, j) for i in range(len(members)) for j in range(i + 1, len(members))]
    assert [(pair.first, pair.second) for pair in found.pairs] == met
    looked = oracle.sample(
        members[0].delta.shape,
        max(members[0].delta.shape) if samples is None else samples,
        group_of(members).target.key_hash,
    )
    for (i, j), pair in zip(met, found.pairs, strict=True):
        a, b = looked.of(members[i].delta), looked.of(members[j].delta)
        _check_sums(pair, a, b)
        _check_errors(pair, a, b)
        _check_directions(pair, members[i], members[j])


def _check_sums(got: PairStatistics, a: F64, b: F64) -> None:
    """Sums, relative to the sums of their magnitudes."""
    sums = oracle.pair_sums(a, b)
    assert (got.looked, got.positions) == (sums["looked"], sums["positions"])
    # f32 products may turn the signs of entries that nearly cancel.
    assert abs(got.conflicts - sums["conflicts"]) <= 2 + 1e-5 * sums["positions"]
    squares = max(sums["first2"], sums["second2"])
    product = max(sums["product"], 1e-7 * squares)
    # An entry may be at the floor.
    floor = 3 * sums["floor_total"] + 1e3 * sums["total"] / max(sums["positions"], 1)
    for name, size in {
        "first2": sums["first2"],
        "second2": sums["second2"],
        "dot": product,
        "product": product,
        "total": sums["total"],
        "conflicting": sums["total"],
        "floor_total": floor,
        "floor_conflicting": floor,
    }.items():
        assert abs(getattr(got, name) - sums[name]) <= NEAR * size, name


def _check_errors(got: PairStatistics, a: F64, b: F64) -> None:
    for error, statistic in (
        (got.excess_error, oracle.excess),
        (got.loss_error, oracle.lost_excess),
    ):
        expected = oracle.standard_error(a, b, statistic)
        np.testing.assert_allclose(error, expected, rtol=5e-3, atol=2e-6)


def _check_directions(got: PairStatistics, first: Member, second: Member) -> None:
    a, b = first.delta, second.delta
    rows, cols = a.shape
    overlap = oracle.overlap([first.up, second.up], [first.down, second.down])
    for name, expected in {
        "overlap": overlap if a.any() and b.any() else 0.0,
        "left": oracle.weighted_overlap(a, b),
        "right": oracle.weighted_overlap(a.T, b.T),
        "left_chance": oracle.chance(a, b, rows),
        "right_chance": oracle.chance(a, b, cols),
    }.items():
        np.testing.assert_allclose(getattr(got, name), expected, 1e-4, 1e-6, err_msg=name)
