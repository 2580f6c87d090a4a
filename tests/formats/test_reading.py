"""Files of every producer, read: which model, which module, which delta.

What is proved: each spelling of FORMATS leads to the same canonical targets with the delta that
was put in; names *and shapes* decide the architecture, and what fits several stays open; scales
come from the right place; what loramix does not read is refused by name, never dropped; a stack
is aligned at the finest slices its members share.
"""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from formats.builders import (
    Built,
    Tensors,
    Truth,
    diffusers,
    from_adapter,
    gaps,
    identical,
    kohya,
    pair,
    spell,
    total,
)

from loramix import Adapter, FormatError, ParamError, ShapeError, _core, load, merge
from loramix.formats.layout import Layout, Module, load_layout
from loramix.groups import align
from loramix.types import Group

LAYOUTS = ("sd15", "sdxl", "flux1")
NETWORK = {"sd15": "unet", "sdxl": "unet", "flux1": "transformer"}
DIGIT = re.compile(r"\.(\d+)\.")


def few(module: Module) -> bool:
    """The first block of each family: every kind of module, small files."""
    return set(DIGIT.findall(module.name)) <= {"0"}


def network(layout: Layout) -> Callable[[Module], bool]:
    return lambda m: m.component == NETWORK[layout.name] and few(m)


def texts(module: Module) -> bool:
    return module.component == "text_encoder" and few(module)


def read(built: Built, folder: Path, metadata: Mapping[str, str] | None = None) -> Adapter:
    return load(built.save(folder / "adapter.safetensors", metadata))


def renamed(built: Built, change: Callable[[str], str]) -> Built:
    return Built({change(name): data for name, data in built.tensors.items()}, built.truth)


# --- architecture and dialect ------------------------------------------------------------------


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("make", [kohya, diffusers])
def test_architecture_and_dialect(name: str, make: Callable[..., Built], tmp_path: Path) -> None:
    built = make(load_layout(name), few, lambda i: 1 + i % 2, 1)
    adapter = read(built, tmp_path)
    assert (adapter.architecture, adapter.candidates) == (name, (name,))
    assert adapter.match == 1.0
    assert adapter.dialect == make.__name__
    assert (adapter.coverage.used, adapter.coverage.skipped) == (len(built.tensors), ())
    assert not adapter.coverage.notes or make is diffusers


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_module_of_a_table_is_found(name: str, tmp_path: Path) -> None:
    layout = load_layout(name)
    for make in (kohya, diffusers):
        built = make(layout, None, 1, 1)
        adapter = read(built, tmp_path)
        fused = {m.kohya for m in layout.modules if m.rows} if make is kohya else set()
        parts = sum(m.kohya in fused for m in layout.modules)
        assert len(adapter.targets) == len(layout.modules) - parts + len(fused)
        found = from_adapter(adapter)
        if make is diffusers:
            assert identical(built.truth, found)
        else:
            single = {key: found[key] for key in built.truth.keys() & found.keys()}
            assert identical({key: built.truth[key] for key in single}, single)


def test_shapes_decide_not_names(tmp_path: Path) -> None:
    # attn2.to_k is the same name in both U-Nets: width 768 against 2048.
    for name, shape in (("sd15", (1280, 768)), ("sdxl", (1280, 2048))):
        stem = "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k"
        tensors = spell(stem, pair(*shape, 2, 1), "AB", shape)
        assert read(Built(tensors, {}), tmp_path).architecture == name


