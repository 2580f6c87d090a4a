"""`Consensus`: equals stay, its norm is the mean, what cancels is nothing, noise goes."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from entries.cases import CONSENSUS, FLOAT, POSITIVE, as_type, distance, draw, norm
from helpers import pairs, write_adapter
from oracles_entries import merged

from loramix import Output, combine, expand, load, merge


@pytest.mark.parametrize("clean", ["true", "false"])
@pytest.mark.parametrize("count", [2, 3, 6])
@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (50, 1), (31, 23), (64, 200)], ids=str)
def test_consensus_of_equals_is_the_adapter(shape: tuple[int, int], count: int, clean: str) -> None:
    (delta,) = draw(48, 1, shape)
    got = combine(as_type([delta] * count), f"consensus:clean={clean}", weights=[0.7] * count)
    assert distance(got, 0.7 * delta, [delta], [0.7]) < FLOAT
    # Of a low rank too, where nearly all singular values are rounding.
    up, down = draw(49, 2, (60, 60))
    thin = (up[:, :2] @ down[:2]).astype(np.float32)
    assert np.allclose(combine([thin] * count, "consensus"), thin, rtol=0, atol=1e-4)


@pytest.mark.parametrize("clean", ["true", "false"])
@pytest.mark.parametrize("kinship", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("count", [2, 4, 6])
def test_consensus_has_the_mean_norm(count: int, kinship: float, clean: str) -> None:
    deltas, weights = draw(50, count, (64, 48), kinship), POSITIVE[:count]
    got = norm(combine(as_type(deltas), f"consensus:clean={clean}", weights=weights))
    mean = max(weights) * sum(w * norm(d) for w, d in zip(weights, deltas, strict=True))
    assert got == pytest.approx(mean / sum(weights), rel=1e-5)


@pytest.mark.parametrize("share", [0.0, 1e-6, 1e-3, 0.05, 0.3])
def test_consensus_never_more_than_doubles(share: float) -> None:
    first, noise = draw(51, 2, (64, 48), 0.0)
    deltas = [first, -first + share * noise]
    raw = merged(replace(CONSENSUS, calibrate=False, clean=False), deltas, [1.0, 1.0])
    for clean in ("true", "false"):
        got = combine(as_type(deltas), f"consensus:clean={clean}")
        assert norm(got) <= 2 * norm(raw) + 1e-5 * norm(first)
        assert norm(got) <= 8 * share * norm(noise) + 1e-5 * norm(first)


@pytest.mark.parametrize("weights", [[1.0, 1.0], [0.3, 0.3]])
def test_consensus_of_opposed_deltas_is_nothing(weights: list[float]) -> None:
    (delta,) = draw(52, 1)
    for method in ("consensus", "consensus:clean=false"):
        assert not combine(as_type([delta, -delta]), method, weights=weights).any()
        turned = combine(as_type([delta, delta]), method, weights=[weights[0], -weights[1]])
        assert not turned.any()


def test_cleaning_takes_noise_out() -> None:
    rng = np.random.default_rng(53)
    signal = rng.normal(size=(120, 3)) @ rng.normal(size=(3, 90))
    signal /= math.sqrt(3)
    deltas = [signal + 0.5 * rng.normal(size=signal.shape) for _ in range(3)]
    errors = {}
    for clean in ("true", "false"):
        got = combine(deltas, f"consensus:clean={clean}")
        errors[clean] = norm(got - np.vdot(got, signal) / np.vdot(signal, signal) * signal) / norm(
            got
        )
    assert errors["true"] < 0.8 * errors["false"]


@pytest.mark.parametrize("backend", ["rust", "torch:cpu"])
@pytest.mark.parametrize("rank", [3, 12])
def test_large_targets_are_cleaned_like_small_ones(rank: int, backend: str, tmp_path: Path) -> None:
    """Too large to be decomposed as a whole, with directions just above the noise."""
    modules = {"unet.x": (600, 500)}
    paths = [
        write_adapter(tmp_path / f"{i}.safetensors", pairs(i, rank, modules=modules))
        for i in range(3)
    ]
    wish = Output(rank=500, dtype="f32")
    weights = [1.0, 0.7, -0.5]
    merged_ = merge(paths, "consensus", weights=weights, output=wish, backend=backend)
    ((target, factors),) = merged_.adapter.targets.items()
    deltas = [expand(t, [f]) for path in paths for t, f in load(path).targets.items()]
    whole = combine(deltas, "consensus", weights=weights)
    assert norm(expand(target, [factors]) - whole) < 0.01 * norm(whole)
