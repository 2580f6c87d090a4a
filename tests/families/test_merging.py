"""Stacks of mixed families: one merge, whatever the parameterisation of the members."""

from pathlib import Path

import numpy as np
import pytest
from families.files import CASES, RELATIVE, Case, deltas, file_of, read
from formats.builders import Built
from helpers import relative
from oracles_families import F64

from loramix import Adapter, Output, inspect, merge, resize
from loramix.planning.steps import FULL

SHAPE = (24, 30)
MIXED = {
    "lora": Case(SHAPE, {"up": (24, 4), "down": (4, 30)}, CASES["lora"].oracle, "lora"),
    "loha": Case(
        SHAPE,
        {"hada_w1_a": (24, 3), "hada_w1_b": (3, 30), "hada_w2_a": (24, 3), "hada_w2_b": (3, 30)},
        CASES["loha"].oracle, "loha", rank=3,
    ),
    "lokr": CASES["lokr, w2 factored"],
    "lokr, both full": CASES["lokr, both full"],
    "full": Case(SHAPE, {"diff": SHAPE}, CASES["full"].oracle, "full", alpha=None),
    "ia3": Case(
        SHAPE, {"ia3_l": (24, 1)}, RELATIVE["ia3, peft"].oracle, "ia3", alpha=None, base=True
    ),
    "oft": Case(
        SHAPE, {"oft_blocks": (6, 4, 4)}, RELATIVE["oft"].oracle, "oft", alpha=None, base=True
    ),
    "glora": Case(
        SHAPE, {"a1": (30, 3), "a2": (3, 30), "b1": (24, 3), "b2": (3, 30)},
        RELATIVE["glora"].oracle, "glora", alpha=2.0, rank=3, base=True,
    ),
}  # fmt: skip


def stack(folder: Path) -> tuple[list[Adapter], list[F64]]:
    """One adapter of every family on one weight."""
    adapters, truths = [], []
    for seed, (name, case) in enumerate(MIXED.items()):
        path, truth, model = file_of(folder, {"unet.x": case}, seed=seed, name=f"a{seed}")
        adapters.append(read(path, model))
        truths.append(truth["unet.x"])
        assert adapters[-1].families == {case.family: 1}, name
    return adapters, truths


def test_a_sum_of_all_families(tmp_path: Path) -> None:
    adapters, truths = stack(tmp_path)
    weights = [1.0, -0.5, 0.7, 2.0, 0.3, 1.5, -1.0, 0.25]
    meant = sum(w * t for w, t in zip(weights, truths, strict=True))
    merged = merge(adapters, "linear", weights=weights, output=Output(dtype="f32"))
    assert relative(deltas(merged.adapter)["unet.x"], np.asarray(meant)) < 2e-6
    assert merged.error < 1e-5
    for share, weight, truth in zip(merged.shares, weights, truths, strict=True):
        assert share.energy == pytest.approx(weight**2 * float((truth**2).sum()), rel=1e-4)


@pytest.mark.parametrize("method", ["auto", "ties", "slerp", "iso-c", "core(ties)", "della"])
def test_methods_see_the_deltas_and_nothing_else(method: str, tmp_path: Path) -> None:
    adapters, truths = stack(tmp_path)
    plain = []
    for index, truth in enumerate(truths):
        tensors = {"unet.x.diff": truth.astype(np.float32)}
        plain.append(Built(tensors, {}).save(tmp_path / f"plain{index}.safetensors"))
    output = Output(dtype="f32", dialect="diffusers")
    one = merge(adapters, method, output=output, seed=3)
    two = merge(plain, method, output=output, seed=3)
    found, meant = (deltas(merged.adapter)["unet.x"] for merged in (one, two))
    # Rounding may move an entry over a threshold; the rest must agree.
    assert relative(found, meant) < (0.05 if method in ("ties", "core(ties)", "della") else 1e-4)


def test_strength_scales_the_folded_difference(tmp_path: Path) -> None:
    cases = {f"unet.{i}": case for i, case in enumerate(RELATIVE.values())}
    path, truth, model = file_of(tmp_path, cases)
    merged = merge([read(path, model)], "linear", weights=[0.5], output=Output(dtype="f32"))
    found = deltas(merged.adapter)
    for key, meant in truth.items():
        assert relative(found[key], 0.5 * meant) < 1e-5


def test_a_stack_to_rank(tmp_path: Path) -> None:
    cases = {
        f"unet.{i}": case
        for i, case in enumerate((*CASES.values(), *RELATIVE.values()))
        if case.family != "embedding"
    }
    paths = [file_of(tmp_path, cases, seed=seed, name=f"a{seed}", dtype="BF16") for seed in (1, 2)]
    adapters = [read(path, model) for path, _, model in paths]
    output = Output(rank=3, dialect="diffusers")
    merged = merge(adapters, "auto", path=tmp_path / "out.safetensors", output=output)
    assert merged.plan.dtype == "bf16"
    assert {row.rank for row in merged.log} == {3}
    assert merged.adapter.families == {"lora": len(cases)}
    truths = [truth for _, truth, _ in paths]
    for row in merged.log:
        meant = truths[0][row.target] + truths[1][row.target]
        if row.target in ("unet.0", "unet.6"):
            assert row.norm == pytest.approx(np.linalg.norm(meant), rel=0.2)


def test_inspect_counts_families(tmp_path: Path) -> None:
    cases = {f"unet.{i}": case for i, case in enumerate((*CASES.values(), *RELATIVE.values()))}
    path, _, model = file_of(tmp_path, cases)
    facts = inspect(read(path, model))
    assert sum(facts.families.values()) == len(cases)
    assert facts.families["loha"] == 5
    assert facts.families["dora(lokr)"] == 2
    assert facts.as_dict()["families"] == dict(facts.families)