def test_coverage_below_the_limit_is_unknown(tmp_path: Path) -> None:
    layout = load_layout("sd15")
    built = diffusers(layout, network(layout), 1, 1)
    known = len(built.truth)
    tensors = dict(built.tensors)
    for index in range(known // 5):
        tensors |= spell(f"unet.extra.{index}", pair(8, 8, 1, index), "AB", (8, 8))
    adapter = read(Built(tensors, {}), tmp_path)
    assert adapter.architecture == "sd15"
    assert adapter.match == pytest.approx(known / (known + known // 5))
    assert any("not in the table of sd15" in note for note in adapter.coverage.notes)
    for index in range(known):
        tensors |= spell(f"unet.more.{index}", pair(8, 8, 1, index), "AB", (8, 8))
    adapter = read(Built(tensors, {}), tmp_path)
    assert (adapter.architecture, adapter.candidates) == (None, ())
    assert adapter.match < 0.8


def test_wrong_shapes_do_not_count(tmp_path: Path) -> None:
    layout = load_layout("sdxl")
    tensors: Tensors = {}
    for module in layout.modules:
        if network(layout)(module):
            key = f"{module.component}.{module.name}"
            tensors |= spell(key, pair(7, 9, 1, 1), "AB", (7, 9))
    adapter = read(Built(tensors, {}), tmp_path)
    assert (adapter.architecture, adapter.match) == (None, 0.0)


@pytest.mark.parametrize("prefix", ["lora_te_", "lora_te1_"])
def test_a_text_encoder_alone_fits_several_models(prefix: str, tmp_path: Path) -> None:
    built = kohya(load_layout("sd15"), texts, 2, 1)
    built = renamed(built, lambda name: name.replace("lora_te_", prefix))
    adapter = read(built, tmp_path)
    assert adapter.architecture is None
    assert adapter.candidates == (
        "sd15", "sdxl", "sd3_medium", "sd35_medium", "sd35_large", "flux1",
    )  # fmt: skip
    assert any("equally well" in note for note in adapter.coverage.notes)
    chosen = load(tmp_path / "adapter.safetensors", architecture="sdxl")
    assert (chosen.architecture, chosen.match) == ("sdxl", 1.0)
    assert identical(built.truth, from_adapter(chosen))


def test_an_open_architecture_follows_the_stack(tmp_path: Path) -> None:
    layout = load_layout("sdxl")
    whole = kohya(layout, few, 2, 1)
    alone = kohya(layout, texts, 2, 2)
    paths = [whole.save(tmp_path / "whole.safetensors"), alone.save(tmp_path / "te.safetensors")]
    expected = total([(whole.truth, 1.0), (alone.truth, 1.0)])
    for first, second in ((0, 1), (1, 0)):
        merged = merge([paths[first], paths[second]], "linear")
        assert gaps(expected, from_adapter(merged.adapter)) < 1e-6


def test_an_opened_adapter_follows_the_stack_too(tmp_path: Path) -> None:
    layout = load_layout("sdxl")
    whole = kohya(layout, few, 2, 1)
    alone = kohya(layout, texts, 2, 2)
    paths = [whole.save(tmp_path / "whole.safetensors"), alone.save(tmp_path / "te.safetensors")]
    merged = merge([load(path) for path in paths], "linear")
    expected = total([(whole.truth, 1.0), (alone.truth, 1.0)])
    assert gaps(expected, from_adapter(merged.adapter)) < 1e-6


def test_adapters_of_different_models_are_refused(tmp_path: Path) -> None:
    paths = [
        kohya(load_layout(name), few, 1, 1).save(tmp_path / f"{name}.safetensors")
        for name in ("sd15", "sdxl")
    ]
    with pytest.raises(FormatError, match=r"sdxl is for sdxl \(100 % .* sd15 for sd15"):
        merge(paths, "linear")


def test_unknown_architecture_by_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ParamError, match=r"known are sd15, .* names end in \.layout"):
        load(tmp_path / "x.safetensors", architecture="sd3")


# --- spellings -----------------------------------------------------------------------------------

ROLES = {
    "peft": "AB",
    "kohya": ".lora_{}.weight",
    "diffusers, intermediate": ".lora.{}.weight",
    "diffusers, text encoder": ".lora_linear_layer.{}.weight",
}


@pytest.mark.parametrize("style", ROLES.values(), ids=ROLES)
@pytest.mark.parametrize("name", LAYOUTS)
def test_roles(name: str, style: str, tmp_path: Path) -> None:
    layout = load_layout(name)
    tensors: Tensors = {}
    truth: Truth = {}
    for index, module in enumerate(filter(few, layout.modules)):
        one = pair(module.shape[0], int(np.prod(module.shape[1:])), 2, index)
        key = f"{module.component}.{module.name}"
        tensors |= spell(key, one, style, module.shape)
        truth[key] = [one]
    adapter = read(Built(tensors, truth), tmp_path)
    assert (adapter.architecture, adapter.dialect) == (name, "diffusers")
    assert identical(truth, from_adapter(adapter))


@pytest.mark.parametrize("infix", ["default", "my-adapter_2"])
def test_adapter_infix(infix: str, tmp_path: Path) -> None:
    layout = load_layout("flux1")
    built = renamed(
        diffusers(layout, network(layout), 2, 1),
        lambda name: name.replace(".weight", f".{infix}.weight"),
    )
    assert identical(built.truth, from_adapter(read(built, tmp_path)))


@pytest.mark.parametrize("prefix", ["", "base_model.model."])
@pytest.mark.parametrize("name", LAYOUTS)
def test_bare_and_peft_prefix(name: str, prefix: str, tmp_path: Path) -> None:
    layout = load_layout(name)
    built = renamed(
        diffusers(layout, network(layout), 2, 1),
        lambda key: prefix + key.partition(".")[2],
    )
    adapter = read(built, tmp_path)
    assert (adapter.architecture, adapter.dialect) == (name, "peft" if prefix else "plain")
    assert identical(built.truth, from_adapter(adapter))


def test_bare_names_of_the_second_text_encoder(tmp_path: Path) -> None:
    # Both encoders of SDXL have these names; the width tells which is meant.
    layout = load_layout("sdxl")
    built = renamed(
        diffusers(
            layout,
            lambda m: m.component == "text_encoder_2" and ".layers." in m.name,
            2,
            1,
        ),
        lambda key: "base_model.model." + key.partition(".")[2],
    )
    adapter = read(built, tmp_path)
    assert adapter.architecture == "sdxl"
    assert identical(built.truth, from_adapter(adapter))


@pytest.mark.parametrize("name", ["sd15", "sdxl"])
def test_processor_style(name: str, tmp_path: Path) -> None:
    layout = load_layout(name)
    attention = re.compile(r"(attn[12])\.to_(q|k|v|out)(?:\.0)?$")
    tensors: Tensors = {}
    truth: Truth = {}
    for index, module in enumerate(filter(network(layout), layout.modules)):
        if not attention.search(module.name):
            continue
        one = pair(module.shape[0], module.shape[1], 2, index)
        old = attention.sub(r"\1.processor.to_\2_lora", module.name)
        tensors |= spell(f"unet.{old}", one, ".{}.weight", module.shape)
        truth[f"unet.{module.name}"] = [one]
    assert len(truth) >= 8
    adapter = read(Built(tensors, truth), tmp_path)
    assert adapter.architecture == name
    assert identical(truth, from_adapter(adapter))


def test_oldest_text_encoder_style(tmp_path: Path) -> None:
    short = {"q_proj": "q", "k_proj": "k", "v_proj": "v", "out_proj": "out"}
    tensors: Tensors = {}
    truth: Truth = {}
    for index, (part, old) in enumerate(short.items()):
        one = pair(768, 768, 2, index)
        stem = "text_encoder.text_model.encoder.layers.0.self_attn"
        tensors |= spell(f"{stem}.to_{old}_lora", one, ".{}.weight", (768, 768))
        truth[f"{stem}.{part}"] = [one]
    path = Built(tensors, truth).save(tmp_path / "a.safetensors")
    assert identical(truth, from_adapter(load(path, architecture="sd15")))


@pytest.mark.parametrize("name", ["sd15", "sdxl"])
def test_kohya_prefix_with_diffusers_names(name: str, tmp_path: Path) -> None:
    # AI-Toolkit and OneTrainer write SDXL like this; for SD 1.5 it is the only form.
    layout = load_layout(name)
    plain = diffusers(layout, network(layout), 2, 1)

    def flat(key: str) -> str:
        stem, _, role = key.rpartition(".lora_")
        word = {"A.weight": "down.weight", "B.weight": "up.weight"}[role]
        return f"lora_unet_{stem.partition('.')[2].replace('.', '_')}.lora_{word}"

    adapter = read(renamed(plain, flat), tmp_path)
    assert (adapter.architecture, adapter.dialect) == (
        name,
        "kohya" if name == "sd15" else "onetrainer",
    )
    assert identical(plain.truth, from_adapter(adapter))
    assert any("neither alpha nor config" in note for note in adapter.coverage.notes)


def test_compiled_modules(tmp_path: Path) -> None:
    layout = load_layout("flux1")
    built = renamed(
        diffusers(layout, network(layout), 2, 1),
        lambda key: key.replace("transformer.", "transformer._orig_mod.", 1).replace(
            ".attn.", ".attn._orig_mod."
        ),
    )
    assert identical(built.truth, from_adapter(read(built, tmp_path)))


def test_t5_under_both_prefixes(tmp_path: Path) -> None:
    layout = load_layout("flux1")
    built = kohya(layout, lambda m: m.component == "text_encoder_2" and few(m), 2, 1)
    for prefix in ("lora_te3_", "lora_te2_"):
        changed = renamed(built, lambda key, p=prefix: key.replace("lora_te3_", p))
        # Under te3 it may be that of SD3, too.
        adapter = load(changed.save(tmp_path / "a.safetensors"), architecture="flux1")
        assert (adapter.architecture, adapter.match) == ("flux1", 1.0)
        assert identical(built.truth, from_adapter(adapter))


# --- shapes --------------------------------------------------------------------------------------


def conv_tensors(kernel_down: tuple[int, ...], shape: tuple[int, ...]) -> tuple[Tensors, Truth]:
    cols = int(np.prod(shape[1:]))
    one = pair(shape[0], cols, 2, 1)
    tensors = {
        "x.lora_A.weight": one.down.reshape(2, *kernel_down),
        "x.lora_B.weight": one.up.reshape(shape[0], 2, *(1 for _ in kernel_down[1:])),
    }
    return tensors, {"x": [one]}


@pytest.mark.parametrize(
    ("name", "module", "stored"),
    [
        ("sd15", "down_blocks.0.attentions.0.proj_in", (320,)),
        ("sd15", "down_blocks.0.attentions.0.proj_in", (320, 1, 1)),
        ("sdxl", "mid_block.attentions.0.proj_in", (1280, 1, 1)),
        ("sdxl", "mid_block.attentions.0.proj_in", (1280,)),
        ("sd15", "down_blocks.0.resnets.0.conv1", (320, 3, 3)),
        ("sd15", "down_blocks.0.resnets.0.conv1", (2880,)),
    ],
    ids=("conv1x1 flat", "conv1x1", "linear 4-D", "linear", "conv3x3", "conv3x3 flat"),
)
def test_stored_shapes(name: str, module: str, stored: tuple[int, ...], tmp_path: Path) -> None:
    shape = load_layout(name).by_key["unet", module.replace(".", "_")].shape
    tensors, truth = conv_tensors(stored, shape)
    tensors = {key.replace("x.", f"unet.{module}."): data for key, data in tensors.items()}
    path = Built(tensors, truth).save(tmp_path / "a.safetensors")
    adapter = load(path, architecture=name)
    (target,) = adapter.targets
    assert target.shape == shape
    assert identical({f"unet.{module}": truth["x"]}, from_adapter(adapter))


def test_factors_that_do_not_fit(tmp_path: Path) -> None:
    tensors = {"x.lora_A.weight": np.ones((2, 5)), "x.lora_B.weight": np.ones((4, 3))}
    with pytest.raises(ShapeError, match=r"x.lora_B.weight is \[4, 3\].*second size of up"):
        read(Built(tensors, {}), tmp_path)
    tensors = {"x.lora_A.weight": np.ones((2, 5)), "x.lora_B.weight": np.ones(4)}
    with pytest.raises(ShapeError, match="a factor has two axes"):
        read(Built(tensors, {}), tmp_path)
    tensors = {name: np.ones((2, 2), dtype=np.int32) for name in ("x.lora_A.weight",)}
    tensors["x.lora_B.weight"] = np.ones((2, 2), dtype=np.float32)
    with pytest.raises(FormatError, match=r"x\.lora_A\.weight has dtype I32"):
        read(Built(tensors, {}), tmp_path)


def test_rank_zero_is_absent(tmp_path: Path) -> None:
    one = pair(4, 5, 2, 1)
    tensors = spell("y", one, "AB", (4, 5))
    tensors |= {
        "x.lora_A.weight": np.ones((0, 5), dtype=np.float32),
        "x.lora_B.weight": np.ones((4, 0), dtype=np.float32),
    }
    adapter = read(Built(tensors, {}), tmp_path)
    assert [t.key for t in adapter.targets] == ["y"]
    assert adapter.coverage.notes == ("1 pairs of rank 0: absent",)


# --- dense differences ---------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize(
    "shape", [(4, 7), (7, 4), (5, 5), (4, 3, 3, 3), (30, 3, 3, 3), (6, 2, 1, 1)]
)
def test_a_dense_difference_is_a_delta_of_full_rank(
    shape: tuple[int, ...], dtype: type, tmp_path: Path
) -> None:
    delta = np.random.default_rng(1).normal(size=shape).astype(dtype)
    tensors = {"lora_unet_x.diff": delta} | spell("y", pair(4, 5, 2, 1), "AB", (4, 5))
    adapter = read(Built(tensors, {}), tmp_path)
    target, factors = next(pair for pair in adapter.targets.items() if "x" in pair[0].key)
    rows, cols = shape[0], int(np.prod(shape[1:]))
    assert (target.shape, factors.rank, factors.scale) == (shape, min(rows, cols), 1.0)
    assert factors.up.shape == (rows, factors.rank, *(1,) * (len(shape) - 2))
    assert factors.down.shape == (factors.rank, *shape[1:])
    (stored,) = factors.stored
    assert bytes(stored.data) == delta.tobytes()
    # The other side is an identity, whatever its type.
    expected = np.zeros((rows, cols), dtype=np.float32)
    _core.expand(Group(target, (factors,), (0,)).raw(), 0, rows, expected.reshape(-1))
    assert np.array_equal(expected, delta.reshape(rows, cols).astype(np.float32))
    assert adapter.coverage.notes == ()


def test_identities_are_shared(tmp_path: Path) -> None:
    tensors = {f"lora_unet_{i}.diff": np.ones((40, 30), dtype=np.float32) for i in range(3)}
    adapter = read(Built(tensors, {}), tmp_path)
    assert len({id(factors.down.data) for factors in adapter.targets.values()}) == 1


def test_alpha_of_a_dense_difference_is_noted(tmp_path: Path) -> None:
    tensors = {"x.diff": np.ones((3, 4), dtype=np.float32), "x.alpha": np.array(7.0)}
    adapter = read(Built(tensors, {}), tmp_path)
    assert [f.scale for f in adapter.targets.values()] == [1.0]
    assert adapter.coverage.notes == (
        "1 dense differences have an alpha, which no client reads: ignored",
    )


@pytest.mark.parametrize("more", ["pair", "up", "scale"])
def test_a_dense_difference_beside_other_factors_is_refused(more: str, tmp_path: Path) -> None:
    tensors: Tensors = {"x.diff": np.ones((4, 5), dtype=np.float32), "x.scale": np.array(0.5)}
    if more != "scale":
        del tensors["x.scale"]
        tensors |= spell("x", pair(4, 5, 2, 1), ".lora_{}.weight", (4, 5))
    if more == "up":
        del tensors["x.lora_down.weight"]
    with pytest.raises(FormatError, match=r"x\.\S+ belongs to a module that has a dense diff"):
        read(Built(tensors, {}), tmp_path)


@pytest.mark.parametrize("shape", [(), (0, 5), (5, 0), (0,)])
def test_a_difference_of_nothing_is_refused(shape: tuple[int, ...], tmp_path: Path) -> None:
    good = spell("b", pair(4, 5, 2, 1), "AB", (4, 5))
    built = Built(good | {"norm.diff": np.ones(shape, dtype=np.float32)}, {})
    with pytest.raises(ShapeError, match=r"norm\.diff has shape"):
        read(built, tmp_path)
    assert len(load(tmp_path / "adapter.safetensors", skip=["norm.*"]).targets) == 1


# --- scales --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "number",
    [
        np.array(3.0, dtype=np.float32), np.array([3.0], dtype=np.float16),
        np.array([[3]], dtype=np.int64), np.array(3.0, dtype=np.float64),
    ],
    ids=("0-d f32", "[1] f16", "[1,1] i64", "0-d f64"),
)  # fmt: skip
@pytest.mark.parametrize("style", ["AB", ".lora_{}.weight"])
def test_alpha_over_rank(number: np.ndarray, style: str, tmp_path: Path) -> None:
    tensors = spell("x", pair(4, 5, 2, 1), style, (4, 5)) | {"x.alpha": number}
    (factors,) = read(Built(tensors, {}), tmp_path).targets.values()
    assert factors.scale == 1.5


