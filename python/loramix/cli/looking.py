"""The commands that only look.  What they need is imported inside: help stays fast."""

from typing import TYPE_CHECKING

import typer

from loramix.cli import arguments, console, options, shared
from loramix.errors import LoramixError, ModelError, ParamError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loramix import Analyzed
    from loramix.types import Base, Weight


def inspect(
    *,
    files: options.Files,
    skip: options.Skip = None,
    architecture: options.Architecture = None,
    base: options.BaseModel = None,
    rslora: options.RsLora = False,
    as_json: options.Json = False,
) -> None:
    """Show what is in files of adapters, or of models; reads only their headers."""
    from loramix.checkpoints import lent
    from loramix.report import inspection

    model = lent(base)
    found = []
    failed = False
    for file in files:
        try:
            facts = _facts(file, architecture, skip or (), model, rslora=rslora)
        except ParamError:  # of an option: the same for all files
            raise
        except (LoramixError, OSError) as error:
            console.complain(f"error: {shared.explain(error)}")
            failed = True
        else:
            found.append(facts)
    if as_json:
        console.show_json(found)
    elif found:
        width = console.width()
        console.show("\n\n".join(inspection.render_any(facts, width) for facts in found))
    if failed:
        raise typer.Exit(1)


def _facts(
    file: str,
    architecture: str | None,
    skip: "Sequence[str]",
    base: "Base | None",
    *,
    rslora: bool,
) -> dict[str, object]:
    """What is in the file of an adapter, or of a model."""
    import loramix

    try:
        found = loramix.inspect(
            file, architecture=architecture, skip=skip, base=base, rslora=rslora
        )
    except ModelError:
        return loramix.inspect_model(file, architecture=architecture).as_dict()
    return found.as_dict()


def analyze(
    *,
    adapters: options.Adapters,
    output: options.AnalysisOutput = None,
    samples: options.Samples = None,
    exact: options.Exact = False,
    threads: options.Threads = None,
    strict: options.Strict = False,
    skip: options.Skip = None,
    architecture: options.Architecture = None,
    base: options.BaseModel = None,
    rslora: options.RsLora = False,
    html: options.Html = None,
    as_json: options.Json = False,
) -> None:
    """Show what adapters do to each other: pairs, blocks, energies; nothing is merged."""
    found, weights = _analyzed(
        adapters, samples, threads, exact=exact, strict=strict, skip=skip,
        architecture=architecture, base=base, rslora=rslora, output=output, quiet=as_json,
    )  # fmt: skip
    from loramix.report import text

    overview = shared.analysis_overview(found, weights)
    if as_json:
        console.show_json(overview)
    else:
        console.show(text.render_analysis(overview, console.width()))
    if html is not None:
        shared.write_page(html, overview)


def compat(
    *,
    adapters: options.Adapters,
    samples: options.Samples = None,
    exact: options.Exact = False,
    threads: options.Threads = None,
    strict: options.Strict = False,
    skip: options.Skip = None,
    architecture: options.Architecture = None,
    base: options.BaseModel = None,
    rslora: options.RsLora = False,
    html: options.Html = None,
    as_json: options.Json = False,
) -> None:
    """Rank which adapters go together: pairs, clusters, stacks to try."""
    found, weights = _analyzed(
        adapters, samples, threads, exact=exact, strict=strict, skip=skip,
        architecture=architecture, base=base, rslora=rslora, output=None, quiet=as_json,
    )  # fmt: skip
    from loramix.analysis.compat import compatibility
    from loramix.report.compatibility import render

    names = [adapter.name for adapter in found.adapters]
    facts = compatibility(names, found.analysis, weights).as_dict()
    if as_json:
        console.show_json(facts)
    else:
        console.show(render(facts, console.width()))
    if html is not None:
        shared.write_page(html, shared.analysis_overview(found, weights))


def _analyzed(
    adapters: list[str],
    samples: int | None,
    threads: int | None,
    *,
    exact: bool,
    strict: bool,
    skip: list[str] | None,
    architecture: str | None,
    base: str | None,
    rslora: bool,
    output: options.AnalysisOutput,
    quiet: bool,
) -> "tuple[Analyzed, list[Weight]]":
    import loramix
    from loramix.analysis.passing import SAMPLES

    if exact and samples is not None:
        message = "--exact looks at everything, --samples at some of it: give one"
        raise ParamError(message)
    specs = [arguments.parse(text) for text in adapters]
    with console.progress(quiet=quiet) as bar:
        stack = shared.stack_of(
            [s.path for s in specs], architecture, skip, strict=strict, base=base, rslora=rslora
        )
        found = loramix.analyze(
            stack,
            samples=SAMPLES if samples is None else samples,
            exact=exact,
            path=output,
            threads=threads,
            progress=bar,
        )
    rows = zip(specs, stack, strict=True)
    return found, [spec.weights(a.architecture, a.keys) for spec, a in rows]


def methods() -> None:
    """List the methods and the policies that merge knows."""
    from loramix import METHODS, POLICIES
    from loramix.report import cells

    for title, table in (("policies", POLICIES), ("methods", METHODS)):
        firsts = {name: (kind.__doc__ or "").partition("\n")[0] for name, kind in table.items()}
        lines = [(name, text.replace("``", "")) for name, text in firsts.items()]
        console.show(f"{title}:\n{cells.fields(lines, console.width())}")
