"""The command that makes an output again."""

from pathlib import Path
from typing import Annotated

import typer

from loramix.cli import console, options

Sources = Annotated[
    list[str],
    typer.Option(
        "--sources", "-s", metavar="DIR", show_default=False,
        help="Folder with the sources, wherever below it and whatever they are called now, or a "
        "file; may be repeated.",
    ),
]  # fmt: skip
Again = Annotated[
    Path | None,
    typer.Option(
        "--output", "-o", metavar="PATH", help="Keep what is made; default: away after comparing.",
        show_default=False,
    ),
]  # fmt: skip


def reproduce(
    *,
    file: options.File,
    sources: Sources,
    base: options.BaseModel = None,
    output: Again = None,
    backend: options.BackendName = None,
    threads: options.Threads = None,
    as_json: options.Json = False,
) -> None:
    """Make what loramix wrote again from its sources, as its header says, and compare the bytes.

    Sources, and the base model that they need, are found by their digests.  The
    exit code is 0 if every byte is the same, else 1.
    """
    import loramix
    from loramix.report import reproduction

    with console.progress(quiet=as_json) as bar:
        found = loramix.reproduce(
            file, sources, base=base, output=output, backend=backend, threads=threads,
            progress=bar,
        )  # fmt: skip
    facts = found.as_dict()
    if as_json:
        console.show_json(facts)
    else:
        console.show(reproduction.render(facts, console.width()))
    if not found.identical:
        raise typer.Exit(1)
