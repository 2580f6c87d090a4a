"""The command that writes an adapter in another dialect."""

from typing import TYPE_CHECKING

from loramix.cli import options, shared

if TYPE_CHECKING:
    from loramix import Merged
    from loramix.types import Progress


def convert(  # noqa: PLR0913 - one parameter per option
    *,
    file: options.File,
    output: options.OutputPath,
    dialect: options.DialectName = None,
    client: options.Client = None,
    dtype: options.DtypeName = None,
    rank: options.Rank = None,
    energy: options.Energy = None,
    max_error: options.MaxError = None,
    threads: options.Threads = None,
    strict: options.Strict = False,
    skip: options.Skip = None,
    architecture: options.Architecture = None,
    base: options.BaseModel = None,
    rslora: options.RsLora = False,
    as_json: options.Json = False,
) -> None:
    """Write an adapter in another dialect, for another program, or as another family.

    Without --for and --dialect it is written anew as it was: what 'loramix doctor' finds in names,
    alphas and empty pairs is mended.  What is relative to a base model (--base) becomes factors of
    its own.  The result is exact unless --rank, --energy or --max-error asks for less, and it gets
    its name only when it was read back and found right.
    """
    import loramix

    rule = shared.output_of(rank, energy, max_error, dtype=dtype, dialect=dialect, client=client)

    def run(progress: "Progress | None") -> "Merged":
        (source,) = shared.stack_of(
            [file], architecture, skip, strict=strict, base=base, rslora=rslora
        )
        return loramix.convert(
            source, output, dialect=dialect, client=client, dtype=rule.dtype, rank=rank,
            energy=energy, max_error=max_error, threads=threads, progress=progress,
        )  # fmt: skip

    shared.report(run, as_json=as_json)
