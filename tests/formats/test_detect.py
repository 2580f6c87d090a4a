"""Which model a file is for: names and shapes, and the rules between models that share blocks.

Files are built from the tables, as stems with sizes: whole models, the usual parts of them, and
for every pair of models that share modules just those.
"""

import re
from collections.abc import Callable, Mapping
from math import prod

import pytest

from loramix.formats import detect as detection
from loramix.formats.detect import LARGER, Match, detect
from loramix.formats.dialects import Stem, split_stem
from loramix.formats.layout import LAYOUTS, Layout, Module, flatten, load_layout
from loramix.formats.layout_text import World
from loramix.formats.sketches import Size, patterns, sketch

Files = list[tuple[Stem, Size]]
Choose = Callable[[Module], bool]

NETWORKS = ("unet", "transformer")
SPELLED = {"base": "ss_base_model_version", "spec": "modelspec.architecture"}


def network(module: Module) -> bool:
    return module.component in NETWORKS


def matching(pattern: str) -> Choose:
    return lambda m: m.component in NETWORKS and re.search(pattern, m.name) is not None


def text(*components: str) -> Choose:
    return lambda m: m.component in components and m.name != "text_projection"


def file(layout: str, world: World, choose: Choose = network, *, dots: bool = False) -> Files:
    """Modules as one world names them, fused where it fuses, with Kohya prefixes or dotted."""
    table = load_layout(layout)
    found: dict[str, tuple[int, int]] = {}
    for module in filter(choose, table.modules):
        own = {a.world: a.name for a in module.aliases} | {"name": module.name}
        name = own.get(world, module.original)
        path = f"{module.component}.{name}" if dots else _prefix(table, module) + flatten(name)
        rows, cols = found.get(path, (0, prod(module.shape[1:])))
        found[path] = rows + module.shape[0], cols
    return [(split_stem(path), size) for path, size in found.items()]


def _prefix(table: Layout, module: Module) -> str:
    return table.prefixes[module.component] or "base_model.model."


def names_of(match: Match) -> tuple[str | None, tuple[str, ...]]:
    return match.layout.name if match.layout else None, match.candidates


def decided(found: Files, metadata: Mapping[str, str] | None = None) -> str | None:
    match = detect(found, metadata=metadata)
    return match.layout.name if match.layout else None


# --- whole models --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("world", ["name", "original", "comfy"])
def test_whole_models(name: str, world: World) -> None:
    for choose in (network, lambda _: True):
        match = detect(file(name, world, choose))
        # VACE has all of 1.3B, and one name for each; all other pairs differ somewhere.
        more = ("wan21_vace_1_3b",) if name == "wan21_t2v_1_3b" else ()
        assert names_of(match) == (name, (name, *more))
        assert (match.share, match.because == "") == (1.0, not more)
        assert match.runner_up is None or match.runner_up[1] < 1.0


@pytest.mark.parametrize("name", LAYOUTS)
def test_only_says_which_table_whatever_its_score(name: str) -> None:
    found = file("sd15", "name")
    match = detect(found, name)
    assert names_of(match) == (name, (name,))
    table = load_layout(name)
    hits = sum(table.find(flatten(s.path), s.component, size) is not None for s, size in found)
    assert (match.hits, match.share) == (hits, hits / len(found))


def test_attention_of_the_blocks_is_enough_where_no_other_model_has_it() -> None:
    attention = matching(r"blocks\.\d+\..*attn|layers\.\d+\..*(attn|attention)\.")
    for name, world in (
        ("sdxl", "original"), ("sdxl", "name"), ("sd35_large", "original"), ("lumina2", "name"),
        ("flux2_dev", "name"), ("flux2_klein_9b", "original"), ("z_image", "name"),
        ("wan22_ti2v_5b", "original"), ("ltx_video_13b", "name"), ("ace_step_v1", "name"),
        ("ace_step_1_5", "original"), ("llama3_8b", "name"), ("qwen2_5_7b", "name"),
    ):  # fmt: skip
        assert names_of(detect(file(name, world, attention))) == (name, (name,))


# --- pairs of models that share modules ----------------------------------------------------------

DOUBLE = matching(r"^transformer_blocks\.\d+\.attn\.")
FLUXES = ("flux1", "chroma", "hunyuan_video")
NOT_MODULATION = matching(r"^(single_)?transformer_blocks\.\d+\.(?!norm)")


