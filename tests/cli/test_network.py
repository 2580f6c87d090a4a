"""Commands that read or write files open no socket: they run where that is an error."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cli.program import BLOCK, SIZES, write_safetensors

# A hook cannot be taken away again, so this is a process of its own.
PROGRAM = """
import json, sys

def refuse(event, arguments):
    if event.startswith("socket."):
        raise SystemExit(f"{event}{arguments} in {sys.argv[2:]}")

sys.addaudithook(refuse)
from loramix.cli.app import main

print(json.dumps([main(command) for command in json.loads(sys.argv[1])]), file=sys.stderr)
"""


def run(commands: list[list[str]]) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(commands)],
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
        timeout=100,
    )


@pytest.fixture
def model(folder: Path) -> None:
    """A model for two of the adapters' modules, and that model after a little training."""
    rng = np.random.default_rng(4)
    stems = [stem for stem in SIZES if stem.startswith(BLOCK)]
    names = [stem.removeprefix(BLOCK)[1:].replace("_to_", ".to_") for stem in stems]
    block = "mid_block.attentions.0.transformer_blocks.0"
    shapes = zip(names, (SIZES[stem] for stem in stems), strict=True)
    base = {f"{block}.{name}.weight": rng.standard_normal(shape) for name, shape in shapes}
    base = {name: values.astype(np.float32) for name, values in base.items()}
    write_safetensors(folder / "base.safetensors", base, {})
    tuned = {
        name: values + np.outer(values[:, 0], values[0]).astype(np.float32) / 100
        for name, values in base.items()
    }
    write_safetensors(folder / "tuned.safetensors", tuned, {})


@pytest.mark.usefixtures("model")
def test_commands() -> None:
    a, b, out = "a.safetensors", "b.safetensors", "ab.safetensors"
    commands = [
        ["merge", a, b, "-o", out],
        ["inspect", a, out],
        ["analyze", a, b, "--html", "page.html"],
        ["plan", a, b, "-o", "plan.json"],
        ["compat", a, b],
        ["convert", a, "-o", "c.safetensors", "--for", "diffusers"],
        ["resize", a, "-o", "r.safetensors", "--rank", "2"],
        ["diff", a, b],
        ["doctor", a],
        ["reproduce", out, "--sources", "."],
        ["bake", "base.safetensors", f"{a}:1:0", "-o", "baked.safetensors"],
        ["extract", "tuned.safetensors", "base.safetensors", "-o", "e.safetensors", "--rank", "2"],
    ]
    done = run(commands)
    assert done.returncode == 0, done.stdout + done.stderr
    codes = json.loads(done.stderr.splitlines()[-1])
    failed = [command for command, code in zip(commands, codes, strict=True) if code != 0]
    assert failed == [["diff", a, b]], done.stdout + done.stderr  # it says that they differ


@pytest.mark.usefixtures("folder")
def test_names_as_on_a_hub() -> None:
    name = "someone/adapter"
    commands = [
        ["merge", name, "a.safetensors", "-o", "out.safetensors"],
        ["inspect", name],
        ["doctor", f"{name}/x.safetensors"],
        ["inspect", "https://example.org/x.safetensors"],
    ]
    done = run(commands)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stderr.splitlines()[-1]) == [1] * 4, done.stdout + done.stderr
    assert not Path("out.safetensors").exists()
