"""The demonstration."""

import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from loramix.cli import console, options, shared

if TYPE_CHECKING:
    from loramix.demo import Check
    from loramix.report.model import Report


def demo(
    *,
    output: options.DemoFolder = Path("loramix-demo"),
    images: options.Images = False,
    as_json: options.Json = False,
) -> None:
    """Merge three small adapters that come with loramix, and check it.

    The check adds the dense deltas up in float64 with NumPy alone and compares every target.

    With --images, the testbed's adapters are put together in several ways, and a small diffusion
    model draws with each: a page for the browser, the pictures side by side, in a minute or two.
    It needs torch, diffusers and PEFT, and the repository's folder testbed on PYTHONPATH.
    """
    from loramix import demo as packaged
    from loramix.report.model import report_of

    packaged.refuse_foreign(output)
    if images:
        _draw(output)
        return
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


def _draw(folder: Path) -> None:
    from loramix import demo as packaged
    from loramix.cli import drawing
    from loramix.demo import images

    drawing.need_diffusers("demo --images")
    path = folder / packaged.PAGE
    with drawing.quiet(), console.progress(quiet=False) as bar:
        drawn = images.draw(bar)
    folder.mkdir(exist_ok=True)
    shared.write_page(path, shared.overview_of(drawn.merged.plan, drawn.merged), drawn.section)
    console.show(f"{path}: {len(drawn.strips)} ways to put {drawn.names} together")


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
