"""The figures of groups and stacks against dense deltas, with all signs of the weights."""

from collections.abc import Sequence

import numpy as np
import oracles_decisions as oracle
import pytest
from helpers import F64
from policies.builders import group, low_rank, stack

from loramix.analysis.statistics import GroupStatistics
from loramix.policies.published.measures import figures_of, figures_of_all, pair_cosines
from loramix.policies.published.members import members_of

RANKS = [2, 3, 4]
KEYS = ["unet.down_blocks.0.a", "unet.down_blocks.0.b", "unet.mid_block.x", "text_encoder.a.0"]
OWNERS = [(0, 1, 2), (0, 2), (1,), (0, 1, 2)]
SHAPES = [(12, 9), (7, 20), (10, 10), (8, 8)]


def rows_of(seed: int, *, holes: bool) -> list[dict[int, F64]]:
    """Deltas of three adapters that share a part; holes are a row and a column of zeros."""
    rng = np.random.default_rng(seed)
    rows = []
    for owners, shape in zip(OWNERS, SHAPES, strict=True):
        common = low_rank(rng, shape, 2)
        row = {}
        for owner in owners:
            own = low_rank(rng, shape, RANKS[owner] - 2) if RANKS[owner] > 2 else 0.0
            row[owner] = (owner + 0.3) * (common + own)
            if holes:
                row[owner][owner] = 0.0
                row[owner][:, 2 * owner + 1] = 0.0
        rows.append(row)
    return rows


def groups_of(rows: Sequence[dict[int, F64]]) -> list[GroupStatistics]:
    return [
        group(list(row.values()), [RANKS[i] for i in row], key, tuple(row))
        for key, row in zip(KEYS, rows, strict=True)
    ]


@pytest.mark.parametrize("weights", [[1, 1, 1], [0.5, -1.5, 2], [-1, -1, 3], [-0.2, 0.1, -4]])
@pytest.mark.parametrize("holes", [False, True])
def test_figures_follow_from_the_dense_deltas(weights: list[float], *, holes: bool) -> None:
    rows = rows_of(2, holes=holes)
    members = members_of(stack(groups_of(rows), weights), ())
    for row, own in zip(rows, members, strict=True):
        expected = oracle.of_group(row, weights, RANKS)
        got = figures_of(own).numbers()
        assert got["contributors"] == len(row)
        assert {name: got[name] for name in expected} == pytest.approx(expected, abs=1e-9)
        effective = oracle.effective(expected["excess_conflict"], expected["overlap"])
        assert got["effective_conflict"] == pytest.approx(effective, abs=1e-9)
    expected = oracle.of_stack(rows, [True, True, True, False], weights, RANKS)
    got = figures_of_all(members).numbers()
    assert {name: got[name] for name in expected} == pytest.approx(expected, abs=1e-9)


def test_pairs_that_share_no_position_have_no_figures() -> None:
    left, right = np.zeros((6, 8)), np.zeros((6, 8))
    left[:, :4], right[:, 4:] = 1.0, 2.0
    members = members_of(stack([group([left, right], [1, 1])]), ())
    got = figures_of(members[0]).numbers()
    zero = ("conflict", "weighted_conflict", "expected_conflict", "excess_conflict", "overlap")
    assert all(got[name] == 0 for name in (*zero, "cosine", "effective_conflict"))
    assert got["magnitude_ratio"] == 2.0
    assert pair_cosines(members) == {(0, 1): 0.0}


def test_quiet_positions_fall_back_to_the_plain_share() -> None:
    # Above the noise floor of the larger delta nothing is left of the smaller one.
    rng = np.random.default_rng(3)
    large, small = rng.normal(size=(20, 20)), 1e-3 * rng.normal(size=(20, 20))
    members = members_of(stack([group([large, small], [20, 20])]), ())
    row = {0: large, 1: small}
    expected = oracle.of_group(row, [1, 1], [20, 20])
    got = figures_of(members[0]).numbers()
    assert {name: got[name] for name in expected} == pytest.approx(expected, abs=1e-9)


def test_the_effective_conflict_jumps_where_overlap_begins() -> None:
    # A flaw of the publication, kept.
    assert oracle.effective(0.4, 0.0) == 0.4
    assert oracle.effective(0.4, 1e-9) == pytest.approx(0.2)


def test_weights_of_zero_count_nowhere() -> None:
    rows = rows_of(4, holes=False)
    groups = groups_of(rows)
    weights = [1.0, 0.0, -2.0]
    members = members_of(stack(groups, weights), ())
    left = [{i: d for i, d in row.items() if i != 1} for row in rows]
    for row, own in zip(left, members, strict=True):
        got, expected = figures_of(own).numbers(), oracle.of_group(row, weights, RANKS)
        assert own.count == own.contributors == len(row)
        assert {name: got[name] for name in expected} == pytest.approx(expected, abs=1e-9)
