"""``loramix reproduce``: words for people, data for programs, and an exit code for scripts."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from cli.program import Outcome

Run = Callable[..., Outcome]


@pytest.fixture
def moved(folder: Path, run: Run) -> None:
    """A merged file and its sources, elsewhere."""
    args = ("a.safetensors:0.8", "b.safetensors:1:0.5", "-o", "ab.safetensors")
    assert run("merge", *args).code == 0
    assert (folder / "ab.safetensors").is_file()
    Path("deep/er").mkdir(parents=True)
    Path("a.safetensors").rename("deep/er/b.safetensors")
    Path("b.safetensors").rename("deep/x.safetensors")


@pytest.mark.usefixtures("moved")
def test_identical(run: Run) -> None:
    done = run("reproduce", "ab.safetensors", "--sources", "deep")
    assert (done.code, done.err) == (0, "")
    assert max(map(len, done.out.splitlines())) <= 80
    words = " ".join(done.out.split())
    assert "identical, byte by byte (12 tensors)" in words
    assert "a: deep/er/b.safetensors" in words
    there = {path.name for path in Path().iterdir()}
    assert there == {"ab.safetensors", "deep", "noted.safetensors"}
    done = run("reproduce", "ab.safetensors", "-s", "deep/x.safetensors", "-s", "deep/er", "--json")
    facts = json.loads(done.out)
    assert (done.code, facts["identical"], facts["again"]) == (0, True, None)
    assert [one["name"] for one in facts["sources"]] == ["a", "b"]


@pytest.mark.usefixtures("moved")
def test_not_identical(run: Run) -> None:
    data = Path("ab.safetensors").read_bytes()
    Path("ab.safetensors").write_bytes(data[:-4] + b"\0\0\0\x40")
    done = run("reproduce", "ab.safetensors", "--sources", "deep", "-o", "again.safetensors")
    assert (done.code, done.err) == (1, "")
    words = " ".join(done.out.split())
    assert "not identical: 1 of 12 tensors differ" in words
    assert "the deltas differ by" in words
    assert "the file was changed" in words
    assert Path("again.safetensors").read_bytes() == data


@pytest.mark.usefixtures("moved")
def test_refusals(run: Run) -> None:
    done = run("reproduce", "ab.safetensors", "--sources", "deep/er")
    assert done.code == 1
    assert done.err.startswith("error: 1 of 2 sources are not in deep/er: b (sha256:")
    assert run("reproduce", "ab.safetensors").code == 2
    done = run("reproduce", "noted.safetensors", "--sources", "deep")
    assert (done.code, done.out) == (1, "")
    assert "made by something else" in done.err


def test_a_folder_that_something_else_made(folder: Path, run: Run) -> None:
    (folder / "model_index.json").write_text("{}", encoding="utf-8")
    (folder / "unet").mkdir()
    shutil.copy(folder / "noted.safetensors", folder / "unet" / "model.safetensors")
    done = run("reproduce", str(folder), "--sources", ".")
    assert (done.code, done.out) == (1, "")
    assert "no header in it has anything of loramix" in done.err