@pytest.mark.parametrize("world", ["name", "original", "comfy"])
def test_flux1_and_hunyuan_video_end_at_different_blocks(world: World) -> None:
    blocks = matching(r"^(single_)?transformer_blocks\.")
    assert decided(file("hunyuan_video", world, blocks)) == "hunyuan_video"
    assert decided(file("flux1", world, blocks)) == "flux1"
    # Without the last blocks of HunyuanVideo both have everything; then FLUX.1's end decides.
    shared = file("flux1", "name", matching(r"^(single_)?transformer_blocks\.\d+\.(attn|norm)"))
    match = detect(shared)
    assert names_of(match) == ("flux1", ("flux1", "hunyuan_video"))
    assert match.because == "its last blocks are those of flux1"


def test_original_names_tell_hunyuan_video() -> None:
    for kind in (r"img_mlp|ff\.", r"norm1\.", r"single_transformer_blocks\.\d+\.norm"):
        one = file(
            "hunyuan_video",
            "original",
            matching(rf"^(single_)?transformer_blocks\.0\..*{kind}|{kind}"),
        )
        assert decided(one) == "hunyuan_video"


def test_flux1_and_chroma_are_told_by_modulation_or_the_guidance_layer() -> None:
    for world in ("name", "original"):
        first = detect(file("flux1", world, matching(r"^transformer_blocks\.[0-3]\.")))
        assert first.candidates == ("flux1", "hunyuan_video")
        chroma = file("chroma", world, matching(r"^transformer_blocks\.[0-3]\.|distilled"))
        assert names_of(detect(chroma)) == ("chroma", ("chroma",))
        # Neither: the names and rows are the same, so it is taken for the first of them.
        both = detect(file("chroma", world, NOT_MODULATION))
        assert names_of(both) == ("flux1", ("flux1", "chroma", "hunyuan_video"))
        assert both.because.endswith("its names and rows are those of flux1 in all of them")


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("ss_base_model_version", "chroma", "chroma"),
        ("modelspec.architecture", "chroma/lora", "chroma"),
        ("ss_base_model_version", "flux1", "flux1"),
        ("modelspec.architecture", "Flux.1-dev/lora", "flux1"),
        ("adapter_config.json", '{"base_model_name_or_path": "lodestones/Chroma1-HD"}', "chroma"),
        # Shapes win: it is no SDXL, whatever it says.
        ("ss_base_model_version", "sdxl_base_v1-0", "flux1"),
        # It may have been trained on the first blocks.
        ("ss_base_model_version", "hunyuan_video", "hunyuan_video"),
    ],
)
def test_metadata_decide_between_what_fits(key: str, value: str, expected: str) -> None:
    match = detect(file("flux1", "original", NOT_MODULATION), metadata={key: value})
    assert names_of(match) == (expected, ("flux1", "chroma", "hunyuan_video"))
    assert ("its metadata name" in match.because) == (value != "sdxl_base_v1-0")


def test_hunyuan_video_and_chroma() -> None:
    match = detect(file("hunyuan_video", "original", NOT_MODULATION))
    assert names_of(match) == ("hunyuan_video", ("hunyuan_video",))
    few = [x for x in file("hunyuan_video", "name", DOUBLE) if "_3_" in flatten(x[0].path)]
    hint = {"ss_base_model_version": "hunyuan_video"}
    assert decided(few, hint) == "hunyuan_video"


@pytest.mark.parametrize("other", ["flux1", "chroma", "hunyuan_video"])
def test_attention_of_double_blocks_is_that_of_qwen_image_too(other: str) -> None:
    assert decided(file("qwen_image", "name", DOUBLE)) == "qwen_image"  # block 59
    whole = detect(file(other, "name", DOUBLE))
    assert "qwen_image" in whole.candidates
    assert whole.layout is not None
    assert whole.layout.name == ("hunyuan_video" if other == "hunyuan_video" else "flux1")
    # Blocks of the middle are anyone's; the names that Kohya files get depend on it.
    middle = matching(r"^transformer_blocks\.[3-5]\.attn\.")
    match = detect(file(other, "name", middle))
    assert names_of(match) == (None, ("flux1", "chroma", "qwen_image", "hunyuan_video"))
    for metadata in (
        {"ss_base_model_version": "qwen_image"},
        {"modelspec.architecture": "Qwen-Image"},
    ):
        assert decided(file(other, "name", middle), metadata) == "qwen_image"
    for kind in ("img_mod", "txt_mlp"):
        assert (
            decided(file("qwen_image", "name", matching(rf"blocks\.3\.({kind}|attn)")))
            == "qwen_image"
        )