def test_scale_tensor_wins_over_alpha(tmp_path: Path) -> None:
    extra = {"x.alpha": np.array(3.0), "x.scale": np.array(0.25)}
    tensors = spell("x", pair(4, 5, 2, 1), ".lora_{}.weight", (4, 5)) | extra
    (factors,) = read(Built(tensors, {}), tmp_path).targets.values()
    assert factors.scale == 0.25


def test_alpha_zero_is_taken_literally(tmp_path: Path) -> None:
    tensors = spell("x", pair(4, 5, 2, 1), "AB", (4, 5)) | {"x.alpha": np.array(0.0)}
    adapter = read(Built(tensors, {}), tmp_path)
    assert [f.scale for f in adapter.targets.values()] == [0.0]
    assert adapter.coverage.notes == ("1 pairs have alpha 0: their delta is zero",)


@pytest.mark.parametrize("bad", [np.array([1.0, 2.0]), np.array(np.nan), np.array(np.inf)])
def test_alpha_that_is_no_number(bad: np.ndarray, tmp_path: Path) -> None:
    tensors = spell("x", pair(4, 5, 2, 1), "AB", (4, 5)) | {"x.alpha": bad}
    with pytest.raises(FormatError, match=r"x\.alpha"):
        read(Built(tensors, {}), tmp_path)


