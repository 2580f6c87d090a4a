"""Adapters merged into the weights of a base model."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from loramix.analysis.passing import SAMPLES
from loramix.analysis.statistics import Analysis
from loramix.analyzing import Analyzed
from loramix.arguments import check_threads
from loramix.backends import backend_of
from loramix.backends.base import Backend
from loramix.baking.writing import TARGETS, Baked, Baking
from loramix.checkpoints import Checkpoint, open_checkpoint
from loramix.checkpoints.writing import ModelPlace
from loramix.deciding import Opened, Ticker, Wish, policy_for
from loramix.digests import Hashing
from loramix.errors import ParamError
from loramix.groups import common_architecture
from loramix.io.hashing import MODELS
from loramix.methods import Level, Method, Space
from loramix.opening import open_all, open_recipe, refuse_twice
from loramix.planning.output import Output
from loramix.policies.base import Policy
from loramix.recipes.reading import read_recipe
from loramix.recipes.recipe import Recipe
from loramix.recipes.rules import Rule
from loramix.types import Adapter, Progress, StrPath, Weight


def bake(  # noqa: PLR0913 - what merge takes, but for the output
    base: StrPath | Checkpoint,
    sources: Sequence[StrPath | Adapter] = (),
    method: str | Method | Policy = "auto",
    *,
    path: StrPath,
    recipe: Recipe | StrPath | None = None,
    weights: Sequence[Weight] | None = None,
    sparsify: str | Method | None = None,
    refine: Level = "none",
    space: Space = "weight",
    rules: Sequence[Rule] = (),
    auto_strength: bool = False,
    floor: float | None = None,
    samples: int | None = SAMPLES,
    analysis: Analysis | Analyzed | StrPath | None = None,
    seed: int = 0,
    threads: int | None = None,
    backend: str | Backend | None = None,
    progress: Progress | None = None,
    architecture: str | None = None,
    skip: Sequence[str] = (),
    rslora: bool = False,
    force: bool = False,
) -> Baked:
    """Merge adapters into a base model: every weight becomes ``round(W + delta)``.

    The deltas are those of `merge`, of full rank where the method makes them so: nothing is cut.
    They are added in f32 (f64 to F64 weights) and rounded once, to the nearest number of the
    weight's type; everything else is copied byte by byte.  The files are read back before they
    get their names.

    Parameters
    ----------
    base : see `open_checkpoint`: a file, a sharded model, or the folder of a pipeline; or what it
        returned.  Deltas that are relative to base weights are relative to these, unless a loaded
        adapter or the recipe has a base of its own.
    path : a file for a file; for anything else a new folder, with shards, index, configs and
        whatever else is beside them, but hidden files and weights in other forms.
    recipe : a file, or what `read_recipe` made of it, instead of sources, method and the options
        of both; what it says of the rank and the type of an adapter does not matter here.
    sources, method, weights, sparsify, refine, space, rules, auto_strength, floor, samples,
    analysis, seed, threads, backend, progress, skip : see `merge`.
    architecture : see `load`; for the sources that are paths, and for the base.
    rslora : see `load`; for the sources that are paths.
    force : add to fp8 and int8 weights, too, where hardly anything survives the rounding; where
        scales are beside them, to what they stand for, see `loramix.checkpoints.scaling`.

    Returns
    -------
    What was written, with the share of every delta that survived the rounding.

    Raises
    ------
    FormatError : a target that the base does not have in its shape, weights of types that cannot
        be added to, and whatever `merge` refuses.
    ShapeError, ParamError, OutputError, OSError : nothing was written.

    Notes
    -----
    Cost: one read and one write of the model, one read to check it; ``2 R`` flops per entry for
    deltas of rank R.  Resident: a few strips of 16 MB, and whole deltas where the method makes
    them entry by entry, see `merge`.

    Examples
    --------
    >>> import loramix
    >>> baked = loramix.bake("model.safetensors", ["style.safetensors"], weights=[0.8],
    ...                      path="styled.safetensors")  # doctest: +SKIP
    """
    check_threads(threads)
    model = base if isinstance(base, Checkpoint) else open_checkpoint(base)
    model = model.read_as(architecture)
    with Hashing() as hashing:
        if len(model.shards) == 1:  # whatever is baked, it changes this file
            hashing.begin(model.shards[0].path, MODELS)
        if recipe is not None:
            if sources:
                message = "a recipe names its adapters: give sources or a recipe"
                raise ParamError(message)
            stack, wish, device = _following(recipe, model, backend)
        else:
            policy = policy_for(
                method, sparsify=sparsify, refine=refine, space=space,
                auto_strength=auto_strength, floor=floor,
            )  # fmt: skip
            there = analysis.analysis if isinstance(analysis, Analyzed) else analysis
            wish = Wish(policy, tuple(rules), Output(dense=True), seed, samples, there)
            device = backend_of(backend or "rust")
            refuse_twice(sources)
            loaded = open_all(
                sources, architecture=architecture, skip=skip, base=model, rslora=rslora
            )
            stack = Opened.of(loaded, weights, wish, dialect=TARGETS)
        known = common_architecture(stack.adapters)
        if known is not None and known != model.architecture:
            model = model.read_as(known)
        with ModelPlace(Path(path), model) as place:
            ticker = Ticker(progress, 3 * len(stack.groups))
            plan = stack.plan(wish, device, ticker, threads)
            baking = Baking(plan, model, device, threads)
            return baking.run(place, ticker, force=force, hashing=hashing)


def _following(
    recipe: Recipe | StrPath, model: Checkpoint, backend: str | Backend | None
) -> tuple[Opened, Wish, Backend]:
    found = recipe if isinstance(recipe, Recipe) else read_recipe(recipe)
    wish = replace(Wish.of(found), output=Output(dense=True))
    device = backend_of(found.backend if backend is None else backend)
    adapters, weights = open_recipe(found, model)
    return Opened.of(adapters, weights, wish, dialect=TARGETS), wish, device
