"""Cells of a report, and the progress bar."""

import io

import pytest

from loramix.cli import console
from loramix.recipes.records import told
from loramix.report import cells, inspection


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (7e-8, "7.0e-08"), (9e-5, "9.0e-05"), (0.00123, "0.123 %"), (0.5, "50 %")],
)
def test_error(value: float, text: str) -> None:
    assert cells.error(value) == text


def test_numbers() -> None:
    assert [cells.size(n) for n in (12, 1500, 2_340_000, 5 * 10**9)] == [
        "12 bytes", "1.5 kB", "2.3 MB", "5.0 GB",
    ]  # fmt: skip
    assert [cells.span(4, 4), cells.span(4, 18), cells.seconds(0.5), cells.seconds(75)] == [
        "4", "4-18", "0.50 s", "75.0 s",
    ]  # fmt: skip
    assert cells.weight({"text_encoder*": 0.5, "*": 1.0}) == "1:0.5"
    assert cells.weight({"*attn2*": 0.5}) == "*attn2*=0.5"
    assert cells.weight({"*": 1.0, "text_encoder*": 0.5}) == "by target"


def test_shorten_keeps_both_ends() -> None:
    assert cells.shorten("short", 12) == "short"
    assert cells.shorten("abcdefghijklmnopqrstuvwxyz", 12) == "abcde...wxyz"


def test_foreign_metadata_is_no_reason_to_fail() -> None:
    for text in ("no json", "[1]", '{"sources": 3}', '{"sources": [1, {}], "method": 2}', "{}"):
        assert isinstance(inspection.json_object(text), dict)
        facts = {
            "size": 1, "parameters": 1, "tensors": 2, "name": "a", "path": None, "dialect": "peft",
            "architecture": None, "candidates": (), "runner_up": None,
            "families": {"lora": 1}, "modules": {"model": 1}, "kinds": {"linear": 1},
            "ranks": {1: 1}, "dtypes": {"F32": 2}, "scales": (1.0, 1.0), "notes": (),
            "provenance": told({"loramix": text}),
            "metadata": {"loramix": text, "adapter_config.json": text},
        }  # fmt: skip
        assert inspection.render(facts).startswith("adapter")


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_progress_is_drawn_on_terminals_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "_PATIENCE", 0.0)
    monkeypatch.setenv("TERM", "xterm")
    with console.progress(quiet=False) as bar:
        assert bar is None
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    with console.progress(quiet=True) as bar:
        assert bar is None
    with console.progress(quiet=False) as bar:
        assert bar is not None
        for done in range(4):
            bar(done, 3)
    assert "100%" in terminal.getvalue()


def test_colour_on_terminals_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    console.show("method     linear")
    assert capsys.readouterr().out == "method     linear\n"
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    terminal = Terminal()
    monkeypatch.setattr("sys.stdout", terminal)
    console.show("method     linear")
    assert "\x1b[36mmethod" in terminal.getvalue()
    monkeypatch.setenv("NO_COLOR", "1")
    terminal.truncate(0)
    console.show("method     linear")
    assert "\x1b[36m" not in terminal.getvalue()