def test_config_beside_the_file(tmp_path: Path) -> None:
    tensors: Tensors = {}
    for index, name in enumerate(("a.q", "a.k", "b.a.k", "b.v")):
        tensors |= spell(f"base_model.model.{name}", pair(4, 5, 4, index), "AB", (4, 5))
    fields = {
        "peft_type": "LORA", "r": 4, "lora_alpha": 8, "use_rslora": False,
        "alpha_pattern": {"^a.k": 2, "b.*": 6},
    }  # fmt: skip
    folder = tmp_path / "named"
    folder.mkdir()
    Built(tensors, {}).save(folder / "adapter_model.safetensors")
    expected = {"a.q": 2.0, "a.k": 0.5, "b.a.k": 1.5, "b.v": 1.5}
    for rslora in (False, True):
        text = json.dumps({**fields, "use_rslora": rslora})
        (folder / "adapter_config.json").write_text(text, "utf-8")
        for path in (folder, folder / "adapter_model.safetensors"):
            adapter = load(path)
            found = {t.key: f.scale for t, f in adapter.targets.items()}
            assert found == {key: s * (2.0 if rslora else 1.0) for key, s in expected.items()}
    (folder / "adapter_config.json").write_text(json.dumps(fields | {"peft_type": "VERA"}), "utf-8")
    with pytest.raises(FormatError, match="'VERA'; loramix reads LORA, LOHA"):
        load(folder)


