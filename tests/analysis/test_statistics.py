"""Every number of pass 1 against the oracle, sampled and over all entries."""

import numpy as np
import pytest
from analysis.cases import check, check_pairs, dense, draw, factors, group_of, statistics
from helpers import F64
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from loramix import FormatError, ParamError
from loramix.analysis.passing import analyze

SHAPES = [(1, 1), (1, 37), (40, 1), (15, 17), (16, 16), (31, 33), (130, 257), (300, 41)]


@pytest.mark.parametrize("samples", [None, 16, 48, 384], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_all_numbers_are_those_of_the_oracle(shape: tuple[int, int], samples: int | None) -> None:
    check(draw(shape, [3, 5, 1]), samples)


@pytest.mark.parametrize("count", [1, 2, 3, 4])
@pytest.mark.parametrize("samples", [None, 20], ids=str)
def test_any_number_of_members(count: int, samples: int | None) -> None:
    check(draw((50, 70), [4, 2, 6, 3][:count]), samples)


@pytest.mark.parametrize("dtype", ["F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"])
@pytest.mark.parametrize("samples", [None, 33], ids=str)
def test_every_element_type(dtype: str, samples: int | None) -> None:
    check(draw((45, 64), [4, 4], dtype=dtype, slope=0.8), samples)


# A tile has 2^14 entries: a cell of 65 rows by these widths is a little more or less than one.
@pytest.mark.parametrize("cols", [16 * 251, 16 * 252, 16 * 253 + 3])
def test_cells_of_about_a_tile(cols: int) -> None:
    members = draw((16 * 65 + 1, cols), [2, 2])
    check_pairs(members, statistics(members, None), None)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 70),
    st.integers(1, 70),
    st.lists(st.integers(1, 9), min_size=1, max_size=4),
    st.one_of(st.none(), st.integers(1, 80)),
    st.integers(0, 99),
)
def test_any_shape(rows: int, cols: int, ranks: list[int], samples: int | None, seed: int) -> None:
    ranks = [min(rank, rows, cols) for rank in ranks]
    members = draw((rows, cols), ranks, seed=seed, slope=0.9)
    assume(all(is_clear(matrix) for m in members for matrix in (m.up, m.down)))
    check(members, samples)


def is_clear(factor: F64) -> bool:
    """No direction is about as small as those that the overlap does not count."""
    shares = np.linalg.svd(factor / np.linalg.norm(factor, 2), compute_uv=False)
    return not ((shares > 1e-6) & (shares < 1e-4)).any()


@pytest.mark.parametrize("samples", [None, 24], ids=str)
def test_zero_rows_and_columns_do_not_count(samples: int | None) -> None:
    first, second, third = draw((64, 50), [3, 3, 3])
    up, down = second.up.copy(), third.down.copy()
    up[10:40] = 0.0
    up[12] = -0.0
    down[:, 5:9] = -0.0
    check([first, factors(up, second.down), factors(third.up, down)], samples)


@pytest.mark.parametrize("samples", [None, 24], ids=str)
def test_disjoint_supports_meet_nowhere(samples: int | None) -> None:
    first, second = draw((64, 50), [3, 3])
    up, other = first.up.copy(), second.up.copy()
    up[32:], other[:32] = 0.0, -0.0
    members = [factors(up, first.down), factors(other, second.down)]
    check(members, samples)
    (pair,) = statistics(members, samples).pairs
    assert pair.positions == 0
    assert (pair.conflict, pair.cosine, pair.excess, pair.lost_excess) == (0, 0, 0, 0)
    assert (pair.published_ratio, pair.published_excess, pair.excess_error) == (0, 0, 0)


@pytest.mark.parametrize("samples", [None, 24], ids=str)
def test_a_delta_of_zeros(samples: int | None) -> None:
    first, second = draw((30, 40), [3, 2])
    zeros = factors(second.up, second.down, scale=0.0)
    check([first, zeros], samples)
    found = statistics([zeros, first, zeros], samples)
    assert found.deltas[0].norm == found.deltas[0].stable_rank == found.deltas[0].density == 0
    assert set(found.deltas[0].magnitudes) == {0.0}
    assert [pair.positions for pair in found.pairs] == [0, 0, 0]


@pytest.mark.parametrize("samples", [None, 24], ids=str)
@pytest.mark.parametrize("shape", [(40, 60), (60, 40)], ids=str)
def test_dense_differences(shape: tuple[int, int], samples: int | None) -> None:
    rng = np.random.default_rng(5)
    sparse = rng.normal(size=shape) * (rng.random(shape) < 0.3)
    sparse[0, :3] = -0.0
    (low,) = draw(shape, [4])
    check([dense(sparse), low, dense(rng.normal(size=shape), "BF16")], samples)