# --- deltas of full rank, entry by entry ---------------------------------------------------------


def full_rank(folder: Path, seed: int, rank: int, name: str) -> tuple[Path, F64]:
    """A difference of low rank written as a dense one, of a weight that counts as large."""
    rng = np.random.default_rng(seed)
    delta = (rng.normal(size=(FULL, rank)) @ rng.normal(size=(rank, 600))).astype(np.float32)
    tensors = {"unet.x.diff": delta}
    return Built(tensors, {}).save(folder / f"{name}.safetensors"), delta.astype(float)


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_the_leading_directions_are_found(dtype: str, tmp_path: Path) -> None:
    (one, first), (two, second) = (full_rank(tmp_path, s, 5, str(s)) for s in (1, 2))
    output = Output(rank=12, dtype=dtype, dialect="diffusers")  # type: ignore[arg-type]
    merged = merge([one, two], "linear", weights=[1.0, -0.5], output=output)
    (step,), (row,) = merged.plan.steps, merged.log
    assert (step.kind, step.is_full) == ("entries", True)
    meant = first - 0.5 * second
    assert relative(deltas(merged.adapter)["unet.x"], meant) < (1e-5 if dtype == "f32" else 1e-2)
    assert row.cut < 1e-5
    assert row.norm == pytest.approx(np.linalg.norm(meant), rel=1e-5)
    for share, own in zip(row.shares, (first, -0.5 * second), strict=True):
        assert share.energy == pytest.approx((own**2).sum(), rel=1e-5)
        tolerance = 1e-5 if dtype == "f32" else 1e-2
        assert share.along == pytest.approx((meant * own).sum(), rel=tolerance)
        assert share.others == pytest.approx(((meant - own) * own).sum(), rel=1e-3)


def test_a_cut_is_nearly_the_best(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    left, right = (np.linalg.qr(rng.normal(size=(n, FULL)))[0] for n in (FULL, 600))
    values = 1.0 / np.arange(1, FULL + 1)
    delta = (left * values) @ right.T
    path = Built({"unet.x.diff": delta.astype(np.float32)}, {}).save(tmp_path / "a.safetensors")
    resized = resize(path, rank=16, path=tmp_path / "out.safetensors", dialect="diffusers")
    best = np.sqrt((values[16:] ** 2).sum() / (values**2).sum())
    found = deltas(resized.adapter)["unet.x"]
    assert relative(found, delta) == pytest.approx(best, rel=2e-2)
    assert resized.log[0].cut == pytest.approx(best, rel=2e-2)


@pytest.mark.parametrize("method", ["ties", "dare:density=0.5", "consensus", "slerp"])
def test_methods_agree_with_those_on_factors(method: str, tmp_path: Path) -> None:
    (one, first), (two, second) = (full_rank(tmp_path, s, 4, str(s)) for s in (1, 2))
    pairs = []
    for index, delta in enumerate((first, second)):
        up, values, down = np.linalg.svd(delta, full_matrices=False)
        tensors = {
            "unet.x.lora_B.weight": np.ascontiguousarray(up[:, :4] * values[:4], dtype=np.float32),
            "unet.x.lora_A.weight": np.ascontiguousarray(down[:4], dtype=np.float32),
        }
        pairs.append(Built(tensors, {}).save(tmp_path / f"pair{index}.safetensors"))
    output = Output(rank=32, dtype="f32", dialect="diffusers")
    dense = merge([one, two], method, output=output)
    factored = merge(pairs, method, output=output)
    found, meant = (row.log[0] for row in (dense, factored))
    assert found.norm == pytest.approx(meant.norm, rel=1e-3)
    # The sketch finds more of a flat spectrum than the row space of the factors does.
    assert found.cut < 1.001 * meant.cut + 5e-3
    for a, b in zip(found.shares, meant.shares, strict=True):
        assert a.energy == pytest.approx(b.energy, rel=1e-4)
        assert a.interference == pytest.approx(b.interference, abs=1e-4)
        assert a.retention == pytest.approx(b.retention, rel=2e-2)


def test_sums_of_full_rank_are_written_dense_where_that_is_wanted(tmp_path: Path) -> None:
    (one, first), (two, second) = (full_rank(tmp_path, s, 5, str(s)) for s in (1, 2))
    output = Output(dense=True, dtype="f32", dialect="kohya")
    with pytest.raises(Exception, match="it has no flattened name"):
        merge([one, two], "linear", output=output)
    flat = []
    for index, delta in enumerate((first, second)):
        tensors = {"lora_unet_x.diff": delta.astype(np.float32)}
        flat.append(Built(tensors, {}).save(tmp_path / f"flat{index}.safetensors"))
    merged = merge(flat, "linear", output=output)
    (row,) = merged.log
    assert row.dense
    (found,) = deltas(merged.adapter).values()
    assert relative(found, first + second) < 1e-6
    assert row.shares[0].energy == pytest.approx((first**2).sum(), rel=1e-5)


def test_numbers_that_are_none_are_refused_by_name(tmp_path: Path) -> None:
    path, delta = full_rank(tmp_path, 1, 5, "good")
    delta[3, 4] = np.nan
    bad = Built({"unet.x.diff": delta.astype(np.float32)}, {}).save(tmp_path / "bad.safetensors")
    output = Output(rank=4, dialect="diffusers")
    with pytest.raises(Exception, match=r"bad\.safetensors: unet\.x\.diff holds NaN or infinity"):
        merge([path, bad], "linear", output=output)
