"""Energy normalisation, floors, and what reaches the result, against dense deltas."""

import math
from collections.abc import Sequence

import numpy as np
import oracles_decisions as oracle
import pytest
from helpers import F64
from policies.builders import group, low_rank, shown, single, stack

from loramix.analysis.statistics import GroupStatistics
from loramix.methods import Coefficients, apply
from loramix.policies import Decision, Verdict
from loramix.policies.published import Published

MODEL = ["unet.down_blocks.0.a", "unet.down_blocks.1.a", "unet.mid_block.b"]
TEXT = ["text_encoder.x.0.a", "text_encoder_2.x.0.a"]
SIGNS = [[1.0, 1.0], [1.0, -1.0], [0.5, 1.4], [-0.7, 0.3], [-1.0, -2.0]]


def leaning(rng: np.random.Generator, cosine: float) -> dict[int, F64]:
    """Two deltas of this cosine, the second half as large again."""
    first = low_rank(rng, (9, 7), 2)
    other = rng.normal(size=first.shape)
    other -= first * np.sum(first * other) / np.sum(first**2)
    other *= np.linalg.norm(first) / np.linalg.norm(other)
    return {0: first, 1: 1.5 * (cosine * first + math.sqrt(1 - cosine**2) * other)}


def branches(cosines: dict[str, float], seed: int = 6) -> dict[str, list[dict[int, F64]]]:
    rng = np.random.default_rng(seed)
    count = {"model": len(MODEL), "text_encoder": len(TEXT)}
    return {
        branch: [leaning(rng, cosine) for _ in range(count[branch])]
        for branch, cosine in cosines.items()
    }


def groups_of(rows: dict[str, list[dict[int, F64]]]) -> list[GroupStatistics]:
    keys = {"model": MODEL, "text_encoder": TEXT}
    return [
        group(list(row.values()), [7] * len(row), key, tuple(row))
        for branch, of_branch in rows.items()
        for key, row in zip(keys[branch], of_branch, strict=True)
    ]


def norm_of(decisions: Sequence[Decision], rows: Sequence[dict[int, F64]]) -> float:
    """Norm of what the decisions make of a branch, from the dense deltas."""
    made = [result(decision, row) for decision, row in zip(decisions, rows, strict=True)]
    return math.sqrt(sum(float(np.sum(one**2)) for one in made))


def result(decision: Decision, row: dict[int, F64]) -> F64:
    assert isinstance(decision.method, Coefficients)
    flat = np.array([one.ravel() for one in row.values()])
    c = apply(decision.method, flat @ flat.T, np.array(decision.weights))
    return np.asarray(np.tensordot(c, np.array(list(row.values())), 1))


def decide(
    rows: dict[str, list[dict[int, F64]]], weights: list[float], **options: object
) -> Verdict:
    return Published(**options).decide(stack(groups_of(rows), weights))  # type: ignore[arg-type]


@pytest.mark.parametrize("weights", SIGNS, ids=str)
@pytest.mark.parametrize("text", [-0.9, 0.2])
@pytest.mark.parametrize("cosine", [1.0, 0.5, 0.0, -0.5])
def test_sums_are_as_strong_as_their_strongest_adapter(
    cosine: float, text: float, weights: list[float]
) -> None:
    rows = branches({"model": cosine, "text_encoder": text})
    verdict = decide(rows, weights, mode="additive", floor=0.0)
    split = len(MODEL)
    parts = {"model": verdict.decisions[:split], "text_encoder": verdict.decisions[split:]}
    for branch, of_branch in rows.items():
        reference, plain = oracle.reference(of_branch, weights), oracle.plain(of_branch, weights)
        expected = min(reference, plain)
        assert norm_of(parts[branch], of_branch) == pytest.approx(expected, rel=1e-9)
        strength = verdict.strengths[branch]
        assert strength.scale == pytest.approx(oracle.scale(of_branch, weights, 0.0), rel=1e-9)
        assert (strength.norm, strength.reference) == pytest.approx((plain, reference), rel=1e-9)