def test_values_that_vanish_in_f32_are_zeros_and_no_conflicts() -> None:
    big = factors(np.ones((20, 1)), np.ones((1, 30)))
    tiny = factors(np.full((20, 1), 1e-30), np.full((1, 30), -1e-30))
    (pair,) = statistics([big, tiny], None).pairs
    assert (pair.positions, pair.conflicts, pair.conflicting) == (0, 0, 0.0)
    # Between themselves they are as good as any.
    (pair,) = statistics([tiny, factors(tiny.up, -tiny.down)], None).pairs
    assert (pair.positions, pair.conflicts) == (600, 600)
    assert pair.cosine == pytest.approx(-1)


@pytest.mark.parametrize("size", [1e-25, 1e-6, 1e12])
@pytest.mark.parametrize("samples", [None, 24], ids=str)
def test_size_does_not_matter(size: float, samples: int | None) -> None:
    members = draw((40, 50), [3, 3, 3])
    check([factors(m.up * size, m.down, dtype="F64") for m in members], samples)


@pytest.mark.parametrize("samples", [None, 24], ids=str)
def test_dependent_columns_are_no_directions_of_their_own(samples: int | None) -> None:
    first, second = draw((40, 50), [3, 3], slope=1.0)
    repeated = factors(first.up[:, [0, 1, 2, 0, 1]] * [1, 1, 1, 2, 3], first.down[[0, 1, 2, 1, 0]])
    zeros = np.zeros((40, 2))
    wide = factors(np.hstack([second.up, zeros]), np.vstack([second.down, second.down[:2]]))
    check([repeated, wide, first], samples)
    found = statistics([repeated, first], samples)
    assert found.pairs[0].overlap == pytest.approx(1.0, abs=1e-5)


def test_identical_and_opposed_deltas() -> None:
    (one,) = draw((40, 50), [3])
    against = factors(-one.up, one.down)
    twin, opposed, _ = statistics([one, one, against], None).pairs
    assert (twin.conflicts, twin.conflicting, twin.floor_conflicting) == (0, 0.0, 0.0)
    assert opposed.conflicts == opposed.positions == 2000
    assert opposed.conflicting == opposed.total
    assert opposed.floor_conflicting == opposed.floor_total
    assert twin.cosine == pytest.approx(1)
    assert twin.left == pytest.approx(1)
    assert twin.shared == pytest.approx(1)
    assert (twin.excess, opposed.excess) == pytest.approx((0, 0), abs=1e-5)


def test_flipping_a_pair_is_flipping_a_delta() -> None:
    first, second = draw((60, 50), [3, 4])
    against = factors(-second.up, second.down)
    (pair,), (other,) = (statistics([first, x], 32).pairs for x in (second, against))
    flipped = pair.flipped()
    for name in ("conflicts", "dot", "total", "conflicting", "floor_conflicting", "excess"):
        assert getattr(flipped, name) == pytest.approx(getattr(other, name), rel=1e-6), name


@pytest.mark.parametrize("samples", [None, 40, 384], ids=str)
def test_bits_do_not_depend_on_threads_or_company(samples: int | None) -> None:
    stacks = [draw((700, 300), [5, 3, 4], seed=s) for s in range(3)]
    groups = [group_of(members, f"unet.{i}") for i, members in enumerate(stacks)]
    found = [analyze(groups, (), samples=samples, threads=threads) for threads in (1, 2, 5)]
    alone = [analyze([group], (), samples=samples).groups[0] for group in groups]
    for groups_of in [found[1].groups, found[2].groups, alone]:
        for one, other in zip(found[0].groups, groups_of, strict=True):
            assert (one.deltas, one.pairs) == (other.deltas, other.pairs)
            np.testing.assert_array_equal(one.gram, other.gram)


def test_the_block_depends_on_the_target() -> None:
    members = draw((200, 200), [3, 3])
    one, other = (statistics(members, 32, key=key) for key in ("unet.a", "unet.b"))
    assert one.pairs[0].dot != other.pairs[0].dot
    assert one.gram.tolist() == other.gram.tolist()


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("side", ["up", "down"])
@pytest.mark.parametrize("samples", [None, 8], ids=str)
def test_what_is_not_finite_is_refused(value: float, side: str, samples: int | None) -> None:
    good, (bad,) = draw((40, 50), [3, 2]), draw((40, 50), [2], seed=1)
    up, down = bad.up.copy(), bad.down.copy()
    (up if side == "up" else down)[1, 1] = value
    with pytest.raises(FormatError, match=f"{side} holds NaN or infinity"):
        statistics([*good, factors(up, down)], samples)


@pytest.mark.parametrize("samples", [None, 2], ids=str)
def test_products_beyond_f32(samples: int | None) -> None:
    huge = factors(np.array([[1e30, -1e30, 1e30]]).T, np.full((1, 4), 1e30))
    check([huge, huge], samples)  # entries are brought to a common size first
    up, down = np.array([[1e25, -1e25, 1.0], [0, 1, 2]]).T, np.array([[1.0, -1], [1e25, 1e25]])
    assert statistics([factors(up, down)] * 2, samples).pairs[0].positions > 0


def test_no_samples_are_refused() -> None:
    with pytest.raises(ParamError, match="samples = 0"):
        statistics(draw((4, 4), [1, 1]), 0)
