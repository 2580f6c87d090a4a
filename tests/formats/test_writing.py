"""Files that loramix writes, read by everyone else.

What is proved: going from dialect to dialect and back changes no delta; the set of names is the
one FORMATS gives for the dialect, spelled out here from the module tables; the reference library
opens every tensor in NumPy and torch; the header's strings and PEFT's config say what readers
look for; every type holds what it can.
"""

import hashlib
import json
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from formats.builders import (
    Built,
    Pair,
    Tensors,
    Truth,
    diffusers,
    from_adapter,
    gap,
    gaps,
    kohya,
    pair,
    spell,
    total,
)
from safetensors import safe_open
from safetensors.numpy import load_file as load_numpy
from safetensors.torch import load_file

from loramix import FormatError, Merged, Output, OutputError, combine, load, merge, save
from loramix.formats.layout import Layout, Module, load_layout
from loramix.groups import align

LAYOUTS = ("sd15", "sdxl", "flux1")
NETWORK = {"sd15": "unet", "sdxl": "unet", "flux1": "transformer"}
DIALECTS = ("kohya", "diffusers", "peft")


def few(module: Module) -> bool:
    """The first block of each family, and the modules outside of blocks."""
    return {part for part in module.name.split(".") if part.isdigit()} <= {"0", "1", "2"} and (
        ".1." not in module.name and ".2." not in module.name
    )


def network(layout: Layout) -> Callable[[Module], bool]:
    return lambda m: m.component == NETWORK[layout.name] and few(m)


def write(built: Built, folder: Path, dialect: str, **rule: Any) -> Merged:
    """One adapter through loramix, into a file."""
    source = built.save(folder / "source.safetensors")
    path = folder / ("out" if dialect == "peft" else f"{dialect}.safetensors")
    return merge([source], "linear", output=Output(dialect=dialect, **rule), path=path)


def opened(merged: Merged) -> Path:
    path = merged.adapter.source.path
    assert path is not None
    return path


def header(path: Path) -> dict[str, str]:
    with safe_open(path, "np") as file:
        return dict(file.metadata())


def names(layout: Layout, truth: Truth, dialect: str) -> set[str]:
    """Every tensor name the dialect gives to these modules."""
    found = set()
    for module in layout.modules:
        if f"{module.component}.{module.name}" not in truth:
            continue
        if dialect == "kohya":
            roles = ("lora_up.weight", "lora_down.weight", "alpha")
            found |= {f"{module.kohya}.{role}" for role in roles}
        else:
            prefix = "base_model.model" if dialect == "peft" else module.component
            found |= {f"{prefix}.{module.name}.lora_{side}.weight" for side in "AB"}
    return found


def understood(layout: Layout, path: Path, dialect: str) -> Truth:
    """The deltas of a written file, by the rules of its dialect and without loramix."""
    tensors = load_file(path)
    found: Truth = {}
    for module in layout.modules:
        component, name = module.component, module.name
        if dialect == "peft" and component != NETWORK[layout.name]:
            continue
        prefix = "base_model.model" if dialect == "peft" else component
        stem = module.kohya if dialect == "kohya" else f"{prefix}.{name}"
        up, down = ("lora_up", "lora_down") if dialect == "kohya" else ("lora_B", "lora_A")
        if f"{stem}.{up}.weight" not in tensors:
            continue
        b = tensors[f"{stem}.{up}.weight"].flatten(1).float().numpy()
        a = tensors[f"{stem}.{down}.weight"].flatten(1).float().numpy()
        alpha = float(tensors[f"{stem}.alpha"]) if dialect == "kohya" else len(a)
        one = Pair(b, a, alpha / len(a))
        if dialect == "kohya":
            one = one.swapped() if module.swap else one
            one = one.rows(*module.rows) if module.rows else one
        found[f"{component}.{name}"] = [one]
    return found


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("source", [kohya, diffusers])
@pytest.mark.parametrize("name", LAYOUTS)
def test_every_dialect_has_the_same_deltas_and_its_own_names(
    name: str, source: Callable[..., Built], dialect: str, tmp_path: Path
) -> None:
    layout = load_layout(name)
    choose = network(layout) if dialect == "peft" else few
    built = source(layout, choose, lambda i: 1 + i % 3, 1)
    merged = write(built, tmp_path, dialect)
    assert merged.adapter.dialect == dialect
    assert merged.error < 1e-6
    assert set(load_file(opened(merged))) == names(layout, built.truth, dialect)
    assert gaps(built.truth, understood(layout, opened(merged), dialect)) < 1e-6


