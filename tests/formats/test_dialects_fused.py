"""Split and fused: what shares its down side is one pair again, halves of rows are exchanged.

What is proved: fusing does not let ranks grow where the parts share a down side, whichever file
they come from; missing parts are rows of zeros; where down sides differ the rank is their sum;
halves are exchanged on the up side only; one weight is never written fused and split.
"""

from pathlib import Path

import numpy as np
import pytest
from formats.builders import Built, Pair, Tensors, gap, pair, spell
from safetensors.numpy import load_file

from loramix import Merged, Output, convert, diff, load, merge

SIZE = 3072
BLOCK = "transformer.transformer_blocks.0.attn"
STEM = "lora_unet_double_blocks_0_img_attn_qkv"


def fused(pairs: dict[str, Pair], folder: Path) -> Merged:
    tensors: Tensors = {}
    for name, one in pairs.items():
        tensors |= spell(f"{BLOCK}.{name}", one, "AB", (SIZE, SIZE))
    path = Built(tensors, {}).save(folder / "split.safetensors")
    adapter = load(path, architecture="flux1")
    output = Output(dialect="kohya")
    return merge([adapter], "linear", output=output, path=folder / "out.safetensors")


def rows(merged: Merged, stem: str = STEM) -> tuple[Pair, float]:
    """The pair of a stem in the written file, and its alpha."""
    assert merged.path is not None
    tensors = load_file(merged.path)
    up, down = tensors[f"{stem}.lora_up.weight"], tensors[f"{stem}.lora_down.weight"]
    alpha = float(tensors[f"{stem}.alpha"])
    return Pair(up, down, alpha / len(down)), alpha


def parts(*, shared: bool, names: str = "qkv") -> dict[str, Pair]:
    first = pair(SIZE, SIZE, 4, 0)
    found = {}
    for index, name in enumerate(names):
        own = pair(SIZE, SIZE, 4, index)
        found[f"to_{name}"] = Pair(own.up, first.down) if shared else own
    return found


@pytest.mark.parametrize("names", ["qkv", "qv", "kv", "q"])
@pytest.mark.parametrize("shared", [True, False])
def test_ranks_of_fused_parts(names: str, shared: bool, tmp_path: Path) -> None:
    own = parts(shared=shared, names=names)
    merged = fused(own, tmp_path)
    one, _ = rows(merged)
    assert one.rank == (4 if shared else 4 * len(names))
    assert merged.log[0].rank == one.rank  # what the report states
    assert set(load_file(merged.path or "")) == {
        f"{STEM}.{role}" for role in ("lora_up.weight", "lora_down.weight", "alpha")
    }
    for index, name in enumerate("qkv"):
        truth = own.get(f"to_{name}")
        found = one.rows(index * SIZE, (index + 1) * SIZE)
        if truth is None:
            assert not found.dense().any()
        else:
            assert gap([truth], [found]) < 1e-6


def test_parts_of_other_strength_are_not_one(tmp_path: Path) -> None:
    own = parts(shared=True)
    tensors: Tensors = {}
    for name, one in own.items():
        tensors |= spell(f"{BLOCK}.{name}", one, "AB", (SIZE, SIZE))
    path = Built(tensors, {}).save(tmp_path / "split.safetensors")
    adapter = load(path, architecture="flux1")
    weights = [{"*.to_q": 0.5, "*": 1.0}]
    merged = merge(
        [adapter], "linear", weights=weights, output=Output(dialect="kohya"),
        path=tmp_path / "out.safetensors",
    )  # fmt: skip
    one, _ = rows(merged)
    for index, (name, truth) in enumerate(own.items()):
        found = one.rows(index * SIZE, (index + 1) * SIZE)
        assert gap([truth.times(0.5 if name == "to_q" else 1.0)], [found]) < 1e-6
    assert one.rank == 4  # the recompression finds it; only not bit by bit


def test_there_and_back_grows_nothing(tmp_path: Path) -> None:
    one = pair(3 * SIZE, SIZE, 4, 1, 0.5)
    tensors = spell(STEM, one, ".lora_{}.weight", (3 * SIZE, SIZE), alpha=True)
    path = Built(tensors, {}).save(tmp_path / "kohya.safetensors")
    first = load(path, architecture="flux1")
    middle = merge(
        [first], "linear", output=Output(dialect="diffusers", verbatim=True),
        path=tmp_path / "diffusers.safetensors",
    )  # fmt: skip
    assert [row.rank for row in middle.log] == [4, 4, 4]
    again = load(middle.path or "", architecture="flux1")
    last = merge(
        [again], "linear", output=Output(dialect="kohya", verbatim=True),
        path=tmp_path / "again.safetensors",
    )  # fmt: skip
    found, alpha = rows(last)
    assert (found.rank, alpha) == (4, 4.0)
    assert found.down.tobytes() == one.down.tobytes()
    assert found.up.tobytes() == (one.up * np.float32(0.5)).tobytes()


@pytest.mark.parametrize(("dialect", "kept"), [("diffusers", (4, 2, 1)), ("onetrainer", (6, 6, 6))])
def test_parts_of_a_block_diagonal_pair_keep_their_own_columns(
    dialect: str, kept: tuple[int, ...], tmp_path: Path
) -> None:
    """Parts that were fused by standing block by block come apart at the ranks that they had.

    But not where alpha is stored, and 4 / 6 would round the up side.
    """
    ranks = {"to_q": 4, "to_k": 2, "to_v": 0}  # an untrained part has no column of its own
    own = {name: pair(SIZE, SIZE, rank, rank) for name, rank in ranks.items() if rank}
    up = np.zeros((3 * SIZE, sum(ranks.values())), np.float32)
    up[:SIZE, :4], up[SIZE : 2 * SIZE, 4:] = own["to_q"].up, own["to_k"].up
    up[0, 1] = up[-1, -1] = -0.0  # neither hides a column nor makes one
    down = np.concatenate([own["to_q"].down, own["to_k"].down])
    tensors = spell(STEM, Pair(up, down), ".lora_{}.weight", (3 * SIZE, SIZE))
    path = Built(tensors, {}).save(tmp_path / "fused.safetensors")
    made = convert(path, tmp_path / "split.safetensors", dialect=dialect, architecture="flux1")
    assert {row.target.rpartition(".")[2]: row.rank for row in made.log} == dict(
        zip(ranks, kept, strict=True)
    )
    assert made.error == 0
    again = diff(path, made.path or "", architecture="flux1")
    assert again.same


@pytest.mark.parametrize("dialect", ["kohya", "original"])
def test_halves_are_exchanged_on_the_up_side_only(dialect: str, tmp_path: Path) -> None:
    one = pair(6144, 3072, 2, 1)
    stem = "transformer.norm_out.linear"
    path = Built(spell(stem, one, "AB", (6144, 3072)), {}).save(tmp_path / "in.safetensors")
    adapter = load(path, architecture="flux1")
    merged = merge(
        [adapter], "linear", output=Output(dialect=dialect, verbatim=True),
        path=tmp_path / "out.safetensors",
    )  # fmt: skip
    tensors = load_file(merged.path or "")
    roles = ("up", "down") if dialect == "kohya" else ("B", "A")
    up, down = (next(t for n, t in tensors.items() if f"lora_{role}." in n) for role in roles)
    assert up.tobytes() == np.roll(one.up, 3072, axis=0).tobytes()
    assert down.tobytes() == one.down.tobytes()
