"""The Rust core passes its own tests, optimised; they need no Python."""

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_cargo_test() -> None:
    manifest = ROOT / "rust" / "Cargo.toml"
    command = ["cargo", "test", "--profile", "checked", "--quiet", "--manifest-path", str(manifest)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    passed = [int(n) for n in re.findall(r"(\d+) passed; 0 failed", done.stdout)]
    assert sum(passed) > 30, done.stdout
