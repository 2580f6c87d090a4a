"""What tensors of real files do to a reader that trusts them: every trap is a test."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from families.files import CASES, RELATIVE, Case, Model, deltas, file_of, read
from formats.builders import Built, pair, spell
from helpers import relative
from oracles_families import F64

from loramix import FormatError, ParamError, ShapeError, load
from loramix.formats.layout import load_layout

Array = np.ndarray[Any, Any]


def save(tensors: Mapping[str, Array], folder: Path, **config: object) -> Path:
    path = folder / "adapter_model.safetensors"
    if config:
        (folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    return Built(dict(tensors), {}).save(path)


def values(*shape: int, seed: int = 1) -> Array:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


# --- transposed, flat, grouped, empty ------------------------------------------------------------


def test_a_transposed_pair_is_turned(tmp_path: Path) -> None:
    up, down = values(12, 3), values(3, 20, seed=2)
    path = save({"x.lora_A.weight": down.T.copy(), "x.lora_B.weight": up.T.copy()}, tmp_path)
    (target,) = (adapter := load(path)).targets
    assert target.shape == (12, 20)
    assert relative(deltas(adapter)["x"], up.astype(float) @ down) < 1e-6


@pytest.mark.parametrize("transposed", [False, True])
def test_where_both_readings_fit_the_table_decides(transposed: bool, tmp_path: Path) -> None:
    # (r, in) and (out, r) of one square weight, or the transposed factors of another.
    name = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    width, rank = (320, 768) if transposed else (320, 16)
    up, down = values(width, rank), values(rank, width, seed=2)
    stored = (up.T.copy(), down.T.copy()) if transposed else (up, down)
    tensors = {f"{name}.lora_B.weight": stored[0], f"{name}.lora_A.weight": stored[1]}
    adapter = load(save(tensors, tmp_path), architecture="sd15")
    (target,) = adapter.targets
    assert (target.key, target.shape) == (name, (320, 320))
    assert relative(deltas(adapter)[name], up.astype(float) @ down) < 1e-5
    unknown = save({k.replace("unet.", "a."): v for k, v in tensors.items()}, tmp_path)
    (target,) = load(unknown).targets
    assert target.shape == ((768, 768) if transposed else (320, 320))


def transposed(name: str, width: int, rank: int, seed: int = 1) -> dict[str, Array]:
    """A square pair as (rank, rows) and (columns, rank)."""
    up, down = values(width, rank, seed=seed), values(rank, width, seed=seed + 1)
    return {f"{name}.lora_B.weight": up.T.copy(), f"{name}.lora_A.weight": down.T.copy()}


@pytest.mark.parametrize("beside", ["nothing", "others"])
def test_a_rank_above_both_sides_is_none(beside: str, tmp_path: Path) -> None:
    """(4, 20) and (20, 4) are a weight of 20 x 20, and none of 4 x 4 at rank 20."""
    tensors = transposed("x", 20, 4)
    if beside == "others":
        tensors |= spell("y", pair(20, 9, 3, 1), "AB", (20, 9))
        tensors |= spell("z", pair(9, 20, 2, 1), "AB", (9, 20))
    adapter = load(save(tensors, tmp_path))
    shapes = {target.key: target.shape for target in adapter.targets}
    assert shapes["x"] == (20, 20)
    up, down = values(20, 4), values(4, 20, seed=2)
    assert relative(deltas(adapter)["x"], up.astype(float) @ down) < 1e-6
    assert adapter.coverage.notes == ("1 pairs are stored transposed: turned (x.lora_B.weight)",)


@pytest.mark.parametrize("turned", [False, True])
def test_the_rank_of_the_others_tells(turned: bool, tmp_path: Path) -> None:
    """A rank above both sides is what it is where all others have it."""
    width, rank = (6, 12) if turned else (12, 6)
    up, down = values(width, rank), values(rank, width, seed=2)
    tensors = {"x.lora_B.weight": up, "x.lora_A.weight": down}
    if turned:
        tensors = transposed("x", width, rank)
    tensors |= spell("y", pair(30, 20, rank, 1), "AB", (30, 20))
    adapter = load(save(tensors, tmp_path))
    assert {t.key: t.shape for t in adapter.targets} == {"x": (width, width), "y": (30, 20)}
    assert relative(deltas(adapter)["x"], up.astype(float) @ down) < 1e-6
    assert len(adapter.coverage.notes) == turned


def test_one_transposed_pair_does_not_hide_the_model(tmp_path: Path) -> None:
    """Two modules of three would be too few to know the model by."""
    block = "unet.down_blocks.1.attentions.0.transformer_blocks.0"
    tensors = transposed(f"{block}.attn1.to_q", 640, 4)
    for name, cols in (("attn2.to_k", 768), ("attn2.to_v", 768)):
        tensors |= spell(f"{block}.{name}", pair(640, cols, 4, 1), "AB", (640, cols))
    adapter = load(save(tensors, tmp_path))
    assert adapter.architecture == "sd15"
    assert {t.shape for t in adapter.targets} == {(640, 640), (640, 768)}
    assert any("stored transposed" in note for note in adapter.coverage.notes)


@pytest.mark.parametrize("name", ["loha, conv flat", "lokr, conv flat"])
def test_flat_kernels_get_the_shape_of_the_table(name: str, tmp_path: Path) -> None:
    module = load_layout("sd15").by_key["unet", "down_blocks_0_resnets_0_conv1"]
    rows, cols = 320, 320 * 9
    case = CASES[name]
    roles = {
        "loha, conv flat": {
            "hada_w1_a": (rows, 2), "hada_w1_b": (2, cols), "hada_w2_a": (rows, 2),
            "hada_w2_b": (2, cols),
        },
        "lokr, conv flat": {
            "lokr_w1": (8, 8), "lokr_w2_a": (40, 2), "lokr_w2_b": (2, 40 * 9)
        },
    }[name]  # fmt: skip
    own = Case(module.shape, roles, case.oracle, case.family, rank=2)
    key = f"unet.{module.name}"
    path, truth, _ = file_of(tmp_path, {key: own})
    (target,) = (adapter := load(path, architecture="sd15")).targets
    assert target.shape == module.shape
    assert relative(deltas(adapter)[key], truth[key]) < 2e-6


@pytest.mark.parametrize("groups", [2, 6])
def test_factors_of_a_grouped_convolution_are_refused(groups: int, tmp_path: Path) -> None:
    tensors = {
        "x.lora_A.weight": values(6, 12, 3),
        "x.lora_B.weight": values(24, 6 // groups, 1),
    } | spell("y", pair(4, 5, 2, 1), "AB", (4, 5))
    with pytest.raises(FormatError, match=rf"x\.lora_B\.weight is .* of {groups} groups .*--skip"):
        load(path := save(tensors, tmp_path))
    assert [t.key for t in load(path, skip=["x.*"]).targets] == ["y"]


EMPTY = {
    "loha": {"hada_w1_a": (4, 0), "hada_w1_b": (0, 5), "hada_w2_a": (4, 0), "hada_w2_b": (0, 5)},
    "lokr": {"lokr_w1": (2, 2), "lokr_w2_a": (3, 0), "lokr_w2_b": (0, 4)},
    "locon": {
        "lora_up.weight": (4, 0, 1, 1), "lora_mid.weight": (0, 0, 3, 3),
        "lora_down.weight": (0, 5, 1, 1),
    },
    "embedding": {"lora_embedding_A": (0, 9), "lora_embedding_B": (4, 0)},
    "a pair with a bias": {
        "lora_A.weight": (0, 5), "lora_B.weight": (4, 0), "lora_B.bias": (4,)
    },
}  # fmt: skip


@pytest.mark.parametrize("name", EMPTY)
def test_rank_zero_is_absent(name: str, tmp_path: Path) -> None:
    tensors = {f"x.{role}": np.ones(shape, dtype=np.float32) for role, shape in EMPTY[name].items()}
    adapter = load(save(tensors | spell("y", pair(4, 5, 2, 1), "AB", (4, 5)), tmp_path))
    assert [t.key for t in adapter.targets] == ["y"]
    assert adapter.coverage.notes == ("1 pairs of rank 0: absent",)
    assert adapter.coverage.used == len(tensors) + 2


MISFITS = {
    "loha": ({"hada_w1_a": (4, 3), "hada_w1_b": (2, 5), "hada_w2_a": (4, 2), "hada_w2_b": (2, 5)},
             "hada_w1_a is .*hada_w1_b is"),
    "loha, rows": (
        {"hada_w1_a": (4, 2), "hada_w1_b": (2, 5), "hada_w2_a": (6, 2), "hada_w2_b": (2, 5)},
        "same rows and columns"),
    "loha, kernel": (
        {"hada_w1_a": (2, 4), "hada_w1_b": (2, 5), "hada_w2_a": (2, 4), "hada_w2_b": (3, 5),
         "hada_t1": (2, 2, 3, 3), "hada_t2": (2, 2, 3, 3)}, "hada_w2_b is .*hada_t2 is"),
    "lokr": ({"lokr_w1": (2, 2), "lokr_w2_a": (3, 2), "lokr_w2_b": (3, 4)}, "lokr_w2_a is"),
    "lokr, first": ({"lokr_w1_a": (2, 2), "lokr_w1_b": (1, 2), "lokr_w2": (3, 4)}, "lokr_w1_a is"),
    "lokr, axes": ({"lokr_w1": (2, 2, 1), "lokr_w2": (3, 4)}, "lokr_w1 has shape .* 2 axes"),
    "locon": ({"lora_up.weight": (4, 3, 1, 1), "lora_mid.weight": (2, 2, 3, 3),
               "lora_down.weight": (2, 5, 1, 1)}, "lora_up.weight is .*lora_mid.weight is"),
    "embedding": ({"lora_embedding_A": (3, 9), "lora_embedding_B": (4, 2)}, "lora_embedding_A is"),
    "bias": ({"diff_b": (3, 4)}, "x.diff_b has shape .* 1 axis"),
    "an empty bias": ({"diff_b": (0,)}, "no numbers in it"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISFITS)
def test_tensors_that_do_not_fit_each_other(name: str, tmp_path: Path) -> None:
    roles, message = MISFITS[name]
    tensors = {f"x.{role}": np.ones(shape, dtype=np.float32) for role, shape in roles.items()}
    with pytest.raises(ShapeError, match=rf"adapter_model\.safetensors: .*{message}"):
        load(save(tensors, tmp_path))


def test_factors_of_integers_are_refused(tmp_path: Path) -> None:
    tensors = {"x.lokr_w1": np.ones((2, 2), dtype=np.int32), "x.lokr_w2": values(2, 2)}
    with pytest.raises(FormatError, match=r"x\.lokr_w1 has dtype I32"):
        load(save(tensors, tmp_path))


# --- scales --------------------------------------------------------------------------------------


def test_full_factors_of_lokr_ignore_alpha(tmp_path: Path) -> None:
    tensors = {
        "x.lokr_w1": values(4, 5), "x.lokr_w2": values(6, 6), "x.alpha": np.array(9.0),
    }  # fmt: skip
    adapter = load(save(tensors, tmp_path))
    assert [f.scale for f in adapter.targets.values()] == [1.0]
    assert adapter.coverage.notes == (
        "1 LoKr modules have two full factors: their alpha does not count",
    )


def test_the_rank_of_tucker_lokr_is_that_of_the_second_side(tmp_path: Path) -> None:
    tensors = {
        "x.lokr_w1": values(4, 3), "x.lokr_t2": values(2, 2, 3, 3), "x.lokr_w2_a": values(2, 6),
        "x.lokr_w2_b": values(2, 2), "x.alpha": np.array(3.0),
    }  # fmt: skip
    assert [f.scale for f in load(save(tensors, tmp_path)).targets.values()] == [1.5]


def test_configs_of_peft(tmp_path: Path) -> None:
    full = {
        "base_model.model.a.lokr_w1": values(4, 5),
        "base_model.model.a.lokr_w2": values(6, 6),
        "base_model.model.b.lokr_w1": values(4, 5),
        "base_model.model.b.lokr_w2": values(6, 6),
    }
    fields = {"peft_type": "LOKR", "r": 4, "alpha": 12, "rank_pattern": {"b": 2}}
    path = save(full, tmp_path, **fields)
    assert {t.key: f.scale for t, f in load(path).targets.items()} == {"a": 3.0, "b": 6.0}
    assert load(path).coverage.notes == ()
    hada = {
        f"base_model.model.{n}.hada_w{i}_{s}": values(*((8, 2) if s == "a" else (2, 9)))
        for n in "ab" for i in "12" for s in "ab"
    }  # fmt: skip
    fields = {"peft_type": "LOHA", "r": 2, "alpha": 5, "alpha_pattern": {"b": 1}}
    path = save(hada, tmp_path, **fields)
    assert {t.key: f.scale for t, f in load(path).targets.items()} == {"a": 2.5, "b": 0.5}
    with pytest.raises(FormatError, match="r = 0 for a; it must be positive"):
        load(save(full, tmp_path, peft_type="LOKR", r=0, alpha=1))


def test_rslora_by_flag(tmp_path: Path) -> None:
    tensors = spell("x", pair(8, 9, 4, 1, 0.5), ".lora_{}.weight", (8, 9), alpha=True)
    path = save(tensors, tmp_path)
    assert [f.scale for f in load(path).targets.values()] == [0.5]
    adapter = load(path, rslora=True)
    assert [f.scale for f in adapter.targets.values()] == [1.0]
    assert adapter.reading.rslora
    bare = save(spell("x", pair(8, 9, 4, 1), "AB", (8, 9)), tmp_path)
    with pytest.raises(ParamError, match=r"x\.lora_\S+ has no alpha beside it"):
        load(bare, rslora=True)
    configured = save(
        spell("x", pair(8, 9, 4, 1), "AB", (8, 9)), tmp_path, peft_type="LORA", r=4, lora_alpha=6
    )
    assert [f.scale for f in load(configured, rslora=True).targets.values()] == [3.0]


@pytest.mark.parametrize(
    "number", [np.array(2.0, dtype=np.float16), np.array([[2]], dtype=np.int64)]
)
def test_alpha_of_other_families_has_any_form(number: Array, tmp_path: Path) -> None:
    tensors = {f"x.hada_w{i}_{s}": values(*((8, 4) if s == "a" else (4, 9)))
               for i in "12" for s in "ab"}  # fmt: skip
    path = save(tensors | {"x.alpha": np.asarray(number)}, tmp_path)
    assert [f.scale for f in load(path).targets.values()] == [0.5]


# --- the base ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RELATIVE)
def test_another_base_is_refused(name: str, tmp_path: Path) -> None:
    path, _, model = file_of(tmp_path, {"x": RELATIVE[name]})
    with pytest.raises(FormatError, match="x is relative to the base weight x, which the base"):
        read(path, Model({}))
    shape = RELATIVE[name].shape
    for odd in ((shape[0] + 1, *shape[1:]), (shape[0], shape[1] + 1, *shape[2:])):
        other = Model({"x": np.ones(odd)})
        touched = _touches(name, odd, shape)
        if touched:
            with pytest.raises(ShapeError):
                read(path, other)
        else:
            assert read(path, other).targets
    assert read(path, model).targets


def _touches(name: str, odd: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    """Whether the tensors of a family tell the size that is odd."""
    rows = odd[0] != shape[0]
    by_rows = name.startswith(("oft", "boft, resc")) or name in (
        "boft",
        "ia3, outputs",
        "ia3, peft",
    )
    by_cols = name in ("ia3, inputs", "ia3, conv", "ia3, peft inputs")
    return rows if by_rows else not rows if by_cols else True


def test_the_bias_of_the_base_is_scaled_with_its_outputs(tmp_path: Path) -> None:
    tensors = {"base_model.model.x.ia3_l": values(12, 1), "base_model.model.y.ia3_l": values(1, 20)}
    path = save(tensors, tmp_path, peft_type="IA3", feedforward_modules=["y"])
    weights = {
        "x": values(12, 20).astype(float),
        "y": values(12, 20, seed=2).astype(float),
        "x.bias": values(12, seed=3).astype(float),
        "y.bias": values(12).astype(float),
    }
    found = deltas(load(path, base=Model(weights)))
    assert sorted(found) == ["x", "x.bias", "y"]
    factors = tensors["base_model.model.x.ia3_l"].astype(float).ravel() - 1
    assert relative(found["x.bias"].ravel(), weights["x.bias"] * factors) < 1e-6
    del weights["x.bias"]
    assert sorted(deltas(load(path, base=Model(weights)))) == ["x", "y"]


@pytest.mark.parametrize("listed", [["y"], r".*\.y"])
def test_convolutions_of_ia3_ask_the_config(listed: object, tmp_path: Path) -> None:
    tensors = {"base_model.model.a.x.ia3_l": values(1, 12, 1, 1),
               "base_model.model.a.y.ia3_l": values(1, 12, 1, 1)}  # fmt: skip
    weights = {name: values(12, 12, 3, 3).astype(float) for name in ("a.x", "a.y")}
    with pytest.raises(FormatError, match="does not tell outputs from inputs"):
        load(save(tensors, tmp_path), base=Model(weights))
    path = save(tensors, tmp_path, peft_type="IA3", feedforward_modules=listed)
    found = deltas(load(path, base=Model(weights)))
    for key, letters in (("a.x", "oiyx,o->oiyx"), ("a.y", "oiyx,i->oiyx")):
        factors = tensors[f"base_model.model.{key}.ia3_l"].astype(float).ravel() - 1
        meant = np.einsum(letters, weights[key], factors).reshape(12, -1)
        assert relative(found[key], meant) < 1e-6


def test_a_rotation_of_peft_without_its_config_is_refused(tmp_path: Path) -> None:
    path = save({"x.oft_R.weight": values(5, 6)}, tmp_path)
    with pytest.raises(FormatError, match=r"only adapter_config\.json says what rotation"):
        load(path, base=Model({"x": np.ones((12, 20))}))


def test_fan_in_fan_out_turns_the_base(tmp_path: Path) -> None:
    case = RELATIVE["dora, peft"]
    path, truth, model = file_of(tmp_path, {"x": Case(**{**vars(case), "alpha": None})})
    path = path.rename(tmp_path / "adapter_model.safetensors")
    fields = {"peft_type": "LORA", "r": 4, "lora_alpha": 4, "fan_in_fan_out": True}
    (tmp_path / "adapter_config.json").write_text(json.dumps(fields), encoding="utf-8")
    stored = Model({"x": np.ascontiguousarray(model.weights["x"].T)})
    assert relative(deltas(load(path, base=stored))["x"], truth["x"]) < 2e-6


def fused_dora(folder: Path, stem: str, weight: F64) -> tuple[Path, F64]:
    """A DoRA of a whole weight as it stands in the original model, and its delta there."""
    rows, cols = weight.shape
    up, down = 0.1 * values(rows, 2), 0.1 * values(2, cols, seed=2)
    magnitude = (np.linalg.norm(weight, axis=1) * 1.05).astype(np.float32)
    tensors = {f"{stem}.lora_up.weight": up, f"{stem}.lora_down.weight": down,
               f"{stem}.dora_scale": magnitude.reshape(-1, 1)}  # fmt: skip
    whole = weight + up.astype(float) @ down
    norms = np.linalg.norm(whole, axis=1, keepdims=True) + 2.0**-23
    return save(tensors, folder), magnitude[:, None] / norms * whole - weight


@pytest.mark.parametrize("stored", ["parts", "whole"])
def test_a_fused_weight_is_put_together_from_the_base(stored: str, tmp_path: Path) -> None:
    parts = [f"transformer.transformer_blocks.0.attn.to_{x}" for x in "qkv"]
    whole = 0.02 * values(9216, 3072).astype(float)
    key = "transformer.double_blocks.0.img_attn.qkv"
    weights = (
        {key: whole} if stored == "whole" else dict(zip(parts, np.split(whole, 3), strict=True))
    )
    path, meant = fused_dora(tmp_path, "lora_unet_double_blocks_0_img_attn_qkv", whole)
    adapter = load(path, architecture="flux1", base=Model(weights))
    ((target, factors),) = adapter.targets.items()
    assert target.key == key
    found = factors.rows(9000, 9010).up
    assert found.shape == (10, 3072)
    rows = np.frombuffer(factors.up.data, dtype=np.float32).reshape(9216, 3072)[::512]
    assert relative(rows.astype(float), meant[::512]) < 2e-6


def test_fused_rows_are_not_taken_for_the_whole_weight(tmp_path: Path) -> None:
    # Trainers of the original model fuse q, k and v; the base has the MLP's rows in them, too.
    block = "transformer.single_transformer_blocks.0"
    parts = {f"{block}.attn.to_{x}": 0.02 * values(3072, 3072, seed=ord(x)) for x in "qkv"}
    mlp = 0.02 * values(12288, 3072)
    fused = np.concatenate([*parts.values(), mlp]).astype(float)
    path, meant = fused_dora(
        tmp_path, "lora_unet_single_blocks_0_linear1_qkv", fused[:9216]
    )  # fmt: skip
    stored = {key: one.astype(float) for key, one in parts.items()}
    stored |= {f"{block}.proj_mlp": mlp.astype(float), "transformer.single_blocks.0.linear1": fused}
    adapter = load(path, architecture="flux1", base=Model(stored))
    found = deltas(adapter)
    assert set(found) == set(parts)
    assert relative(np.concatenate([found[key] for key in parts]), meant) < 2e-6


def test_swapped_halves_are_swapped_in_the_base_too(tmp_path: Path) -> None:
    weight = 0.02 * values(6144, 3072).astype(float)  # in canonical order
    stored = np.roll(weight, 3072, axis=0)
    stem = "lora_unet_final_layer_adaLN_modulation_1"
    path, meant = fused_dora(tmp_path, stem, stored)
    adapter = load(path, architecture="flux1", base=Model({"transformer.norm_out.linear": weight}))
    (factors,) = adapter.targets.values()
    rows = np.frombuffer(factors.up.data, dtype=np.float32).reshape(6144, 3072)[::256]
    assert relative(rows.astype(float), np.roll(meant, 3072, axis=0)[::256]) < 2e-6
