"""A folder with adapters, and the program run in this process."""

from collections.abc import Callable
from pathlib import Path

import pytest
from cli.program import Outcome, write_adapter

from loramix.cli.app import main


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with adapters ``a`` and ``b``, and ``noted``, which has no alpha."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    write_adapter(tmp_path / "a.safetensors", 1)
    write_adapter(tmp_path / "b.safetensors", 2, rank=2)
    write_adapter(tmp_path / "noted.safetensors", 3, alpha=False)
    return tmp_path


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Run the program in this process."""

    def call(*args: str) -> Outcome:
        code = main(args)
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return call