def test_config_in_the_header_is_per_component(tmp_path: Path) -> None:
    tensors: Tensors = {}
    for index, name in enumerate(("unet.x", "unet.y", "text_encoder.x", "text_encoder_2.x")):
        tensors |= spell(name, pair(4, 5, 4, index), "AB", (4, 5))
    fields = {
        "unet.r": 4, "unet.lora_alpha": 8, "unet.alpha_pattern": {"^y": 1},
        "text_encoder.r": 4, "text_encoder.lora_alpha": 4, "text_encoder.use_rslora": True,
        "text_encoder_2.r": 4, "text_encoder_2.lora_alpha": 12,
    }  # fmt: skip
    adapter = read(Built(tensors, {}), tmp_path, {"lora_adapter_metadata": json.dumps(fields)})
    assert {t.key: f.scale for t, f in adapter.targets.items()} == {
        "unet.x": 2.0, "unet.y": 0.25, "text_encoder.x": 2.0, "text_encoder_2.x": 3.0,
    }  # fmt: skip


def test_tensors_win_over_the_config(tmp_path: Path) -> None:
    tensors = spell("unet.x", pair(4, 5, 4, 1), "AB", (4, 5)) | {"unet.x.alpha": np.array(2.0)}
    header = {"lora_adapter_metadata": json.dumps({"unet.r": 4, "unet.lora_alpha": 100})}
    (factors,) = read(Built(tensors, {}), tmp_path, header).targets.values()
    assert factors.scale == 0.5


