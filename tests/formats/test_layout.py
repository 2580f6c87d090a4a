"""The shipped module tables: known facts, internal consistency, attested keys."""

from collections import Counter
from hashlib import blake2b
from pathlib import Path

import pytest

from loramix.formats.layout import LAYOUTS, Module, flatten, load_layout, parse_layout

KEYS = Path(__file__).parent / "keys"

COUNTS = {
    "sd15": {"unet": 282, "text_encoder": 72},
    "sdxl": {"unet": 794, "text_encoder": 72, "text_encoder_2": 193},
    "flux1": {"transformer": 504, "text_encoder": 72, "text_encoder_2": 168},
}

# Of the expanded tables. They describe published models and never change: if a test
# fails here, an edit changed a table. Spelling a line differently changes nothing.
DIGESTS = {
    "sd15": "d3cadf87dd8e35974745dd5c3123b855",
    "sdxl": "6a6fdc903ef41311ad0003ea013f0251",
    "flux1": "d8ed89e7aefdc9d5acb9d092275016b3",
}


def find(layout: str, component: str, name: str) -> Module:
    """Return a module by its dotted name."""
    return load_layout(layout).by_key[component, flatten(name)]


def stems(file: str) -> list[str]:
    """Read a key list without its comments."""
    lines = (KEYS / file).read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def table_line(module: Module) -> str:
    """Spell out one module, for the digest."""
    shape = "x".join(map(str, module.shape))
    return (
        f"{module.component} {module.name} {shape} {module.original} {module.kohya} "
        f"{module.rows} {module.swap}"
    )


@pytest.mark.parametrize("name", LAYOUTS)
def test_counts_per_component(name: str) -> None:
    layout = load_layout(name)
    assert Counter(m.component for m in layout.modules) == COUNTS[name]
    assert list(layout.prefixes) == list(COUNTS[name])


@pytest.mark.parametrize("name", LAYOUTS)
def test_digest(name: str) -> None:
    lines = sorted(map(table_line, load_layout(name).modules))
    assert blake2b("\n".join(lines).encode(), digest_size=16).hexdigest() == DIGESTS[name]


@pytest.mark.parametrize("name", LAYOUTS)
def test_names_are_unique(name: str) -> None:
    layout = load_layout(name)
    assert len({(m.component, m.name) for m in layout.modules}) == len(layout.modules)
    assert len({(m.component, flatten(m.name)) for m in layout.modules}) == len(layout.modules)
    assert all(layout.by_key[m.component, flatten(m.name)] is m for m in layout.modules)


@pytest.mark.parametrize("name", LAYOUTS)
def test_kohya_stem_is_prefix_and_flat_original(name: str) -> None:
    layout = load_layout(name)
    for module in layout.modules:
        assert module.kohya == layout.prefixes[module.component] + flatten(module.original)
        assert module in layout.by_kohya[module.kohya]
    # Flattening never makes two original modules one.
    originals = {(m.component, m.original) for m in layout.modules}
    assert len(layout.by_kohya) == len(originals)


@pytest.mark.parametrize("name", LAYOUTS)
def test_fused_members_cover_the_rows(name: str) -> None:
    for members in load_layout(name).by_kohya.values():
        if len(members) == 1:
            assert members[0].rows is None
            continue
        end = 0
        for module in members:
            assert module.rows == (end, end + module.shape[0])
            assert module.shape[1:] == members[0].shape[1:]
            assert module.component == members[0].component
            end += module.shape[0]


def test_only_flux_is_fused_or_swapped() -> None:
    for name in ("sd15", "sdxl"):
        assert not any(m.rows or m.swap for m in load_layout(name).modules)
    swapped = [m.name for m in load_layout("flux1").modules if m.swap]
    assert swapped == ["norm_out.linear"]


def test_sd15_facts() -> None:
    block = "up_blocks.3.attentions.2"
    proj_in = find("sd15", "unet", f"{block}.proj_in")
    assert proj_in.shape == (320, 320, 1, 1)
    assert proj_in.kohya == "lora_unet_up_blocks_3_attentions_2_proj_in"
    assert find("sd15", "unet", f"{block}.transformer_blocks.0.attn2.to_k").shape == (320, 768)
    assert find("sd15", "unet", "up_blocks.0.resnets.0.conv1").shape == (1280, 2560, 3, 3)
    te = find("sd15", "text_encoder", "text_model.encoder.layers.11.mlp.fc2")
    assert (te.shape, te.kohya) == ((768, 3072), "lora_te_text_model_encoder_layers_11_mlp_fc2")