def test_klein_4b_shares_the_attention_of_five_blocks() -> None:
    match = detect(file("flux2_klein_4b", "original", DOUBLE))
    assert names_of(match) == (
        "flux2_klein_4b",
        ("flux1", "flux2_klein_4b", "chroma", "hunyuan_video"),
    )
    assert match.because == "its last blocks are those of flux2_klein_4b"
    whole = file("flux2_klein_4b", "original", DOUBLE)
    assert decided(whole, {"ss_base_model_version": "flux1"}) == "flux1"  # its first five
    few = file("flux2_klein_4b", "original", matching(r"^transformer_blocks\.[0-2]\.attn\."))
    assert decided(few) == "flux1"
    assert decided(few, {"ss_base_model_version": "flux_2_klein_4b"}) == "flux2_klein_4b"
    for more in (r"ff\.", r"^single"):
        one = file("flux2_klein_4b", "original", matching(rf"blocks\.[0-2]\.attn\.|{more}"))
        assert names_of(detect(one)) == ("flux2_klein_4b", ("flux2_klein_4b",))


def test_stable_diffusion_1_and_2() -> None:
    shared = matching(r"resnets|attn1|ff\.|samplers")
    for name in ("sd15", "sd21"):
        found = file(name, "name", shared)
        match = detect(found)
        assert match.candidates == ("sd15", "sd21")
        assert decided(found, {"ss_base_model_version": "sd_v2_v"}) == "sd21"
        assert decided(found, {"ss_base_model_version": "sd_1.5"}) == "sd15"
        for one in (
            matching(r"down_blocks\.2\.attentions\.0\..*(attn1|attn2)"),
            text("text_encoder"),
        ):
            assert decided([*found, *file(name, "name", one)]) == name


def test_stable_diffusion_1_and_xl_share_first_levels_in_diffusers_names() -> None:
    both = {(m.name, m.shape[0], prod(m.shape[1:])) for m in load_layout("sdxl").modules}
    shared = [
        m
        for m in load_layout("sd15").modules
        if network(m) and (m.name, m.shape[0], prod(m.shape[1:])) in both
    ]
    keys = {m.name for m in shared}
    match = detect(file("sd15", "name", lambda m: network(m) and m.name in keys))
    assert set(match.candidates) == {"sd15", "sd21", "sdxl"}
    assert match.layout is None  # their Kohya names differ
    for more in (r"attn2\.to_k", r"transformer_blocks\.1\.", r"add_embedding"):
        one = file(
            "sdxl",
            "name",
            lambda m, more=more: network(m) and (m.name in keys or re.search(more, m.name)),
        )
        assert decided(one) == "sdxl"


def test_stable_diffusion_3_and_35_medium() -> None:
    attention = matching(r"\.attn\.|ff")
    match = detect(file("sd3_medium", "original", attention))
    assert names_of(match) == ("sd3_medium", ("sd3_medium", "sd35_medium"))
    assert match.because == "larger models have all modules of sd3_medium"
    assert decided(file("sd35_medium", "original", matching(r"\.attn2?\."))) == "sd35_medium"
    assert decided(file("sd35_large", "original", attention)) == "sd35_large"


@pytest.mark.parametrize("world", ["name", "original"])
def test_wan_with_and_without_an_image(world: World) -> None:
    blocks = matching(r"^blocks\.")
    match = detect(file("wan21_t2v_14b", world, blocks))
    assert names_of(match) == ("wan21_t2v_14b", ("wan21_t2v_14b", "wan21_i2v_14b"))
    assert match.because == "larger models have all modules of wan21_t2v_14b"
    assert names_of(detect(file("wan21_i2v_14b", world, blocks))) == (
        "wan21_i2v_14b",
        ("wan21_i2v_14b",),
    )
    both = file("wan21_t2v_14b", world, matching(r"^blocks\.\d+\.attn1"))
    hint = {"adapter_config.json": '{"base_model_name_or_path": "Wan-AI/Wan2.1-I2V-14B-480P"}'}
    assert decided(both, hint) == "wan21_i2v_14b"


