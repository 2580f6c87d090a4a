"""Models of several files go to where they belong, and names of any world find their weights."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from baking.cases import WEIGHTS, base_tensors, matrix, stored, two_adapters, write_base
from checkpoints.models import write_shards
from helpers import F64, Raw, Stack, decode, read_safetensors, write_safetensors

from loramix import OutputError, ParamError, bake
from loramix.baking import stripping

BARE = {name.removeprefix("model.diffusion_model."): one for name, one in base_tensors().items()}


@pytest.fixture
def stack(tmp_path: Path) -> Stack:
    return two_adapters(tmp_path)


def expected(stack: Stack) -> dict[str, F64]:
    old = base_tensors()
    deltas = stack.sum(WEIGHTS)
    return {
        stored(name).removeprefix("model.diffusion_model."): matrix(old, stored(name)) + delta
        for name, delta in deltas.items()
    }


def everything(folder: Path) -> dict[str, Raw]:
    found = {}
    for file in sorted(folder.glob("*.safetensors")):
        found |= read_safetensors(file)[0]
    return found


def check(found: dict[str, Raw], stack: Stack) -> None:
    meant = expected(stack)
    assert found.keys() == BARE.keys()
    for name, tensor in found.items():
        if name in meant:
            assert np.abs(matrix(found, name) - meant[name]).max() <= 1e-5
        else:
            assert tensor == BARE[name]


@pytest.mark.parametrize("by", ["index", "folder"])
def test_shards_stay_shards(by: str, stack: Stack) -> None:
    folder = stack.folder / "model"
    index = write_shards(folder, BARE, 3)
    (folder / "config.json").write_text("{}", encoding="utf-8")
    (folder / "model.fp16.bin").write_bytes(b"old weights")
    (folder / ".hidden").write_text("x", encoding="utf-8")
    (folder / "sub").mkdir()
    (folder / "sub" / "tokenizer.txt").write_text("words", encoding="utf-8")
    out = stack.folder / "out"
    path = index if by == "index" else folder
    baked = bake(path, stack.paths, "linear", weights=WEIGHTS, path=out)
    check(everything(out), stack)
    files = {str(p.relative_to(out)) for p in out.rglob("*") if p.is_file()}
    shards = {p.name for p in folder.glob("*.safetensors")}
    assert files == shards | {index.name, "config.json", "sub/tokenizer.txt"}
    assert (out / index.name).read_bytes() == index.read_bytes()
    assert baked.notes == ("model.fp16.bin is not in the new model: it holds the old weights",)
    for name in shards:
        strings = read_safetensors(out / name)[1]
        assert strings["format"] == "pt"
        changed = any(
            n.endswith("weight") and n in expected(stack) for n in read_safetensors(out / name)[0]
        )
        assert ("loramix" in strings) == changed
    assert [p for p in stack.folder.iterdir() if p.name.startswith(".")] == []


def pipeline(folder: Path) -> Path:
    folder.mkdir()
    (folder / "model_index.json").write_text('{"a": 1}', encoding="utf-8")
    (folder / "unet").mkdir()
    write_safetensors(folder / "unet" / "diffusion_pytorch_model.safetensors", BARE)
    (folder / "unet" / "config.json").write_text("{}", encoding="utf-8")
    for name in ("vae", "text_encoder"):
        (folder / name).mkdir()
        tensors = {"x.weight": ("F32", (2, 2), bytes(16))}
        write_safetensors(folder / name / "model.safetensors", tensors)
    (folder / "safety_checker").mkdir()
    (folder / "safety_checker" / "pytorch_model.bin").write_bytes(b"untouched")
    return folder


def test_pipelines_stay_pipelines(stack: Stack) -> None:
    base, out = pipeline(stack.folder / "pipe"), stack.folder / "out"
    out.mkdir()  # empty: as good as a new one
    baked = bake(base, stack.paths, "linear", weights=WEIGHTS, path=out)
    check(everything(out / "unet"), stack)
    assert all(row.stored.startswith("unet.blocks.") for row in baked.log)
    for path in base.rglob("*"):
        new = out / path.relative_to(base)
        assert new.exists()
        if path.is_file() and path.parent.name != "unet":
            assert new.read_bytes() == path.read_bytes()
    assert out.stat().st_mode & 0o777 == base.stat().st_mode & 0o777


def test_a_local_cache_becomes_a_folder_of_files(stack: Stack) -> None:
    root = stack.folder / "models--some--model"
    (root / "blobs").mkdir(parents=True)
    blob = write_safetensors(root / "blobs" / "abc", BARE)
    (root / "blobs" / "def").write_text("{}", encoding="utf-8")
    snapshot = root / "snapshots" / "f00d"
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").symlink_to(blob)
    (snapshot / "config.json").symlink_to(root / "blobs" / "def")
    out = stack.folder / "out"
    bake(root, stack.paths, "linear", weights=WEIGHTS, path=out)
    check(everything(out), stack)
    assert sorted(p.name for p in out.iterdir()) == ["config.json", "model.safetensors"]
    assert not any(p.is_symlink() for p in out.iterdir())


PLACES: dict[str, tuple[str, str]] = {
    "pipe": ("is the base, or inside it", "folder"),
    "pipe/new": ("is the base, or inside it", "folder"),
    "full": ("with something in it", "folder"),
    "x.safetensors": ("name a folder", "folder"),
    "base.safetensors": ("is the base", "file"),
    "full ": ("name a file in it", "file"),
    "nowhere/x.safetensors": ("does not exist", "file"),
}


@pytest.mark.parametrize("place", PLACES)
def test_places_that_would_surprise(place: str, stack: Stack) -> None:
    pattern, kind = PLACES[place]
    folder, file = pipeline(stack.folder / "pipe"), write_base(stack.folder)
    (stack.folder / "full").mkdir()
    (stack.folder / "full" / "x").write_text("x", encoding="utf-8")
    before = sorted(stack.folder.rglob("*"))
    with pytest.raises(OutputError, match=pattern):
        bake(folder if kind == "folder" else file, stack.paths, path=stack.folder / place.strip())
    assert sorted(stack.folder.rglob("*")) == before


def test_a_refusal_leaves_no_folder(stack: Stack) -> None:
    base = pipeline(stack.folder / "pipe")
    before = sorted(stack.folder.rglob("*"))
    with pytest.raises(ParamError, match="all weights are 0"):
        bake(base, stack.paths, "linear", weights=[0, 0], path=stack.folder / "out")
    with pytest.raises(OutputError, match="too large"):
        bake(base, stack.paths, "linear", weights=[3e38, 1], path=stack.folder / "out")
    assert sorted(stack.folder.rglob("*")) == before


def _flux(rows: int, cols: int, seed: int) -> tuple[Raw, F64]:
    values = np.random.default_rng(seed).normal(size=(rows, cols)).astype("<f2")
    return ("F16", (rows, cols), values.tobytes()), values.astype(np.float64)


def _pair(stem: str, rows: int, cols: int, seed: int) -> tuple[dict[str, Raw], F64]:
    rng = np.random.default_rng(seed)
    up, down = rng.normal(size=(rows, 2)).astype("<f4"), rng.normal(size=(2, cols)).astype("<f4")
    tensors: dict[str, Raw] = {
        f"{stem}.lora_B.weight": ("F32", (rows, 2), up.tobytes()),
        f"{stem}.lora_A.weight": ("F32", (2, cols), down.tobytes()),
    }
    return tensors, up.astype(np.float64) @ down.astype(np.float64)


def test_fused_and_swapped_weights_get_their_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A diffusers adapter into a base with original names: rows of qkv, halves of the last one."""
    monkeypatch.setattr(stripping, "STRIP_BYTES", 1 << 20)  # several strips for each
    qkv, last = "double_blocks.0.img_attn.qkv", "final_layer.adaLN_modulation.1"
    raw, fused = _flux(9216, 3072, 1)
    raw_last, swapped = _flux(6144, 3072, 2)
    base = write_safetensors(
        tmp_path / "base.safetensors", {f"{qkv}.weight": raw, f"{last}.weight": raw_last}
    )
    tensors, key = _pair("transformer.transformer_blocks.0.attn.to_k", 3072, 3072, 3)
    more, norm = _pair("transformer.norm_out.linear", 6144, 3072, 4)
    lora = write_safetensors(tmp_path / "a.safetensors", tensors | more)
    out = tmp_path / "out.safetensors"
    baked = bake(base, [lora], weights=[0.5], path=out, architecture="flux1")
    new, _ = read_safetensors(out)
    got = matrix(new, f"{qkv}.weight")
    meant = fused[3072:6144] + 0.5 * key
    assert np.array_equal(got[:3072], fused[:3072])
    assert np.array_equal(got[6144:], fused[6144:])
    assert np.abs(got[3072:6144] - meant).max() <= np.abs(meant).max() * 2**-11 * 1.01
    got, meant = matrix(new, f"{last}.weight"), swapped + 0.5 * np.roll(norm, 3072, axis=0)
    assert np.abs(got - meant).max() <= np.abs(meant).max() * 2**-11 * 1.01
    assert len(baked.log) == 2
    assert baked.survival > 0.999


def test_index_and_shards_open_with_the_reference_library(stack: Stack) -> None:
    from safetensors import safe_open

    index = write_shards(stack.folder / "model", BARE, 2)
    out = stack.folder / "out"
    bake(index, stack.paths, weights=WEIGHTS, path=out)
    table: Any = json.loads((out / index.name).read_text(encoding="utf-8"))["weight_map"]
    for name, file in table.items():
        with safe_open(out / file, "np") as opened:
            found = opened.get_tensor(name)
        dtype, shape, data = read_safetensors(out / file)[0][name]
        assert found.shape == shape
        assert dtype == "I64" or np.array_equal(
            found.astype(np.float64).ravel(), decode(dtype, data)
        )
