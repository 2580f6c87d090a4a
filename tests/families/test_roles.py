"""Names of tensors: every spelling of every role, and what is refused by name."""

import re
from pathlib import Path

import numpy as np
import pytest
from formats.builders import Built, pair, spell

from loramix import FormatError, load
from loramix.errors import LoramixError
from loramix.formats import keys

SPELLINGS = {
    "up": (
        "lora_up.weight", "lora_B.weight", "lora_B", "lora_B.default.weight", "lora.up.weight",
        "lora_linear_layer.up.weight", "up", "lora_B.my-name.weight",
    ),
    "down": ("lora_down.weight", "lora_A.weight", "lora_A", "lora_A.a.weight", "down"),
    "mid": ("lora_mid.weight",),
    "bias": ("lora_B.bias", "lora_B.default.bias", "lora_up.bias"),
    "dora_scale": ("dora_scale",),
    "magnitude": (
        "lora_magnitude_vector", "lora_magnitude_vector.weight", "magnitude",
        "lora_magnitude_vector.default", "lora_magnitude_vector.default.weight",
    ),
    "embedding_up": ("lora_embedding_B", "lora_embedding_B.default"),
    "embedding_down": ("lora_embedding_A",),
    "hada_w1_a": ("hada_w1_a", "hada_w1_a.default"),
    "hada_t2": ("hada_t2",),
    "lokr_w1": ("lokr_w1", "lokr_w1.default"),
    "lokr_w1_b": ("lokr_w1_b",),
    "lokr_t2": ("lokr_t2",),
    "oft_blocks": ("oft_blocks",),
    "oft_blocks.12": ("oft_blocks.12",),
    "oft_R": ("oft_R.weight", "oft_R", "oft_R.default.weight"),
    "scaled_oft": ("oft_R.scaled_oft",),
    "boft_R": ("boft_R", "boft_R.default"),
    "boft_s": ("boft_s",),
    "rescale": ("rescale",),
    "ia3_l": ("ia3_l", "ia3_l.default"),
    "on_input": ("on_input",),
    "a1": ("a1.weight",),
    "bm": ("bm.weight",),
    "alpha": ("alpha",),
    "scale": ("scale",),
    "diff": ("diff",),
    "diff_b": ("diff_b",),
    "diff_m": ("diff_m",),
    "w_norm": ("w_norm",),
    "b_norm": ("b_norm",),
    "set_weight": ("set_weight",),
    "reshape_weight": ("reshape_weight",),
}  # fmt: skip
STEMS = (
    "lora_unet_down_blocks_0_attentions_0_proj_in", "transformer.blocks.0.norm.linear", "x",
    "base_model.model.model.layers.0.mlp.up", "all_x_embedder.2-1", "a.scale.b", "lora_A.x",
)  # fmt: skip


@pytest.mark.parametrize("stem", STEMS)
@pytest.mark.parametrize(("role", "suffixes"), SPELLINGS.items(), ids=SPELLINGS)
def test_roles(role: str, suffixes: tuple[str, ...], stem: str) -> None:
    for suffix in suffixes:
        name = f"{stem}.{suffix}"
        entries, unknown = keys.parse([name])
        assert not unknown
        assert [(e.stem, e.names) for e in entries.values()] == [(stem, {role: name})]


@pytest.mark.parametrize("word", ["to_q_lora", "qkv_lora1", "proj_lora2"])
def test_processors_keep_their_word_in_the_stem(word: str) -> None:
    name = f"double_blocks.0.processor.{word}.down.weight"
    entries, _ = keys.parse([name])
    assert entries[f"double_blocks.0.processor.{word}"].names == {"down": name}


def test_a_plain_weight_counts_beside_on_input_only() -> None:
    entries, unknown = keys.parse(["x.weight", "x.on_input", "y.weight", "z.weight", "z.alpha"])
    assert entries["x"].names == {"weight": "x.weight", "on_input": "x.on_input"}
    assert unknown == ["y.weight"]
    assert entries["z"].names == {"weight": "z.weight", "alpha": "z.alpha"}


