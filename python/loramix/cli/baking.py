"""The commands that read base models; what they need is imported inside: help stays fast."""

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, cast

import typer

from loramix.cli import console, options, planning

if TYPE_CHECKING:
    from loramix.tensors import Dtype


ExtractedRank = Annotated[
    int | None,
    typer.Option(
        metavar="K",
        help="At most this rank per target; default: 32, without --energy and --max-error.",
        show_default=False,
    ),
]
ExtractedDialect = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help=(
            "How names are spelled, see 'loramix convert --help'; default: kohya for models that "
            "have Kohya names, diffusers or peft for others."
        ),
        show_default=False,
    ),
]
ExtractedDtype = Annotated[
    str | None,
    typer.Option(
        metavar="TYPE", help="f32, f16 or bf16; default: the widest of TUNED.", show_default=False
    ),
]


def bake(  # noqa: PLR0913 - one parameter per option
    *,
    base: options.Base,
    adapters: options.MaybeAdapters = None,
    output: options.ModelOutput,
    recipe: options.RecipeFile = None,
    method: options.MethodName = None,
    sparsify: options.Sparsify = None,
    refine: options.Refine = "none",
    space: options.SpaceName = "weight",
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
    rslora: options.RsLora = False,
    force: options.Force = False,
    as_json: options.Json = False,
) -> None:
    """Merge adapters into the weights of a base model.

    The merged change is added at full rank and rounded once to the type of every weight;
    everything else is copied as it is. DoRA and other families that are relative to base weights
    are relative to BASE. The report says how much survived the rounding.
    """
    import loramix
    from loramix.report import baked as report

    said = planning.Said(
        adapters=adapters, method=method, sparsify=sparsify, refine=refine, space=space,
        auto_strength=auto_strength, floor=floor, analysis=analysis, samples=samples, exact=exact,
        seed=seed, strict=strict, skip=skip, architecture=architecture, rslora=rslora,
    )  # fmt: skip
    start = time.perf_counter()
    with console.progress(quiet=as_json) as bar:
        if recipe is not None:
            said.refuse_all(str(recipe))
            made = loramix.bake(
                base, path=output, recipe=recipe, threads=threads, backend=backend, progress=bar,
                force=force,
            )  # fmt: skip
        else:
            said.check()
            model = loramix.open_checkpoint(base, architecture=architecture)
            stack, policy, rest = planning.arguments_of(replace(said, base=model))
            del rest["output"]  # of an adapter
            made = loramix.bake(
                model, stack, policy, path=output, threads=threads, backend=backend, progress=bar,
                architecture=architecture, force=force, **rest,
            )  # fmt: skip
    found = report.report_of(made, seconds=time.perf_counter() - start)
    if as_json:
        console.show_json(found)
    else:
        console.show(report.render(found, console.width()))


def extract(
    *,
    tuned: options.Tuned,
    base: options.Base,
    output: options.OutputPath,
    rank: ExtractedRank = None,
    energy: options.Energy = None,
    max_error: options.MaxError = None,
    dtype: ExtractedDtype = None,
    dialect: ExtractedDialect = None,
    targets: options.Targets = None,
    threads: options.Threads = None,
    architecture: options.Architecture = None,
    as_json: options.Json = False,
) -> None:
    """Make an adapter of the difference of two models: TUNED minus BASE.

    The rank is 32 unless --rank, --energy or --max-error says otherwise; what it leaves out is
    measured on the written file.
    """
    import loramix
    from loramix.report import extracted as report

    start = time.perf_counter()
    with console.progress(quiet=as_json) as bar:
        made = loramix.extract(
            tuned, base, path=output, rank=rank, energy=energy, max_error=max_error,
            dialect=dialect, dtype=cast("Dtype | None", dtype), targets=targets or ("*",),
            architecture=architecture, threads=threads, progress=bar,
        )  # fmt: skip
    found = report.report_of(made, seconds=time.perf_counter() - start)
    if as_json:
        console.show_json(found)
    else:
        console.show(report.render(found, console.width()))
