"""Decision smoothing over blocks."""

import numpy as np
import oracles_decisions as oracle
import pytest
from policies.builders import shown, single, stack

from loramix.policies.published import Published
from loramix.policies.published.smoothing import block_of


@pytest.mark.parametrize(
    ("key", "block"),
    [
        ("unet.down_blocks.2.attentions.1.transformer_blocks.0.attn1.to_q", "unet.down_blocks.2"),
        ("unet.mid_block.attentions.0.proj_in", "unet.mid_block.attentions.0"),
        ("unet.time_embedding.linear_1", "unet.time_embedding"),
        ("unet.conv_in", "unet.conv_in"),
        ("transformer.transformer_blocks.5.attn.to_q", "transformer.transformer_blocks.5"),
        ("transformer.double_blocks.5.img_attn.qkv", "transformer.transformer_blocks.5"),
        ("transformer.single_blocks.5.linear1", "transformer.single_transformer_blocks.5"),
        (
            "text_encoder.text_model.encoder.layers.3.fc1",
            "text_encoder.text_model.encoder.layers.3",
        ),
        (
            "text_encoder_2.text_model.encoder.layers.3.fc1",
            "text_encoder_2.text_model.encoder.layers.3",
        ),
        ("model.layers.11.self_attn.q_proj", "model.layers.11"),
        ("unet.lora_unet_blocks_7_attn_to_q", "unet.lora.unet.blocks.7"),
        ("x", "x"),
    ],
)
def test_blocks_are_named_by_their_first_integer(key: str, block: str) -> None:
    assert block_of(key) == block


@pytest.mark.parametrize("share", [0.0, 0.25, 0.7, 1.0])
def test_figures_lean_towards_their_block_by_energy(share: float) -> None:
    rng = np.random.default_rng(5)
    groups, blocks, sizes = [], [], []
    for place in range(12):
        block = place % 4  # that of the number 3 holds groups of one contributor only
        key = f"unet.b.{block}.x{place}"
        a, b = rng.uniform(0.5, 3, size=2)
        if block == 3 or place == 8:
            groups.append(single(a, key=key))
            sizes.append(a * a)
        else:
            cosine, excess = rng.uniform(-0.5, 0.9), rng.uniform(0, 0.3)
            groups.append(shown(cosine, excess, rng.uniform(0.1, 1), norms=(a, b), key=key))
            sizes.append(a * a + b * b)
        blocks.append(str(block))
    groups.append(shown(0.4, 0.1, 0.2, key="unet.b.9.alone"))
    blocks.append("alone")
    sizes.append(2.0)
    verdict = Published(smoothing=share).decide(stack(groups))
    own = [decision.numbers for decision in verdict.decisions]
    names = ("conflict", "weighted_conflict", "expected_conflict", "excess_conflict", "overlap")
    names = (*names, "cosine", "magnitude_ratio")
    rows = [{name: numbers[name] for name in names} for numbers in own]
    expected = oracle.smoothing(rows, blocks, sizes, share)
    for numbers, row in zip(own, expected, strict=True):
        got = {name: numbers[f"smoothed_{name}"] for name in names}
        assert got == pytest.approx(row, abs=1e-12)
        effective = oracle.effective(row["excess_conflict"], row["overlap"])
        assert numbers["smoothed_effective_conflict"] == pytest.approx(effective, abs=1e-12)


def test_a_group_of_one_contributor_pulls_its_block() -> None:
    # A flaw of the publication, kept: nobody meets anybody there, but it counts as independence.
    pair, alone = shown(0.9, key="unet.b.0.x"), single(2.0, key="unet.b.0.y")
    got = Published(smoothing=0.25).decide(stack([pair, alone])).decisions[0].numbers
    assert got["smoothed_cosine"] == pytest.approx(0.75 * 0.9 + 0.25 * 0.9 * 2 / 6)


def test_smoothing_changes_decisions() -> None:
    # An aligned outlier in a block of orthogonal groups.
    groups = [shown(0.55, 0.0, 0.5, key="unet.b.0.x")]
    groups += [shown(0.0, 0.0, 0.1, key=f"unet.b.0.y{i}") for i in range(5)]
    regimes = [
        Published(smoothing=share).decide(stack(groups)).decisions[0].regime
        for share in (0.0, 0.25)
    ]
    assert regimes == ["consensus", "slerp"]
