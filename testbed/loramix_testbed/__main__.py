"""The command: ``python -m loramix_testbed``."""

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from loramix_testbed.places import QUALITY, RECORD

if TYPE_CHECKING:
    from loramix_testbed.matrix.running import Cell

_SILENT = {
    "DIFFUSERS_VERBOSITY": "error",
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
}
"""What keeps libraries from writing a line per cell; workers inherit it."""


def main(arguments: list[str] | None = None) -> int:
    """Run one of the testbed's commands."""
    parser = argparse.ArgumentParser(prog="loramix_testbed", description=__doc__)
    parser.add_argument(
        "command",
        nargs="?",
        default="measure",
        choices=("measure", "report", "train", "fonts", "calibrate"),
        help="measure (and report), report only, train the world, list or render fonts, "
        "calibrate auto",
    )
    parser.add_argument(
        "--quick", action="store_true", help="held-out mixed stacks of many pictures (default)"
    )
    parser.add_argument("--full", action="store_true", help="both halves, all stacks, ablations")
    parser.add_argument("--out", type=Path, help="folder for the record and the page")
    parser.add_argument("--workers", type=int, help="processes, each with one core")
    parser.add_argument("--device", default="cpu", help="where to draw and train, such as cuda")
    parser.add_argument("--only", help="methods, separated by semicolons")
    parser.add_argument("--packages", action="store_true", help="fonts: list the Debian packages")
    parser.add_argument("--what", default="all", help="train: base, judge, adapters or names")
    asked = parser.parse_args(arguments)
    for name, value in _SILENT.items():
        os.environ.setdefault(name, value)
    if asked.device != "cpu" and (why := _unusable(asked.device)):
        parser.error(f"--device {asked.device}: {why}; cpu is always there")
    if asked.only and (unknown := _unknown(asked)):
        parser.error(f"--only: no method {', '.join(unknown)}; see docs/QUALITY.md for the names")
    return _COMMANDS[asked.command](asked)


def _unusable(device: str) -> str:
    """Why nothing can be put on a device, in torch's words; empty if it can be."""
    import torch

    try:
        torch.zeros(1, device=device)
    except (AssertionError, NotImplementedError, RuntimeError) as error:  # whatever the kind says
        return str(error).partition("\n")[0]
    return ""


def _unknown(asked: argparse.Namespace) -> list[str]:
    """Names of `--only` that the matrix does not have."""
    return sorted(_named(asked.only) - {cell.method for cell in _cells(asked)})


def _named(methods: str) -> set[str]:
    """Names between semicolons: some have commas."""
    return {name.strip() for name in methods.split(";")}


def _cells(asked: argparse.Namespace) -> "list[Cell]":
    from loramix_testbed.matrix.cells import full, quick

    return full() if asked.full else quick()


def _measure(asked: argparse.Namespace) -> int:
    from loramix_testbed.matrix.running import Record, run

    cells = _cells(asked)
    if asked.only:
        names = _named(asked.only)
        cells = [cell for cell in cells if cell.method in names]
    run(cells, Record(_record(asked)), workers=asked.workers, device=asked.device)
    return _report(asked)


def _report(asked: argparse.Namespace) -> int:
    from loramix_testbed.matrix.running import Record
    from loramix_testbed.report.overall import overall_table
    from loramix_testbed.report.writing import write

    path = _record(asked)
    write(path, path.parent, QUALITY if asked.out is None else None)
    sys.stdout.write(overall_table(Record(path).cells.values()))
    sys.stdout.write(f"{path.parent}: table.md, table.json, page.html\n")
    return 0


def _train(asked: argparse.Namespace) -> int:
    from loramix_testbed.training.everything import train_world

    train_world(asked.what, workers=asked.workers, device=asked.device)
    return 0


def _fonts(asked: argparse.Namespace) -> int:
    from loramix_testbed.places import ASSETS
    from loramix_testbed.world import fonts

    if asked.packages:
        sys.stdout.write("\n".join(fonts.packages()) + "\n")
    else:
        count = fonts.make_masks(ASSETS / "masks.npz")
        fonts.note_licences()
        sys.stdout.write(f"{count} fonts for the base\n")
    return 0


def _calibrate(asked: argparse.Namespace) -> int:
    from loramix_testbed.matrix.calibrating import calibrate

    calibrate(_record(asked), workers=asked.workers, device=asked.device)
    return 0


def _record(asked: argparse.Namespace) -> Path:
    return RECORD if asked.out is None else asked.out / RECORD.name


_COMMANDS = {
    "measure": _measure,
    "report": _report,
    "train": _train,
    "fonts": _fonts,
    "calibrate": _calibrate,
}

if __name__ == "__main__":
    sys.exit(main())
