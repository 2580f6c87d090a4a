"""The commands that write adapters.  What they need is imported inside: help stays fast."""

from typing import TYPE_CHECKING, cast

from loramix.cli import arguments, options, shared
from loramix.errors import ParamError

if TYPE_CHECKING:
    from loramix import Merged
    from loramix.methods import Level, Space
    from loramix.types import Progress


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
    rule = shared.output_of(rank, energy, max_error, dtype=dtype, dialect=dialect, dense=dense)
    chosen = method_of(
        method, sparsify=sparsify, refine=cast("Level", refine), space=cast("Space", space)
    )

    def run(progress: "Progress | None") -> "Merged":
        stack = shared.stack_of([spec.path for spec in specs], architecture, skip, strict=strict)
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

    shared.report(run, as_json=as_json)


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
    rule = shared.output_of(rank, energy, max_error, dtype=dtype, dialect=dialect)

    def run(progress: "Progress | None") -> "Merged":
        source = shared.stack_of([file], architecture, skip, strict=strict)
        return loramix.merge(source, output=rule, path=output, threads=threads, progress=progress)

    shared.report(run, as_json=as_json)