@pytest.mark.parametrize("name", LAYOUTS)
def test_around_all_dialects_and_back(name: str, tmp_path: Path) -> None:
    layout = load_layout(name)
    built = kohya(layout, network(layout), lambda i: 1 + i % 3, 1, scale=lambda i: 1 / (1 + i % 2))
    path = built.save(tmp_path / "start.safetensors")
    for turn, dialect in enumerate(("diffusers", "peft", "kohya", "peft", "diffusers", "kohya")):
        target = tmp_path / (f"{turn}" if dialect == "peft" else f"{turn}.safetensors")
        path = save(load(path), target, dialect=dialect)
    ranks = {
        key: (len(built.truth[key][0].down), len(pairs[0].down))
        for key, pairs in understood(layout, path, "kohya").items()
    }
    assert all(before == after for before, after in ranks.values())
    assert gaps(built.truth, understood(layout, path, "kohya")) < 1e-6


def test_scale_of_one_weight_is_exact(tmp_path: Path) -> None:
    # The identity law: one adapter at weight w writes w times its delta.
    layout = load_layout("flux1")
    built = kohya(layout, few, 2, 1, scale=0.5)
    source = built.save(tmp_path / "a.safetensors")
    for dialect in ("kohya", "diffusers"):
        path = tmp_path / f"{dialect}.safetensors"
        merge([source], "linear", weights=[-0.7], output=Output(dialect=dialect), path=path)
        meant = total([(built.truth, -0.7)])
        assert gaps(meant, understood(layout, path, dialect)) < 1e-6


@pytest.mark.parametrize("dialect", ["kohya", "diffusers"])
def test_fused_and_split_inputs_together(dialect: str, tmp_path: Path) -> None:
    layout = load_layout("flux1")
    fused = kohya(layout, network(layout), 3, 1, scale=0.5)
    split = diffusers(
        layout,
        lambda m: network(layout)(m) and not m.name.endswith(("to_k", "proj_mlp")),
        2,
        2,
    )
    files = [fused.save(tmp_path / "f.safetensors"), split.save(tmp_path / "s.safetensors")]
    meant = total([(fused.truth, 0.6), (split.truth, -1.1)])
    path = tmp_path / "out.safetensors"
    merged = merge(files, "linear", weights=[0.6, -1.1], output=Output(dialect=dialect), path=path)
    assert gaps(meant, understood(layout, path, dialect)) < 1e-6
    if dialect == "kohya":  # a fused input keeps its one pair: 3 + 2 for each split part
        ranks = {row.target.rpartition(".")[2]: row.rank for row in merged.log}
        assert (ranks["qkv"], ranks["linear1"]) == (3 + 2 * 2, 3 + 2 * 2)


def test_fused_files_do_not_grow(tmp_path: Path) -> None:
    layout = load_layout("flux1")
    built = kohya(layout, network(layout), 3, 1)
    there = write(built, tmp_path, "diffusers")
    back = save(there.adapter, tmp_path / "back.safetensors", dialect="kohya")
    assert {len(x) for n, x in load_file(back).items() if n.endswith("down.weight")} == {3}


# --- the file ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16"])
@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_reference_library_opens_every_tensor(dialect: str, dtype: str, tmp_path: Path) -> None:
    layout = load_layout("sd15")
    built = kohya(layout, network(layout), lambda i: 1 + i % 3, 1)
    path = opened(write(built, tmp_path, dialect, dtype=dtype))
    kind = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}[dtype]
    shapes = {m.kohya: m.shape for m in layout.modules}
    with safe_open(path, "pt") as file:
        for name in file.keys():  # noqa: SIM118 - not a mapping
            tensor = file.get_tensor(name)
            assert tensor.is_contiguous()
            assert bool(tensor.isfinite().all())
            assert tensor.dtype == (torch.float32 if name.endswith(".alpha") else kind)
            if dialect == "kohya" and not name.endswith(".alpha"):
                shape = shapes[name.split(".")[0]]
                kernel = shape[2:]
                if ".lora_up." in name:
                    assert tuple(tensor.shape) == (shape[0], tensor.shape[1], *(1 for _ in kernel))
                else:
                    assert tuple(tensor.shape[1:]) == shape[1:]
            elif name.endswith(".alpha"):
                assert tensor.shape == ()
    if dtype != "bf16":  # NumPy has no such type
        with safe_open(path, "np") as file:
            for name in file.keys():  # noqa: SIM118
                assert np.isfinite(file.get_tensor(name)).all()
    tolerance = {"f32": 1e-6, "f16": 2e-3, "bf16": 1e-2}[dtype]
    assert gaps(built.truth, understood(layout, path, dialect)) < tolerance


