"""Which files a name stands for, and which names are refused."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from checkpoints.models import raw, write_shards
from helpers import Raw, write_safetensors

from loramix import FormatError, ParamError, open_checkpoint

TENSORS: dict[str, Raw] = {
    f"layers.{i}.{part}": raw((4,) if part.endswith("bias") else (4, 6), i)
    for i in range(3)
    for part in ("proj.weight", "proj.bias", "norm.bias")
}
KEYS = [f"layers.{i}.proj" for i in range(3)]


def bytes_of(path: Path) -> dict[str, bytes]:
    found = open_checkpoint(path)
    return {name: bytes(tensor.data) for name, tensor in found.tensors.items()}


def expected(prefix: str = "") -> dict[str, bytes]:
    return {prefix + name: data for name, (_, _, data) in TENSORS.items()}


def test_a_file_keeps_its_order_and_strings(tmp_path: Path) -> None:
    path = write_safetensors(tmp_path / "x.safetensors", TENSORS, {"a": "b"})
    found = open_checkpoint(path)
    assert list(found.tensors) == list(TENSORS)
    assert found.metadata == {"a": "b"}
    assert (found.root, len(found.shards)) == (path, 1)
    assert found.size == path.stat().st_size
    assert bytes_of(path) == expected()


@pytest.mark.parametrize("by", ["index", "folder"])
def test_shards_are_one_model(tmp_path: Path, by: str) -> None:
    index = write_shards(tmp_path, TENSORS, 3)
    path = index if by == "index" else tmp_path
    assert bytes_of(path) == expected()
    found = open_checkpoint(path)
    assert [shard.path.name for shard in found.shards] == sorted(
        file.name for file in tmp_path.glob("*.safetensors")
    )
    assert all(found.place(key) is not None for key in KEYS)


def pipeline(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "model_index.json").write_text("{}", encoding="utf-8")
    write_shards(folder / "unet", TENSORS, 2, "diffusion_pytorch_model")
    for name in ("text_encoder", "text_encoder_2"):
        (folder / name).mkdir()
        write_safetensors(folder / name / "model.safetensors", TENSORS)
        write_safetensors(folder / name / "model.fp16.safetensors", TENSORS)
    (folder / "vae").mkdir()
    write_safetensors(folder / "vae" / "diffusion_pytorch_model.safetensors", TENSORS)
    (folder / "scheduler").mkdir()
    return folder


def test_components_of_a_pipeline_stand_in_front(tmp_path: Path) -> None:
    found = open_checkpoint(pipeline(tmp_path / "pipe"))
    components = ("text_encoder", "text_encoder_2", "unet", "vae")
    assert set(found.tensors) == {f"{c}.{name}" for c in components for name in TENSORS}
    for component in components[:3]:
        place = found.place(f"{component}.layers.1.proj")
        assert place is not None
        assert place.name == f"{component}.layers.1.proj.weight"
    assert found.place("layers.1.proj") is None  # of which of them?


def test_repositories_are_found_in_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = tmp_path / "models--some--model" / "snapshots" / "f00d"
    snapshot.mkdir(parents=True)
    write_safetensors(snapshot / "model.safetensors", TENSORS)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    assert bytes_of(Path("some/model")) == expected()
    assert bytes_of(Path("some/model/model.safetensors")) == expected()
    with pytest.raises(FileNotFoundError, match="downloads nothing"):
        open_checkpoint("some/other")


@pytest.mark.parametrize("main", [True, False])
def test_a_local_cache_of_the_hub(tmp_path: Path, main: bool) -> None:
    root = tmp_path / "models--some--model"
    blob = root / "blobs" / "abc"
    blob.parent.mkdir(parents=True)
    write_safetensors(blob, TENSORS)
    snapshot = root / "snapshots" / "f00d"
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").symlink_to(blob)
    if main:
        other = root / "snapshots" / "beef"
        other.mkdir()
        write_safetensors(other / "model.safetensors", {"x.weight": raw((2, 2), 0)})
        (root / "refs").mkdir()
        (root / "refs" / "main").write_text("f00d\n", encoding="utf-8")
    assert bytes_of(root) == expected()


def _two_snapshots(path: Path) -> Path:
    root = path / "models--a--b"
    for name in ("one", "two"):
        (root / "snapshots" / name).mkdir(parents=True)
    return root


def _index(content: object) -> Callable[[Path], Path]:
    def make(path: Path) -> Path:
        write_safetensors(path / "a.safetensors", TENSORS)
        index = path / "model.safetensors.index.json"
        text = content if isinstance(content, str) else json.dumps(content)
        index.write_text(text, encoding="utf-8")
        return index

    return make


def _several(path: Path) -> Path:
    for name in ("a", "b"):
        write_safetensors(path / f"{name}.safetensors", TENSORS)
    return path


def _pickled(path: Path) -> Path:
    (path / "model_index.json").write_text("{}", encoding="utf-8")
    (path / "unet").mkdir()
    (path / "unet" / "pytorch_model.bin").write_bytes(b"x")
    return path


def _twice(path: Path) -> Path:
    table = {"layers.0.proj.weight": "a.safetensors", "layers.0.proj.bias": "b.safetensors"}
    _index({"weight_map": table})(path)
    write_safetensors(path / "b.safetensors", TENSORS)
    return path


REFUSED: dict[str, tuple[Callable[[Path], Path], str]] = {
    "empty folder": (lambda path: path, "neither model_index.json"),
    "several files": (_several, "which of them is the model"),
    "two snapshots": (_two_snapshots, "2 snapshots and no refs/main"),
    "pickled weights": (_pickled, "safe_serialization"),
    "not JSON": (_index("{"), "not JSON"),
    "not UTF-8": (_index("\udcff"), "not JSON"),
    "no map": (_index({"metadata": {}}), "weight_map"),
    "a list": (_index([1]), "weight_map"),
    "numbers": (_index({"weight_map": {"x": 1}}), "weight_map"),
    "another folder": (_index({"weight_map": {"x": "../a.safetensors"}}), "beside their index"),
    "another format": (_index({"weight_map": {"x": "a.bin"}}), "beside their index"),
    "a missing shard": (_index({"weight_map": {"x": "b.safetensors"}}), "is missing"),
    "a missing tensor": (_index({"weight_map": {"x": "a.safetensors"}}), "expects x in it"),
    "a tensor twice": (_twice, "which one counts"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals(tmp_path: Path, case: str) -> None:
    make, pattern = REFUSED[case]
    if case == "not UTF-8":
        path = _index("{}")(tmp_path)
        path.write_bytes(b"\xff\xfe{")
    else:
        path = make(tmp_path)
    with pytest.raises(FormatError, match=pattern) as error:
        open_checkpoint(path)
    assert str(tmp_path) in str(error.value)


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        open_checkpoint(tmp_path / "x.safetensors")
    with pytest.raises(FileNotFoundError):
        open_checkpoint(tmp_path / "x.safetensors.index.json")


def test_unknown_architectures_are_refused(tmp_path: Path) -> None:
    path = write_safetensors(tmp_path / "x.safetensors", TENSORS)
    with pytest.raises(ParamError, match="sd16"):
        open_checkpoint(path, architecture="sd16")
