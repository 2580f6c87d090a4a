"""The oracles of other tools' conventions against what those tools were recorded to do.

``scripts/make_goldens.py`` made the files; deltas are float32, so are the tools' sums, and `ROUND`
is what that may cost relative to the largest entry.  A cut among equal magnitudes has a file of
its own, and random drops one with counts instead of masks.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest
from oracles_upstream import (
    F64,
    Votes,
    mergekit_breadcrumbs,
    mergekit_della_keeps,
    mergekit_middle,
    mergekit_rescale,
    mergekit_sum,
    mergekit_ties,
    mergekit_trim,
    mergekit_vote,
    peft_factors,
    peft_magnitude_prune,
    peft_ties,
    peft_trim,
    published_consensus,
    published_della_drops,
    published_ties,
    weighted,
)

Case: TypeAlias = dict[str, Any]

ROUND = 1e-6
FOLDER = Path(__file__).parent / "data" / "goldens"
FILES: dict[str, Case] = {
    path.stem: json.loads(path.read_text(encoding="utf-8")) for path in FOLDER.glob("*.json")
}
NORMALISED = {"linear", "ties", "della"}
"""mergekit's methods that divide by the weights unless told otherwise."""


def cases(name: str, tool: str | None = None) -> list[Any]:
    """Parameters of a test, named by method, place and weights."""
    return [
        pytest.param(case, id=f"{case['method']}-{number}")
        for number, case in enumerate(FILES[name]["cases"])
        if case.get("tool") == tool
    ]


def stack_of(name: str, case: Case) -> list[F64]:
    """As many of the stack's deltas as there are weights."""
    deltas = FILES[name]["stacks"][case["stack"]][: len(case["weights"])]
    return [np.array(delta, dtype=np.float64) for delta in deltas]


def error(found: F64, expected: object) -> float:
    """Largest difference, relative to the largest entry."""
    wanted = np.array(expected, dtype=np.float64)
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


def as_peft(method: str, deltas: Sequence[F64], weights: Sequence[float], how: Case) -> F64:
    density = how.get("density", 1.0)
    if method in ("ties", "dare_ties", "ties_svd"):
        return peft_ties(deltas, weights, density, how.get("majority_sign_method", "total"))
    if method.startswith("magnitude_prune"):
        return peft_magnitude_prune(deltas, weights, density)
    assert method in ("task_arithmetic", "dare_linear", "cat", "svd")
    return weighted(deltas, weights)


def as_mergekit(method: str, deltas: Sequence[F64], weights: Sequence[float], how: Case) -> F64:
    normalize = how.get("normalize", method in NORMALISED)
    density = how.get("density", 1.0)
    if method == "ties":
        merged = mergekit_ties(deltas, weights, density, normalize=normalize)
    elif method.startswith("breadcrumbs"):
        vote = method == "breadcrumbs_ties"
        gamma = how["gamma"]
        merged = mergekit_breadcrumbs(
            deltas, weights, density, gamma, normalize=normalize, vote=vote
        )
    elif method in ("dare_ties", "della"):
        merged = mergekit_vote(deltas, weights, normalize=normalize)
    else:
        assert method in ("linear", "task_arithmetic", "dare_linear", "della_linear")
        merged = mergekit_sum(deltas, weights, normalize=normalize)
    return np.asarray(how.get("lambda", 1.0) * merged)


# ------------------------------------------------------------------------------- recorded tools


@pytest.mark.parametrize("case", cases("peft"))
def test_peft(case: Case) -> None:
    deltas = stack_of("peft", case)
    found = as_peft(case["method"], deltas, case["weights"], case["parameters"])
    if not np.any(case["output"]):
        assert not np.any(found), "PEFT kept nothing"
    else:
        assert error(found, case["output"]) < ROUND


@pytest.mark.parametrize("case", cases("mergekit"))
def test_mergekit(case: Case) -> None:
    deltas = stack_of("mergekit", case)
    found = as_mergekit(case["method"], deltas, case["weights"], case["parameters"])
    assert error(found, case["output"]) < ROUND


