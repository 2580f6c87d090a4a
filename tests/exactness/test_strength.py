"""Automatic strength and weights by target."""

import math
from collections.abc import Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import pytest
from exactness.places import BOTH, TEXT
from helpers import F64, MODULES, Pair, Stack, delta_of, pair, pairs, relative

from loramix import merge


def leaning(cosine: float, seed: int) -> tuple[dict[str, Pair], dict[str, Pair]]:
    """Two adapters of rank one whose deltas have this cosine in every module."""
    rng = np.random.default_rng(seed)
    first, second = {}, {}
    for name, shape in BOTH.items():
        one = pair(rng, shape, 1)
        other = rng.normal(size=one.up.shape)
        other -= one.up * (one.up.T @ other) / (one.up.T @ one.up)
        other *= np.linalg.norm(one.up) / np.linalg.norm(other)
        up = cosine * one.up + math.sqrt(1 - cosine**2) * other
        first[name] = replace(one, dtype="F64")
        second[name] = replace(one, up=1.5 * up, dtype="F64")
    return first, second


@pytest.mark.parametrize("method", ["linear", "slerp"])
@pytest.mark.parametrize("weights", [[1.0, 1.0], [0.5, 1.4], [1.0, -0.8], [-1.0, -1.0]])
@pytest.mark.parametrize("cosine", [1.0, 0.5, 0.0, -0.5])
def test_automatic_strength_follows_the_dense_energies(
    cosine: float, weights: list[float], method: str, tmp_path: Path
) -> None:
    stack = Stack(tmp_path)
    for members in leaning(cosine, 16):
        stack.add(members)
    free = merge(stack.paths, method, weights=weights)
    bound = merge(stack.paths, method, weights=weights, auto_strength=True)
    before, after = delta_of(free.adapter), delta_of(bound.adapter)
    for branch, names in (("model", list(MODULES)), ("text_encoder", list(TEXT))):
        reference = max(
            abs(weight) * norm_of(deltas, names)
            for weight, deltas in zip(weights, stack.deltas, strict=True)
        )
        scale = min(reference / norm_of(before, names), 1.0)
        strength = bound.plan.strengths[branch]
        assert strength.scale == pytest.approx(scale, rel=1e-5)
        assert strength.norm == pytest.approx(norm_of(before, names), rel=1e-5)
        assert strength.reference == pytest.approx(reference, rel=1e-5)
        assert strength.cosine == pytest.approx(cosine, abs=1e-5)
        for name in names:
            assert relative(after[name], scale * before[name]) < 1e-5
        assert norm_of(after, names) <= reference * (1 + 1e-5)


def norm_of(deltas: Mapping[str, F64], names: list[str]) -> float:
    """Norm of a branch."""
    return math.sqrt(sum(float(np.linalg.norm(deltas[name])) ** 2 for name in names))


def test_the_text_encoder_is_scaled_apart(tmp_path: Path) -> None:
    stack = Stack(tmp_path)
    aligned, turned = leaning(1.0, 17), leaning(-0.9, 17)
    for same, apart in zip(aligned, turned, strict=True):
        stack.add({name: (same if name in TEXT else apart)[name] for name in BOTH})
    strengths = merge(stack.paths, "linear", auto_strength=True).plan.strengths
    assert strengths["model"].scale == 1.0
    assert strengths["text_encoder"].scale == pytest.approx(1.5 / 2.5, rel=1e-6)


@pytest.mark.parametrize(("cosine", "applies"), [(0.0, True), (0.05, True), (0.5, False)])
def test_a_floor_holds_for_independent_adapters_only(
    tmp_path: Path, *, cosine: float, applies: bool
) -> None:
    stack = Stack(tmp_path)
    for members in leaning(cosine, 18):
        stack.add(members)
    free = merge(stack.paths, "linear", auto_strength=True).plan.strengths["model"].scale
    assert free < 0.95
    bound = (
        merge(stack.paths, "linear", auto_strength=True, floor=0.95).plan.strengths["model"].scale
    )
    assert bound == pytest.approx(0.95 if applies else free)
    low = merge(stack.paths, "linear", auto_strength=True, floor=0.1).plan.strengths["model"].scale
    assert low == pytest.approx(free)


def test_weights_by_glob_take_the_first_match(tmp_path: Path) -> None:
    stack = Stack(tmp_path)
    for seed in range(2):
        stack.add(pairs(seed, 3, modules=BOTH))
    globs = {"text_encoder*": 0.5, "*.conv": -2.0, "unet.blocks.1.*": 0.25}
    merged = merge(stack.paths, "linear", weights=[globs, 0.75])
    written = delta_of(merged.adapter)
    for key in BOTH:
        own = next((weight for glob, weight in globs.items() if fnmatchcase(key, glob)), 1.0)
        expected = own * stack.deltas[0][key] + 0.75 * stack.deltas[1][key]
        assert relative(written[key], expected) < 1e-6


def test_the_text_encoder_of_an_unknown_kohya_model_is_its_own_branch(tmp_path: Path) -> None:
    stack = Stack(tmp_path, "kohya")
    for seed in range(2):
        stack.add(pairs(seed, 3, modules=BOTH))
    assert set(merge(stack.paths, "linear", auto_strength=True).plan.strengths) == {
        "model",
        "text_encoder",
    }