def test_wan_and_vace() -> None:
    match = detect(file("wan21_t2v_1_3b", "original"))
    assert names_of(match) == ("wan21_t2v_1_3b", ("wan21_t2v_1_3b", "wan21_vace_1_3b"))
    for more in (r"vace_blocks\.", r"vace_patch"):
        one = file("wan21_vace_1_3b", "original", matching(rf"^blocks\.|{more}"))
        assert names_of(detect(one)) == ("wan21_vace_1_3b", ("wan21_vace_1_3b",))


@pytest.mark.parametrize(
    ("small", "large"), [(s, one) for s, more in LARGER.items() for one in more]
)
def test_larger_models_have_the_blocks_of_the_smaller(small: str, large: str) -> None:
    large_has = {(m.name, m.shape) for m in load_layout(large).modules}
    missing = [m.name for m in load_layout(small).modules if (m.name, m.shape) not in large_has]
    # What reads or modulates more, outside of the shared kinds.
    assert all(
        re.fullmatch(r"patch_embedding|transformer_blocks\.\d+\.norm1\.linear", n) for n in missing
    )
    assert LAYOUTS.index(small) < LAYOUTS.index(large)


# --- without shapes ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("ltx_video_2b", "ltx_video_13b"),
        ("wan21_t2v_1_3b", "wan22_ti2v_5b"),
        ("sd3_medium", "sd35_large"),
    ],
)
def test_sizes_that_are_not_known_leave_models_of_one_family_open(one: str, other: str) -> None:
    blocks = matching(r"blocks\.[3-7]\.attn")
    found = file(one, "name", blocks)
    bare: Files = [(stem, (None, None)) for stem, _ in found]
    assert {one, other} <= set(detect(bare).candidates)
    assert other not in detect(found).candidates
    half: Files = [(stem, (None, cols)) for stem, (_, cols) in found]
    assert other not in detect(half).candidates


# --- text encoders -------------------------------------------------------------------------------

SD3S = ("sd3_medium", "sd35_medium", "sd35_large")


def test_text_encoders_alone() -> None:
    clip_l = detect(file("sd15", "name", text("text_encoder")))
    assert names_of(clip_l) == (None, ("sd15", "sdxl", *SD3S, "flux1"))
    assert names_of(detect(file("sd21", "name", text("text_encoder")))) == ("sd21", ("sd21",))
    two = detect(file("sdxl", "name", text("text_encoder", "text_encoder_2")))
    assert names_of(two) == ("sdxl", ("sdxl", *SD3S))
    assert decided(file("flux1", "name", text("text_encoder", "text_encoder_2"))) is None
    dotted = file("flux1", "name", text("text_encoder", "text_encoder_2"), dots=True)
    assert names_of(detect(dotted)) == ("flux1", ("flux1",))
    third = detect(file("sd3_medium", "name", text("text_encoder_3")))
    assert names_of(third) == (None, (*SD3S, "flux1"))
    assert (
        decided(
            file("sd15", "name", text("text_encoder")),
            {"ss_v2": "False", "ss_base_model_version": "sdxl_base_v1-0"},
        )
        == "sdxl"
    )


def test_text_encoders_beside_a_network_decide_nothing_where_none_are_listed() -> None:
    # sd-scripts trains Gemma with Lumina: 182 stems that no table knows.
    gemma: Files = [
        (split_stem(f"lora_te_layers_{i}_self_attn_{x}_proj"), (2048, 2304))
        for i in range(26) for x in "qkvo"
    ]  # fmt: skip
    match = detect([*file("lumina2", "original"), *gemma])
    assert names_of(match) == ("lumina2", ("lumina2",))
    assert (match.share, match.hits) == (1.0, len(file("lumina2", "original")))
    assert names_of(detect(gemma)) == (None, ())


def test_text_encoders_that_are_listed_count() -> None:
    # What FLUX.1 and Chroma share, and CLIP-L, which Chroma does not have.
    found = file("flux1", "original", lambda m: NOT_MODULATION(m) or text("text_encoder")(m))
    match = detect(found)
    assert names_of(match) == ("flux1", ("flux1", "chroma", "hunyuan_video"))
    assert match.because == "its text encoders are those of flux1"
    # Three quarters of CLIP-L would be 0.25 off in a table that lists it.
    wrong = file("sd15", "name", text("text_encoder"))
    assert detect([*file("sd21", "name"), *wrong]).share < 1.0


