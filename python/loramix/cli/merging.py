"""The commands that plan and write; what they need is imported inside: help stays fast."""

import shlex
import time
from typing import TYPE_CHECKING, TypedDict

from loramix.cli import arguments, console, options, planning, shared
from loramix.errors import ParamError

if TYPE_CHECKING:
    from loramix import Merged
    from loramix.types import Progress


class _Same(TypedDict):
    """What all ways to a result take."""

    threads: int | None
    backend: str | None
    progress: "Progress | None"


def merge(  # noqa: PLR0913 - one parameter per option
    *,
    adapters: options.MaybeAdapters = None,
    output: options.OutputPath,
    recipe: options.RecipeFile = None,
    plan: options.PlanFile = None,
    method: options.MethodName = None,
    sparsify: options.Sparsify = None,
    refine: options.Refine = "none",
    space: options.SpaceName = "weight",
    rank: options.Rank = None,
    energy: options.Energy = None,
    max_error: options.MaxError = None,
    passes: options.Passes = 2,
    dtype: options.DtypeName = None,
    dialect: options.DialectName = None,
    client: options.Client = None,
    dense: options.Dense = False,
    auto_strength: options.AutoStrength = False,
    floor: options.Floor = None,
    analysis: options.AnalysisFile = None,
    samples: options.Samples = None,
    exact: options.Exact = False,
    seed: options.Seed = 0,
    threads: options.Threads = None,
    backend: options.BackendName = None,
    strict: options.Strict = False,
    skip: options.Skip = None,
    architecture: options.Architecture = None,
    base: options.BaseModel = None,
    rslora: options.RsLora = False,
    html: options.Html = None,
    as_json: options.Json = False,
) -> None:
    """Merge adapters into one adapter.

    The method is chosen for every group of weights, from what the adapters do to each other,
    unless --method names one.  The result is exact unless --rank, --energy or --max-error asks
    for less, or no low rank holds it (see --dense); it is measured after writing, and gets its
    name only when it is right.
    """
    import loramix

    said = planning.Said(
        adapters, method, sparsify, refine, space, rank, energy, max_error, passes, dtype,
        dialect, client, dense, auto_strength, floor, analysis, samples, exact, seed, strict, skip,
        architecture, base, rslora,
    )  # fmt: skip

    def run(progress: "Progress | None") -> "Merged":
        same: _Same = {"threads": threads, "backend": backend, "progress": progress}
        decided = planning.from_file(said, recipe, plan, **same)
        if decided is not None:
            return loramix.execute(decided, output, **same)
        stack, policy, rest = planning.arguments_of(said)
        return loramix.merge(
            stack, policy, path=output, threads=threads, backend=backend or "rust",
            progress=progress, **rest,
        )  # fmt: skip

    shared.report(run, html=html, as_json=as_json)


def plan(  # noqa: PLR0913 - one parameter per option
    *,
    adapters: options.MaybeAdapters = None,
    output: options.PlanOutput = None,
    recipe: options.RecipeFile = None,
    method: options.MethodName = None,
    sparsify: options.Sparsify = None,
    refine: options.Refine = "none",
    space: options.SpaceName = "weight",
    rank: options.Rank = None,
    energy: options.Energy = None,
    max_error: options.MaxError = None,
    passes: options.Passes = 2,
    dtype: options.DtypeName = None,
    dialect: options.DialectName = None,
    client: options.Client = None,
    dense: options.Dense = False,
    auto_strength: options.AutoStrength = False,
    floor: options.Floor = None,
    analysis: options.AnalysisFile = None,
    samples: options.Samples = None,
    exact: options.Exact = False,
    seed: options.Seed = 0,
    threads: options.Threads = None,
    backend: options.BackendName = None,
    strict: options.Strict = False,
    skip: options.Skip = None,
    architecture: options.Architecture = None,
    base: options.BaseModel = None,
    rslora: options.RsLora = False,
    groups: options.Groups = False,
    html: options.Html = None,
    as_json: options.Json = False,
) -> None:
    """Decide what a merge would do, and say why; nothing is merged.

    The file that -o writes can be read, edited, and carried out by 'loramix merge --plan'.
    """
    import loramix
    from loramix.plans.writing import as_tables
    from loramix.report import cells, planned

    said = planning.Said(
        adapters, method, sparsify, refine, space, rank, energy, max_error, passes, dtype,
        dialect, client, dense, auto_strength, floor, analysis, samples, exact, seed, strict, skip,
        architecture, base, rslora,
    )  # fmt: skip
    start = time.perf_counter()
    with console.progress(quiet=as_json) as bar:
        same: _Same = {"threads": threads, "backend": backend, "progress": bar}
        decided = planning.from_file(said, recipe, None, **same)
        if decided is None:
            stack, policy, rest = planning.arguments_of(said)
            decided = loramix.plan(
                stack, policy, threads=threads, backend=backend or "rust", progress=bar, **rest
            )
    seconds = time.perf_counter() - start
    if output is not None:
        loramix.save_plan(decided, output)
    overview = shared.overview_of(decided)
    if as_json:
        console.show_json(as_tables(decided))
    else:
        lines = [("planned", f"{len(decided.choices)} groups in {cells.seconds(seconds)}")]
        if output is not None:
            place = "OUT" if decided.dialect.folder else "OUT.safetensors"
            command = f"loramix merge --plan {shlex.quote(str(output))} -o {place}"
            lines.append(("wrote", f"{output}: {command}"))
        found = planned.render(decided, overview, console.width(), groups=groups)
        console.show(f"{found}\n{cells.fields(lines, console.width())}")
    if html is not None:
        shared.write_page(html, overview)


def resize(  # noqa: PLR0913 - one parameter per option
    *,
    file: options.File,
    output: options.OutputPath,
    rank: options.Rank = None,
    energy: options.Energy = None,
    max_error: options.MaxError = None,
    total_error: options.TotalError = None,
    size: options.Size = None,
    dtype: options.DtypeName = None,
    dialect: options.DialectName = None,
    client: options.Client = None,
    threads: options.Threads = None,
    strict: options.Strict = False,
    skip: options.Skip = None,
    architecture: options.Architecture = None,
    base: options.BaseModel = None,
    rslora: options.RsLora = False,
    as_json: options.Json = False,
) -> None:
    """Give one adapter other ranks, with the least error there is.

    --rank, --energy and --max-error are about every target for itself; --total-error and --size
    about the whole file.
    """
    import loramix

    limit = None if size is None else arguments.bytes_of(size)
    if (rank, energy, max_error, total_error, limit) == (None,) * 5:
        message = "resize needs --rank, --energy, --max-error, --total-error or --size"
        raise ParamError(message)
    rule = shared.output_of(rank, energy, max_error, dtype=dtype, dialect=dialect, client=client)

    def run(progress: "Progress | None") -> "Merged":
        (source,) = shared.stack_of(
            [file], architecture, skip, strict=strict, base=base, rslora=rslora
        )
        return loramix.resize(
            source, path=output, rank=rank, energy=energy, max_error=max_error,
            total_error=total_error, size=limit, dtype=rule.dtype, dialect=dialect, client=client,
            threads=threads, progress=progress,
        )  # fmt: skip

    shared.report(run, as_json=as_json)
