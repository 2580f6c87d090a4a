"""Running the matrix: a cell is a stack and a method, kept as soon as it is measured."""

import json
import multiprocessing
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from loramix_testbed.judging.drawing import draw, png
from loramix_testbed.judging.metrics import measure, true_pictures
from loramix_testbed.matrix.methods import Account, Truth, Way
from loramix_testbed.matrix.stacks import Stack
from loramix_testbed.world.pipeline import GlyphPipeline, load, prompt_of

_TOLD = 25
"""Cells from one line of progress to the next, where lines stay."""
_SHOWN = 6
"""Pictures of a cell that are kept for the report."""


@dataclass(frozen=True, slots=True)
class Cell:
    """What is to be measured."""

    stack: Stack
    method: str
    way: Way

    @property
    def key(self) -> str:
        """Its name in the record."""
        return f"{self.stack.half}/{self.stack.kind}/{self.stack.name}/{self.method}"


class Record:
    """A JSON file of cells, and one of their pictures beside it; what is there is not redone."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.cells: dict[str, dict[str, Any]] = _read(path)
        self.pictures: dict[str, str] = _read(self._beside)

    @property
    def _beside(self) -> Path:
        return self.path.with_suffix(".pictures.json")

    def has(self, key: str) -> bool:
        """Whether a cell is here with its picture: a clone has figures only."""
        return key in self.cells and key in self.pictures

    def add(self, key: str, cell: Mapping[str, Any], picture: str) -> None:
        """Keep a cell, and write the files anew.

        Parameters
        ----------
        picture : a PNG, base64.
        """
        self.cells[key], self.pictures[key] = dict(cell), picture
        _write(self.path, self.cells)
        _write(self._beside, self.pictures)


def _read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def _write(path: Path, entries: Mapping[str, Any]) -> None:
    """All or nothing, in the order of the names, a line each."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [f"{json.dumps(key)}: {json.dumps(entries[key])}" for key in sorted(entries)]
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, encoding="utf-8") as file:
        file.write("{\n" + ",\n".join(lines) + "\n}\n")
    Path(file.name).replace(path)


def run(
    cells: Iterable[Cell], record: Record, *, workers: int | None = None, device: str = "cpu"
) -> None:
    """Measure the cells that the record lacks, or their pictures, by stack, on all cores."""
    missing = [cell for cell in cells if not record.has(cell.key)]
    count = min(workers or os.cpu_count() or 1, len(missing))
    measure_one, start = partial(measured, device=device), time.monotonic()
    with _mapping(count) as mapped:
        for number, done in enumerate(mapped(measure_one, missing), 1):
            record.add(*done)
            _tell(number, len(missing), time.monotonic() - start)


@contextmanager
def _mapping(count: int) -> Iterator[Callable[..., Iterable[Any]]]:
    """A map on so many processes; on this one, if that is all."""
    if count < 2:
        yield map
        return
    with multiprocessing.get_context("spawn").Pool(count, initializer=_single) as pool:
        yield pool.imap_unordered


def _tell(number: int, total: int, seconds: float) -> None:
    """A line that stays one on a terminal; every so often a new one elsewhere."""
    end = "\r" if sys.stderr.isatty() and number < total else "\n"
    if end == "\r" or number % _TOLD == 0 or number == total:
        sys.stderr.write(f"{number} of {total} cells, {seconds / 60:.1f} minutes{end}")


def measured(cell: Cell, device: str = "cpu") -> tuple[str, dict[str, Any], str]:
    """Draw and measure one cell."""
    stack, start = cell.stack, time.perf_counter()
    with _counting(_pipe(device)) as rows:
        drawn, account = drawn_by(cell.way, stack, device)
    seconds = time.perf_counter() - start
    groups = drawn.split(stack.seeds)
    facts = {
        "half": stack.half,
        "kind": stack.kind,
        "size": len(stack.adapters),
        "stack": stack.name,
        "method": cell.method,
        "cost": round(sum(rows) / (len(drawn) * stack.steps), 3),
        "seconds": round(seconds, 2),
        "device": device,
        **account,
        "prompts": [_prompt(*pair) for pair in zip(stack.asked, groups, strict=True)],
    }
    return cell.key, facts, _shown(groups)


def drawn_by(way: Way, stack: Stack, device: str = "cpu") -> tuple[Tensor, Account]:
    """Pictures of all that is asked of a stack, a prompt's in a row, and what a merge says."""
    if isinstance(way, Truth):
        return torch.cat([true_pictures(*pair, 1)[: stack.seeds] for pair in stack.asked]), {}
    pipe = _pipe(device)
    prompts = [prompt_of(*pair) for pair in stack.asked]
    with way.used(pipe, stack.adapters) as account:
        drawn = draw(pipe, prompts, stack.seeds, steps=stack.steps, guidance=stack.guidance)
    return drawn, account


@contextmanager
def _counting(pipe: GlyphPipeline) -> Iterator[list[int]]:
    """Rows of every evaluation of the denoiser, whoever asks for it."""
    rows: list[int] = []
    counting = pipe.unet.conv_in.register_forward_hook(lambda *seen: rows.append(len(seen[2])))
    try:
        yield rows
    finally:
        counting.remove()


def _prompt(asked: Sequence[str], drawn: Tensor) -> dict[str, Any]:
    symbol, style = asked
    found = measure(drawn, symbol, style)
    return {
        "symbol": symbol,
        "style": style,
        "content": [int(v) for v in found.content],
        "style_right": [int(v) for v in found.style],
        "distance": [round(float(v), 4) for v in found.distance],
        "beyond": [round(float(v), 4) for v in found.beyond],
        "energy": [round(float(v), 3) for v in found.energy],
        "kid": round(found.kid, 4),
        "diversity": round(found.diversity, 3),
    }


def _shown(groups: Sequence[Tensor]) -> str:
    """`_SHOWN` pictures in a row, of as many prompts as there are up to that, else seeds."""
    rows = [picture for seed in zip(*groups, strict=True) for picture in seed][:_SHOWN]
    return png(torch.cat(rows, dim=2))


@cache
def _pipe(device: str) -> GlyphPipeline:
    return load(device=device)


def _single() -> None:
    """A worker has one core."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
