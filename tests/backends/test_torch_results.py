"""Factors of what programs make in torch, in every space, beside float64 truths."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from backends.steps import (
    BACKEND,
    HERE,
    TIES,
    WEIGHTS,
    check_account,
    cleaned,
    delta_of,
    from_rust,
    group_of,
    inner,
    job_of,
    low_rank,
    read,
    step_of,
    tail,
)
from helpers import F64
from oracles import philox, ties

from loramix.backends.rust import RustBackend
from loramix.methods.base import Keep, Program, Selfish
from loramix.raw import RawGroup, Site


def dense_of(group: RawGroup, program: Program, site: Site = HERE) -> F64:
    """What the Rust kernels make of the deltas of a group, with weights of one file."""
    deltas = [d.astype(np.float32) for d in delta_of(group)]
    weights = WEIGHTS[: len(deltas)]
    # The weights are in the factors: divide by them first, so that the kernels put them back.
    plain = [d / np.float32(w) for d, w in zip(deltas, weights, strict=True)]
    return from_rust(plain, weights, program, site).astype(np.float64)


@pytest.mark.parametrize("shape", [(40, 60), (60, 40), (300, 400), (400, 290), (1, 9), (9, 1)])
@pytest.mark.parametrize("decay", [0.0, 3.0])
@pytest.mark.parametrize("rank", [1, 5, 15])
def test_condense_is_near_the_best_and_its_error_is_true(
    shape: tuple[int, int], decay: float, rank: int
) -> None:
    step, group = step_of(19, shape, 5, decay)
    job = job_of([(*shape, min(rank, *shape))], rank=rank)
    (made,) = BACKEND.condense([step], TIES, "weight", job)
    dense = dense_of(group, TIES)
    written = read(job, 0, *shape, made)
    error = np.linalg.norm(written - dense) / np.linalg.norm(dense)
    assert abs(made.norm / np.linalg.norm(dense) - 1) < 1e-5
    assert abs(made.cut - error) < 1e-4 * error + 2e-6
    assert made.cut <= 1.02 * tail(dense, rank) + 2e-6
    assert made.rank <= min(rank, *shape)
    check_account(made, group, written)


def test_condense_agrees_with_the_kernels() -> None:
    steps = [step_of(seed, (300, 290), 4, 1.0)[0] for seed in (20, 21)]
    jobs = [job_of([(300, 290, 12)] * 2, "BF16", rank=12) for _ in range(2)]
    ours = BACKEND.condense(steps, TIES, "weight", jobs[0])
    theirs = RustBackend().condense(steps, TIES, "weight", jobs[1])
    for one, two in zip(ours, theirs, strict=True):
        assert one.rank == two.rank
        assert abs(one.norm / two.norm - 1) < 1e-5
        assert 0.94 * two.cut < one.cut <= two.cut * (1 + 1e-5)
        assert np.abs(np.subtract(one.sketch, two.sketch)).max() < 1e-4 * one.norm


@pytest.mark.parametrize("shape", [(40, 60), (300, 290)])
def test_a_rule_is_that_of_the_result(shape: tuple[int, int]) -> None:
    step, group = step_of(22, shape, 6)
    squares = np.linalg.svd(dense_of(group, TIES), compute_uv=False) ** 2
    held = np.cumsum(squares) / squares.sum()
    (made,) = BACKEND.condense([step], TIES, "weight", job_of([(*shape, 18)], energy=0.4))
    assert made.rank == int(np.argmax(held >= 0.4)) + 1
    (made,) = BACKEND.condense([step], TIES, "weight", job_of([(*shape, 18)], max_error=0.8))
    assert made.rank == int(np.argmax(1 - held <= 0.64)) + 1
    assert made.cut <= 0.8
    job = job_of([(*shape, min(shape))], max_error=1e-3)
    (made,) = BACKEND.condense([step], TIES, "weight", job)
    assert made.rank == int(np.argmax(1 - held <= 1e-6)) + 1
    assert made.cut <= 1e-3
    job = job_of([(*shape, 18)], rank=18, max_error=1e-3)
    (made,) = BACKEND.condense([step], TIES, "weight", job)
    assert made.rank == 18  # the limit
    assert made.cut > 1e-3


@pytest.mark.parametrize("shape", [(40, 60), (300, 290)])
def test_what_has_low_rank_is_found_whole(shape: tuple[int, int]) -> None:
    step, group = step_of(23, shape, 3)
    job = job_of([(*shape, 20)], rank=20)
    (made,) = BACKEND.condense([step], Program(), "weight", job)
    assert made.rank == 9
    dense = sum(delta_of(group))
    assert np.linalg.norm(read(job, 0, *shape, made) - dense) < 2e-6 * np.linalg.norm(dense)
    assert made.cut < 1e-6


@pytest.mark.parametrize("space", ["weight", "knots", "core"])
def test_parts_stand_where_they_belong(space: Any) -> None:
    rng = np.random.default_rng(24)
    pair = lambda rows: (rng.normal(size=(rows, 2)), rng.normal(size=(2, 31)))  # noqa: E731
    groups = [group_of([pair(9) for _ in range(n)], WEIGHTS[:n], 9, 31) for n in (2, 1)]
    site = Site(1, 2, norm=5.0)
    parts = [(groups[0], WEIGHTS[:2], site, 2, False), (groups[1], WEIGHTS[:1], site, 15, True)]
    job = job_of([(27, 31, 6)])
    (made,) = BACKEND.condense([(27, 31, 3, parts)], Program(), space, job)
    dense = np.zeros((27, 31))
    both = sum(delta_of(groups[0]))
    dense[2:11] = both * min(5.0 / np.linalg.norm(both), 2.0)
    dense[15:24] = delta_of(groups[1])[0]
    written = read(job, 0, 27, 31, made)
    assert np.linalg.norm(written - dense) < 3e-6 * np.linalg.norm(dense)
    moved = [
        (*m[:6], m[6] + start, m[7]) for g, start in zip(groups, (2, 15), strict=True) for m in g[2]
    ]
    check_account(made, (27, 31, moved), dense)
    z, x = (
        (1.0 - 2.0 * (philox(0, 3, place, n) >> 31).astype(float))[:, None]
        * (np.arange(8) == np.arange(n)[:, None] % 8)
        for place, n in ((1, 27), (0, 31))
    )
    assert np.abs(np.array(made.sketch) - (z.T @ dense @ x).ravel()).max() < 1e-4


@pytest.mark.parametrize("space", ["weight", "knots", "core"])
@pytest.mark.parametrize("program", [Program(), TIES, Program(reduce="average", clean=True)])
def test_nothing_is_rank_one_of_zeros(space: Any, program: Program) -> None:
    ((_, (up, down)),) = low_rank(25, 1, (12, 10), 2)
    cancels = group_of([(up, down), (up, down)], [1.0, -1.0], 12, 10)
    nothing = group_of([(0 * up, down), (up, 0 * down)], [1.0, -1.0], 12, 10)
    for group in (cancels, nothing):
        job = job_of([(12, 10, 4)])
        job.arena[:] = 255
        step = (12, 10, 0, [(group, [1.0, -1.0], Site(), 0, False)])
        (made,) = BACKEND.condense([step], program, space, job)
        assert (made.rank, made.norm, made.cut) == (1, 0.0, 0.0)
        assert not read(job, 0, 12, 10, made).any()
        assert not made.along.any()


def in_space(group: RawGroup, weights: Sequence[float], space: str, density: float) -> F64:
    """TIES on coefficients in joint singular vectors, in float64."""
    deltas = delta_of(group)
    rank = sum(m[4] for m in group[2])
    left = np.linalg.svd(np.concatenate(deltas, axis=1))[0][:, :rank]
    right = np.linalg.svd(np.concatenate(deltas))[2][:rank]
    if space == "knots":
        right = np.eye(group[1])
    small = [left.T @ d @ right.T / w for d, w in zip(deltas, weights, strict=True)]
    return left @ ties(small, weights, density) @ right


@pytest.mark.parametrize("space", ["knots", "core"])
@pytest.mark.parametrize("shape", [(60, 80), (80, 60)])
def test_programs_in_a_space_equal_the_definition(space: Any, shape: tuple[int, int]) -> None:
    step, group = step_of(26, shape, 4, 1.0)
    job = job_of([(*shape, 12)])
    (made,) = BACKEND.condense([step], TIES, space, job)
    expected = in_space(group, WEIGHTS[:3], space, 0.3)
    written = read(job, 0, *shape, made)
    assert made.rank <= 12
    assert np.linalg.norm(written - expected) < 1e-5 * np.linalg.norm(expected)
    check_account(made, group, written)
    small = job_of([(*shape, 3)], rank=3)
    (cut,) = BACKEND.condense([step], TIES, space, small)
    assert abs(cut.cut - tail(expected, 3)) < 1e-5
    check_account(cut, group, read(small, 0, *shape, cut))


@pytest.mark.parametrize("space", ["knots", "core"])
def test_a_sum_is_the_same_in_every_space(space: Any) -> None:
    step, group = step_of(27, (33, 50), 3)
    job = job_of([(33, 50, 9)])
    BACKEND.condense([step], Program(), space, job)
    (made,) = BACKEND.condense([step], Program(), space, job)
    dense = sum(delta_of(group))
    assert np.linalg.norm(read(job, 0, 33, 50, made) - dense) < 2e-6 * np.linalg.norm(dense)


@pytest.mark.parametrize("space", ["weight", "knots", "core"])
def test_clean_in_every_space(space: Any) -> None:
    step, group = step_of(28, (300, 280), 4)
    program = Program(Keep("largest", 0.3), vote="mass", reduce="mean", clean=True)
    job = job_of([(300, 280, 12)])
    (made,) = BACKEND.condense([step], program, space, job)
    plain = job_of([(300, 280, 12)])
    (dirty,) = BACKEND.condense([step], replace(program, clean=False), space, plain)
    assert abs(made.norm / dirty.norm - 1) < 1e-5
    if space == "weight":
        expected = cleaned(dense_of(group, replace(program, clean=False)), delta_of(group))
        written = read(job, 0, 300, 280, made)
        assert np.linalg.norm(written - expected) < (1e-3 + tail(expected, 12)) * made.norm
        check_account(made, group, written)


@pytest.mark.parametrize("space", ["weight", "knots", "core"])
def test_what_is_kept(space: Any) -> None:
    step, group = step_of(29, (20, 30), 3)
    (found,) = BACKEND.kept([step], Program(), space, threads=None)
    expected = inner(delta_of(group))
    assert np.abs(found[0] - expected).max() < 1e-5 * np.abs(expected).max()
    program = Program(Keep("largest", 0.25), Selfish(2.0))
    (found,) = BACKEND.kept([step], program, space, threads=None)
    assert np.trace(found[0]) < np.trace(expected)
    if space == "weight":
        kept = []
        for delta in delta_of(group):
            limit = np.sort(np.abs(delta).ravel())[-150]
            kept.append(np.where(np.abs(delta) >= limit, delta, 0.0))
        sizes = np.abs(np.stack(kept))
        largest, second = np.sort(sizes, axis=0)[::-1][:2]
        selfish = (largest >= 2 * second) & (largest > 0) & (sizes == largest)
        truth = inner([np.where(s, 0.0, k) for s, k in zip(selfish, kept, strict=True)])
        assert np.abs(found[0] - truth).max() < 1e-5 * np.abs(expected).max()