# --- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("emb_params", "a textual inversion"),
        ("bundle_emb.x", "a textual inversion"),
        ("clip_l", "a textual inversion"),
        ("base_model.model.score.weight", "modules saved whole"),
        ("base_model.model.score.bias", "modules saved whole"),
        ("lora_te2_text_projection.weight", "a text projection saved whole"),
        ("text_encoder_2.text_projection", "a text projection saved whole"),
        ("a.bias", "a bias saved whole"),
    ],
)
def test_other_payloads_are_refused_by_name(name: str, what: str, tmp_path: Path) -> None:
    good = spell("b", pair(4, 5, 2, 1), "AB", (4, 5))
    with pytest.raises(FormatError, match=f"{re.escape(name)} belongs to {what}"):
        read(Built(good | {name: np.ones(3, dtype=np.float32)}, {}), tmp_path)


@pytest.mark.parametrize("name", ["surprise", "a.weight", "a.lora_C.weight"])
def test_unknown_tensors_are_refused(name: str, tmp_path: Path) -> None:
    good = spell("b", pair(4, 5, 2, 1), "AB", (4, 5))
    with pytest.raises(
        FormatError, match=rf"{re.escape(name)} is not understood\. Nothing is dropped"
    ):
        read(Built(good | {name: np.ones(3, dtype=np.float32)}, {}), tmp_path)