# --- rules, one by one ---------------------------------------------------------------------------


def test_dots_decide_where_flattened_names_are_alike() -> None:
    middle = matching(r"^transformer_blocks\.3\.attn\.(to_[qkv]|add)")
    original = file("hunyuan_video", "original", middle, dots=True)
    assert [stem.path for stem, _ in original] == [
        "double_blocks.3.img_attn_qkv", "double_blocks.3.txt_attn_qkv",
    ]  # fmt: skip
    match = detect(original)
    assert decided(original) == "hunyuan_video"
    assert match.because == "its names have their dots where those of hunyuan_video have them"
    # BFL's own, which are ComfyUI's for both.
    assert decided(file("flux1", "original", middle, dots=True)) == "flux1"


def test_names_of_a_models_own_code_are_not_taken_for_renamed_ones() -> None:
    found = file("flux1", "original", matching(r"^transformer_blocks\.0\."))
    match = detect(found)
    assert names_of(match) == ("flux1", ("flux1", "hunyuan_video"))
    assert match.because == "its names are those of the code of flux1"
    assert decided(found, {"ss_base_model_version": "hunyuan_video"}) == "hunyuan_video"


def test_a_block_that_no_table_has_is_no_hit() -> None:
    found = file("flux1", "original", matching(r"^transformer_blocks\.0\.attn"))
    beyond = [(split_stem(s.text.replace("_0_", "_19_")), size) for s, size in found]
    assert detect(beyond).candidates == ("hunyuan_video",)
    beyond = [(split_stem(s.text.replace("_0_", "_20_")), size) for s, size in found]
    assert (detect(beyond).candidates, detect(beyond).runner_up) == ((), None)


# --- shares --------------------------------------------------------------------------------------


def test_below_the_threshold_the_nearest_is_named() -> None:
    known = file("z_image", "name")[:100]
    strange: Files = [(split_stem(f"x.{i}"), (7, 7)) for i in range(26)]
    match = detect([*known, *strange])
    assert names_of(match) == (None, ())
    assert match.runner_up == ("z_image", 100 / 126)
    match = detect([*known, *strange[:25]])
    assert names_of(match) == ("z_image", ("z_image",))
    assert (match.share, match.hits) == (0.8, 100)


def test_the_runner_up_is_the_next_best() -> None:
    for name, world, other in (
        ("flux1", "name", "hunyuan_video"),
        ("sd15", "name", "sd21"),
        ("wan21_i2v_14b", "original", "wan21_t2v_14b"),
    ):
        found = file(name, world)
        shares = {
            one: sum(
                load_layout(one).find(flatten(s.path), s.component, size) is not None
                for s, size in found
            )
            / len(found)
            for one in LAYOUTS
        }
        expected = max((one for one in LAYOUTS if one != name), key=lambda one: shares[one])
        assert expected == other
        assert detect(found).runner_up == (other, shares[other])


def test_nothing_fits_nothing() -> None:
    assert detect([]) == Match(None, 0.0, 0, (), None)
    assert detect([(split_stem("a.b"), (3, 4))]) == Match(None, 0.0, 0, (), None)


# --- the bound -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_sketch_never_says_less_than_the_table(name: str) -> None:
    rough, table = sketch(name), load_layout(name)
    assert rough.components == set(table.prefixes)
    for other in LAYOUTS:
        for world in ("name", "original", "comfy"):
            found = file(other, world)
            flat = [flatten(stem.path) for stem, _ in found]
            hits = sum(
                table.find(one, stem.component, size) is not None
                for one, (stem, size) in zip(flat, found, strict=True)
            )
            most = rough.most(patterns(zip(flat, (size for _, size in found), strict=True)))
            assert most >= hits
            assert most == len(found) or other != name


def test_few_tables_are_expanded(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []

    def load(name: str) -> Layout:
        opened.append(name)
        return load_layout(name)

    monkeypatch.setattr(detection, "load_layout", load)
    for name in LAYOUTS:
        opened.clear()
        detect(file(name, "original"))
        assert name in opened
        assert len(set(opened)) <= 8
