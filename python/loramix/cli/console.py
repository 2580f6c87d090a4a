"""The terminal: plain text everywhere, colour and a progress bar where somebody looks."""

import json
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from loramix.report.cells import printable

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

# What a line starts with, and its style; see `loramix.report` for the shape of the text.
_STYLES = (
    (r"(?m)^  adapter .*$", "bold"),
    (r"(?m)^[a-z]\S*(?= {2})", "cyan"),
    (r"(?m)^note +.*(\n {11}.*)*", "yellow"),
)
_PATIENCE = 0.3
"""Seconds before a progress bar appears."""


def width() -> int:
    """Columns to write in; 80 where there is no terminal."""
    return shutil.get_terminal_size().columns


def show(text: str) -> None:
    """Write a report to standard output."""
    if not sys.stdout.isatty():
        sys.stdout.write(text + "\n")
        return
    from rich.console import Console
    from rich.text import Text

    body = Text(text)
    for pattern, style in _STYLES:
        body.highlight_regex(pattern, style)
    Console().print(body, soft_wrap=True)


def show_json(data: object) -> None:
    """Write plain data to standard output."""
    sys.stdout.write(json.dumps(data, indent=2) + "\n")


def complain(message: str) -> None:
    """One line on standard error, whatever is in the message."""
    sys.stderr.write(printable(message) + "\n")


@contextmanager
def progress(*, quiet: bool) -> "Iterator[Bar | None]":
    """A callback that draws a bar on standard error; None if nobody would see it."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    bar = Bar()
    try:
        yield bar
    finally:
        bar.stop()


class Bar:
    """A progress bar that appears when the work turns out to take a while."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._shown: tuple[Progress, TaskID] | None = None

    def __call__(self, done: int, total: int) -> None:
        """Move the bar."""
        if self._shown is None:
            if time.monotonic() - self._start < _PATIENCE:
                return
            self._shown = _begin()
        bar, task = self._shown
        bar.update(task, completed=done, total=total)

    def stop(self) -> None:
        """Take the bar away."""
        if self._shown is not None:
            self._shown[0].stop()


def _begin() -> "tuple[Progress, TaskID]":
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TimeRemainingColumn

    columns = (BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=Console(stderr=True), transient=True)
    task = bar.add_task("")
    bar.start()
    return bar, task
