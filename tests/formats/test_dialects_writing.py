"""Every dialect of every model, written and read back.

What is proved: the deltas are those of the input, whatever the naming world, split or fused,
halves swapped or not; the names are those that the trainers' key lists attest; what a dialect has
no name for is refused by name.
"""

import re
from pathlib import Path
from typing import Any

import pytest
from formats.builders import Built, Tensors, Truth, from_adapter, gaps, pair, spell
from key_lists import KeyList, key_lists
from safetensors.numpy import load_file

from loramix import FormatError, Merged, Output, ParamError, load, merge
from loramix.formats.dialects import DIALECTS, default_dialect, dialect_for, writable
from loramix.formats.layout import LAYOUTS, Layout, Module, flatten, load_layout
from loramix.groups import fusions
from loramix.types import Target

NUMBER = re.compile(r"\.(\d+)\.")
ALL = [(name, dialect) for name in LAYOUTS for dialect in writable(load_layout(name))]


def kinds(layout: Layout, parts: tuple[str, ...]) -> list[Module]:
    """One module of every kind: the first of every name without its numbers, all of a fused one."""
    first: dict[tuple[str, str], str] = {}
    found = []
    for module in layout.modules:
        kind = NUMBER.sub(".#.", module.original if module.rows else module.name)
        if module.component in parts:
            key = module.component, kind
            found += [module] if first.setdefault(key, module.original) == module.original else []
    return found


def parts_of(layout: Layout, dialect: str) -> tuple[str, ...]:
    """Parts of the pipeline that one file of the dialect holds."""
    how = dialect_for(dialect, layout)
    parts = tuple(how.prefixes)
    return parts[:1] if how.one_component else parts


def source(modules: list[Module]) -> Built:
    tensors: Tensors = {}
    truth: Truth = {}
    for index, module in enumerate(modules):
        rows, *rest = module.shape
        cols = 1
        for size in rest:
            cols *= size
        key = f"{module.component}.{module.name}"
        one = pair(rows, cols, 1 + index % 2, index)
        tensors |= spell(key, one, "AB", module.shape)
        truth[key] = [one]
    return Built(tensors, truth)


def written(built: Built, layout: Layout, folder: Path, **rule: Any) -> Merged:
    path = built.save(folder / "source.safetensors")
    adapter = load(path, architecture=layout.name)
    assert adapter.match == 1.0
    out = Output(**rule)
    folders = out.dialect == "peft" or out.client == "peft"
    target = folder / ("out" if folders else "out.safetensors")
    return merge([adapter], "linear", path=target, output=out)


def parts_of_adapter(merged: Merged, layout: Layout) -> Truth:
    """Deltas of the canonical modules, those of fused weights taken apart."""
    found: Truth = {}
    for key, pairs in from_adapter(merged.adapter).items():
        component, _, name = key.partition(".")
        hit = layout.find(flatten(name), component)
        assert hit is not None
        start = 0
        for module in hit.modules:
            end = start + module.shape[0]
            found[f"{component}.{module.name}"] = [one.rows(start, end) for one in pairs]
            start = end
    return found


@pytest.mark.parametrize(("name", "dialect"), ALL)
def test_round_trip(name: str, dialect: str, tmp_path: Path) -> None:
    layout = load_layout(name)
    modules = kinds(layout, parts_of(layout, dialect))
    if dialect == "xlabs":
        modules = [m for m in modules if is_xlabs(m)]
    built = source(modules)
    merged = written(built, layout, tmp_path, dialect=dialect)
    assert merged.plan.dialect.name == dialect
    again = load(merged.path or "", architecture=name)
    assert (again.architecture, again.match) == (name, 1.0)
    assert not any("two names" in note for note in again.coverage.notes)
    for adapter in (merged, Merged(again, merged.path, merged.log, merged.plan)):
        found = parts_of_adapter(adapter, layout)
        assert found.keys() == built.truth.keys()
        assert gaps(built.truth, found) < 1e-6


def is_xlabs(module: Module) -> bool:
    attention = "_attn." in module.original
    single = module.original.endswith(("linear1", "linear2"))
    return (attention or single) and not module.name.endswith("proj_mlp")


# Lists whose names are not those that the dialect is written in: older spellings, and originals
# where the model has a form of its own.
ELSEWHERE = {
    "flux1-4-comfyui": "ComfyUI reads more than is written for it",
    "flux1-6-peft": "PEFT wraps the original model here, that of diffusers elsewhere",
    "sd15-1-diffusers": "old names of text encoders",
    "sd15-2-diffusers": "attention processors",
}


@pytest.mark.parametrize(
    "section",
    [s for s in key_lists() if s.dialect in DIALECTS and s.name not in ELSEWHERE],
    ids=lambda section: section.name,
)
def test_names_are_those_of_the_trainers(section: KeyList) -> None:
    layout = load_layout(section.layout)
    dialect = dialect_for(section.dialect, layout)
    whole = fusions(layout, partial=dialect.partial) if dialect.fused else {}
    for line in section.lines:
        if line.keys:
            component, _, name = line.keys[0].partition(".")
            shape = layout.by_key[component, flatten(name)].shape
            fusion = whole.get(line.keys[0])
            target = fusion.target if fusion else Target(line.keys[0], shape)
            assert dialect.stem(target, layout) == line.stem


@pytest.mark.parametrize("name", LAYOUTS)
def test_what_nobody_reads_is_refused_with_what_is_possible(name: str) -> None:
    layout = load_layout(name)
    for dialect in set(DIALECTS) - set(writable(layout)):
        with pytest.raises(ParamError, match=f"{dialect}: nobody reads .* of {name} .*possible"):
            dialect_for(dialect, layout)
    assert {"peft", "plain"} <= set(writable(layout))


