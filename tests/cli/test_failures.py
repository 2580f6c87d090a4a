"""Exit codes, one line per error, and nothing left behind."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

import pytest
from cli.program import Outcome, spawn, write_adapter

import loramix

Run = Callable[..., Outcome]
pytestmark = pytest.mark.usefixtures("folder")
OUT = ("-o", "out.safetensors")


@pytest.mark.parametrize(
    "args",
    [
        ("nonsense",),
        ("--nonsense",),
        ("merge",),
        ("merge", *OUT),
        ("merge", "a.safetensors"),
        ("merge", "a.safetensors:abc", *OUT),
        ("merge", "a.safetensors:1e999", *OUT),
        ("merge", "a.safetensors", "a.safetensors", *OUT),
        ("merge", "a.safetensors", *OUT, "--nonsense"),
        ("merge", "a.safetensors", *OUT, "--method", "nonsense"),
        ("merge", "a.safetensors", *OUT, "--rank", "many"),
        ("merge", "a.safetensors", *OUT, "--rank", "0"),
        ("merge", "a.safetensors", *OUT, "--energy", "2"),
        ("merge", "a.safetensors", *OUT, "--energy", "0.9", "--max-error", "0.1"),
        ("merge", "a.safetensors", *OUT, "--dtype", "f8"),
        ("merge", "a.safetensors", *OUT, "--dense", "--rank", "4"),
        ("merge", "a.safetensors", *OUT, "--dense", "--dialect", "diffusers"),
        ("merge", "a.safetensors", *OUT, "--dialect", "nonsense"),
        ("merge", "a.safetensors", *OUT, "--threads", "0"),
        ("merge", "a.safetensors", *OUT, "--floor", "0.5"),
        ("merge", "a.safetensors", *OUT, "--auto-strength", "--floor", "2"),
        ("merge", "a.safetensors:lbw=1,0", *OUT),
        ("resize", "a.safetensors", *OUT),
    ],
)
def test_usage_errors(run: Run, args: Sequence[str]) -> None:
    done = run(*args)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1
    assert not Path("out.safetensors").exists()


@pytest.mark.parametrize(
    ("args", "named"),
    [
        (("merge", "missing.safetensors:0.8", *OUT), "missing.safetensors"),
        (("merge", "bad.safetensors", *OUT), "bad.safetensors"),
        (("merge", "empty.safetensors", *OUT), "empty.safetensors"),
        (("merge", "a.safetensors", "-o", "missing/out.safetensors"), "missing/out.safetensors"),
        (("merge", "a.safetensors", "-o", "a.safetensors"), "a.safetensors"),
        (("merge", "a.safetensors", "-o", "."), "."),
        (("merge", "a.safetensors", "--dialect", "peft", *OUT), "out.safetensors"),
        (("resize", "bad.safetensors", "--rank", "2", *OUT), "bad.safetensors"),
        (("inspect", "missing.safetensors"), "missing.safetensors"),
        (("demo", "-o", "."), "."),
        (("demo", "-o", "a.safetensors"), "a.safetensors"),
    ],
)
def test_refusals(folder: Path, run: Run, args: Sequence[str], named: str) -> None:
    Path("bad.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0notjson!")
    Path("empty.safetensors").touch()
    before = sorted(path.name for path in folder.iterdir())
    done = run(*args)
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith(f"error: {named}")
    assert done.err.count("\n") == 1
    assert sorted(path.name for path in folder.iterdir()) == before


def test_exit_codes_of_a_process() -> None:
    assert spawn("merge", "a.safetensors", *OUT).returncode == 0
    refused = spawn("merge", "missing.safetensors", *OUT)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr == "error: missing.safetensors: No such file or directory\n"
    assert spawn("merge").returncode == 2


def test_control_characters_of_a_name_do_not_reach_the_terminal(run: Run) -> None:
    name = "new\nline\x1b[31m.safetensors"
    assert run("inspect", name).err.count("\n") == 1
    write_adapter(Path(name), 1)
    for args in (("inspect", name), ("merge", name, *OUT)):
        assert "\x1b" not in run(*args).out


def test_a_terminal_without_unicode() -> None:
    write_adapter(Path("ü★.safetensors"), 1)
    done = spawn("inspect", "ü★.safetensors", PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")


def test_help_is_light() -> None:
    script = (
        "import sys; from loramix.cli.app import main; main(['--help'])\n"
        "heavy = {'torch', 'rich', 'scipy', 'transformers', 'diffusers', 'peft'}\n"
        "heavy |= {'loramix.demo', 'loramix.report.model', 'numpy'}\n"
        "sys.exit(', '.join(sorted(heavy & set(sys.modules))))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60
    )
    assert "Commands:" in done.stdout
    assert done.stderr.strip() == ""


def test_interrupt_leaves_nothing_and_keeps_what_was(
    folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    previous = b"the previous output"
    Path("out.safetensors").write_bytes(previous)
    before = sorted(path.name for path in folder.iterdir())
    original = loramix.merge

    def interrupted(done: int, total: int) -> None:
        if done > total // 2:  # while it is being written or verified
            raise KeyboardInterrupt

    def merge(*args: object, **options: object) -> NoReturn:
        original(*args, **{**options, "progress": interrupted})  # type: ignore[arg-type]
        pytest.fail("the callback was not called")

    monkeypatch.setattr(loramix, "merge", merge)
    done = run("merge", "a.safetensors", "b.safetensors", *OUT)
    assert (done.code, done.err) == (1, "interrupted; nothing was written\n")
    assert Path("out.safetensors").read_bytes() == previous
    assert sorted(path.name for path in folder.iterdir()) == before


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_a_signal_is_an_interrupt(folder: Path) -> None:
    script = (
        "import sys, os, signal, loramix; from loramix.cli.app import main\n"
        "original = loramix.merge\n"
        "def tick(done, total): os.kill(os.getpid(), signal.SIGINT)\n"
        "loramix.merge = lambda *a, **k: original(*a, **{**k, 'progress': tick})\n"
        "sys.exit(main())"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, "merge", "a.safetensors", *OUT],
        capture_output=True, text=True, check=False, timeout=60,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "interrupted; nothing was written\n"
    assert not list(folder.glob("*out*")) + list(folder.glob(".*"))


@pytest.mark.skipif(os.name != "posix", reason="pipes")
def test_a_reader_that_leaves_is_not_an_error() -> None:
    script = "import sys; from loramix.cli.app import main; sys.exit(main())"
    process = subprocess.Popen(
        [sys.executable, "-c", script, "inspect", "a.safetensors"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(timeout=60) == 1
