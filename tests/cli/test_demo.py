"""The demo merges for real, and its check can fail."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from cli.program import Outcome

from loramix import demo
from loramix.tensors import F64

Run = Callable[..., Outcome]
pytestmark = pytest.mark.usefixtures("folder")


def test_demo(folder: Path, run: Run) -> None:
    done = run("demo")
    assert (done.code, done.err) == (0, "")
    assert max(map(len, done.out.splitlines())) <= 80
    assert "30 of 30 targets equal the dense float64 sum" in done.out
    assert (folder / "loramix-demo" / "adapter_model.safetensors").is_file()
    assert all(path.name in done.out.split() for path, _ in demo.adapters())


def test_demo_as_json(run: Run) -> None:
    report = json.loads(run("demo", "--json").out)
    assert report["check"]["equal"] == report["check"]["targets"] == len(report["rows"]) == 30


def test_demo_may_be_repeated_but_overwrites_nothing_else(folder: Path, run: Run) -> None:
    assert run("demo", "-o", "d").code == 0
    assert run("demo", "-o", "d").code == 0
    (folder / "d" / "mine.txt").write_text("mine")
    assert run("demo", "-o", "d").code == 1
    (folder / "d" / "mine.txt").unlink()
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        shutil.copy(demo.adapters()[0][0] / name, folder / "d" / name)
    before = (folder / "d" / "adapter_model.safetensors").read_bytes()
    refused = run("demo", "-o", "d")
    assert refused.code == 1
    assert refused.err.startswith("error: d: exists and is not from an earlier demo")
    assert (folder / "d" / "adapter_model.safetensors").read_bytes() == before


def test_the_check_can_fail(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    original = demo.dense

    def wrong(path: Path) -> dict[str, F64]:
        found = original(path)
        if path.name == "d":
            found[sorted(found)[0]] *= 1 + 1e-5
        return found

    monkeypatch.setattr(demo, "dense", wrong)
    done = run("demo", "-o", "d")
    assert done.code == 1
    assert "29 of 30 targets" in done.out
    assert done.err.startswith("error: d: not the sum of its sources at ")


def test_the_check_misses_no_target(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    demo.merge(folder / "d")
    assert demo.check(folder / "d").passed
    original = demo.dense

    def fewer(path: Path) -> dict[str, F64]:
        found = original(path)
        if path.name == "d":
            found.popitem()
        return found

    monkeypatch.setattr(demo, "dense", fewer)
    result = demo.check(folder / "d")
    assert (result.passed, result.equal, result.error) == (False, 29, float("inf"))