@pytest.mark.parametrize("lost", ["up", "down"])
def test_half_pairs_are_refused(lost: str, tmp_path: Path) -> None:
    good = spell("b", pair(4, 5, 2, 1), "AB", (4, 5))
    half = spell("lora_unet_a", pair(4, 5, 2, 1), ".lora_{}.weight", (4, 5), alpha=True)
    del half[f"lora_unet_a.lora_{lost}.weight"]
    with pytest.raises(FormatError, match=r"lora_unet_a\.\S+ has no partner.*; 2 such"):
        read(Built(good | half, {}), tmp_path)
    adapter = load(tmp_path / "adapter.safetensors", skip=["lora_unet_a.*"])
    assert [t.key for t in adapter.targets] == ["b"]


def test_alpha_alone_is_refused(tmp_path: Path) -> None:
    good = spell("b", pair(4, 5, 2, 1), "AB", (4, 5))
    with pytest.raises(FormatError, match=r"a\.alpha has no partner"):
        read(Built(good | {"a.alpha": np.array(1.0)}, {}), tmp_path)


def test_nothing_but_skipped(tmp_path: Path) -> None:
    built = Built(spell("b", pair(4, 5, 2, 1), "AB", (4, 5)), {})
    with pytest.raises(FormatError, match="factors among its 2 tensors, of which --skip leaves 2"):
        load(built.save(tmp_path / "a.safetensors"), skip=["*"])


# --- one module, two spellings -------------------------------------------------------------------

QUERY = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"


@pytest.mark.parametrize("other", [f"lora_unet_{QUERY.replace('.', '_')}", QUERY])
def test_one_module_under_two_spellings(other: str, tmp_path: Path) -> None:
    one, two = pair(320, 320, 2, 1), pair(320, 320, 2, 2)
    first = spell(f"unet.{QUERY}", one, "AB", (320, 320))
    same = Built(first | spell(other, one, ".lora_{}.weight", (320, 320)), {})
    path = same.save(tmp_path / "same.safetensors")
    adapter = load(path, architecture="sd15")
    assert identical({f"unet.{QUERY}": [one]}, from_adapter(adapter))
    different = Built(first | spell(other, two, ".lora_{}.weight", (320, 320)), {})
    path = different.save(tmp_path / "different.safetensors")
    with pytest.raises(FormatError, match=f"both change unet.{QUERY}, differently"):
        load(path, architecture="sd15")


