"""Names of every trainer, read: key lists of real files against the module tables.

What is proved: each stem stands for the modules that the list says, rows in order and halves
swapped where it says so; a file of such names is read as an adapter for the right model with
exactly its deltas, and its convention is named; no tensor is dropped.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from formats.builders import Built, Pair, Tensors, Truth, pair, spell
from key_lists import KeyList, Line, key_lists

from loramix import load
from loramix.formats.dialects import convention, lookup, split_stem
from loramix.formats.layout import Layout, Module, flatten, load_layout

LISTS = key_lists()
STYLES = {
    "lora_down.weight": ".lora_{}.weight",
    "lora_A.weight": "AB",
    "lora_A.default.weight": "infix",
    "lora.down.weight": ".lora.{}.weight",
    "lora_linear_layer.down.weight": ".lora_linear_layer.{}.weight",
    "down.weight": ".{}.weight",
}
PAIRS = {*STYLES, *(role.replace("down", "up").replace("_A", "_B") for role in STYLES), "alpha"}


def modules_of(line: Line, layout: Layout) -> list[Module]:
    parts = [key.partition(".") for key in line.keys]
    return [layout.by_key[component, flatten(name)] for component, _, name in parts]


def size_of(modules: Iterable[Module]) -> tuple[int, int]:
    found = list(modules)
    return sum(m.shape[0] for m in found), int(np.prod(found[0].shape[1:]))


def is_lora(line: Line) -> bool:
    return set(line.roles) <= PAIRS and any(role in STYLES for role in line.roles)


def built(section: KeyList, layout: Layout) -> Built:
    """A file with the pairs of a list, with the shapes of the model, and what they mean."""
    tensors: Tensors = {}
    truth: Truth = {}
    order = {line.keys: index for index, line in enumerate(section.lines)}
    for line in filter(is_lora, section.lines):
        modules = modules_of(line, layout)
        rows, cols = size_of(modules)
        alpha = "alpha" in line.roles
        index = order[line.keys]  # one module under two names has one delta
        one = pair(rows, cols, 1 + index % 2, index, 0.5 if alpha else 1.0)
        style = next(STYLES[role] for role in line.roles if role in STYLES)
        tensors |= spelled(line.stem, one, style, modules[0].shape, alpha=alpha)
        meant = one.swapped() if line.swap else one
        start = 0
        for key, module in zip(line.keys, modules, strict=True):
            truth[key] = [meant.rows(start, start + module.shape[0])]
            start += module.shape[0]
    return Built(tensors, truth)


def spelled(stem: str, one: Pair, style: str, shape: tuple[int, ...], *, alpha: bool) -> Tensors:
    if style != "infix":
        return spell(stem, one, style, shape, alpha=alpha)
    found = spell(stem, one, "AB", shape, alpha=alpha)
    return {name.replace(".weight", ".default.weight"): data for name, data in found.items()}


@pytest.mark.parametrize("section", LISTS, ids=lambda section: section.name)
def test_every_stem_stands_for_its_modules(section: KeyList) -> None:
    layout = load_layout(section.layout)
    for line in section.lines:
        stem = split_stem(line.stem)
        size = size_of(modules_of(line, layout)) if line.keys else (None, None)
        hit = lookup(stem, layout, size)
        found = tuple(f"{m.component}.{m.name}" for m in hit.modules) if hit else ()
        assert found == line.keys, line.stem
        assert (hit.swapped if hit else False) == line.swap, line.stem


@pytest.mark.parametrize("section", LISTS, ids=lambda section: section.name)
def test_another_size_is_no_hit(section: KeyList) -> None:
    layout = load_layout(section.layout)
    for line in section.lines:
        if line.keys:
            rows, cols = size_of(modules_of(line, layout))
            assert lookup(split_stem(line.stem), layout, (rows + 1, cols)) is None
            assert lookup(split_stem(line.stem), layout, (None, cols + 1)) is None


@pytest.mark.parametrize(
    "section",
    [section for section in LISTS if any(map(is_lora, section.lines))],
    ids=lambda section: section.name,
)
def test_files_are_read_with_their_deltas(section: KeyList, tmp_path: Path) -> None:
    layout = load_layout(section.layout)
    file = built(section, layout)
    path = file.save(tmp_path / "adapter.safetensors", section.header)
    adapter = load(path, architecture=section.layout)
    assert (adapter.architecture, adapter.match) == (section.layout, 1.0)
    assert section.layout in load(path).candidates  # short lists may fit several models
    assert adapter.coverage.used == len(file.tensors)
    found = {}
    for target, factors in adapter.targets.items():
        component, _, name = target.key.partition(".")
        hit = layout.find(flatten(name), component)
        assert hit is not None
        start = 0
        for module in hit.modules:
            rows = factors.rows(start, start + module.shape[0])
            found[f"{component}.{module.name}"] = rows
            start += module.shape[0]
        assert start == target.rows
    assert found.keys() == file.truth.keys()
    for key, factors in found.items():
        (one,) = file.truth[key]
        assert bytes(factors.up.data) == one.up.tobytes(), key
        assert bytes(factors.down.data) == one.down.tobytes(), key
        assert factors.scale == one.scale, key


@pytest.mark.parametrize("section", LISTS, ids=lambda section: section.name)
def test_the_convention_is_named(section: KeyList) -> None:
    layout = load_layout(section.layout)
    stems = [split_stem(line.stem) for line in section.lines]
    hits = [lookup(stem, layout, (None, None)) for stem in stems]
    worlds = [hit.world for hit in hits if hit is not None]
    names = [name for line in section.lines for name in line.names]
    assert convention(stems, worlds, names, section.layout, section.header) == section.dialect


def test_text_encoders_alone_do_not_say_who_trained_them() -> None:
    stems = [split_stem(f"lora_te{n}_text_model_encoder_layers_0_mlp_fc1") for n in (1, 2)]
    names = [f"{stem.text}.lora_down.weight" for stem in stems]
    assert convention(stems, ["name", "name"], names, "sdxl", {}) == "kohya"


@pytest.mark.parametrize("model", ["flux1", "wan21_t2v_14b", "z_image"])
@pytest.mark.parametrize(
    ("header", "trainer"),
    [
        ({"software": '{"name": "ai-toolkit", "version": "0.7"}'}, "ai-toolkit"),
        ({"format": "pt"}, "diffusion-pipe"),
        ({}, "diffusion-pipe"),
    ],
)
def test_only_the_header_tells_some_trainers_apart(
    model: str, header: dict[str, str], trainer: str
) -> None:
    stems = [split_stem("diffusion_model.blocks.0.x")]
    names = ["diffusion_model.blocks.0.x.lora_A.weight"]
    assert convention(stems, ["original"], names, model, header) == trainer


def test_a_header_says_nothing_about_an_unknown_model() -> None:
    stems = [split_stem("diffusion_model.a.b")]
    header = {"software": "ai-toolkit", "ot_branch": "master"}
    assert convention(stems, [], ["diffusion_model.a.b.lora_A.weight"], None, header) == "comfyui"


@pytest.mark.parametrize("text", ["text_encoder.", "text_encoder_2."])
def test_encoders_as_transformers_5_names_them(text: str) -> None:
    layout = load_layout("sdxl")
    path = "text_model.encoder.layers.7.mlp.fc1"
    size = (3072, 768) if text == "text_encoder." else (5120, 1280)
    hits = [
        lookup(split_stem(text + name), layout, size)
        for name in (path, path.removeprefix("text_model."))
    ]
    assert hits[0] is not None
    assert hits[0] == hits[1]
    assert lookup(split_stem(text + "encoder.layers.99.mlp.fc1"), layout, size) is None
