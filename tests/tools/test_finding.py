"""Names of folders and of local caches, and what is said where nothing is found."""

from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import pairs, write_adapter

from loramix import FormatError, load, merge
from loramix.cli.app import main
from loramix.finding import caches, find

REVISION = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub that the environment names, and an empty working folder."""
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HOME", str(tmp_path / "nobody"))
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    found = tmp_path / "home" / "hub"
    found.mkdir(parents=True)
    return found


def cached(hub: Path, file: str, *, reference: str | None = REVISION) -> Path:
    """A repository as the hub's clients keep it: files are links to blobs named by digests."""
    folder = hub / "models--artist--style-lora"
    target = folder / "snapshots" / REVISION / file
    target.parent.mkdir(parents=True)
    blob = folder / "blobs" / ("f" * 64)
    blob.parent.mkdir()
    write_adapter(blob, pairs(1))
    target.symlink_to(blob)
    if reference is not None:
        (folder / "refs").mkdir()
        (folder / "refs" / "main").write_text(reference)
    return folder


@pytest.mark.parametrize(
    "file", ["adapter_model.safetensors", "pytorch_lora_weights.safetensors", "any.safetensors"]
)
def test_a_folder_with_one_adapter(tmp_path: Path, file: str) -> None:
    folder = tmp_path / "style"
    folder.mkdir()
    write_adapter(folder / file, pairs(1))
    assert load(folder).name == "style"
    assert load(folder).source.path == folder / file


def test_the_known_name_wins_over_others(tmp_path: Path) -> None:
    for name in ("a.safetensors", "b.safetensors", "pytorch_lora_weights.safetensors"):
        write_adapter(tmp_path / name, pairs(1))
    assert find(tmp_path).file.name == "pytorch_lora_weights.safetensors"


@pytest.mark.parametrize("reference", [REVISION, f"{REVISION}\n", None])
def test_the_folder_of_a_repository(hub: Path, reference: str | None) -> None:
    folder = cached(hub, "pytorch_lora_weights.safetensors", reference=reference)
    adapter = load(folder)
    assert adapter.name == "style-lora"
    assert adapter.source.path == (
        folder / "snapshots" / REVISION / "pytorch_lora_weights.safetensors"
    )


def test_a_snapshot_has_the_name_of_its_repository(hub: Path) -> None:
    folder = cached(hub, "style.safetensors")
    assert load(folder / "snapshots" / REVISION).name == "style-lora"
    assert load(folder / "snapshots" / REVISION / "style.safetensors").name == "style"


def test_a_repository_by_its_name(hub: Path) -> None:
    cached(hub, "pytorch_lora_weights.safetensors")
    assert load("artist/style-lora").name == "style-lora"
    merged = merge(["artist/style-lora"], "linear")
    assert merged.error < 1e-5


def test_a_file_of_a_repository(hub: Path) -> None:
    cached(hub, "deep/epoch-3.safetensors")
    assert load("artist/style-lora/deep/epoch-3.safetensors").name == "epoch-3"
    assert load("artist/style-lora/deep").name == "deep"
    with pytest.raises(FileNotFoundError, match="cached snapshot of artist/style-lora has no x"):
        load("artist/style-lora/x")


def test_what_is_here_comes_first(hub: Path) -> None:
    cached(hub, "pytorch_lora_weights.safetensors")
    here = Path("artist/style-lora")
    here.mkdir(parents=True)
    write_adapter(here / "mine.safetensors", pairs(2))
    assert find("artist/style-lora").file == here / "mine.safetensors"


def test_a_config_goes_with_its_tensors(hub: Path) -> None:
    folder = cached(hub, "adapter_model.safetensors")
    config = folder / "snapshots" / REVISION / "adapter_config.json"
    config.write_text('{"peft_type": "LORA", "r": 4, "lora_alpha": 8}')
    assert {factors.scale for factors in load("artist/style-lora").targets.values()} == {2.0}


@pytest.mark.parametrize(
    ("variable", "below"),
    [("HF_HUB_CACHE", ""), ("HF_HOME", "hub"), ("XDG_CACHE_HOME", "huggingface/hub")],
)
def test_places_of_caches(
    hub: Path, monkeypatch: pytest.MonkeyPatch, variable: str, below: str
) -> None:
    monkeypatch.delenv("HF_HOME")
    monkeypatch.setenv(variable, str(hub))
    assert hub / below in caches()
    cached(hub / below if below else hub, "a.safetensors")
    assert load("artist/style-lora").name == "style-lora"


def test_the_home_folder_is_the_last_resort(hub: Path, tmp_path: Path) -> None:
    assert caches() == (hub, tmp_path / "nobody/.cache/huggingface/hub")


def test_nothing_of_that_name_anywhere(hub: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "artist/unknown"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: artist/unknown: no such file or folder")
    assert str(hub) in said
    assert "downloads nothing" in said


@pytest.mark.parametrize(
    "name", ["missing", "missing.safetensors", "folder/missing.safetensors", "../a/b", "/no/such"]
)
def test_a_path_is_not_taken_for_a_repository(hub: Path, name: str) -> None:
    cached(hub, "a.safetensors")
    with pytest.raises(FileNotFoundError, match="No such file or directory"):
        load(name)


def _empty(folder: Path) -> None:
    (folder / "readme.md").touch()


def _several(folder: Path) -> None:
    for i in range(6):
        (folder / f"{i}.safetensors").touch()


def _pickled(folder: Path) -> None:
    (folder / "pytorch_lora_weights.bin").touch()


def _nested(folder: Path) -> None:
    (folder / "checkpoint-500").mkdir()
    (folder / "checkpoint-500" / "adapter_model.safetensors").touch()


def _sharded(folder: Path) -> None:
    (folder / "adapter_model.safetensors.index.json").write_text("{}")
    for i in (1, 2):
        (folder / f"adapter_model-0000{i}-of-00002.safetensors").touch()


@pytest.mark.parametrize(
    ("fill", "said"),
    [
        (_empty, "without .safetensors files; name the file"),
        (_several, "6 .safetensors files .*name the file: 0.safetensors, .* and 2 more"),
        (_pickled, "pytorch_lora_weights.bin may run any code"),
        (_nested, "name the folder: checkpoint-500"),
        (_sharded, "index.json: an adapter in several shards.*join them first"),
    ],
)
def test_folders_that_hold_no_adapter(
    tmp_path: Path, fill: Callable[[Path], None], said: str
) -> None:
    fill(tmp_path)
    with pytest.raises(FormatError, match=said):
        load(tmp_path)


def test_an_index_of_shards_by_its_name(tmp_path: Path) -> None:
    _sharded(tmp_path)
    with pytest.raises(FormatError, match="several shards"):
        load(tmp_path / "adapter_model.safetensors.index.json")


@pytest.mark.parametrize("reference", ["gone", "../../../etc", ""])
def test_a_reference_to_nothing(hub: Path, reference: str) -> None:
    folder = cached(hub, "a.safetensors", reference=reference)
    with pytest.raises(FormatError, match=r"refs/main names the snapshot .* which is not there"):
        load(folder)


def test_several_snapshots_without_a_reference(hub: Path) -> None:
    folder = cached(hub, "a.safetensors", reference=None)
    (folder / "snapshots" / "other").mkdir()
    with pytest.raises(FormatError, match=r"2 snapshots and no refs/main; name one"):
        load(folder)
