"""What holds for whole merges with a policy, from files to files."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import Pair, write_adapter

import loramix
from loramix import Output, load, merge

SHAPE = (96, 80)
RANK = 6
POLICIES = ["auto", "auto:strength=1", "published"]
WEIGHTS = [0.8, 1.1, 0.6]
F32 = Output(rank=80, dtype="f32")


def stack(folder: Path) -> list[Path]:
    """Three adapters: independent, aligned, opposed, partly shared, clashing, alone."""
    rng = np.random.default_rng(5)

    def pair() -> tuple[Any, Any]:
        return rng.normal(size=(SHAPE[0], RANK)), rng.normal(size=(RANK, SHAPE[1]))

    def near(pair_: tuple[Any, Any], share: float) -> tuple[Any, Any]:
        up, down = pair()
        return share * pair_[0] + (1 - abs(share)) * up, pair_[1] + 0.1 * down

    turned = np.where(np.arange(SHAPE[0]) % 5 < 2, -1.0, 1.0)[:, None]
    a, b, c, d, e, f = (pair() for _ in range(6))
    groups = {
        "independent": [a, pair(), pair()],
        "aligned": [b, near(b, 0.9), near(b, 0.8)],
        "opposed": [c, near(c, -0.9), pair()],
        "partial": [d, (np.hstack([d[0][:, :3], pair()[0][:, :3]]), pair()[1]), None],
        "clashing": [e, (e[0] * turned, e[1]), pair()],
        "single": [f, None, None],
    }
    paths = []
    for place, name in enumerate(("style", "face", "hat")):
        members = {}
        for group, each in groups.items():
            one = each[place]
            if one is not None:
                up, down = (side.astype(np.float32).astype(np.float64) for side in one)
                members[f"unet.{group}.to_q"] = Pair(up, down, SHAPE, "F32", None)
        paths.append(write_adapter(folder / f"{name}.safetensors", members))
    return paths


def dense(source: Any) -> dict[str, Any]:
    adapter = load(source) if isinstance(source, Path) else source
    return {t.key: loramix.expand(t, [m]).astype(np.float64) for t, m in adapter.targets.items()}


def gap(got: dict[str, Any], expected: dict[str, Any], factor: float = 1.0) -> float:
    return max(
        float(np.linalg.norm(got[key] - factor * one) / np.linalg.norm(factor * one))
        for key, one in expected.items()
    )


def test_every_regime_is_there(tmp_path: Path) -> None:
    plan = loramix.plan(stack(tmp_path), "auto", weights=WEIGHTS)
    regimes = {c.target.key.split(".")[1]: c.decision.regime for c in plan.choices}
    assert regimes == {
        "independent": "independent", "aligned": "aligned", "opposed": "opposed",
        "partial": "partial", "clashing": "conflicted", "single": "alone",
    }  # fmt: skip
    for choice in plan.choices:
        assert choice.decision.why
    methods = {c.decision.method.name for c in plan.choices}
    assert methods == {"linear", "retain", "elect"}


@pytest.mark.parametrize("policy", POLICIES)
def test_the_order_of_the_stack_does_not_matter(policy: str, tmp_path: Path) -> None:
    paths = stack(tmp_path)
    expected = dense(merge(paths, policy, weights=WEIGHTS, output=F32).adapter)
    order = [2, 0, 1]
    turned = merge(
        [paths[i] for i in order], policy, weights=[WEIGHTS[i] for i in order], output=F32
    )
    assert gap(dense(turned.adapter), expected) < 2e-6


@pytest.mark.parametrize("policy", POLICIES[:2])
@pytest.mark.parametrize("factor", [0.25, 3.0, -1.0])
def test_weights_have_a_scale_and_a_sign(policy: str, factor: float, tmp_path: Path) -> None:
    """REFERENCE: the published policy keeps neither, its means divide the size away."""
    paths = stack(tmp_path)
    expected = dense(merge(paths, policy, weights=WEIGHTS, output=F32).adapter)
    scaled = merge(paths, policy, weights=[factor * w for w in WEIGHTS], output=F32)
    assert gap(dense(scaled.adapter), expected, factor) < 2e-6


@pytest.mark.parametrize(("policy", "factor"), [("auto", 0.5), ("linear", 1.0)])
def test_one_adapter_twice_at_half(policy: str, factor: float, tmp_path: Path) -> None:
    """A sum of halves is the whole; what is said twice counts once under `auto`."""
    (path, *_) = stack(tmp_path)
    twin = tmp_path / "twin.safetensors"
    twin.write_bytes(path.read_bytes())
    halves = merge([path, twin], policy, weights=[0.5, 0.5], output=F32)
    assert gap(dense(halves.adapter), dense(path), factor) < 1e-5


@pytest.mark.parametrize("policy", POLICIES)
def test_threads_and_processes_change_no_byte(policy: str, tmp_path: Path) -> None:
    paths = stack(tmp_path)
    written = []
    for threads in (1, 2, 7):
        out = tmp_path / f"{threads}.safetensors"
        merge(paths, policy, weights=WEIGHTS, threads=threads, path=out)
        written.append(out.read_bytes())
    code = (
        "import sys, loramix\n"
        "*paths, policy, out = sys.argv[1:]\n"
        f"loramix.merge(paths, policy, weights={WEIGHTS}, path=out)\n"
    )
    for seed in ("0", "123"):
        out = tmp_path / f"seed{seed}.safetensors"
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        arguments = [sys.executable, "-c", code, *map(str, paths), policy, str(out)]
        subprocess.run(arguments, env=environment, check=True)
        written.append(out.read_bytes())
    assert len(set(written)) == 1


def test_special_adapters_go_around(tmp_path: Path) -> None:
    paths = stack(tmp_path)
    speed = paths[2].rename(tmp_path / "sdxl_lightning_4step_lora.safetensors")
    plan = loramix.plan([*paths[:2], speed], "auto", weights=WEIGHTS, output=F32)
    assert any("lightning" in note.lower() for note in plan.notes)
    got = dense(loramix.execute(plan).adapter)
    two = dense(merge(paths[:2], "auto", weights=WEIGHTS[:2], output=F32).adapter)
    own = dense(speed)
    for key, delta in got.items():
        expected = two[key] + WEIGHTS[2] * own.get(key, np.zeros(SHAPE))
        assert np.linalg.norm(delta - expected) < 2e-6 * np.linalg.norm(expected), key
    mixed = loramix.plan([*paths[:2], speed], "auto:mix=true", weights=WEIGHTS)
    assert all(not choice.decision.sides for choice in mixed.choices)
