"""Programs on dense deltas: torch beside the Rust kernels, bit by bit."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest
import torch
from backends.steps import (
    BACKEND,
    CPU,
    ELSEWHERE,
    KEEPS,
    SELFISH,
    TIES,
    WEIGHTS,
    cleaned,
    draw,
    from_rust,
    low_rank,
)
from helpers import F64
from oracles import philox

from loramix.backends import torch_draws
from loramix.methods.base import Keep, Program, Selfish
from loramix.raw import Site


@pytest.mark.parametrize(
    ("seed", "target", "adapter", "element", "word"),
    [
        (0, 0, 0, 0, 0x6627E8D5),
        (0, 0, 0, 5, 0x5CB200DB),
        (1, 2, 3, 4, 0x21260774),
        (0x0123456789ABCDEF, 0xFEDCBA9876543210, 65535, 0x3FFFFFFFFFFFF, 0x75C8B351),
        (0xFFFFFFFFFFFFFFFF, 0x8000000000000000, 1, 0x400000002, 0x40653EC8),
    ],
)
def test_words_are_those_of_the_specification(
    seed: int, target: int, adapter: int, element: int, word: int
) -> None:
    assert int(torch_draws.words(seed, target, adapter, 1, CPU, element)[0]) == word


@pytest.mark.parametrize(("first", "count"), [(0, 1), (0, 17), (3, 2), (4, 4), (7, 30)])
def test_words_from_any_element_on(first: int, count: int) -> None:
    expected = philox(2**64 - 3, 5, 9, first + count)[first:]
    got = torch_draws.words(2**64 - 3, 5, 9, count, CPU, first)
    assert got.tolist() == expected.tolist()


def same_bits(program: Program, deltas: Sequence[Any], site: Site = ELSEWHERE) -> None:
    weights = WEIGHTS[: len(deltas)]
    expected = from_rust(deltas, weights, program, site)
    got = BACKEND.run(deltas, weights, program, site, threads=None)
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got.view(np.int32), expected.view(np.int32), str(program))


def levels(seed: int, count: int, shape: tuple[int, ...]) -> list[Any]:
    """Integers: equal magnitudes, zeros, drawn votes."""
    rng = np.random.default_rng(seed)
    return [rng.integers(-2, 3, size=shape).astype(np.float32) for _ in range(count)]


VOTES = ["none", "mass", "count", "mass-or-positive", "count-or-positive"]

BALLOTS = ["weighted", "signed", "plain"]

REDUCES = ["sum", "average", "mean", "count", "signed-share", "importance"]


def test_every_word_of_a_program_is_tried() -> None:
    """A rule that only the kernels know would be carried out as another one."""
    words = get_type_hints(Program)
    for name, tried in (("vote", VOTES), ("ballot", BALLOTS), ("reduce", REDUCES)):
        assert set(get_args(words[name])) == set(tried)
    assert set(get_args(get_type_hints(Keep)["rule"])) == {keep.rule for keep in KEEPS}


@pytest.mark.parametrize("vote", VOTES)
@pytest.mark.parametrize("reduce", REDUCES)
def test_votes_and_reductions(vote: Any, reduce: Any) -> None:
    for ballot in BALLOTS:
        program = Program(KEEPS[1], None, vote, ballot, reduce)  # type: ignore[arg-type]
        same_bits(program, draw(1, 4, (31, 33)))
        same_bits(program, levels(2, 4, (31, 33)))


@pytest.mark.parametrize("keep", KEEPS, ids=str)
@pytest.mark.parametrize("selfish", SELFISH, ids=str)
def test_keeps_and_selfish_entries(keep: Keep, selfish: Selfish | None) -> None:
    program = Program(keep, selfish, "mass", "signed", "mean")
    mix = np.random.default_rng(0).normal(size=9).tolist()
    for most in (1.0, 0.2):
        same_bits(program, draw(3, 3, (33, 31)), Site(5, 11, most))
        same_bits(program, levels(4, 3, (33, 31)), Site(5, 11, most, 2.0, mix))


@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (1, 1), (1, 31), (31, 1), (257, 33)], ids=str)
@pytest.mark.parametrize("count", [1, 2, 3, 6])
def test_every_shape_and_count(shape: tuple[int, int], count: int) -> None:
    for keep in KEEPS:
        same_bits(Program(keep, None, "count", "weighted", "signed-share"), draw(5, count, shape))
    same_bits(Program(KEEPS[1], SELFISH[1]), levels(6, count, shape))


def test_all_entries_equal_or_zero() -> None:
    for value in (0.0, -0.0, 2.5, 1e-42):
        deltas = [np.full((9, 40), value, dtype=np.float32), np.full((9, 40), -value, np.float32)]
        for keep in KEEPS:
            same_bits(Program(keep, None, "mass", "weighted", "mean"), deltas)
            same_bits(Program(keep, SELFISH[1]), deltas)


def test_an_energy_counts_across_blocks_of_the_sum() -> None:
    deltas = levels(7, 2, (300, 70))
    for share in (0.01, 0.37, 0.5, 0.999):
        same_bits(Program(Keep("energy", share)), deltas)


def test_rows_of_very_different_size() -> None:
    deltas = [d * np.logspace(-30, 30, 31)[:, None].astype(np.float32) for d in draw(8, 3, (31, 8))]
    for keep in KEEPS:
        same_bits(Program(keep, SELFISH[1], reduce="importance"), deltas)


@pytest.mark.parametrize("dtype", ["float64", "float16"])
def test_deltas_of_other_types(dtype: str) -> None:
    for keep in KEEPS:
        same_bits(Program(keep, None, "mass", "weighted", "mean"), draw(9, 3, (31, 33), dtype))


def test_tensors_of_any_kind() -> None:
    tensors = [torch.from_numpy(d).to(torch.bfloat16).T[::2] for d in draw(10, 3, (12, 40))]
    tensors[0].requires_grad_()
    before = [t.detach().clone() for t in tensors]
    got = BACKEND.run(tensors, WEIGHTS[:3], TIES, Site(), threads=None)
    assert (got.dtype, got.shape, got.requires_grad) == (torch.float32, (20, 12), False)
    plain = [t.detach().float().numpy() for t in tensors]
    assert np.array_equal(got.numpy(), from_rust(plain, WEIGHTS[:3], TIES, Site()))
    assert all(torch.equal(t.detach(), b) for t, b in zip(tensors, before, strict=True))


def test_arrays_of_any_number_of_axes() -> None:
    flat = draw(11, 2, (1, 60))
    for shape in [(60,), (4, 3, 5), (1, 60)]:
        deltas = [d.reshape(shape).astype(">f4") for d in flat]
        got = BACKEND.run(deltas, [1.0, 0.5], TIES, Site(), threads=None)
        assert got.shape == shape
        rows = shape[0] if len(shape) > 1 else 1
        expected = from_rust([d.reshape(rows, -1) for d in flat], [1.0, 0.5], TIES, Site())
        assert np.array_equal(got.reshape(rows, -1), expected)


def test_a_mix_is_made_from_what_is_kept() -> None:
    deltas, weights = draw(12, 3, (20, 30)), np.array(WEIGHTS[:3])
    seen: list[F64] = []

    def mix(gram: F64, own: F64) -> F64:
        seen.append(gram)
        return np.diag(own)

    program = Program(Keep("largest", 0.5))
    got = BACKEND.run(deltas, WEIGHTS[:3], program, Site(), mix=mix, threads=None)
    alone = [from_rust([d], [w], program, Site()) for d, w in zip(deltas, weights, strict=True)]
    flat = np.stack([kept.ravel() for kept in alone]).astype(np.float64)
    assert np.allclose(seen[0], flat @ flat.T, rtol=1e-12)
    expected = sum(w * kept.astype(np.float64) for w, kept in zip(weights, alone, strict=True))
    assert np.abs(got - expected).max() < 1e-6


@pytest.mark.parametrize("shape", [(60, 90), (90, 60), (64, 64)])
def test_clean_shrinks_singular_values(shape: tuple[int, int]) -> None:
    deltas = [d for d, _ in low_rank(13, 3, shape, 3)]
    program = Program(Keep("largest", 0.6), vote="mass", reduce="mean", clean=True)
    plain = replace(program, clean=False)
    dirty = BACKEND.run(deltas, WEIGHTS[:3], plain, Site(), threads=None).astype(np.float64)
    got = BACKEND.run(deltas, WEIGHTS[:3], program, Site(), threads=None)
    expected = cleaned(dirty, deltas)
    assert np.linalg.norm(got - expected) < 1e-4 * np.linalg.norm(expected)


def test_clean_leaves_what_is_in_the_span() -> None:
    (delta,) = draw(14, 1, (20, 30))
    program = Program(reduce="importance", clean=True)
    got = BACKEND.run([delta, delta], [1.0, 0.5], program, Site(), threads=None)
    plain = BACKEND.run(
        [delta, delta], [1.0, 0.5], replace(program, clean=False), Site(), threads=1
    )
    assert np.array_equal(got, plain)
