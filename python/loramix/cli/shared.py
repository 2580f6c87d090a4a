"""What commands have in common: options become objects, results become text."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

from loramix.cli import console
from loramix.errors import FormatError, LoramixError

if TYPE_CHECKING:
    from loramix import Adapter, Analyzed, Merged, Output, Plan
    from loramix.report.facts import Overview
    from loramix.report.html.markup import Markup
    from loramix.tensors import Dtype
    from loramix.types import Base, Progress, Weight


def explain(error: LoramixError | OSError) -> str:
    """What went wrong, with the file in front."""
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return str(error)


def output_of(
    rank: int | None,
    energy: float | None,
    max_error: float | None,
    *,
    dtype: str | None,
    dialect: str | None,
    passes: int = 2,
    dense: bool = False,
    client: str | None = None,
) -> "Output":
    """The wished output."""
    from loramix import Output

    kind = cast("Dtype | None", dtype)  # Output checks it
    return Output(
        rank=rank, energy=energy, max_error=max_error, passes=passes, dtype=kind,
        dialect=dialect, dense=dense, client=client,
    )  # fmt: skip


def stack_of(
    paths: Sequence[str],
    architecture: str | None,
    skip: Sequence[str] | None,
    *,
    strict: bool,
    base: "Base | str | None" = None,
    rslora: bool = False,
) -> "list[Adapter]":
    """Open adapters; with strict, refuse those that there is something to note about."""
    from loramix import opening

    stack = opening.open_all(
        paths, architecture=architecture, skip=skip or (), base=base, rslora=rslora
    )
    notes = [(adapter, note) for adapter in stack for note in adapter.coverage.notes]
    if strict and notes:
        adapter, note = notes[0]
        more = f" (and {len(notes) - 1} more notes)" if len(notes) > 1 else ""
        message = f"{adapter.source.path}: {note}{more}; refused because of --strict"
        raise FormatError(message)
    return stack


def report(
    run: "Callable[[Progress | None], Merged]", *, html: Path | None = None, as_json: bool
) -> None:
    """Run a merge under a progress bar and show what came of it."""
    from loramix.io.text import refuse_place
    from loramix.report import planned, text
    from loramix.report.model import report_of

    if html is not None:
        refuse_place(html)
    start = time.perf_counter()
    with console.progress(quiet=as_json) as bar:
        merged = run(bar)
    found = report_of(merged, seconds=time.perf_counter() - start)
    if as_json:
        console.show_json({**found, "stack": overview_of(merged.plan, merged)})
    else:
        parts = [
            text.render(found, console.width()),
            *planned.resolved(merged.plan, console.width()),
        ]
        console.show("\n\n".join(parts))
    if html is not None:
        write_page(html, overview_of(merged.plan, merged))


def overview_of(plan: "Plan", merged: "Merged | None" = None) -> "Overview":
    """Everything that a report on a plan, or its result, says."""
    from loramix.report.overview import overview

    return overview(
        plan.adapters,
        plan.weights,
        plan.analysis,
        choices=plan.choices,
        merged=merged,
        recipe=plan.recipe,
        notes=plan.notes,
    )


def analysis_overview(found: "Analyzed", weights: "Sequence[Weight]") -> "Overview":
    """Everything that a report on an analysis says."""
    from loramix.report.overview import overview

    return overview(found.adapters, weights, found.analysis)


def write_page(path: Path, found: "Overview", pictures: "Markup | None" = None) -> None:
    """The report as a page for the browser."""
    from loramix.io.text import write_text
    from loramix.report.html.page import page

    write_text(path, page(found, pictures))