@pytest.mark.parametrize("case", cases("peft_adapters"))
def test_peft_adapters(case: Case) -> None:
    """`..._svd`, `cat` merge deltas; `linear` and `ties` merge the factors by themselves."""
    adapters = FILES["peft_adapters"]["adapters"]
    factors = [(np.array(one["up"]), np.array(one["down"])) for one in adapters]
    scales, weights, how = [one["scale"] for one in adapters], case["weights"], case["parameters"]
    deltas = [s * (up @ down) for s, (up, down) in zip(scales, factors, strict=True)]
    if case["method"] == "linear":
        found = peft_factors(factors, scales, weights, weighted)
    elif case["method"] == "ties":
        found = peft_factors(factors, scales, weights, lambda d, w: peft_ties(d, w, how["density"]))
    else:
        found = as_peft(case["method"], deltas, weights, how)
    # Singular vectors in f32 cost more than a sum.
    assert error(found, case["output"]) < 5 * ROUND


def test_goldens_have_no_ties_at_a_cut() -> None:
    """Otherwise the files would record accidents."""
    for name in ("peft", "mergekit"):
        for delta in (d for stack in FILES[name]["stacks"].values() for d in stack):
            sizes = np.abs(delta)[np.nonzero(delta)]
            assert len(np.unique(sizes)) == len(sizes)


@pytest.mark.parametrize("case", [*cases("equal_magnitudes", "peft"),
                                  *cases("equal_magnitudes", "mergekit")])  # fmt: skip
def test_equal_magnitudes(case: Case) -> None:
    """As many of each magnitude are kept as we keep; which ones is the tool's affair."""
    (delta,) = stack_of("equal_magnitudes", case)
    output = np.array(case["output"])
    density = case["parameters"]["density"]
    if case["tool"] == "peft":
        found = peft_trim(delta, density)
    elif case["method"] == "ties":
        found = mergekit_trim(delta, density)
    else:
        found = mergekit_middle(delta, density, case["parameters"]["gamma"])
    assert np.array_equal(output[output != 0], delta[output != 0])
    assert np.array_equal(np.sort(np.abs(output), axis=None), np.sort(np.abs(found), axis=None))


@pytest.mark.parametrize("case", [*cases("drops", "peft"), *cases("drops", "mergekit")])
def test_random_drops(case: Case) -> None:
    """Counts within four standard errors; the survivors' factor exactly."""
    levels, rows = np.array(FILES["drops"]["levels"]), FILES["drops"]["rows"]
    kept, how = np.array(case["kept"]), case["parameters"]
    keeps = mergekit_della_keeps(len(levels), how["density"], how.get("epsilon", 0.0))
    assert np.all(np.abs(kept / rows - keeps) < 4 * np.sqrt(keeps * (1 - keeps) / rows))
    scale = mergekit_rescale(levels * rows, levels * kept)
    if case["tool"] == "peft":
        scale = 1 / how["density"]
    elif not how.get("rescale", True):
        scale = 1.0
    assert case["scale"] == pytest.approx(scale, rel=1e-5)


def test_the_two_ties_agree_only_at_equal_weights() -> None:
    deltas = [np.array(delta) for delta in FILES["peft"]["stacks"]["square"]]
    for weights, same in (([1.0, 1.0, 1.0], True), ([1.0, 0.5, 0.25], False)):
        one = peft_ties(deltas, weights, 0.29)
        other = mergekit_ties(deltas, weights, 0.29)
        assert (error(one, other) < ROUND) is same


# ------------------------------------------------------------------------------------ published