def test_sdxl_facts() -> None:
    attn = find("sdxl", "unet", "up_blocks.1.attentions.2.transformer_blocks.1.attn2.to_k")
    assert attn.shape == (640, 2048)
    assert attn.original == "output_blocks.5.1.transformer_blocks.1.attn2.to_k"
    assert find("sdxl", "unet", "mid_block.attentions.0.proj_in").shape == (1280, 1280)
    assert find("sdxl", "unet", "mid_block.resnets.1.conv2").original == (
        "middle_block.2.out_layers.3"
    )
    assert (
        find("sdxl", "unet", "up_blocks.0.upsamplers.0.conv").original == "output_blocks.2.2.conv"
    )
    assert find("sdxl", "unet", "add_embedding.linear_1").shape == (1280, 2816)
    assert find("sdxl", "text_encoder_2", "text_projection").kohya == "lora_te2_text_projection"
    unet = [m.name for m in load_layout("sdxl").modules if m.component == "unet"]
    assert not any(n.startswith(("down_blocks.0.attentions", "down_blocks.3")) for n in unet)


def test_flux1_facts() -> None:
    layout = load_layout("flux1")
    linear1 = layout.by_kohya["lora_unet_single_blocks_37_linear1"]
    assert [m.name.split(".", 2)[2] for m in linear1] == [
        "attn.to_q",
        "attn.to_k",
        "attn.to_v",
        "proj_mlp",
    ]
    assert [m.shape[0] for m in linear1] == [3072, 3072, 3072, 12288]
    context = layout.by_kohya["lora_unet_double_blocks_0_txt_attn_qkv"]
    assert [m.name for m in context] == [
        f"transformer_blocks.0.attn.add_{x}_proj" for x in ("q", "k", "v")
    ]
    assert [m.rows for m in context] == [(0, 3072), (3072, 6144), (6144, 9216)]
    norm = find("flux1", "transformer", "norm_out.linear")
    assert (norm.swap, norm.original) == (True, "final_layer.adaLN_modulation.1")
    assert find("flux1", "transformer", "single_transformer_blocks.0.proj_out").shape == (
        3072,
        15360,
    )
    assert layout.prefixes["text_encoder_2"] == "lora_te3_"


def test_published_kohya_totals() -> None:
    # What sd-scripts reports on start: attention only, then with a rank for convolutions.
    def unet(name: str) -> list[str]:
        return [m.name for m in load_layout(name).modules if m.component == "unet"]

    outer = ("conv_in", "conv_out", "time_embedding", "add_embedding")
    totals = {
        name: (
            sum("attentions" in n for n in unet(name)),
            sum(not n.startswith(outer) for n in unet(name)),
        )
        for name in ("sd15", "sdxl")
    }
    assert totals == {"sd15": (192, 278), "sdxl": (722, 788)}
    blocks = ("lora_unet_double_blocks", "lora_unet_single_blocks")
    assert sum(stem.startswith(blocks) for stem in load_layout("flux1").by_kohya) == 304


@pytest.mark.parametrize("name", LAYOUTS)
def test_attested_kohya_stems_resolve(name: str) -> None:
    layout = load_layout(name)
    keys = stems(f"{name}_kohya.txt")
    assert keys
    assert [stem for stem in keys if stem not in layout.by_kohya] == []


@pytest.mark.parametrize("name", LAYOUTS)
def test_attested_diffusers_stems_resolve(name: str) -> None:
    layout = load_layout(name)
    keys = stems(f"{name}_diffusers.txt")
    assert keys
    for stem in keys:
        component, _, module = stem.partition(".")
        assert layout.by_key[component, flatten(module)].name == module


def test_load_is_cached_and_refuses_unknown_names() -> None:
    assert load_layout("sdxl") is load_layout("sdxl")
    with pytest.raises(ValueError, match="unknown layout 'sd3'; known: sd15"):
        load_layout("sd3")


def test_braces_expand_in_step() -> None:
    text = "[unet p_]\n\na.{0..1}.{x,y}  4x3  b.{3..4}.{}  # end\n"
    layout = parse_layout("toy", text)
    assert [(m.name, m.original, m.kohya) for m in layout.modules] == [
        ("a.0.x", "b.3.x", "p_b_3_x"),
        ("a.0.y", "b.3.y", "p_b_3_y"),
        ("a.1.x", "b.4.x", "p_b_4_x"),
        ("a.1.y", "b.4.y", "p_b_4_y"),
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a.0", "not enough values"),
        ("a.0 4xx3 =", "invalid literal"),
        ("a.{0..1 4x3 =", "braces do not match"),
        ("a.{0..1} 4x3 b", "braces do not match"),
        ("a.{0..1} 4x3 b.{0..2}", "2 choices against 3"),
        ("a.{1..0} 4x3 b.{}", "0 choices"),
        ("a.0 4x3 b rows 0+5", r"expected rows start\+4"),
        ("a.0 4x3 b rows 1+4", "leaves a gap"),
        ("a.{0,1} 4x3 b.{0,0}", "listed already"),
        ("a.{0,0} 4x3 b.{0,1}", "listed already"),
        ("[unet]", "not enough values"),
    ],
)
def test_mistakes_name_file_and_line(line: str, message: str) -> None:
    with pytest.raises(ValueError, match=rf"toy\.layout, line 3: .*{message}"):
        parse_layout("toy", f"# head\n[unet lora_unet_]\n{line}\n")


def test_module_before_any_section() -> None:
    with pytest.raises(ValueError, match=r"toy\.layout, line 1: no \[component"):
        parse_layout("toy", "a.0 4x3 =\n")
