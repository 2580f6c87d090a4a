"""How the options of a command become a plan: from adapters, a recipe, or a plan on disk."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from loramix.cli import arguments, shared
from loramix.errors import ParamError

if TYPE_CHECKING:
    from loramix import Adapter, Plan, Policy
    from loramix.methods import Level, Space
    from loramix.types import Base, Progress


@dataclass(frozen=True, slots=True)
class Said:
    """What the command line says of the decisions; a file may say it instead.

    Attributes
    ----------
    see the options of ``loramix merge``.
    """

    adapters: Sequence[str] | None = None
    method: str | None = None
    sparsify: str | None = None
    refine: str = "none"
    space: str = "weight"
    rank: int | None = None
    energy: float | None = None
    max_error: float | None = None
    passes: int = 2
    dtype: str | None = None
    dialect: str | None = None
    client: str | None = None
    dense: bool = False
    auto_strength: bool = False
    floor: float | None = None
    analysis: Path | None = None
    samples: int | None = None
    exact: bool = False
    seed: int = 0
    strict: bool = False
    skip: Sequence[str] | None = None
    architecture: str | None = None
    base: "Base | str | None" = None
    rslora: bool = False

    def refuse_all(self, file: str) -> None:
        """Refuse every option that a file decides.

        Raises
        ------
        ParamError : one of them was given.
        """
        for field in fields(self):
            if getattr(self, field.name) not in (field.default, [], ()):
                name = "adapters" if field.name == "adapters" else _option(field.name)
                message = f"{file} says everything: leave out {name}, or change it in the file"
                raise ParamError(message)

    def check(self) -> None:
        """Refuse options that do not go together, before anything is opened."""
        if self.floor is not None and not self.auto_strength:
            message = "--floor is a part of --auto-strength: give both or none"
            raise ParamError(message)
        if self.exact and self.samples is not None:
            message = "--exact looks at everything, --samples at some of it: give one"
            raise ParamError(message)
        if self.analysis is not None and (self.exact or self.samples is not None):
            message = "--analysis has its samples already: leave out --samples and --exact"
            raise ParamError(message)


def _option(name: str) -> str:
    return "--for" if name == "client" else f"--{name.replace('_', '-')}"


def from_file(
    said: Said,
    recipe: Path | None,
    plan: Path | None,
    *,
    threads: int | None,
    backend: str | None,
    progress: "Progress | None",
) -> "Plan | None":
    """The plan that a file asks for; None where the command line says what to do.

    Raises
    ------
    ParamError : nothing is named, or too much; and whatever the file is refused for.
    """
    import loramix

    if recipe is not None and plan is not None:
        message = "--recipe and --plan both say everything: give one"
        raise ParamError(message)
    if plan is not None:
        said.refuse_all(str(plan))
        return loramix.load_plan(plan, threads=threads, backend=backend)
    if recipe is not None:
        said.refuse_all(str(recipe))
        return loramix.follow(recipe, threads=threads, backend=backend, progress=progress)
    if not said.adapters:
        message = "no adapters: name files, or --recipe, or --plan"
        raise ParamError(message)
    return None


def arguments_of(said: Said) -> "tuple[list[Adapter], Policy, dict[str, Any]]":
    """What `loramix.merge` and `loramix.plan` take: adapters, what decides, the rest.

    Raises
    ------
    ParamError : options that cannot be, before a file is opened.
    """
    from loramix.analysis.passing import SAMPLES
    from loramix.deciding import policy_for

    said.check()
    specs = [arguments.parse(text) for text in said.adapters or ()]
    output = shared.output_of(
        said.rank, said.energy, said.max_error,
        dtype=said.dtype, dialect=said.dialect, passes=said.passes, dense=said.dense,
        client=said.client,
    )  # fmt: skip
    policy = policy_for(
        said.method or "auto",
        sparsify=said.sparsify,
        refine=cast("Level", said.refine),
        space=cast("Space", said.space),
        auto_strength=said.auto_strength,
        floor=said.floor,
    )
    stack = shared.stack_of(
        [spec.path for spec in specs], said.architecture, said.skip, strict=said.strict,
        base=said.base, rslora=said.rslora,
    )  # fmt: skip
    rows = zip(specs, stack, strict=True)
    rest = {
        "weights": [spec.weights(a.architecture, a.keys) for spec, a in rows],
        "output": output,
        "samples": None if said.exact else SAMPLES if said.samples is None else said.samples,
        "analysis": said.analysis,
        "seed": said.seed,
    }
    return stack, policy, rest
