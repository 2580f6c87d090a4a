"""Biases, norms and modulations: read, merged by every method, written, read back."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from formats.builders import Built, pair, spell
from helpers import read_safetensors, relative
from oracles_families import F64
from safetensors.numpy import load_file

from loramix import FormatError, Output, load, load_plan, merge, plan, save_plan
from loramix.methods import METHODS, Coefficients, Elementwise, method_of
from loramix.types import Target

VECTORS = {
    "lora_unet_x.diff_b": (40,), "lora_unet_norm.w_norm": (300,), "lora_unet_norm.b_norm": (300,),
    "lora_unet_b.diff_m": (1, 6, 20), "lora_unet_one.diff_b": (1,), "lora_unet_n.diff": (64,),
}  # fmt: skip
KEYS = {
    "lora_unet_x.diff_b": "lora_unet_x.bias", "lora_unet_norm.w_norm": "lora_unet_norm",
    "lora_unet_norm.b_norm": "lora_unet_norm.bias", "lora_unet_b.diff_m": "lora_unet_b.modulation",
    "lora_unet_one.diff_b": "lora_unet_one.bias", "lora_unet_n.diff": "lora_unet_n",
}  # fmt: skip
WEIGHTS = (1.0, 0.5, -0.3)


def file(folder: Path, seed: int) -> tuple[Path, dict[str, F64]]:
    rng = np.random.default_rng(seed)
    own = {k: rng.normal(size=shape).astype(np.float32) for k, shape in VECTORS.items()}
    tensors = own | spell("lora_unet_x", pair(40, 30, 4, seed), ".lora_{}.weight", (40, 30))
    path = Built(tensors, {}).save(folder / f"{seed}.safetensors")
    return path, {name: value.astype(float) for name, value in own.items()}


def stack(folder: Path) -> tuple[list[Path], list[dict[str, F64]]]:
    paths, truths = zip(*(file(folder, seed) for seed in (1, 2, 3)), strict=True)
    return list(paths), list(truths)


def summed(truths: list[dict[str, F64]], weights: tuple[float, ...]) -> dict[str, F64]:
    return {
        name: np.asarray(sum(w * t[name] for w, t in zip(weights, truths, strict=True)))
        for name in truths[0]
    }


def test_targets_have_the_shape_of_the_parameter(tmp_path: Path) -> None:
    path, truth = file(tmp_path, 1)
    adapter = load(path)
    found = {t.key.removeprefix("model."): (t, f) for t, f in adapter.targets.items()}
    for name, key in KEYS.items():
        target, factors = found[key]
        assert target.shape == VECTORS[name]
        assert target.is_vector
        assert factors.rank == 1
        values = np.frombuffer(factors.stored[0].data, dtype=np.float32)
        assert np.array_equal(values, truth[name].ravel())
    assert adapter.families == {"bias": 3, "lora": 1, "modulation": 1, "norm": 2}
    assert not found["lora_unet_x"][0].is_vector
    assert adapter.coverage.used == len(VECTORS) + 2


@pytest.mark.parametrize("method", METHODS)
def test_every_method_merges_vectors(method: str, tmp_path: Path) -> None:
    paths, truths = stack(tmp_path)
    out = tmp_path / "out.safetensors"
    merged = merge(paths, method, weights=WEIGHTS, path=out, output=Output(dtype="f32"))
    written = load_file(out)
    assert sorted(written) == sorted(
        [*(n.replace("n.diff", "n.w_norm") for n in VECTORS), "lora_unet_x.alpha",
         "lora_unet_x.lora_down.weight", "lora_unet_x.lora_up.weight"]
    )  # fmt: skip
    rows = {row.target.removeprefix("model."): row for row in merged.log}
    assert {rows[key].dense for key in KEYS.values()} == {True}
    own = method_of(method)
    alone = not isinstance(own, Coefficients | Elementwise)  # rules on singular values
    for name, truth in summed(truths, WEIGHTS).items():
        found = written[name.replace("n.diff", "n.w_norm")].astype(float)
        assert found.shape == VECTORS[name]
        assert np.isfinite(found).all()
        if method == "linear" or (alone and not own.mean):
            assert relative(found, truth) < 1e-6
        if alone and own.mean:
            assert relative(found, truth / sum(map(abs, WEIGHTS))) < 1e-6


@pytest.mark.parametrize("method", ["core(ties)", "knots(ties)", "core(linear)", "knots(slerp)"])
def test_spaces_become_sums_or_means(method: str, tmp_path: Path) -> None:
    paths, truths = stack(tmp_path)
    out = tmp_path / "out.safetensors"
    merge(paths, method, weights=WEIGHTS, path=out, output=Output(dtype="f32"))
    written = load_file(out)
    truth = summed(truths, WEIGHTS)["lora_unet_norm.w_norm"]
    mean = method_of(method).mean
    meant = truth / sum(map(abs, WEIGHTS)) if mean else truth
    assert relative(written["lora_unet_norm.w_norm"].astype(float), meant) < 1e-6


@pytest.mark.parametrize(
    "options",
    [{"refine": "refine"}, {"refine": "full"}, {"refine": "full-published"},
     {"sparsify": "dare:density=0.5"}],
)  # fmt: skip
@pytest.mark.parametrize("method", ["linear", "ties", "average", "consensus"])
def test_modifiers_leave_vectors_finite(
    method: str, options: Mapping[str, str], tmp_path: Path
) -> None:
    paths, _ = stack(tmp_path)
    out = tmp_path / "out.safetensors"
    merge(paths, method, path=out, **options)  # type: ignore[arg-type]
    assert all(np.isfinite(v.astype(float)).all() for v in load_file(out).values())


def test_ties_on_a_vector_is_ties(tmp_path: Path) -> None:
    paths, truths = stack(tmp_path)
    out = tmp_path / "out.safetensors"
    merge(paths, "ties:density=0.3", path=out, output=Output(dtype="f32"))
    deltas = np.array([t["lora_unet_norm.w_norm"] for t in truths])
    kept = np.zeros_like(deltas)
    for row, delta in zip(kept, deltas, strict=True):
        top = np.argsort(-np.abs(delta), kind="stable")[:90]
        row[top] = delta[top]
    agree = np.sign(kept) * np.sign(kept.sum(axis=0)) > 0
    meant = np.where(agree, kept, 0).sum(axis=0) / np.maximum(agree.sum(axis=0), 1)
    assert relative(load_file(out)["lora_unet_norm.w_norm"].astype(float), meant) < 1e-6


def test_the_account_of_a_vector_is_that_of_its_numbers(tmp_path: Path) -> None:
    paths, truths = stack(tmp_path)
    merged = merge(paths, "linear", weights=WEIGHTS, output=Output(dtype="f32"))
    row = next(row for row in merged.log if row.target.endswith("lora_unet_norm"))
    own = np.array([w * t["lora_unet_norm.w_norm"] for w, t in zip(WEIGHTS, truths, strict=True)])
    total = own.sum(axis=0)
    assert row.norm == pytest.approx(np.linalg.norm(total), rel=1e-6)
    for share, delta in zip(row.shares, own, strict=True):
        assert share.energy == pytest.approx(delta @ delta, rel=1e-5)
        assert share.along == pytest.approx(total @ delta, rel=1e-5, abs=1e-4)
        assert share.others == pytest.approx((total - delta) @ delta, rel=1e-4, abs=1e-4)


def test_what_is_left_out_everywhere_is_written_as_zeros(tmp_path: Path) -> None:
    paths, _ = stack(tmp_path)
    out = tmp_path / "out.safetensors"
    merge(paths, "linear", weights=[{"*norm*": 0.0}] * 3, path=out)
    written = load_file(out)
    assert not written["lora_unet_norm.w_norm"].any()
    assert written["lora_unet_n.w_norm"].any()


@pytest.mark.parametrize("method", ["auto", "ties"])
def test_plan_files_hold_vectors(method: str, tmp_path: Path) -> None:
    paths, _ = stack(tmp_path)
    planned = plan(paths, method)
    kinds = {s.target.key: s.kind for s in planned.steps}
    assert {kinds[f"model.{key}"] for key in KEYS.values()} == {"dense"}
    save_plan(planned, tmp_path / "plan.toml")
    again = load_plan(tmp_path / "plan.toml")
    assert again.digest() == planned.digest()


# --- other dialects ------------------------------------------------------------------------------


def with_bias(folder: Path, seed: int, alpha: float | None = None) -> tuple[Path, dict[str, F64]]:
    rng = np.random.default_rng(seed)
    tensors = spell("unet.x", pair(40, 30, 4, seed), "AB", (40, 30))
    tensors["unet.x.lora_B.bias"] = rng.normal(size=40).astype(np.float32)
    if alpha is not None:
        tensors["unet.x.alpha"] = np.array(alpha, dtype=np.float32)
    scale = 1.0 if alpha is None else alpha / 4
    path = Built(tensors, {}).save(folder / f"bias{seed}.safetensors")
    return path, {"bias": scale * tensors["unet.x.lora_B.bias"].astype(float)}


@pytest.mark.parametrize("dialect", ["diffusers", "peft", "plain", "kohya"])
def test_the_bias_of_a_pair_is_scaled_like_it(dialect: str, tmp_path: Path) -> None:
    one, first = with_bias(tmp_path, 1, alpha=6.0)
    two, second = with_bias(tmp_path, 2)
    out = tmp_path / ("out" if dialect == "peft" else "out.safetensors")
    if dialect == "kohya":  # no table knows the module, and diffusers names have no flat form
        with pytest.raises(FormatError, match="it has no flattened name"):
            merge([one, two], "linear", path=out, output=Output(dialect=dialect, dtype="f32"))
        return
    merge([one, two], "linear", path=out, output=Output(dialect=dialect, dtype="f32"))
    file_ = out / "adapter_model.safetensors" if dialect == "peft" else out
    name = {"diffusers": "unet.x", "peft": "base_model.model.x", "plain": "x"}[dialect]
    found = load_file(file_)[f"{name}.lora_B.bias"].astype(float)
    assert relative(found, first["bias"] + second["bias"]) < 1e-6
    if dialect == "peft":
        config = json.loads((out / "adapter_config.json").read_text(encoding="utf-8"))
        assert config["lora_bias"] is True
    (target,) = [t for t in load(out).targets if t.is_vector]
    assert target == Target("x.bias" if dialect != "diffusers" else "unet.x.bias", (40,))


def test_the_header_of_diffusers_names_biases(tmp_path: Path) -> None:
    one, _ = with_bias(tmp_path, 1)
    other = spell("unet.y", pair(8, 9, 2, 3), "AB", (8, 9))
    two = Built(other, {}).save(tmp_path / "y.safetensors")
    merge([one, two], "linear", path=tmp_path / "out.safetensors")
    _, strings = read_safetensors(tmp_path / "out.safetensors")
    assert json.loads(strings["lora_adapter_metadata"])["unet.lora_bias"] is True


@pytest.mark.parametrize(
    ("name", "what"),
    [("n.diff", "the weight of a norm"), ("n.diff_b", "a bias without factors beside it"),
     ("n.diff_m", "a modulation")],
)  # fmt: skip
def test_what_clients_do_not_read_is_refused(name: str, what: str, tmp_path: Path) -> None:
    tensors = spell("unet.x", pair(8, 9, 2, 3), "AB", (8, 9))
    path = Built(tensors | {f"unet.{name}": np.ones(8, dtype=np.float32)}, {}).save(
        tmp_path / "a.safetensors"
    )
    out = tmp_path / "out.safetensors"
    message = rf"a: unet\.n\S*: the clients of diffusers files .* {what}; write --dialect kohya"
    with pytest.raises(FormatError, match=message):
        merge([path], "linear", path=out, output=Output(dialect="diffusers"))
    assert not out.exists()


def test_embeddings_go_to_peft_and_nowhere_else(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    paths, meant = [], np.zeros((30, 8))
    for seed in (1, 2):
        first = rng.normal(size=(3, 30)).astype(np.float32)
        second = rng.normal(size=(8, 3)).astype(np.float32)
        meant += (second.astype(float) @ first).T
        tensors = {"base_model.model.e.lora_embedding_A": first,
                   "base_model.model.e.lora_embedding_B": second}  # fmt: skip
        paths.append(Built(tensors, {}).save(tmp_path / f"{seed}.safetensors"))
    merge(paths, "linear", path=tmp_path / "out", output=Output(dtype="f32"))
    written = load_file(tmp_path / "out" / "adapter_model.safetensors")
    first, second = (written[f"base_model.model.e.lora_embedding_{x}"] for x in "AB")
    assert (first.shape, second.shape) == ((6, 30), (8, 6))
    assert relative((second.astype(float) @ first).T, meant) < 1e-6
    with pytest.raises(FormatError, match="read no factors of embeddings; write --dialect peft"):
        merge(paths, "linear", path=tmp_path / "b", output=Output(dialect="plain"))


# --- fused weights -------------------------------------------------------------------------------


def test_biases_of_fused_weights_come_apart_and_together(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    whole = rng.normal(size=9216).astype(np.float32)
    query = rng.normal(size=3072).astype(np.float32)
    stem = "lora_unet_double_blocks_0_img_attn_qkv"
    key = "transformer.transformer_blocks.0.attn.to_q"
    one = spell(stem, pair(9216, 3072, 2, 1), ".lora_{}.weight", (9216, 3072), alpha=True)
    two = spell(key, pair(3072, 3072, 2, 2), "AB", (3072, 3072))
    paths = [
        Built(one | {f"{stem}.diff_b": whole}, {}).save(tmp_path / "one.safetensors"),
        Built(two | {f"{key}.diff_b": query}, {}).save(tmp_path / "two.safetensors"),
    ]
    adapters = [load(path, architecture="flux1") for path in paths]
    out = tmp_path / "kohya.safetensors"
    merge(adapters, "linear", path=out, output=Output(dialect="kohya", dtype="f32"))
    meant = whole.astype(float)
    meant[:3072] += query
    assert relative(load_file(out)[f"{stem}.diff_b"].astype(float), meant) < 1e-6
    out = tmp_path / "diffusers.safetensors"
    merge(adapters, "linear", path=out, output=Output(dialect="diffusers", dtype="f32"))
    written = load_file(out)
    for index, part in enumerate("qkv"):
        found = written[key.replace("to_q", f"to_{part}") + ".lora_B.bias"].astype(float)
        assert relative(found, meant[index * 3072 : (index + 1) * 3072]) < 1e-6