ONE = np.ones((2, 2), dtype=np.float32)
REFUSED = {
    "half of a pair": (("up",), "has no partner (a pair needs up and down)"),
    "mid alone": (("mid",), "without down, up"),
    "alpha alone": (("alpha",), "has no partner (there are no factors of its module)"),
    "magnitude alone": (("magnitude",), "has no partner (there are no factors"),
    "bias alone": (("bias",), "has no partner (there are no factors"),
    "half of a LoHa": (("hada_w1_a", "hada_w1_b", "hada_w2_a"), "LoHa without hada_w2_b"),
    "half of a LoKr": (("lokr_w1", "lokr_w2_a"), "LoKr without"),
    "one kernel of two": (
        ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1"), "without hada_t2",
    ),
    "half of a GLoRA": (("a1", "a2", "b1"), "GLoRA without b2"),
    "a BOFT without factors": (("boft_R",), "BOFT without boft_s"),
    "a weight without its side": (("weight", "alpha"), "(IA)3 without on_input"),
    "a rescale alone": (("rescale",), "has no partner"),
    "LoRA and LoHa": (("up", "down", "hada_w1_a"), "belongs to a module of"),
    "a pair and a difference": (("up", "down", "diff"), "a dense difference and other factors"),
    "a new weight": (("set_weight",), "replaces the weight"),
    "a new shape": (("up", "down", "reshape_weight"), "changes the shape of the base weight"),
    "an OFT of OneTrainer": (("oft_R", "scaled_oft"), "an OFT of OneTrainer"),
    "the norm of a control LoRA": (("scale",), "the weight of a norm saved whole"),
    "a magnitude of an embedding": (
        ("embedding_up", "embedding_down", "magnitude"), "belongs to a module of",
    ),
    "a magnitude of a difference": (("diff", "dora_scale"), "and other factors, too"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_modules_of_no_family_are_refused_by_name(name: str, tmp_path: Path) -> None:
    roles, what = REFUSED[name]
    good = spell("b", pair(4, 5, 2, 1), "AB", (4, 5))
    odd = {f"lora_unet_a.{SPELLINGS.get(r, (r,))[0]}": ONE for r in roles if r not in HIDDEN}
    odd |= {f"lora_unet_a.{HIDDEN[r]}": ONE for r in roles if r in HIDDEN}
    path = Built(good | odd, {}).save(tmp_path / "a.safetensors")
    count = f"; {len(odd)} such tensors" if len(odd) > 1 else ""
    message = rf"tensor lora_unet_a\.\S+ .*{re.escape(what)}.*{count}\. Nothing is dropped"
    with pytest.raises(FormatError, match=message):
        load(path)
    adapter = load(path, skip=["lora_unet_a.*"])
    assert [t.key for t in adapter.targets] == ["b"]
    assert sorted(adapter.coverage.skipped) == sorted(odd)


HIDDEN = {
    "hada_w1_b": "hada_w1_b", "hada_w2_a": "hada_w2_a", "hada_w2_b": "hada_w2_b",
    "hada_t1": "hada_t1", "lokr_w2_a": "lokr_w2_a", "a2": "a2.weight", "b1": "b1.weight",
}  # fmt: skip
"""Suffixes of roles whose like is spelled above."""


NEEDY = {
    "DoRA": ("lora_up.weight", "lora_down.weight", "dora_scale"),
    "OFT": ("oft_blocks",),
    "(IA)3": ("weight", "on_input"),
    "GLoRA": ("a1.weight", "a2.weight", "b1.weight", "b2.weight"),
    "BOFT": ("boft_R", "boft_s"),
}
SHAPES = {
    "dora_scale": (2, 1), "oft_blocks": (1, 2, 2), "weight": (2,), "on_input": (),
    "boft_R": (1, 1, 2, 2), "boft_s": (2, 1),
}  # fmt: skip


@pytest.mark.parametrize("what", NEEDY)
def test_without_its_base_it_is_refused_with_the_option_that_mends_it(
    what: str, tmp_path: Path
) -> None:
    tensors = {f"x.{n}": np.ones(SHAPES.get(n, (2, 2)), dtype=np.float32) for n in NEEDY[what]}
    path = Built(tensors, {}).save(tmp_path / "a.safetensors")
    with pytest.raises(LoramixError, match=rf"x\.\S+ belongs to .*{re.escape(what)}.*--base") as e:
        load(path)
    assert ("another adapter" in str(e.value)) == (what == "DoRA")