def test_fused_beside_its_part_is_refused(tmp_path: Path) -> None:
    layout = load_layout("flux1")
    block = kohya(layout, lambda m: m.original.startswith("double_blocks.0."), 2, 1)
    extra = spell("transformer.transformer_blocks.0.attn.to_k", pair(3072, 3072, 2, 9), "AB",
                  (3072, 3072))  # fmt: skip
    with pytest.raises(FormatError, match=r"both change transformer\.\S+to_k, differently"):
        read(Built(block.tensors | extra, {}), tmp_path)


@pytest.mark.parametrize("style", ["original", "diffusers"])
def test_halves_are_swapped_for_the_original_name_only(style: str, tmp_path: Path) -> None:
    # What the name names decides, not the prefix in front of it.
    layout = load_layout("flux1")
    module = layout.by_key["transformer", "norm_out_linear"]
    one = pair(*module.shape, 2, 1)
    stem = module.kohya if style == "original" else "lora_unet_norm_out_linear"
    tensors = spell(stem, one, ".lora_{}.weight", module.shape, alpha=True)
    path = Built(tensors, {}).save(tmp_path / "a.safetensors")
    meant = one.swapped() if style == "original" else one
    found = from_adapter(load(path, architecture="flux1"))
    assert identical({"transformer.norm_out.linear": [meant]}, found)


# --- alignment -----------------------------------------------------------------------------------


def qkv(module: Module) -> bool:
    return module.kohya.endswith(("double_blocks_0_img_attn_qkv", "single_blocks_0_linear1"))


def keys(adapters: list[Adapter], *, split: bool) -> dict[str, tuple[int, ...]]:
    return {g.target.key: g.owners for g in align(adapters, split=split)}


def test_alignment_of_fused_and_split(tmp_path: Path) -> None:
    layout = load_layout("flux1")
    fused = [load(kohya(layout, qkv, 2, seed).save(tmp_path / f"f{seed}.safetensors"))
             for seed in (1, 2)]  # fmt: skip
    only_q = diffusers(layout, lambda m: m.name == "transformer_blocks.0.attn.to_q", 2, 3)
    query = load(only_q.save(tmp_path / "q.safetensors"), architecture="flux1")
    whole = {
        "transformer.double_blocks.0.img_attn.qkv": (0, 1),
        "transformer.single_blocks.0.linear1": (0, 1),
    }
    double = [f"transformer.transformer_blocks.0.attn.to_{x}" for x in "qkv"]
    single = [f"transformer.single_transformer_blocks.0.attn.to_{x}" for x in "qkv"]
    single.append("transformer.single_transformer_blocks.0.proj_mlp")
    assert keys(fused, split=False) == whole
    assert keys(fused, split=True) == dict.fromkeys(sorted([*double, *single]), (0, 1))
    # One adapter holds a part: that weight comes apart for all, the other stays whole.
    mixed = keys([*fused, query], split=False)
    assert mixed == {
        double[0]: (0, 1, 2), double[1]: (0, 1), double[2]: (0, 1),
        "transformer.single_blocks.0.linear1": (0, 1),
    }  # fmt: skip


def test_slices_are_the_rows_of_the_fused_weight(tmp_path: Path) -> None:
    layout = load_layout("flux1")
    built = kohya(layout, qkv, 3, 1, scale=0.5)
    adapter = read(built, tmp_path)
    groups = align([adapter], split=True)
    sliced = Adapter(
        adapter.name, "kohya", "flux1", ("flux1",), 1.0,
        {g.target: g.members[0] for g in groups}, {}, adapter.coverage, adapter.source,
    )  # fmt: skip
    assert identical(built.truth, from_adapter(sliced))


def test_one_target_two_shapes(tmp_path: Path) -> None:
    paths = [
        Built(spell("unet.x", pair(4, n, 2, 1), "AB", (4, n)), {}).save(
            tmp_path / f"{n}.safetensors"
        )
        for n in (5, 6)
    ]
    with pytest.raises(ShapeError, match=r"unet.x: 5 changes a weight of shape \[4, 5\], 6 one of"):
        merge(paths, "linear")