def test_published_ties_by_hand() -> None:
    """Columns: all agree, heads against mass, a draw of heads, nothing, all cut."""
    first = np.array([[4.0, 9.0, 6.0, 0.0, 0.1]])
    second = np.array([[-2.0, -3.0, 0.0, 0.0, 0.0]])  # of negative weight: 2, 3
    third = np.array([[6.0, -40.0, -8.0, 0.0, 0.1]])
    deltas, weights = [first, second, third], [1.0, -0.5, 2.0]
    by_heads = published_ties(deltas, weights, 0.7)
    assert by_heads == pytest.approx(np.array([[17 / 3, (9 + 1.5) / 2, 6.0, 0.0, 0.0]]))
    by_mass = published_ties(deltas, weights, 0.7, "total")
    assert by_mass == pytest.approx(np.array([[17 / 3, -80.0, -16.0, 0.0, 0.0]]))
    one = published_ties(deltas, [0.0, 0.0, 2.0], 0.01)
    assert np.array_equal(one, [[0.0, -80.0, 0.0, 0.0, 0.0]])


@pytest.mark.parametrize("votes", ["total", "frequency"])
def test_published_ties_scales_with_weights_but_is_not_odd(votes: Votes) -> None:
    rng = np.random.default_rng(0)
    deltas = [rng.normal(size=(200, 100)) for _ in range(2)]
    plain = published_ties(deltas, [1.0, 0.5], 1.0, votes)
    assert published_ties(deltas, [3.0, 1.5], 1.0, votes) == pytest.approx(3 * plain)
    turned = -published_ties(deltas, [-1.0, -0.5], 1.0, votes)
    assert np.allclose(turned, plain) is (votes == "total"), "only draws are not odd"


def test_published_ties_by_heads_is_biased() -> None:
    """The reference measured a mean of 0.45 standard deviations for two centred deltas."""
    rng = np.random.default_rng(1)
    result = published_ties([rng.normal(size=(500, 400)) for _ in range(2)], [1.0, 1.0], 1.0)
    assert result.mean() / result.std() == pytest.approx(0.45, abs=0.02)


def test_published_consensus_without_the_gate() -> None:
    """3 x 3: no SVD.  Only the second entry has both signs."""
    first, second = np.zeros((3, 3)), np.zeros((3, 3))
    first[0, :2], second[0, :2] = (2.0, 1.0), (1.0, -2.0)
    ratio = np.zeros((3, 3))
    ratio[0, :2] = 9 / 5, -7 / 5
    expected = ratio * math.sqrt(5) / np.linalg.norm(ratio)
    assert published_consensus([first, second], [1.0, 1.0]) == pytest.approx(expected)
    assert published_consensus([first, second], [4.0, 4.0]) == pytest.approx(expected)
    assert published_consensus([first, -second], [1.0, -1.0]) == pytest.approx(expected)
    assert not published_consensus([first, second], [0.0, 0.0]).any()


def test_published_consensus_of_equal_deltas_is_not_that_delta() -> None:
    """The reference measured 9 to 13 % for low-rank deltas; the largest value grows by 6 %."""
    rng = np.random.default_rng(2)
    delta = rng.normal(size=(96, 8)) @ rng.normal(size=(8, 96))
    found = published_consensus([delta, delta], [1.0, 0.3])
    assert np.linalg.norm(found) == pytest.approx(np.linalg.norm(delta))
    assert 0.05 < np.linalg.norm(found - delta) / np.linalg.norm(delta) < 0.2
    ratios = np.linalg.svd(found)[1][:8] / np.linalg.svd(delta)[1][:8]
    assert 1.02 < ratios[0] < 1.12
    assert 0.2 < ratios[7] < 0.9


def test_published_della_keeps_the_density_until_it_clips() -> None:
    for density, kept in ((0.2, 0.2), (0.5, 0.5), (0.8, 0.8), (0.9, 0.85), (0.95, 0.85)):
        drops = published_della_drops(1000, density)
        assert np.all(np.diff(drops) >= 0), "the largest is dropped least"
        assert 1 - drops.mean() == pytest.approx(kept, abs=1e-3)
    assert published_della_drops(4, 0.5, 0.4) == pytest.approx([0.3, 0.4, 0.5, 0.6])