@pytest.mark.parametrize("weights", SIGNS, ids=str)
@pytest.mark.parametrize("floor", [None, 0.9, 1.0])
@pytest.mark.parametrize("cosine", [0.0, 0.0999, -0.0999, 0.1001, -0.1001, 0.5])
def test_floors_hold_orthogonal_branches_apart(
    cosine: float, floor: float | None, weights: list[float]
) -> None:
    rows = branches({"model": cosine, "text_encoder": 0.4})
    verdict = decide(rows, weights, floor=floor)
    for branch, of_branch in rows.items():
        expected = oracle.scale(of_branch, weights, 0.85 if floor is None else floor)
        assert verdict.strengths[branch].scale == pytest.approx(expected, rel=1e-9)
    same = weights[0] * weights[1] > 0
    mean = verdict.strengths["model"].cosine
    assert mean == pytest.approx(cosine if same else -cosine, abs=1e-12)


def test_a_floor_raises_a_scale_and_no_more() -> None:
    rows = branches({"model": 0.0})
    free, held = (decide(rows, [1.0, 1.0], floor=floor) for floor in (0.0, 0.9))
    assert free.strengths["model"].scale == pytest.approx(1.5 / math.sqrt(3.25))
    assert held.strengths["model"].scale == 0.9
    near = branches({"model": 0.0})
    near["model"] = [{0: row[0], 1: 40 * row[1]} for row in near["model"]]
    assert decide(near, [1.0, 1.0], floor=0.9).strengths["model"].scale > 0.99


@pytest.mark.parametrize(
    ("architecture", "floor"), [("sdxl", 0.85), ("wan", 1.0), ("ltx", 1.0), ("qwen_image", 0.9)]
)
def test_floors_of_architectures(architecture: str, floor: float) -> None:
    own = stack([shown(0.0)], architecture=architecture)
    assert Published().decide(own).strengths["model"].scale == floor
    bare = math.sqrt(0.5)
    assert Published(floor=0.0).decide(own).strengths["model"].scale == pytest.approx(bare)


def test_pairs_that_never_meet_count_as_orthogonal() -> None:
    # Adapters 0 and 1 are aligned, 2 has a target for itself: a mean cosine of a third.
    groups = [shown(0.27, key=MODEL[0]), single(key=MODEL[1], owner=2)]
    verdict = Published(floor=1.0).decide(stack(groups, [1.0, 1.0, 1.0]))
    assert verdict.strengths["model"].cosine == pytest.approx(0.09)
    assert verdict.strengths["model"].scale == 1.0


@pytest.mark.parametrize("weights", SIGNS, ids=str)
@pytest.mark.parametrize("method", ["weighted_average", "slerp"])
def test_means_have_the_published_strength(method: str, weights: list[float]) -> None:
    # The size of the weights cancels, and so does the scale of the model; that of the text
    # encoders is on the result.
    rows = branches({"model": 0.6, "text_encoder": 0.6})
    for of_branch in rows.values():
        for row in of_branch:
            row[1] /= 1.5  # slerp of unit vectors is that of vectors of equal norms
    verdict = decide(rows, weights, override=method)
    everything = [(branch, row) for branch, of_branch in rows.items() for row in of_branch]
    for (branch, row), decision in zip(everything, verdict.decisions, strict=True):
        truth = (
            oracle.average(row, weights)
            if method == "weighted_average"
            else oracle.slerp(row[0], row[1], (weights[0], weights[1]))
        )
        outside = oracle.scale(rows[branch], weights, 0.85) if branch == "text_encoder" else 1.0
        assert np.allclose(result(decision, row), outside * truth, rtol=0, atol=1e-9)


def test_ties_and_sums_have_the_scale_of_their_branch() -> None:
    groups = [shown(0.5, key=MODEL[0]), shown(-0.2, key=MODEL[1]), shown(0.9, key=TEXT[0])]
    for override in ("ties", "weighted_sum"):
        verdict = Published(override=override).decide(stack(groups, [0.8, -0.4]))
        for decision, branch in zip(
            verdict.decisions, ["model", "model", "text_encoder"], strict=True
        ):
            scale = verdict.strengths[branch].scale
            assert decision.weights == pytest.approx((0.8 * scale, -0.4 * scale))
            assert decision.regime == override


