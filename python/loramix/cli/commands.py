"""The commands.  What they need is imported inside them: help and usage errors stay fast."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, cast

import typer

from loramix.cli import arguments, console, options
from loramix.errors import FormatError, LoramixError, ParamError

if TYPE_CHECKING:
    from loramix import Adapter, Merged, Output
    from loramix.demo import Check
    from loramix.methods import Level, Space
    from loramix.report.model import Report
    from loramix.types import Dtype, Progress


def merge(  # noqa: PLR0913 - one parameter per option
    *,
    adapters: options.Adapters,
    output: options.OutputPath,
    method: options.MethodName = "linear",
    sparsify: options.Sparsify = None,
    refine: options.Refine = "none",
    space: options.SpaceName = "weight",
    rank: options.Rank = None,
    energy: options.Energy = None,
    max_error: options.MaxError = None,
    dtype: options.DtypeName = None,
    dialect: options.DialectName = None,
    dense: options.Dense = False,
    auto_strength: options.AutoStrength = False,
    floor: options.Floor = None,
    seed: options.Seed = 0,
    threads: options.Threads = None,
    backend: options.BackendName = "rust",
    strict: options.Strict = False,
    skip: options.Skip = None,
    architecture: options.Architecture = None,
    as_json: options.Json = False,
) -> None:
    """Merge adapters into one adapter.

    The result is exact unless --rank, --energy or --max-error asks for less, or no low rank
    holds it (see --dense); it is measured after writing, and gets its name only when it is right.
    """
    import loramix
    from loramix.methods import method_of

    if floor is not None and not auto_strength:
        message = "--floor is a part of --auto-strength: give both or none"
        raise ParamError(message)
    specs = [arguments.parse(text) for text in adapters]
    rule = _rule(rank, energy, max_error, dtype=dtype, dialect=dialect, dense=dense)
    chosen = method_of(
        method, sparsify=sparsify, refine=cast("Level", refine), space=cast("Space", space)
    )

    def run(progress: "Progress | None") -> "Merged":
        stack = _open([spec.path for spec in specs], architecture, skip, strict=strict)
        return loramix.merge(
            stack,
            chosen,
            weights=[spec.weights for spec in specs],
            output=rule,
            path=output,
            auto_strength=auto_strength,
            floor=floor,
            seed=seed,
            threads=threads,
            backend=backend,
            progress=progress,
        )

    _report(run, as_json=as_json)


def resize(
    *,
    file: options.File,
    output: options.OutputPath,
    rank: options.Rank = None,
    energy: options.Energy = None,
    max_error: options.MaxError = None,
    dtype: options.DtypeName = None,
    dialect: options.DialectName = None,
    threads: options.Threads = None,
    strict: options.Strict = False,
    skip: options.Skip = None,
    architecture: options.Architecture = None,
    as_json: options.Json = False,
) -> None:
    """Give one adapter another rank, with the least error there is."""
    import loramix

    if (rank, energy, max_error) == (None, None, None):
        message = "resize needs --rank, --energy or --max-error"
        raise ParamError(message)
    rule = _rule(rank, energy, max_error, dtype=dtype, dialect=dialect)

    def run(progress: "Progress | None") -> "Merged":
        source = _open([file], architecture, skip, strict=strict)
        return loramix.merge(source, output=rule, path=output, threads=threads, progress=progress)

    _report(run, as_json=as_json)


def inspect(
    *,
    files: options.Files,
    skip: options.Skip = None,
    architecture: options.Architecture = None,
    as_json: options.Json = False,
) -> None:
    """Show what is in adapter files; reads only their headers."""
    import loramix
    from loramix.report import inspection

    found = []
    failed = False
    for file in files:
        try:
            facts = loramix.inspect(file, architecture=architecture, skip=skip or ())
        except (LoramixError, OSError) as error:
            console.complain(f"error: {explain(error)}")
            failed = True
        else:
            found.append(facts.as_dict())
    if as_json:
        console.show_json(found)
    elif found:
        console.show("\n\n".join(inspection.render(facts, console.width()) for facts in found))
    if failed:
        raise typer.Exit(1)


def methods() -> None:
    """List the methods that merge knows."""
    from loramix import METHODS
    from loramix.report import cells

    firsts = {name: (kind.__doc__ or "").partition("\n")[0] for name, kind in METHODS.items()}
    lines = [(name, text.replace("``", "")) for name, text in firsts.items()]
    console.show(cells.fields(lines, console.width()))


def demo(
    *, output: options.DemoFolder = Path("loramix-demo"), as_json: options.Json = False
) -> None:
    """Merge three small adapters that come with loramix, and check it.

    The check adds the dense deltas up in float64 with NumPy alone and compares every target.
    """
    from loramix import demo as packaged
    from loramix.report.model import report_of

    packaged.refuse_foreign(output)
    start = time.perf_counter()
    merged = packaged.merge(output)
    seconds = time.perf_counter() - start
    check = packaged.check(output)
    report = report_of(merged, seconds=seconds)
    if as_json:
        console.show_json({**report, "check": asdict(check)})
    else:
        console.show(_demo_text(report, check))
    if not check.passed:
        console.complain(f"error: {output}: not the sum of its sources at {check.worst}")
        raise typer.Exit(1)


def _demo_text(report: "Report", check: "Check") -> str:
    from loramix import demo as packaged
    from loramix.report import cells, text

    wide = console.width()
    first = f"Merged {len(packaged.WEIGHTS)} packaged adapters of {packaged.base()}:"
    lines = [
        (
            "check",
            f"{check.equal} of {check.targets} targets equal the dense float64 sum; "
            f"largest gap {cells.error(check.error)}",
        ),
        ("next", "loramix merge a.safetensors:0.8 b.safetensors:0.6 -o ab.safetensors"),
    ]
    return "\n".join((first, "", text.render(report, wide), "", cells.fields(lines, wide)))


def explain(error: LoramixError | OSError) -> str:
    """What went wrong, with the file in front."""
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return str(error)


def _rule(
    rank: int | None,
    energy: float | None,
    max_error: float | None,
    *,
    dtype: str | None,
    dialect: str | None,
    dense: bool = False,
) -> "Output":
    from loramix import Output

    kind = cast("Dtype | None", dtype)  # Output checks it
    return Output(
        rank=rank, energy=energy, max_error=max_error, dtype=kind, dialect=dialect, dense=dense
    )


def _open(
    paths: Sequence[str], architecture: str | None, skip: Sequence[str] | None, *, strict: bool
) -> "list[Adapter]":
    from loramix import opening

    stack = opening.open_all(paths, architecture=architecture, skip=skip or ())
    notes = [(adapter, note) for adapter in stack for note in adapter.coverage.notes]
    if strict and notes:
        adapter, note = notes[0]
        more = f" (and {len(notes) - 1} more notes)" if len(notes) > 1 else ""
        message = f"{adapter.source.path}: {note}{more}; refused because of --strict"
        raise FormatError(message)
    return stack


def _report(run: "Callable[[Progress | None], Merged]", *, as_json: bool) -> None:
    """Run a merge under a progress bar and show what came of it."""
    from loramix.report import text
    from loramix.report.model import report_of

    start = time.perf_counter()
    with console.progress(quiet=as_json) as bar:
        merged = run(bar)
    report = report_of(merged, seconds=time.perf_counter() - start)
    if as_json:
        console.show_json(report)
    else:
        console.show(text.render(report, console.width()))