def refusal(layout: Layout, keys: set[str], folder: Path, dialect: str) -> str:
    modules = [m for m in layout.modules if f"{m.component}.{m.name}" in keys]
    assert len(modules) == len(keys)
    with pytest.raises(FormatError) as refused:
        written(source(modules), layout, folder, dialect=dialect)
    assert [path.name for path in folder.iterdir()] == ["source.safetensors"]
    return str(refused.value)


def test_modules_that_xlabs_does_not_train_are_refused_by_name(tmp_path: Path) -> None:
    keys = {
        "transformer.single_transformer_blocks.0.proj_mlp",
        "transformer.single_transformer_blocks.0.attn.to_q",
        "transformer.transformer_blocks.0.ff.net.2",
    }
    message = refusal(load_layout("flux1"), keys, tmp_path, "xlabs")
    assert "xlabs files have no name for this module" in message
    assert "(1 more like it)" in message


@pytest.mark.parametrize("dialect", ["musubi", "xlabs", "original", "lycoris"])
def test_text_encoders_are_refused_where_files_have_none(dialect: str, tmp_path: Path) -> None:
    key = "text_encoder.text_model.encoder.layers.0.self_attn.q_proj"
    message = refusal(load_layout("flux1"), {key}, tmp_path, dialect)
    assert f"{key}: {dialect} files have no name for this part of a model" in message


def test_one_trainer_numbers_t5_otherwise(tmp_path: Path) -> None:
    layout = load_layout("flux1")
    module = layout.by_key["text_encoder_2", "encoder_block_0_layer_0_SelfAttention_q"]
    for dialect, prefix in (("kohya", "lora_te3_"), ("onetrainer", "lora_te2_")):
        folder = tmp_path / dialect
        folder.mkdir()
        merged = written(source([module]), layout, folder, dialect=dialect)
        assert all(name.startswith(prefix) for name in load_file(merged.path or ""))


def test_a_weight_is_never_fused_and_split(tmp_path: Path) -> None:
    """One adapter has the fused weight, the other one part of it."""
    layout = load_layout("flux1")
    block = "transformer.transformer_blocks.0.attn"
    one = spell(
        "lora_unet_double_blocks_0_img_attn_qkv", pair(9216, 3072, 2, 1), "AB", (9216, 3072)
    )
    two = spell(f"{block}.to_k", pair(3072, 3072, 2, 2), "AB", (3072, 3072))
    paths = [
        Built(tensors, {}).save(tmp_path / name)
        for name, tensors in (("a.safetensors", one), ("b.safetensors", two))
    ]
    stack = [load(path, architecture="flux1") for path in paths]
    for dialect in writable(layout):
        merged = merge(stack, "linear", output=Output(dialect=dialect))
        keys = [target.key for target in merged.adapter.targets]
        fused = dialect_for(dialect, layout).fused
        assert len(keys) == (1 if fused else 3), dialect


@pytest.mark.parametrize("dialect", ["kohya", "comfyui", "diffusers", "peft", "plain"])
def test_models_without_a_table_keep_their_names(dialect: str, tmp_path: Path) -> None:
    stem = {"kohya": "lora_unet_blocks_0_x", "diffusers": "transformer.blocks.0.x"}.get(
        dialect, {"comfyui": "diffusion_model.", "peft": "base_model.model."}.get(dialect, "")
        + "blocks.0.x",
    )  # fmt: skip
    built = Built(spell(stem, pair(8, 8, 2, 1), "AB", (8, 8)), {})
    adapter = load(built.save(tmp_path / "a.safetensors"))
    assert (adapter.architecture, adapter.dialect) == (None, dialect)
    for rule in (Output(), Output(dialect=dialect)):
        merged = merge([adapter], "linear", output=rule)
        assert {name.split(".lora_")[0].removesuffix(".alpha") for name in names(merged)} == {stem}


def names(merged: Merged) -> list[str]:
    return list(merged.adapter.source.tensors)


@pytest.mark.parametrize("dialect", ["musubi", "ai-toolkit", "onetrainer", "lycoris", "xlabs"])
def test_models_without_a_table_have_no_files_of_trainers(dialect: str, tmp_path: Path) -> None:
    built = Built(spell("blocks.0.x", pair(8, 8, 2, 1), "AB", (8, 8)), {})
    adapter = load(built.save(tmp_path / "a.safetensors"))
    with pytest.raises(ParamError, match="without a table"):
        merge([adapter], "linear", output=Output(dialect=dialect))


@pytest.mark.parametrize(
    ("convention", "layout", "dialect"),
    [
        ("kohya", "sdxl", "kohya"),
        ("bfl", "flux1", "original"),
        ("diffusion-pipe", "wan21_t2v_14b", "comfyui"),
        ("diffsynth", "wan21_t2v_14b", "original"),
        ("lightx2v", "qwen_image", "comfyui"),
        ("videox-fun", "wan21_t2v_1_3b", "kohya"),
        ("ai-toolkit", "flux1", "ai-toolkit"),
        ("ai-toolkit", "ltx_video_2b", "comfyui"),
        ("onetrainer", "qwen_image", "kohya"),
        ("kohya", "llama3_8b", "peft"),
        ("lycoris", None, "kohya"),
        ("xlabs", None, "comfyui"),
        ("plain", None, "plain"),
    ],
)
def test_what_is_written_when_nobody_says(
    convention: str, layout: str | None, dialect: str
) -> None:
    assert default_dialect(convention, load_layout(layout) if layout else None) == dialect
