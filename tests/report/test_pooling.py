"""Pairs over many groups against all their entries in one row, in float64."""

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from helpers import F64
from report.stacks import ERROR, analysis, cosine_of, factors, modules

from loramix.analysis.pooling import MARGIN, Meetings, Pooled, weights_of
from loramix.analysis.statistics import Analysis

WEIGHTS = [(1.0, 1.0, 1.0), (0.7, -0.7, 0.7), (-1.0, -1.0, 1.0)]


def deltas(seed: int = 0) -> list[dict[str, F64]]:
    members = factors(modules(), 3, seed=seed)
    del members[1]["unet.conv_in"], members[2]["unet.conv_in"]
    return [{key: one.up @ one.down for key, one in each.items()} for each in members]


def pooled(found: Analysis, weights: Sequence[float]) -> dict[tuple[int, int], Pooled]:
    pairs = Meetings.of(found.groups, weights_of(found, weights), len(weights)).pool()
    return {(pair.first, pair.second): pair for pair in pairs}


@pytest.mark.parametrize("weights", WEIGHTS)
def test_sums_are_those_of_all_entries(weights: tuple[float, ...]) -> None:
    dense = deltas()
    found = pooled(analysis(dense), weights)
    assert list(found) == list(combinations(range(3), 2))
    for (i, j), pair in found.items():
        keys = sorted(set(dense[i]) & set(dense[j]))
        a = np.concatenate([weights[i] * dense[i][key].ravel() for key in keys])
        b = np.concatenate([weights[j] * dense[j][key].ravel() for key in keys])
        whole = [
            sum(float(((weights[k] * d) ** 2).sum()) for d in dense[k].values()) for k in (i, j)
        ]
        inner = [float((weights[i] * dense[i][k] * weights[j] * dense[j][k]).sum()) for k in keys]
        assert pair.groups == len(keys)
        assert pair.cosine == pytest.approx(a @ b / math.sqrt((a @ a) * (b @ b)), abs=1e-12)
        assert pair.adds == pytest.approx([a @ b / w for w in whole])
        assert pair.repeats == pytest.approx([sum(max(x, 0) for x in inner) / w for w in whole])
        taken = [
            sum(
                min(max(-x, 0), float(((weights[k] * dense[k][key]) ** 2).sum()))
                for x, key in zip(inner, keys, strict=True)
            )
            for k in (i, j)
        ]
        assert pair.cancels == pytest.approx([t / w for t, w in zip(taken, whole, strict=True)])
        assert pair.met == pytest.approx([a @ a / whole[0], b @ b / whole[1]])
        differ, smaller = a * b < 0, np.minimum(abs(a), abs(b))
        assert pair.signs is not None
        assert pair.signs.conflict == pytest.approx(differ.mean())
        assert pair.signs.weighted_conflict == pytest.approx(smaller[differ].sum() / smaller.sum())
        lost = 2 * abs(a * b)[differ].sum() / (a @ a + b @ b)
        assert pair.signs.lost == pytest.approx(lost)
        published = a @ b / math.sqrt((a @ a) * (b @ b))
        boost = 0.1 if published > -0.1 else 0.0
        expected = published * (1 - differ.mean()) + boost
        assert pair.signs.published == pytest.approx(expected)


def expected(cosine: float, ratio: float) -> tuple[float, float]:
    """Weighted conflict and lost energy of elliptical data, summed over directions."""
    theta = math.acos(cosine)
    phi = (np.arange(400_000) + 0.5) * 2 * math.pi / 400_000
    x, y = np.cos(phi), ratio * np.cos(phi - theta)
    smaller = np.minimum(abs(x), abs(y))
    lost = 2 * abs(x * y)[x * y < 0].sum() / (x * x + y * y).sum()
    return float(smaller[x * y < 0].sum() / smaller.sum()), float(lost)


@pytest.mark.parametrize("weights", WEIGHTS[:2])
def test_excesses_are_means_over_groups(weights: tuple[float, ...]) -> None:
    dense = deltas(3)
    # Large entries that clash here and agree there: one of them is trouble for either sign.
    for key, sign in ((modules()[0], 1), (modules()[1], -1)):
        a, b = dense[0][key], dense[1][key]
        turned = (sign * a * b > 0) & (abs(a * b) > np.quantile(abs(a * b), 0.8))
        dense[1][key] = np.where(turned, -b, b)
    pair = pooled(analysis(dense), weights)[0, 1]
    totals, energies, excesses, losses = [], [], [], []
    for key in sorted(set(dense[0]) & set(dense[1])):
        a, b = (weights[i] * dense[i][key].ravel() for i in (0, 1))
        smaller = np.minimum(abs(a), abs(b))
        cosine = a @ b / math.sqrt((a @ a) * (b @ b))
        conflict, loss = expected(cosine, math.sqrt((b @ b) / (a @ a)))
        totals.append(smaller.sum())
        energies.append(a @ a + b @ b)
        excesses.append(smaller[a * b < 0].sum() / smaller.sum() - conflict)
        losses.append(2 * abs(a * b)[a * b < 0].sum() / energies[-1] - loss)
    signs = pair.signs
    assert signs is not None
    parts = []
    for sums, values, mean, error in (
        (totals, excesses, signs.excess, signs.excess_error),
        (energies, losses, signs.lost_excess, signs.lost_error),
    ):
        share = np.array(sums) / sum(sums)
        assert mean == pytest.approx(share @ values, abs=1e-5)
        assert error == pytest.approx(ERROR * np.linalg.norm(share))
        parts.append(share @ [x if x > max(3 * ERROR, MARGIN) else 0.0 for x in values])
        if mean > max(3 * error, MARGIN):
            parts[-1] = max(parts[-1], mean)
    assert max(parts) > 0, "nothing is significant: the test shows nothing"
    assert signs.clash == pytest.approx(max(parts), abs=1e-5)