def test_layout_of_the_bytes(tmp_path: Path) -> None:
    built = kohya(load_layout("sdxl"), few, 3, 1)
    path = opened(write(built, tmp_path, "kohya", dtype="bf16"))
    data = path.read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    entries = json.loads(data[8 : 8 + size])
    entries.pop("__metadata__")
    assert size % 8 == 0
    ends = 0
    for name, entry in sorted(entries.items(), key=lambda item: item[1]["data_offsets"]):
        start, stop = entry["data_offsets"]
        item = {"F32": 4, "BF16": 2}[entry["dtype"]]
        assert start == ends, f"{name}: holes are not allowed"
        assert start % item == 0
        assert stop - start == item * int(np.prod(entry["shape"]))
        ends = stop
    assert 8 + size + ends == len(data)


def test_overflow_names_the_target(tmp_path: Path) -> None:
    one = pair(8, 8, 2, 1, scale=1.0)
    big = Pair(1e6 * one.up, 1e6 * one.down)
    source = Built(spell("unet.x", big, "AB", (8, 8)), {}).save(tmp_path / "a.safetensors")
    path = tmp_path / "out.safetensors"
    with pytest.raises(OutputError, match=r"unet\.x.*bf16"):
        merge([source], "linear", output=Output(dtype="f16"), path=path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.safetensors"]


# --- dense differences ---------------------------------------------------------------------------


def test_dense_differences_of_fused_and_swapped_weights(tmp_path: Path) -> None:
    layout = load_layout("flux1")
    block = "transformer_blocks.0.attn.to_"
    chosen = {f"{block}q", f"{block}v", "norm_out.linear"}
    sources = [diffusers(layout, lambda m: m.name in chosen, 2, seed) for seed in (1, 2)]
    files = [s.save(tmp_path / f"{i}.safetensors") for i, s in enumerate(sources)]
    stack = [load(file, architecture="flux1") for file in files]
    path = tmp_path / "out.safetensors"
    merge(stack, "ties", output=Output(dense=True, dialect="kohya"), path=path)
    tensors = load_numpy(path)
    fused = "lora_unet_double_blocks_0_img_attn_qkv.diff"
    swapped = "lora_unet_final_layer_adaLN_modulation_1.diff"
    assert tensors.keys() == {fused, swapped}
    expected = {
        name: combine([s.truth[f"transformer.{name}"][0].dense() for s in sources], "ties")
        for name in chosen
    }
    query, key, value = np.split(tensors[fused], 3)
    assert not key.any()
    norm_out = np.roll(tensors[swapped], len(tensors[swapped]) // 2, axis=0)
    for name, got in ((f"{block}q", query), (f"{block}v", value), ("norm_out.linear", norm_out)):
        far = np.linalg.norm(got - expected[name]) / np.linalg.norm(expected[name])
        assert far < 1e-5, name
    # Beside an adapter that has the parts apart, the rows of the fused weight are its parts.
    again = load(path)
    apart = {g.target.key: g for g in align([again, stack[0]], split=False)}
    for name, rows in ((f"{block}q", query), (f"{block}k", key), (f"{block}v", value)):
        assert bytes(apart[f"transformer.{name}"].members[0].up.data) == rows.tobytes()
    assert bytes(apart["transformer.norm_out.linear"].members[0].up.data) == norm_out.tobytes()


# --- strings -------------------------------------------------------------------------------------

BASES = {
    "sd15": ("sd_v1", "stable-diffusion-v1/lora", "networks.lora"),
    "sdxl": ("sdxl_base_v1-0", "stable-diffusion-xl-v1-base/lora", "networks.lora"),
    "flux1": ("flux1", "flux-1-dev/lora", "networks.lora_flux"),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_kohya_header(name: str, tmp_path: Path) -> None:
    layout = load_layout(name)
    for ranks, expected in ((2, "2"), (lambda i: 1 + i % 2, "Dynamic")):
        built = kohya(layout, few, ranks, 1)
        merged = write(built, tmp_path, "kohya")
        strings = header(opened(merged))
        base, spec, module = BASES[name]
        tensors = load_file(opened(merged))
        (alpha,) = {float(x) for key, x in tensors.items() if key.endswith(".alpha")}
        assert strings["format"] == "pt"
        assert strings["ss_base_model_version"] == base
        assert strings["modelspec.architecture"] == spec
        assert strings["ss_network_module"] == module
        assert strings["ss_network_dim"] == expected
        assert float(strings["ss_network_alpha"]) == alpha
        assert strings["ss_v2"] == "False"
        assert alpha in {len(x) for key, x in tensors.items() if ".lora_down." in key}


def test_strings_that_the_inputs_agree_on_are_kept(tmp_path: Path) -> None:
    layout = load_layout("sd15")
    common = {"ss_base_model_version": "sd_v1_v", "modelspec.prediction_type": "v", "format": "pt"}
    stale = {"sshs_model_hash": "0" * 64, "sshs_legacy_hash": "0" * 8, "ss_tag_frequency": "{}"}
    files = []
    for index in range(2):
        built = kohya(layout, few, 1, index)
        extra = {"modelspec.resolution": f"{512 * (index + 1)}"}
        path = tmp_path / f"{index}.safetensors"
        files.append(built.save(path, common | stale | extra))
    out = tmp_path / "out.safetensors"
    merge(files, "linear", path=out)
    strings = header(out)
    assert strings["ss_base_model_version"] == "sd_v1_v"
    assert strings["modelspec.prediction_type"] == "v"
    assert not strings.keys() & {*stale, "modelspec.resolution"}


def test_provenance(tmp_path: Path) -> None:
    layout = load_layout("sd15")
    files = [
        kohya(layout, few, 1, i).save(tmp_path / f"{n}.safetensors")
        for i, n in enumerate(("style", "face"))
    ]
    found = []
    for dialect in ("kohya", "diffusers"):
        out = tmp_path / f"{dialect}.out.safetensors"
        merge(files, "linear", weights=[0.5, {"text_encoder*": 0, "*": 2}],
              output=Output(dialect=dialect, energy=0.9), path=out)  # fmt: skip
        record = json.loads(header(out)["loramix"])
        assert [s["name"] for s in record["sources"]] == ["style", "face"]
        assert [s["digest"] for s in record["sources"]] == [
            f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}" for path in files
        ]
        # Pairs, because the order of the globs matters.
        globs = [["text_encoder*", 0], ["*", 2]]
        assert [s["weight"] for s in record["sources"]] == [0.5, globs]
        assert record["output"]["energy"] == 0.9
        found.append(record)
    assert found[0]["decisions"] != found[1]["decisions"]


def components(strings: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """``lora_adapter_metadata``, as diffusers takes it apart."""
    found: dict[str, dict[str, Any]] = {}
    for field, value in json.loads(strings["lora_adapter_metadata"]).items():
        component, _, name = field.partition(".")
        found.setdefault(component, {})[name] = value
    return found


@pytest.mark.parametrize("name", LAYOUTS)
def test_diffusers_header(name: str, tmp_path: Path) -> None:
    layout = load_layout(name)
    equal = write(diffusers(layout, few, 2, 1), tmp_path, "diffusers")
    strings = header(opened(equal))
    told = {name for name in strings if not name.startswith("modelspec.")}
    assert told == {"format", "loramix"}
    built = diffusers(layout, few, lambda i: 1 + (i % 3 == 0), 1)
    merged = write(built, tmp_path, "diffusers")
    parts = components(header(opened(merged)))
    assert set(parts) == {key.partition(".")[0] for key in built.truth}
    for fields in parts.values():
        assert fields["lora_alpha"] == fields["r"]
        assert fields["rank_pattern"] == fields["alpha_pattern"]
        assert set(fields["rank_pattern"].values()) <= {1, 2} - {fields["r"]}
    factors = merged.adapter.targets.values()
    assert {f.scale for f in factors} == {1.0}


@pytest.mark.parametrize("fan", [False, True], ids=["linear", "conv1d"])
def test_peft_folder(fan: bool, tmp_path: Path) -> None:
    tensors: Tensors = {}
    truth: Truth = {}
    for index, rank in enumerate((2, 2, 4)):
        one = pair(6, 5, rank, index, scale=0.5)
        tensors |= spell(f"base_model.model.layers.{index}.q", one, "AB", (6, 5))
        truth[f"layers.{index}.q"] = [one]
    source = tmp_path / "in"
    source.mkdir()
    Built(tensors, truth).save(source / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA", "r": 2, "lora_alpha": 1, "alpha_pattern": {"layers.2.q": 2},
        "rank_pattern": {"layers.2.q": 4}, "task_type": "CAUSAL_LM", "fan_in_fan_out": fan,
        "base_model_name_or_path": "some/model", "use_rslora": False, "lora_dropout": 0.1,
    }  # fmt: skip
    (source / "adapter_config.json").write_text(json.dumps(config), "utf-8")
    out = tmp_path / "out"
    merge([source], "linear", path=out)
    assert sorted(p.name for p in out.iterdir()) == [
        "adapter_config.json", "adapter_model.safetensors",
    ]  # fmt: skip
    written = json.loads((out / "adapter_config.json").read_text("utf-8"))
    assert written == {
        "alpha_pattern": {"^layers.2.q": 4},
        "base_model_name_or_path": "some/model",
        "bias": "none",
        "fan_in_fan_out": fan,
        "inference_mode": True,
        "lora_alpha": 2,
        "peft_type": "LORA",
        "r": 2,
        "rank_pattern": {"^layers.2.q": 4},
        "target_modules": ["layers.0.q", "layers.1.q", "layers.2.q"],
        "task_type": "CAUSAL_LM",
        "use_rslora": False,
    }
    assert header(out / "adapter_model.safetensors")["format"] == "pt"
    assert gaps(truth, from_adapter(load(out))) < 1e-6


# --- what a dialect cannot hold ------------------------------------------------------------------


def test_a_peft_folder_holds_one_model(tmp_path: Path) -> None:
    # Its names have no component: nobody could load a U-Net and a text encoder from it.
    built = kohya(load_layout("sd15"), few, 1, 1)
    assert {key.partition(".")[0] for key in built.truth} == {"unet", "text_encoder"}
    with pytest.raises(FormatError, match="holds one part of a pipeline"):
        write(built, tmp_path, "peft")


def test_both_encoders_of_sdxl_need_components(tmp_path: Path) -> None:
    built = kohya(load_layout("sdxl"), few, 1, 1)
    with pytest.raises(FormatError, match="holds one part of a pipeline"):
        write(built, tmp_path, "peft")


def test_unknown_modules_keep_their_dialect(tmp_path: Path) -> None:
    one = pair(8, 8, 2, 1)
    for stem, style, other in (
        ("lora_unet_strange_block_0", ".lora_{}.weight", ("diffusers", "peft")),
        ("transformer.strange.block.0", "AB", ("kohya",)),
        ("base_model.model.strange.block.0", "AB", ("kohya", "diffusers")),
    ):
        folder = tmp_path / stem
        folder.mkdir()
        built = Built(spell(stem, one, style, (8, 8)), {})
        source = built.save(folder / "a.safetensors")
        dialect = load(source).dialect
        path = folder / ("out" if dialect == "peft" else "out.safetensors")
        merged = merge([source], "linear", path=path)
        assert {key.rpartition(".lora")[0] for key in load_file(opened(merged))} - {""} == {stem}
        (got,) = from_adapter(merged.adapter).values()
        assert gap([one], got) < 1e-6
        for wrong in other:
            with pytest.raises(FormatError, match="strange"):
                merge([source], "linear", output=Output(dialect=wrong))


def test_a_file_name_for_peft_and_a_folder_for_others_are_refused(tmp_path: Path) -> None:
    source = kohya(load_layout("sd15"), network(load_layout("sd15")), 1, 1).save(
        tmp_path / "a.safetensors"
    )
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(OutputError, match=r"adapter is a folder.* or write --dialect diffus"):
        merge([source], "linear", output=Output(dialect="peft"), path=tmp_path / "b.safetensors")
    # Language models have no diffusers names: what is advised can be done.
    stem = "base_model.model.model.layers.0.self_attn.q_proj"
    llama = Built(spell(stem, pair(4096, 4096, 2, 1), "AB", (4096, 4096)), {})
    spoken = llama.save(tmp_path / "llama.safetensors")
    with pytest.raises(OutputError, match=r"adapter is a folder.* or write --dialect plain"):
        merge([spoken], "linear", path=tmp_path / "b.safetensors")
    merge([spoken], "linear", output=Output(dialect="plain"), path=tmp_path / "b.safetensors")
    with pytest.raises(OutputError, match="is a folder; name a file in it"):
        merge([source], "linear", path=folder)
    with pytest.raises(OutputError, match="also an input"):
        merge([source], "linear", path=source)
