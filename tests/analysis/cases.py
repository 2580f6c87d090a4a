"""Groups in memory with their dense truth, and the comparison with the oracle."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TypeAlias

import numpy as np
import oracles_analysis as oracle
from helpers import F64, decode, encode

from loramix.analysis.passing import analyze
from loramix.analysis.statistics import GroupStatistics
from loramix.types import Factors, Group, Target, Tensor

KEY = "unet.somewhere"
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


def check(members: Sequence[Member], samples: int | None, *, rel: float = 2e-5) -> None:
    """Compare everything with the oracle; sums relative to the sums of their magnitudes."""
    found = statistics(members, samples)
    key = group_of(members).target.key_hash
    deltas = [m.delta for m in members]
    gram = np.array([[float((a * b).sum()) for b in deltas] for a in deltas])
    sizes = np.sqrt(np.diag(gram))
    np.testing.assert_allclose(found.gram, gram, rtol=0, atol=rel * (sizes.max() ** 2 + 1e-300))
    for delta, got, member in zip(deltas, found.deltas, members, strict=True):
        expected = oracle.delta_statistics(delta, key, samples or 384)
        assert got.rank == member.down.shape[0]
        for field in ("norm", "stable_rank", "effective_rank", "participation"):
            near = getattr(expected, field)
            np.testing.assert_allclose(getattr(got, field), near, rtol=1e-4, err_msg=field)
        size = oracle.sample(delta.shape, samples or 384, key).of(delta).size
        assert abs(got.density - expected.density) <= 1.5 / size + 1e-4 * expected.density
        biggest = max(expected.magnitudes)
        np.testing.assert_allclose(got.magnitudes, expected.magnitudes, atol=rel * biggest, rtol=0)
    met = [(i, j) for i in range(len(members)) for j in range(i + 1, len(members))]
    assert [(p.first, p.second) for p in found.pairs] == met
    for (i, j), got in zip(met, found.pairs, strict=True):
        check_pair(members[i], members[j], got, samples, key, rel)


def check_pair(
    first: Member, second: Member, got: object, samples: int | None, key: int, rel: float
) -> None:
    """One pair: sums, standard errors, directions."""
    shape = first.delta.shape
    looked = oracle.sample(shape, samples or max(shape), key)
    a, b = looked.of(first.delta), looked.of(second.delta)
    sums = oracle.pair_sums(a, b)
    numbers = {field.name: getattr(got, field.name) for field in fields(got)}  # type: ignore[arg-type]
    for name in ("looked", "positions"):
        assert numbers[name] == sums[name], name
    # f32 products may turn the signs of entries that nearly cancel.
    assert abs(numbers["conflicts"] - sums["conflicts"]) <= 2 + 1e-5 * sums["positions"]
    squares = max(sums["first2"], sums["second2"], 1e-300)
    scale = {"first2": sums["first2"], "second2": sums["second2"]}
    for name in ("dot", "product"):
        scale[name] = max(sums["product"], 1e-7 * squares)
    for name in ("total", "conflicting"):
        scale[name] = sums["total"]
    for name in ("floor_total", "floor_conflicting"):  # an entry may be beside the floor
        scale[name] = sums["floor_total"] * 3 + 1e3 * sums["total"] / max(sums["positions"], 1)
    for name, size in scale.items():
        assert abs(numbers[name] - sums[name]) <= rel * size, (name, numbers[name], sums[name])
    for name, statistic in (
        ("excess_error", oracle.excess),
        ("loss_error", oracle.lost_excess),
    ):
        expected = oracle.standard_error(a, b, statistic)
        np.testing.assert_allclose(numbers[name], expected, rtol=5e-3, atol=2e-6, err_msg=name)
    ups, downs = [first.up, second.up], [first.down, second.down]
    dense = [first.delta, second.delta]
    rows, cols = shape
    there = all(np.any(delta) for delta in dense)
    expected = {
        "overlap": oracle.overlap(ups, downs) if there else 0.0,
        "left": oracle.weighted_overlap(*dense),
        "right": oracle.weighted_overlap(dense[0].T, dense[1].T),
        "left_chance": oracle.chance(*dense, rows),
        "right_chance": oracle.chance(*dense, cols),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(numbers[name], value, rtol=1e-4, atol=1e-6, err_msg=name)