def test_a_weak_excess_everywhere_counts_together() -> None:
    found = analysis(deltas())
    # 3 % above expectation in every group, with an error that hides it in each of them.
    groups = []
    for group in found.groups:
        pairs = []
        for pair in group.pairs:
            more = pair.conflicting + (0.03 - pair.excess) * pair.total
            pairs.append(replace(pair, conflicting=more, excess_error=0.015))
        groups.append(replace(group, pairs=tuple(pairs)))
    signs = pooled(Analysis(tuple(groups)), (1.0, 1.0, 1.0))[0, 1].signs
    assert signs is not None
    assert signs.excess == pytest.approx(0.03)
    assert signs.clash == signs.excess
    assert signs.clash_error == signs.excess_error < 0.01


def test_overlap_is_beyond_chance() -> None:
    dense = deltas()
    signs = pooled(analysis(dense), (1.0, 1.0, 1.0))[0, 1].signs
    sums, contended, weights = 0.0, 0.0, 0.0
    for key in sorted(set(dense[0]) & set(dense[1])):
        a, b = dense[0][key], dense[1][key]
        size = float(np.linalg.norm(a) * np.linalg.norm(b))
        sides = []
        for x, y, dim in ((a, b, a.shape[0]), (a.T, b.T, a.shape[1])):
            g, h = x @ x.T, y @ y.T
            seen = (g * h).sum() / np.linalg.norm(g) / np.linalg.norm(h)
            part = [np.trace(m) ** 2 / np.linalg.norm(m) ** 2 for m in (g, h)]
            chance = math.sqrt(part[0] * part[1]) / dim
            sides.append((seen - chance) / (1 - chance))
        agreement = abs(float((a * b).sum())) / size
        contended += size * max(np.mean(sides) - agreement, 0.0)
        sums, weights = sums + size * np.mean(sides), weights + size
    assert signs is not None
    assert signs.overlap == pytest.approx(sums / weights)
    assert contended > 0
    assert signs.contention == pytest.approx(contended / weights)


def test_a_sample_stands_for_its_weight() -> None:
    """Half of the positions of one group looked at: counts as much as if all had been."""
    found = analysis(deltas())
    halved = []
    for i, group in enumerate(found.groups):
        pairs = group.pairs
        if i % 2:
            pairs = tuple(
                replace(
                    p, looked=p.looked // 2, positions=p.positions // 2, conflicts=p.conflicts // 2,
                    total=p.total / 2, conflicting=p.conflicting / 2, dot=p.dot / 2,
                    first2=p.first2 / 2, second2=p.second2 / 2, product=p.product / 2,
                )
                for p in group.pairs
            )  # fmt: skip
        halved.append(replace(group, pairs=pairs))
    all_of, some = (pooled(a, (1.0, 1.0, 1.0)) for a in (found, Analysis(tuple(halved))))
    for key, pair in all_of.items():
        a, b = pair.signs, some[key].signs
        assert a is not None
        assert b is not None
        assert b.conflict == pytest.approx(a.conflict, abs=2e-3)  # odd counts
        for name in ("weighted_conflict", "excess", "lost", "lost_excess", "overlap"):
            assert getattr(b, name) == pytest.approx(getattr(a, name))


def test_weights_by_target() -> None:
    """A weight of 0 takes the adapter out; others count by their geometric mean."""
    dense = deltas()
    found = analysis(dense)
    text = {"text_encoder*": 0.0, "*": 1.0}
    own = weights_of(found, [text, 1.0, 1.0])
    pairs = Meetings.of(found.groups, own, 3).pool()
    shared = [key for key in dense[0] if key in dense[1] and not key.startswith("text")]
    assert pairs[0].groups == len(shared) < pairs[2].groups
    louder = {"*mid_block*": 4.0, "*": 1.0}
    signs = Meetings.of(found.groups, weights_of(found, [louder, 1.0, 1.0]), 3).pool()[0].signs
    sums = [0.0, 0.0]
    for key in sorted(set(dense[0]) & set(dense[1])):
        a, b = dense[0][key], dense[1][key]
        smaller = np.minimum(abs(a), abs(b)) * (2.0 if "mid_block" in key else 1.0)
        sums[0] += smaller[a * b < 0].sum()
        sums[1] += smaller.sum()
    assert signs is not None
    assert signs.weighted_conflict == pytest.approx(sums[0] / sums[1])


def test_no_numbers_where_nothing_was_made() -> None:
    found = analysis(deltas())
    bare = Analysis(tuple(replace(g, gram=np.full_like(g.gram, np.nan)) for g in found.groups))
    grams = Analysis(tuple(replace(g, pairs=()) for g in found.groups))
    for pair in pooled(bare, (1.0, 1.0, 1.0)).values():
        assert (pair.cosine, pair.adds, pair.met, pair.signs) == (None, None, None, None)
    for pair in pooled(grams, (1.0, 1.0, 1.0)).values():
        assert pair.cosine is not None
        assert pair.signs is None


def test_planted_cosines_are_found_by_block() -> None:
    """What the map of a report rests on: the same pair differs by block."""
    found = analysis(deltas())
    meetings = Meetings.of(found.groups, weights_of(found), 3)
    for part, low, high in (("mid_block", -0.8, -0.4), ("down_blocks.2", 0.8, 1.0)):
        at = [i for i, group in enumerate(found.groups) if part in group.target.key]
        cosine = meetings.pool(at)[0].cosine
        assert cosine is not None
        assert low < cosine < high, (part, cosine_of(part))
