"""The small tools.  What they need is imported inside: help stays fast."""

from typing import Annotated

import typer

from loramix.cli import console, options, shared
from loramix.errors import LoramixError, ParamError

_TROUBLE = 2

Tolerance = Annotated[
    float | None,
    typer.Option(
        metavar="X",
        help="Relative difference of a target up to which it is the same; default: what rounding "
        "to the narrower of the two types takes.",
        show_default=False,
    ),
]
First = Annotated[str, typer.Argument(metavar="A", help="File or folder.", show_default=False)]
Second = Annotated[str, typer.Argument(metavar="B", help="File or folder.", show_default=False)]


def diff(
    *,
    first: First,
    second: Second,
    tolerance: Tolerance = None,
    threads: options.Threads = None,
    skip: options.Skip = None,
    architecture: options.Architecture = None,
    base: options.BaseModel = None,
    rslora: options.RsLora = False,
    as_json: options.Json = False,
) -> None:
    """Show what differs between two adapters, whatever their dialects and types.

    Exits with 0 if they do the same, 1 if not, 2 if that cannot be said.
    """
    import loramix
    from loramix.report import difference

    try:
        found = loramix.diff(
            first, second, tolerance=tolerance, threads=threads, skip=skip or (),
            architecture=architecture, base=base, rslora=rslora,
        )  # fmt: skip
    except ParamError:
        raise
    except (LoramixError, OSError) as error:
        console.complain(f"error: {shared.explain(error)}")
        raise typer.Exit(_TROUBLE) from None
    facts = found.as_dict()
    if as_json:
        console.show_json(facts)
    else:
        console.show(difference.render(facts, console.width()))
    if not found.same:
        raise typer.Exit(1)


def doctor(
    *,
    files: options.Files,
    skip: options.Skip = None,
    architecture: options.Architecture = None,
    base: options.BaseModel = None,
    rslora: options.RsLora = False,
    as_json: options.Json = False,
) -> None:
    """Show what is wrong with files, and how to mend it; reads all of them, changes nothing.

    Exits with 1 if there is an error in any.
    """
    import loramix
    from loramix.checkpoints import lent
    from loramix.report import diagnosis

    model = lent(base)
    found = []
    failed = False
    for file in files:
        try:
            one = loramix.doctor(
                file, architecture=architecture, skip=skip or (), base=model, rslora=rslora
            )
        except OSError as error:
            console.complain(f"error: {shared.explain(error)}")
            failed = True
        else:
            found.append(one.as_dict())
            failed = failed or one.counts["error"] > 0
    if as_json:
        console.show_json(found)
    elif found:
        console.show("\n\n".join(diagnosis.render(facts, console.width()) for facts in found))
    if failed:
        raise typer.Exit(1)
