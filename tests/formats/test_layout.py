"""The shipped module tables: known facts, internal consistency, attested keys."""

from collections import Counter
from hashlib import blake2b
from pathlib import Path

import pytest

from loramix import ParamError
from loramix.formats.layout import LAYOUTS, Module, flatten, load_layout

KEYS = Path(__file__).parent / "keys"

COUNTS = {
    "sd15": {"unet": 282, "text_encoder": 72},
    "sd21": {"unet": 282, "text_encoder": 138},
    "sdxl": {"unet": 794, "text_encoder": 72, "text_encoder_2": 193},
    "sd3_medium": {
        "transformer": 341,
        "text_encoder": 73,
        "text_encoder_2": 193,
        "text_encoder_3": 168,
    },
    "sd35_medium": {
        "transformer": 393,
        "text_encoder": 73,
        "text_encoder_2": 193,
        "text_encoder_3": 168,
    },
    "sd35_large": {
        "transformer": 537,
        "text_encoder": 73,
        "text_encoder_2": 193,
        "text_encoder_3": 168,
    },
    "flux1": {"transformer": 504, "text_encoder": 72, "text_encoder_2": 168},
    "flux2_dev": {"transformer": 203},
    "flux2_klein_4b": {"transformer": 109},
    "flux2_klein_9b": {"transformer": 153},
    "chroma": {"transformer": 433},
    "z_image": {"transformer": 276},
    "lumina2": {"transformer": 244},
    "qwen_image": {"transformer": 846},
    "wan21_t2v_1_3b": {"transformer": 307},
    "wan21_t2v_14b": {"transformer": 407},
    "wan21_i2v_14b": {"transformer": 489},
    "wan21_vace_1_3b": {"transformer": 474},
    "wan22_ti2v_5b": {"transformer": 307},
    "ltx_video_2b": {"transformer": 287},
    "ltx_video_13b": {"transformer": 487},
    "hunyuan_video": {"transformer": 548},
    "ace_step_v1": {"transformer": 418},
    "ace_step_1_5": {"transformer": 273},
    "llama3_8b": {"transformer": 225},
    "qwen2_5_7b": {"transformer": 197},
}

# Of the expanded tables. They describe published models and never change: if a test
# fails here, an edit changed a table. Spelling a line differently changes nothing.
DIGESTS = {
    "sd15": "672339c56fefe03e46fe93b154ef1033",
    "sd21": "691b8c5905710854979e13965db656a4",
    "sdxl": "ea01f452eb5fd8010a0e83575ceebd82",
    "sd3_medium": "5bceed390a5635f524dc606961d11692",
    "sd35_medium": "26b2a53fd5eda5a7aa677bf90047f268",
    "sd35_large": "0a0f282ef302df4b615cb3739500a8c1",
    "flux1": "87fc0daad64a511c6e599b0532a8bc3c",
    "flux2_dev": "b24ee52ec15713769a0cd26c2a6afa8f",
    "flux2_klein_4b": "5c230fdea7383a2565f7d77f50cb85d2",
    "flux2_klein_9b": "516bf09e67f735678b0e6b9d209cd8a1",
    "chroma": "1898cdd19ba979626fbd46332903e8f2",
    "z_image": "f1c3ec552da72181daeddd76d8d14f92",
    "lumina2": "9b1226f35f1cf80553556d15a56bcdde",
    "qwen_image": "a812693bca2aa66e16f7c45f1d14b406",
    "wan21_t2v_1_3b": "88338317a0fc7961704b65f9fd764794",
    "wan21_t2v_14b": "195fa7126a2ba600c724157e02dcfbd5",
    "wan21_i2v_14b": "1a8ec9ebd919aeabdc4834c200da5f17",
    "wan21_vace_1_3b": "3cffc1ee58a27f2404d21b93ea7ad427",
    "wan22_ti2v_5b": "b0968a472248bd8a7375fd3b8f03eeba",
    "ltx_video_2b": "0458f68187be5936016b7cd28eebbc31",
    "ltx_video_13b": "91a7ccfad118ab55d637678bfa27faa9",
    "hunyuan_video": "4ae6618437f314cf9cd1850efa8d49fd",
    "ace_step_v1": "8d6422600cb510c5d37e38ff6bb6a765",
    "ace_step_1_5": "6c3de51e4909f6865a2449c6cb2d1d67",
    "llama3_8b": "7afc28baeac03b926bfe750d82b0cb49",
    "qwen2_5_7b": "a3c6ebd719bae23986dec7c31a7d70f1",
}


ATTESTED = ("sd15", "sdxl", "flux1")
CANONICAL_KOHYA = ("sd15", "sd21")
"""Models of which Kohya files flatten the canonical names."""


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
        f"{module.rows} {module.swap} {module.comfy}"
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
        prefix = layout.prefixes[module.component]
        if prefix is None:
            assert module.kohya is None
            continue
        flat = module.name if name in CANONICAL_KOHYA else module.original
        assert module.kohya == prefix + flatten(flat)
        assert module in layout.by_kohya[module.kohya]
    # Flattening never makes two original modules one.
    named = [m for m in layout.modules if m.kohya is not None]
    assert len(layout.by_kohya) == len(
        {(m.component, m.name if name in CANONICAL_KOHYA else m.original) for m in named}
    )


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


_LAST = ["norm_out.linear"]
SWAPPED = {
    "flux1": _LAST,
    "flux2_dev": _LAST,
    "flux2_klein_4b": _LAST,
    "flux2_klein_9b": _LAST,
    "hunyuan_video": _LAST,
    "sd3_medium": ["transformer_blocks.23.norm1_context.linear", *_LAST],
    "sd35_medium": ["transformer_blocks.23.norm1_context.linear", *_LAST],
    "sd35_large": ["transformer_blocks.37.norm1_context.linear", *_LAST],
}
FUSED = {"z_image", "lumina2", "chroma", *SWAPPED}


@pytest.mark.parametrize("name", LAYOUTS)
def test_which_models_fuse_and_swap(name: str) -> None:
    modules = load_layout(name).modules
    assert [m.name for m in modules if m.swap] == SWAPPED.get(name, [])
    assert any(m.rows for m in modules) == (name in FUSED)


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


@pytest.mark.parametrize("name", ATTESTED)
def test_attested_kohya_stems_resolve(name: str) -> None:
    layout = load_layout(name)
    keys = stems(f"{name}_kohya.txt")
    assert keys
    assert [stem for stem in keys if stem not in layout.by_kohya] == []


@pytest.mark.parametrize("name", ATTESTED)
def test_attested_diffusers_stems_resolve(name: str) -> None:
    layout = load_layout(name)
    keys = stems(f"{name}_diffusers.txt")
    assert keys
    for stem in keys:
        component, _, module = stem.partition(".")
        assert layout.by_key[component, flatten(module)].name == module


def test_load_is_cached_and_refuses_unknown_names() -> None:
    assert load_layout("sdxl") is load_layout("sdxl")
    with pytest.raises(ParamError, match="architecture 'sd3'; known are sd15"):
        load_layout("sd3")
