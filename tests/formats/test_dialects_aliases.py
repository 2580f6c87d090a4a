"""One module under several names in one file (trap 3): copies count once, the rest is refused."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from formats.builders import Built, Pair, Tensors, from_adapter, gaps, pair, spell

from loramix import FormatError, load
from loramix.types import Adapter

QKV = "diffusion_model.double_blocks.0.img_attn.qkv"
SPLIT = [f"transformer.transformer_blocks.0.attn.{name}" for name in ("to_q", "to_k", "to_v")]
FUSED = "transformer.double_blocks.0.img_attn.qkv"
SIZE = 3072


def read(tensors: Tensors, folder: Path) -> Adapter:
    path = Built(tensors, {}).save(folder / "file.safetensors")
    return load(path, architecture="flux1")


def whole(rank: int = 2) -> Pair:
    return pair(3 * SIZE, SIZE, rank, 1)


def parts(one: Pair) -> list[Pair]:
    return [one.rows(at, at + SIZE) for at in (0, SIZE, 2 * SIZE)]


def split(pairs: list[Pair]) -> Tensors:
    tensors: Tensors = {}
    for stem, one in zip(SPLIT, pairs, strict=False):
        tensors |= spell(stem, one, "AB", (SIZE, SIZE))
    return tensors


def block_diagonal(pairs: list[Pair]) -> Pair:
    """The fused form of parts with down sides of their own."""
    rank = sum(one.rank for one in pairs)
    up, at = np.zeros((SIZE * len(pairs), rank), dtype=np.float32), 0
    for index, one in enumerate(pairs):
        up[SIZE * index : SIZE * (index + 1), at : at + one.rank] = one.up
        at += one.rank
    return Pair(up, np.concatenate([one.down for one in pairs]), 1.0)


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("transformer.transformer_blocks.0.ff.net.2", "lora_unet_double_blocks_0_img_mlp_2"),
        ("transformer_blocks.0.ff.net.2", "diffusion_model.double_blocks.0.img_mlp.2"),
        ("double_blocks.0.img_attn.proj", "double_blocks.0.processor.proj_lora1"),
    ],
)
def test_copies_count_once(one: str, two: str, tmp_path: Path) -> None:
    cols = 12288 if "2" in one.rpartition(".")[2] else SIZE
    delta = pair(SIZE, cols, 2, 1)
    tensors = spell(one, delta, "AB", (SIZE, cols)) | spell(two, delta, "AB", (SIZE, cols))
    adapter = read(tensors, tmp_path)
    assert len(adapter.targets) == 1
    assert adapter.coverage.used == len(tensors)
    assert any("1 deltas are there under two names" in note for note in adapter.coverage.notes)


def test_other_deltas_are_refused_with_both_names(tmp_path: Path) -> None:
    one, two = (pair(SIZE, 12288, 2, seed) for seed in (1, 2))
    first, second = (
        "transformer.transformer_blocks.0.ff.net.2",
        "lora_unet_double_blocks_0_img_mlp_2",
    )
    tensors = spell(first, one, "AB", (SIZE, 12288)) | spell(second, two, "AB", (SIZE, 12288))
    with pytest.raises(FormatError, match=r"differently.*--skip") as refused:
        read(tensors, tmp_path)
    assert first in str(refused.value)
    assert second in str(refused.value)


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("order", [1, -1])
def test_parts_of_a_fused_weight_are_copies_of_its_rows(
    count: int, order: int, tmp_path: Path
) -> None:
    one = whole()
    tensors = spell(QKV, one, "AB", (3 * SIZE, SIZE)) | split(parts(one)[:count])
    adapter = read(dict(list(tensors.items())[::order]), tmp_path)
    assert [target.key for target in adapter.targets] == [FUSED]
    assert gaps({FUSED: [one]}, from_adapter(adapter)) == 0
    assert any(f"{count} deltas" in note for note in adapter.coverage.notes)


def test_a_fused_copy_may_be_block_diagonal(tmp_path: Path) -> None:
    own = [pair(SIZE, SIZE, 1 + index, index) for index in range(3)]
    joint = block_diagonal(own)
    adapter = read(spell(QKV, joint, "AB", (3 * SIZE, SIZE)) | split(own), tmp_path)
    assert [target.key for target in adapter.targets] == [FUSED]
    assert gaps({FUSED: [joint]}, from_adapter(adapter)) == 0


def scaled(own: list[Pair]) -> list[Pair]:
    return [own[0], own[1].times(1.01), own[2]]


def swapped(own: list[Pair]) -> list[Pair]:
    return [own[1], own[0], own[2]]


def another(own: list[Pair]) -> list[Pair]:
    return [own[0], own[1], pair(SIZE, SIZE, 2, 99)]


@pytest.mark.parametrize("change", [scaled, swapped, another])
def test_a_fused_weight_and_other_parts_are_refused(
    change: Callable[[list[Pair]], list[Pair]], tmp_path: Path
) -> None:
    one = whole()
    tensors = spell(QKV, one, "AB", (3 * SIZE, SIZE))
    for stem, part in zip(SPLIT, change(parts(one)), strict=True):
        tensors |= spell(stem, part, "AB", (SIZE, SIZE), alpha=True)
    with pytest.raises(FormatError, match=r"qkv.*attn\.to_.*differently"):
        read(tensors, tmp_path)


def test_the_first_members_of_linear1_meet_their_copies(tmp_path: Path) -> None:
    one = pair(9216, SIZE, 2, 1)
    xlabs = spell("single_blocks.0.processor.qkv_lora", one, ".{}.weight", (9216, SIZE))
    query = "transformer.single_transformer_blocks.0.attn.to_q"
    adapter = read(xlabs | spell(query, one.rows(0, SIZE), "AB", (SIZE, SIZE)), tmp_path)
    keys = [f"transformer.single_transformer_blocks.0.attn.to_{which}" for which in "kqv"]
    assert [target.key for target in adapter.targets] == keys
    with pytest.raises(FormatError, match="differently"):
        read(xlabs | spell(query, one.rows(SIZE, 2 * SIZE), "AB", (SIZE, SIZE)), tmp_path)