@pytest.mark.parametrize("mode", ["per_group", "global", "additive"])
def test_a_single_contributor_has_its_full_strength(mode: str) -> None:
    groups = [shown(1.0, overlap=1.0, key=MODEL[0]), single(key=MODEL[1], owner=1)]
    groups += [shown(1.0, overlap=1.0, key=TEXT[0]), single(key=TEXT[1])]
    verdict = Published(mode=mode).decide(stack(groups, [2.0, 3.0]))  # type: ignore[arg-type]
    assert all(strength.scale < 0.9 for strength in verdict.strengths.values())
    assert [verdict.decisions[i].weights for i in (1, 3)] == [(3.0,), (2.0,)]
    assert {verdict.decisions[i].regime for i in (1, 3)} == {"weighted_sum"}


def test_nothing_is_scaled_without_auto_strength() -> None:
    rows = branches({"model": 0.9, "text_encoder": 0.9})
    verdict = decide(rows, [2.0, -3.0], mode="additive", auto_strength=False)
    assert verdict.strengths == {}
    assert {decision.weights for decision in verdict.decisions} == {(2.0, -3.0)}


@pytest.mark.parametrize("weights", [[1.0], [2.0, 0.0]], ids=str)
def test_one_adapter_keeps_its_strength(weights: list[float]) -> None:
    groups = [single(key=MODEL[0])] if len(weights) == 1 else [shown(0.5), single(key=MODEL[1])]
    verdict = Published().decide(stack(groups, weights))
    assert verdict.strengths["model"].scale == 1.0
    assert all(decision.weights[0] == weights[0] for decision in verdict.decisions)


def test_what_cancels_keeps_its_strength() -> None:
    verdict = Published().decide(stack([shown(1.0)], [1.0, -1.0]))
    assert verdict.strengths["model"].norm == 0
    assert verdict.strengths["model"].scale == 1.0


@pytest.mark.parametrize("preset", ["sd_unet", "dit", "llm"])
@pytest.mark.parametrize("override", ["weighted_sum", "weighted_average", "slerp"])
@pytest.mark.parametrize("cosine", [0.95, 0.2, -0.2, -0.8, -0.99])
def test_the_suggestion_follows_from_the_norms(cosine: float, override: str, preset: str) -> None:
    weights = [0.9, 0.6]
    rows = branches({"model": cosine, "text_encoder": 0.3})
    verdict = decide(rows, weights, override=override, preset=preset)
    everything = [(branch, row) for branch, of_branch in rows.items() for row in of_branch]
    norms = [
        float(np.linalg.norm(result(decision, row)))
        for (_, row), decision in zip(everything, verdict.decisions, strict=True)
    ]
    scales = {branch: strength.scale for branch, strength in verdict.strengths.items()}
    scaled = [[scales[branch] * w for w in weights] for branch, _ in everything]
    expected = oracle.suggestion(norms, [row for _, row in everything], scaled, preset)
    assert verdict.suggested == pytest.approx(expected, rel=1e-9)


def test_what_stands_in_where_the_norm_is_not_known() -> None:
    groups = [shown(-0.9, norms=(1.0, 3.0))]
    own = stack(groups, [0.5, 1.0])

    def suggested(override: str) -> float | None:
        policy = Published(override=override, auto_strength=False)  # type: ignore[arg-type]
        return policy.decide(own).suggested

    mean = (0.5 * 1 + 1.0 * 3) / 2
    consensus = (0.5 * 1 + 1.0 * 3) / 1.5  # the norm that it is brought to
    assert suggested("consensus") == pytest.approx(max(1.0, mean / consensus))
    average = math.sqrt(0.25 + 9 - 2 * 0.9 * 0.5 * 3) / 1.5  # of the weight 1, for ties
    assert suggested("ties") == pytest.approx(min(3.0, mean / average))


def test_the_suggestion_is_capped_and_may_be_missing() -> None:
    for preset, cap in (("sd_unet", 3.0), ("dit", 5.0), ("llm", 3.0)):
        policy = Published(preset=preset, mode="additive")  # type: ignore[arg-type]
        assert policy.decide(stack([shown(1.0)], [1.0, -1.0])).suggested == cap
        assert policy.decide(stack([shown(1.0)], [0.0, 0.0])).suggested is None
