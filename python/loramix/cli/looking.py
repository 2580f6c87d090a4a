"""The commands that only look.  What they need is imported inside: help stays fast."""

import typer

from loramix.cli import console, options, shared
from loramix.errors import LoramixError


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
            console.complain(f"error: {shared.explain(error)}")
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
