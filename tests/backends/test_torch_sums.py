"""Sums and mixed sums in torch: cut best, and told truly."""

import numpy as np
import pytest
from backends.steps import (
    BACKEND,
    WEIGHTS,
    check_account,
    delta_of,
    group_of,
    inner,
    job_of,
    low_rank,
    read,
    step_of,
    tail,
)

from loramix.backends.base import Mixed
from loramix.backends.rust import RustBackend
from loramix.methods.base import Program


@pytest.mark.parametrize("shape", [(40, 60), (60, 7), (3, 50)])
def test_sums_are_cut_best(shape: tuple[int, int]) -> None:
    pairs = [p for _, p in low_rank(30, 3, shape, 4)]
    group = group_of(pairs, WEIGHTS[:3], *shape)
    dense = sum(delta_of(group))
    rank = min(5, *shape)
    job = job_of([(*shape, rank)], rank=rank)
    (made,) = BACKEND.recompress([group], job)
    written = read(job, 0, *shape, made)
    assert made.rank == rank
    assert abs(made.norm / np.linalg.norm(dense) - 1) < 1e-12
    assert abs(made.cut - tail(dense, rank)) < 1e-9
    error = np.linalg.norm(written - dense) / np.linalg.norm(dense)
    assert abs(error - made.cut) < 1e-6
    assert abs(made.rounding**2 / np.trace(inner(delta_of(group))) - 1) < 1e-12
    check_account(made, group, written)


def test_sums_that_need_no_cut_are_those_of_the_kernels() -> None:
    groups = [
        group_of([p for _, p in low_rank(s, 2, (20, 30), 3)], [1.0, 0.3], 20, 30) for s in (31, 32)
    ]
    ours, theirs = job_of([(20, 30, 6)] * 2, "BF16"), job_of([(20, 30, 6)] * 2, "BF16")
    made = BACKEND.recompress(groups, ours)
    rust = RustBackend().recompress(groups, theirs)
    assert np.array_equal(ours.arena, theirs.arena)
    for one, two, group in zip(made, rust, groups, strict=True):
        assert (one.rank, one.norm, one.rounding, one.cut) == (
            two.rank, two.norm, two.rounding, two.cut,
        )  # fmt: skip
        check_account(one, group, sum(delta_of(group)))


def test_energy_and_error_of_a_sum() -> None:
    pairs = [p for _, p in low_rank(33, 2, (50, 40), 6, 2.0)]
    group = group_of(pairs, [1.0, 1.0], 50, 40)
    squares = np.linalg.svd(sum(delta_of(group)), compute_uv=False) ** 2
    held = np.cumsum(squares) / squares.sum()
    (made,) = BACKEND.recompress([group], job_of([(50, 40, 12)], energy=0.9))
    assert made.rank == int(np.argmax(held >= 0.9)) + 1
    (made,) = BACKEND.recompress([group], job_of([(50, 40, 12)], max_error=0.1))
    assert made.rank == int(np.argmax(1 - held <= 0.01)) + 1
    (made,) = BACKEND.recompress([group], job_of([(50, 40, 12)], max_error=0.0))
    assert made.rank == 12


@pytest.mark.parametrize("rank", [None, 3])
def test_mixed_sums(rank: int | None) -> None:
    pairs = [p for _, p in low_rank(34, 2, (30, 40), 4)]
    group = group_of(pairs, [0.5, -2.0], 30, 40)
    rng = np.random.default_rng(35)
    a, b = rng.normal(size=(8, 5)), rng.normal(size=(5, 8))
    up = np.concatenate([0.5 * pairs[0][0], -2.0 * pairs[1][0]], axis=1).astype(np.float64)
    dense = up @ a @ b @ np.concatenate([p[1] for p in pairs]).astype(np.float64)
    job = job_of([(30, 40, 5)], rank=rank)
    (made,) = BACKEND.recompress([group], job, [Mixed(a, b, 0)])
    assert made.rank == (rank or 5)
    written = read(job, 0, 30, 40, made)
    error = np.linalg.norm(written - dense) / np.linalg.norm(dense)
    assert abs(made.norm / np.linalg.norm(dense) - 1) < 1e-9
    assert abs(error - tail(dense, rank or 5)) < 1e-6
    assert abs(made.cut - tail(dense, rank or 5)) < 1e-9
    check_account(made, group, written)


def test_cores_and_mixers_belong_together() -> None:
    pairs = [p for _, p in low_rank(36, 3, (30, 40), 4)]
    group = group_of(pairs, [0.5, -2.0, 0.0], 30, 40)
    (found,) = BACKEND.cores([group], [np.array([1.0, 2.0, 1.0])], threads=None)
    job = job_of([(30, 40, 12)])
    mixer = Mixed(found.left @ sum(found.cores), found.right.T, 0)
    (made,) = BACKEND.recompress([group], job, [mixer])
    dense = sum(delta_of(group))
    assert np.linalg.norm(read(job, 0, 30, 40, made) - dense) < 1e-6 * np.linalg.norm(dense)


def test_sums_that_cancel_are_zero() -> None:
    ((_, (up, down)),) = low_rank(37, 1, (12, 10), 2)
    group = group_of([(up, down), (up, down)], [1.0, -1.0], 12, 10)
    job = job_of([(12, 10, 1)], rank=1)
    (made,) = BACKEND.recompress([group], job)
    assert (made.rank, made.norm, made.cut) == (1, 0.0, 0.0)
    assert made.rounding > 1
    assert not read(job, 0, 12, 10, made).any()


def test_alpha_is_undone_by_the_reader() -> None:
    step, group = step_of(38, (30, 20), 2)
    job = job_of([(30, 20, 6)], alpha=2.0)
    (made,) = BACKEND.condense([step], Program(), "knots", job)
    dense = sum(delta_of(group))
    written = read(job, 0, 30, 20, made) * 2.0 / made.rank
    assert np.linalg.norm(written - dense) < 2e-6 * np.linalg.norm(dense)
