"""Which adapters go together: planted relations, the score part by part, clusters, words."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import cast

import numpy as np
import pytest
from helpers import F64
from report.stacks import analysis

from loramix import ParamError
from loramix.analysis.compat import Kind, Pairing, compatibility, linked
from loramix.analysis.pooling import Meetings, weights_of
from loramix.analysis.statistics import Analysis
from loramix.report.compatibility import render
from loramix.report.facts import Overview
from loramix.report.verdict import verdict

KEYS = [f"unet.blocks.{i}.to_q" for i in range(4)]
SHAPE = (64, 48)
NAMES = ("first", "second")


def low_rank(rng: np.random.Generator, rank: int = 8) -> F64:
    return np.asarray(rng.normal(size=(SHAPE[0], rank)) @ rng.normal(size=(rank, SHAPE[1])))


def one(seed: int, keys: Sequence[str] = KEYS) -> dict[str, F64]:
    rng = np.random.default_rng(seed)
    return {key: low_rank(rng) for key in keys}


def turned(
    base: Mapping[str, F64], cosine: float, seed: int, *, flip: bool = False
) -> dict[str, F64]:
    """The same at an exact cosine; with `flip` opposed in the second half of the targets."""
    found = {}
    rng = np.random.default_rng(seed)
    for i, (key, a) in enumerate(base.items()):
        b = low_rank(rng)
        b -= (a * b).sum() / (a * a).sum() * a
        b *= np.linalg.norm(a) / np.linalg.norm(b)
        sign = -1 if flip and i >= len(base) // 2 else 1
        found[key] = sign * cosine * a + math.sqrt(1 - cosine**2) * b
    return found


def clashing(base: Mapping[str, F64], seed: int) -> dict[str, F64]:
    """Alike, but the largest common entries take the other sign until the inner product is 0."""
    found = {}
    for key, b in turned(base, 0.6, seed).items():
        product = (base[key] * b).ravel()
        order = np.argsort(-product)
        count = int(np.argmax(2 * np.cumsum(product[order]) >= product.sum()))
        b.ravel()[order[:count]] *= -1
        found[key] = b
    return found


def directions(base: Mapping[str, F64], seed: int) -> dict[str, F64]:
    """The same input and output directions, and orthogonal to it in them."""
    found = {}
    rng = np.random.default_rng(seed)
    for key, a in base.items():
        u, s, v = np.linalg.svd(a, full_matrices=False)
        core = rng.normal(size=(8, 8))
        core -= (core.diagonal() @ s[:8]) / (s[:8] @ s[:8]) * np.diag(s[:8])
        found[key] = u[:, :8] @ core @ v[:8]
    return found


A = one(0)
PLANTED: dict[Kind, tuple[dict[str, F64], str]] = {
    "disjoint": (one(1, [key.replace("unet", "text_encoder") for key in KEYS]), "never meet"),
    "independent": (turned(A, 0.0, 2), "both are kept"),
    "same": (turned(A, 0.8, 3), "a sum repeats 80 % of first and 80 % of second"),
    "opposed": (turned(A, -0.4, 4), "a sum cancels 40 % of first and 40 % of second"),
    "mixed": (turned(A, 0.6, 5, flip=True), "choose by group"),
    "related": (directions(A, 6), "share directions"),
    "conflicted": (clashing(A, 7), "let one win"),
}


@pytest.mark.parametrize("kind", PLANTED)
def test_planted_relations(kind: Kind) -> None:
    other, words = PLANTED[kind]
    (pair,) = compatibility(NAMES, analysis([A, other])).pairs
    assert pair.kind == kind
    assert words in pair.words
    assert pair.confidence == "high"
    good = kind in ("disjoint", "independent", "same")
    assert pair.score > 0.9 if good else pair.score < 0.9


@pytest.mark.parametrize(
    ("kind", "words"),
    [("independent", "in unrelated directions"), ("disjoint", "different weights")],
)
def test_adapters_that_are_apart_in_words(kind: Kind, words: str) -> None:
    compat = compatibility(NAMES, analysis([A, PLANTED[kind][0]]))
    stack = {"adapters": [{"letter": "A"}, {"letter": "B"}], "methods": [], "certificate": None}
    said = verdict(cast("Overview", stack), compat)
    assert said.startswith("The two change ")
    assert words in said
    text = " ".join(render(compat.as_dict()).split())
    assert "first + second: add them up: each is kept (mean score" in text
    assert "of 1)" in text


@pytest.mark.parametrize("kind", PLANTED)
def test_the_score_is_the_product_of_its_parts(kind: Kind) -> None:
    other = PLANTED[kind][0]
    found = analysis([A, other])
    (pair,) = compatibility(NAMES, found).pairs
    shared = [key for key in A if key in other]
    inner = [float((A[key] * other[key]).sum()) for key in shared]
    taken = sum(max(-x, 0.0) for x in inner)
    weakest = min(sum(float((d**2).sum()) for d in one.values()) for one in (A, other))
    assert pair.survival == pytest.approx(1 - taken / weakest)
    (pooled,) = Meetings.of(found.groups, weights_of(found), 2).pool()
    clash, contention = (pooled.signs.clash, pooled.signs.contention) if pooled.signs else (0, 0)
    assert (pair.clash, pair.contention) == pytest.approx((clash, contention))
    assert pair.score == pytest.approx(pair.survival * (1 - clash) * (1 - contention / 2))


def test_the_error_and_its_word() -> None:
    """Four groups of one size and one error: half of it, times what the score leaves."""
    found = analysis([A, turned(A, -0.4, 4)])
    words = {0.0: "high", 0.1: "moderate", 0.5: "low"}
    for error, word in words.items():
        groups = []
        for group in found.groups:
            (pair,) = group.pairs
            pair = replace(pair, excess_error=error, loss_error=0.0, total=1.0, conflicting=0.0)
            groups.append(replace(group, pairs=(pair,)))
        (one,) = compatibility(NAMES, Analysis(tuple(groups))).pairs
        rest = one.survival * (1 - one.contention / 2)
        assert one.error == pytest.approx(rest * error / 2)
        assert one.confidence == word


def test_weights_turn_the_relation_round() -> None:
    found = analysis([A, turned(A, 0.4, 4)])
    assert compatibility(NAMES, found).pairs[0].kind == "related"
    assert compatibility(NAMES, found, [1.0, -1.0]).pairs[0].kind == "opposed"
    # Next to ten times as much, a tenth of it is gone ten times.
    drowned = compatibility(NAMES, found, [1.0, -10.0]).pairs[0]
    assert drowned.survival == 0.0
    assert drowned.score == 0.0


def test_the_published_score_is_what_it_is() -> None:
    """It ranks independent adapters far below equal ones, and opposed ones last."""
    scores = {
        kind: compatibility(NAMES, analysis([A, PLANTED[kind][0]])).pairs[0].published
        for kind in ("independent", "same", "opposed")
    }
    for kind, score in scores.items():
        a, b = (np.concatenate([one[key].ravel() for key in KEYS]) for one in (A, PLANTED[kind][0]))
        cosine = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
        expected = cosine * (1 - (a * b < 0).mean()) + (0.1 if cosine > -0.1 else 0)
        assert score == pytest.approx(expected)


def stack() -> tuple[tuple[str, ...], Analysis]:
    """Two that go together, their opponent, and one that lives elsewhere."""
    members = [A, turned(A, 0.0, 2), turned(A, -0.6, 8), PLANTED["disjoint"][0]]
    return ("a", "b", "against", "elsewhere"), analysis(members)


def test_stacks_and_opponents() -> None:
    names, found = stack()
    result = compatibility(names, found)
    members = [cluster.adapters for cluster in result.clusters]
    assert sorted(i for one in members for i in one) == [0, 1, 2, 3]
    assert not any({0, 2} <= set(one) for one in members)
    assert result.opponents[0] == (2,)
    assert result.opponents[2][0] == 0
    assert all(len(one.adapters) > 1 for one in result.stacks)
    assert [pair.score for pair in result.pairs] == sorted(
        (pair.score for pair in result.pairs), reverse=True
    )


def test_linkage_against_means_made_anew() -> None:
    """Average linkage by its definition, on 60 random matrices of scores."""
    rng = np.random.default_rng(0)
    joined = 0
    for _ in range(60):
        count = int(rng.integers(2, 8))
        scores = {pair: float(x) for pair, x in _random(rng, count)}
        kinds = {pair: "opposed" if rng.random() < 0.15 else "independent" for pair in scores}
        pairs = [
            Pairing(i, j, scores[i, j], None, "low", kinds[i, j], "", 1, 0, 0, None)  # type: ignore[arg-type]
            for i, j in scores
        ]
        expected = oracle(scores, {p for p, k in kinds.items() if k == "opposed"}, count)
        assert {frozenset(one) for one in linked(pairs, count)} == expected
        joined += len(expected) < count
    assert joined > 20


def _random(rng: np.random.Generator, count: int) -> list[tuple[tuple[int, int], float]]:
    pairs = list(combinations(range(count), 2))
    return list(zip(pairs, rng.uniform(0.5, 1.0, len(pairs)), strict=True))


def oracle(
    scores: Mapping[tuple[int, int], float], apart: set[tuple[int, int]], count: int
) -> set[frozenset[int]]:
    matrix = np.full((count, count), np.nan)
    for (i, j), score in scores.items():
        matrix[i, j] = matrix[j, i] = -np.inf if (i, j) in apart else score
    sets = [frozenset([i]) for i in range(count)]
    while True:
        means = {
            (a, b): matrix[np.ix_(sorted(a), sorted(b))].mean() for a, b in combinations(sets, 2)
        }
        best = max(means, key=lambda two: means[two], default=None)
        if best is None or means[best] < 0.75:
            return set(sets)
        sets = [one for one in sets if one not in best] + [best[0] | best[1]]


def test_confidence_needs_signs() -> None:
    found = analysis([A, turned(A, 0.0, 2)])
    bare = Analysis(tuple(type(g)(g.target, g.owners, g.gram) for g in found.groups))
    (pair,) = compatibility(NAMES, bare).pairs
    assert (pair.error, pair.confidence, pair.published) == (None, "low", None)


def test_refusals() -> None:
    with pytest.raises(ParamError, match="1 adapters: give two or more to compare"):
        compatibility(["alone"], analysis([A]))
    found = analysis([A, A])
    empty = Analysis(tuple(type(g)(g.target, g.owners, np.nan * g.gram) for g in found.groups))
    with pytest.raises(ParamError, match="no inner products of them; analyse the stack first"):
        compatibility(NAMES, empty)
