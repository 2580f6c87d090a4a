"""Conversions beside synced copies of the same files, in turn, warm; and the command by its parts.

Both run in this process one after the other, outputs removed before.  Other work on the machine
makes a copy of one thread less slow than what uses all cores; where there is some, run with a
priority of real time (``chrt -r 1``), and say so:

    python benches/conversions.py
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

from pipeline import HERE, machine
from stacks import Stack, make

import loramix

Times = tuple[float, float, float]  # wall, user, system

SIZES = (
    Stack("sd15", 2, 23),
    Stack("sdxl", 2, 32),
    Stack("sdxl", 2, 96),
    Stack("sdxl", 2, 227),
)
_CLI = "from loramix.cli.app import main; raise SystemExit(main())"
PARTS = {
    "start Python": ["-c", "pass"],
    "and import NumPy": ["-c", "import numpy"],
    "and all that convert needs": ["-c", "import loramix; loramix.convert"],
    "the whole command": ["-c", _CLI, "convert", "{source}", "-o", "{out}"],
}


def copy(source: Path, out: Path) -> None:
    """As the system copies files, synced."""
    shutil.copyfile(source, out)
    with out.open("rb") as new:
        os.fsync(new.fileno())


def convert(source: Path, out: Path) -> None:
    """The same dialect: every byte of every tensor is copied."""
    loramix.convert(source, out, dialect="kohya")


def timed(work: Callable[[Path, Path], None], source: Path, out: Path) -> Times:
    """One run, with nothing left to write from before."""
    out.unlink(missing_ok=True)
    os.sync()
    before, start = os.times(), time.perf_counter()
    work(source, out)
    wall, after = time.perf_counter() - start, os.times()
    return wall, after.user - before.user, after.system - before.system


def row(source: Path, out: Path, runs: int) -> str:
    """A row of the table; the first run of each warms up and does not count."""
    found: dict[Callable[[Path, Path], None], list[Times]] = {copy: [], convert: []}
    for index in range(runs + 1):
        for work, times in found.items():
            once = timed(work, source, out)
            times += [once] if index else []
    out.unlink()
    cells = [f"{source.stat().st_size / 1e6:.0f} MB"]
    for times in found.values():
        walls = [wall for wall, _, _ in times]
        _, user, system = sorted(times)[len(times) // 2]
        cells.append(f"{min(walls):.3f} ({median(walls):.3f})")
        cells.append(f"{user:.2f} + {system:.2f}")
    for best in (min, median):
        own = [best([wall for wall, _, _ in times]) for times in found.values()]
        cells.append(f"{100 * own[0] / own[1]:.0f} %")
    return "| " + " | ".join(cells) + " |"


def command(source: Path, out: Path, runs: int) -> list[str]:
    """Rows: how long a process takes that does so much of the command; fastest."""
    lines = []
    for name, arguments in PARTS.items():
        given = [one.format(source=source, out=out) for one in arguments]
        walls = []
        for _ in range(runs):
            out.unlink(missing_ok=True)
            start = time.perf_counter()
            subprocess.run([sys.executable, *given], check=True, stdout=subprocess.DEVNULL)
            walls.append(time.perf_counter() - start)
        lines.append(f"| {name} | {min(walls):.3f} |")
    return lines


def main(given: Sequence[str] | None = None) -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--folder", type=Path, default=HERE / ".data")
    options = parser.parse_args(given)
    options.folder.mkdir(exist_ok=True)
    print(json.dumps(machine()))
    print("| adapter | copy: fastest (median) | CPU s | convert | CPU s | share | of medians |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(dir=options.folder) as scratch:
        out = Path(scratch) / "out.safetensors"
        for stack in SIZES:
            print(row(make(stack, options.folder)[0], out, options.runs), flush=True)
        print("\n| a process | seconds |\n|---|---|")
        print("\n".join(command(make(SIZES[0], options.folder)[0], out, options.runs)))


if __name__ == "__main__":
    main()
