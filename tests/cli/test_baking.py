"""The commands that read base models."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from baking.cases import base_tensors, stored, two_adapters, write_base
from cli.program import Outcome
from helpers import decode, encode, read_safetensors, write_safetensors

from loramix.io.hashing import digest_of

Run = Callable[..., Outcome]

ROW = {"target", "stored", "dtype", "members", "norm", "survival", "cosine"}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a base in bf16, and two adapters for it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    write_base(tmp_path, "BF16")
    two_adapters(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("here")
def test_bake_text(run: Run) -> None:
    done = run(
        "bake", "base.safetensors", "source-0.safetensors:0.8", "source-1.safetensors", "-o",
        "out.safetensors",
    )  # fmt: skip
    assert (done.code, done.err) == (0, "")
    assert max(map(len, done.out.splitlines())) <= 80
    for word in ("base.safetensors", "source-0", "0.8", "auto", "bf16", "survival", "%"):
        assert word in done.out
    assert Path("out.safetensors").is_file()


@pytest.mark.usefixtures("here")
def test_bake_json(run: Run) -> None:
    done = run(
        "bake", "base.safetensors", "source-0.safetensors:0.8", "source-1.safetensors:-0.5",
        "-o", "out.safetensors", "--method", "ties:density=0.5", "--json",
    )  # fmt: skip
    assert (done.code, done.err) == (0, "")
    report = json.loads(done.out)
    assert report["method"]["name"] == "ties"
    assert report["path"] == "out.safetensors"
    assert len(report["rows"]) == 4
    assert [set(row) for row in report["rows"]] == [ROW] * 4
    assert 0.9 < report["survival"] < 1
    assert [one["weight"] for one in report["inputs"]] == [0.8, -0.5]


def test_bake_from_a_recipe(here: Path, run: Run) -> None:
    (here / "r.toml").write_text(
        '[[adapter]]\npath = "source-0.safetensors"\n[method]\nname = "linear"\n', encoding="utf-8"
    )
    done = run("bake", "base.safetensors", "--recipe", "r.toml", "-o", "a.safetensors")
    assert (done.code, done.err) == (0, "")
    done = run(
        "bake", "base.safetensors", "source-0.safetensors", "-m", "linear", "-o", "b.safetensors"
    )
    assert done.code == 0
    one, two = (read_safetensors(here / f"{name}.safetensors")[0] for name in "ab")
    assert one == two
    done = run(
        "bake", "base.safetensors", "source-0.safetensors", "--recipe", "r.toml", "-o",
        "c.safetensors",
    )  # fmt: skip
    assert done.code == 2
    assert "says everything" in done.err


def test_a_base_that_loses_most_is_told_so(here: Path, run: Run) -> None:
    tensors = base_tensors("BF16")
    for name, (dtype, shape, data) in tensors.items():
        if name.endswith(".weight") and dtype == "BF16":
            tensors[name] = (dtype, shape, encode(dtype, 4096 * decode(dtype, data)))
    write_safetensors(here / "big.safetensors", tensors)
    done = run("bake", "big.safetensors", "source-0.safetensors", "-o", "out.safetensors")
    assert done.code == 0
    assert "smaller than the rounding of bf16" in " ".join(done.out.split())


FAILURES: dict[str, tuple[list[str], int, str]] = {
    "no adapters": (["bake", "base.safetensors", "-o", "x.safetensors"], 2, "no adapters"),
    "no base": (["bake", "gone.safetensors", "source-0.safetensors", "-o", "x"], 1, "gone"),
    "no output": (["bake", "base.safetensors", "source-0.safetensors"], 2, "output"),
    "onto itself": (
        ["bake", "base.safetensors", "source-0.safetensors", "-o", "base.safetensors"], 1,
        "is the base",
    ),
    "no tuned": (["extract", "gone.safetensors", "base.safetensors", "-o", "x"], 1, "gone"),
    "no difference": (
        ["extract", "base.safetensors", "base.safetensors", "-o", "x"], 1, "none of 4 weights",
    ),
    "two limits": (
        ["extract", "a", "b", "-o", "x", "--energy", "0.9", "--max-error", "0.1"], 2, "two ways",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", FAILURES)
@pytest.mark.usefixtures("here")
def test_failures(case: str, run: Run) -> None:
    args, code, pattern = FAILURES[case]
    before = sorted(Path().iterdir())
    done = run(*args)
    assert done.code == code
    assert pattern in done.err
    assert len(done.err.splitlines()) == 1
    assert sorted(Path().iterdir()) == before


def test_extract(here: Path, run: Run) -> None:
    tensors = base_tensors("BF16")
    name = stored("unet.blocks.0.ff.proj")
    dtype, shape, data = tensors[name]
    change = np.outer(np.arange(40), np.ones(20)).ravel()
    tensors[name] = (dtype, shape, encode(dtype, decode(dtype, data) + change))
    write_safetensors(here / "tuned.safetensors", tensors)
    args = ("extract", "tuned.safetensors", "base.safetensors", "--rank", "2", "-o")
    done = run(*args, "lora.safetensors")
    assert (done.code, done.err) == (0, "")
    assert max(map(len, done.out.splitlines())) <= 80
    said = " ".join(done.out.split())
    assert "3 of 4 weights did not change" in said
    assert "1 weights changed, rank 2" in said
    done = run(*args, "lora.safetensors", "--json", "--target", "*ff*")
    report = json.loads(done.out)
    assert (report["tuned"], report["base"]) == ("tuned", "base")
    assert [row["target"] for row in report["rows"]] == ["transformer.blocks.0.ff.proj"]
    assert report["kept"] > 0.99
    done = run("extract", "tuned.safetensors", "base.safetensors", "--target", "x*", "-o", "y")
    assert done.code == 1
    assert "no weight in common that --target allows" in done.err


def test_inspect_says_how_a_model_was_made(here: Path, run: Run) -> None:
    args = ("source-0.safetensors:0.8", "-o", "out.safetensors", "--method", "linear")
    assert run("bake", "base.safetensors", *args).code == 0
    done = run("inspect", "out.safetensors", "base.safetensors", "source-0.safetensors")
    assert (done.code, done.err) == (0, "")
    baked, base, adapter = done.out.split("\n\n")
    digest = digest_of(here / "base.safetensors", "blake3")
    assert "linear of 0.8 source-0" in baked
    assert f"base: {digest[:19].replace(':', ' ')}" in baked
    assert "loramix reproduce out.safetensors --sources DIR" in baked
    assert base.startswith("model")
    assert "made by" not in base
    assert adapter.startswith("adapter")
    done = run("inspect", "out.safetensors", "--json")
    (facts,) = json.loads(done.out)
    assert facts["kind"] == "model"
    assert facts["provenance"]["base"]["digest"] == digest
    folder = here / "pipeline"
    (folder / "transformer").mkdir(parents=True)
    (folder / "model_index.json").write_text("{}")
    (here / "base.safetensors").rename(folder / "transformer" / "model.safetensors")
    done = run("inspect", "pipeline")
    assert (done.code, done.err) == (0, "")
    assert "pipeline" in done.out
