"""What is in a file, without reading its tensors."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

from loramix.adapters.loading import load
from loramix.checkpoints import open_checkpoint
from loramix.formats.dialects import COMPONENTS
from loramix.recipes.records import told
from loramix.types import Adapter, Base, Factors, StrPath, Target


@dataclass(frozen=True, slots=True)
class Inspection:
    """Facts about one adapter.

    Attributes
    ----------
    match : share of its modules that are in the table of the architecture, 0 to 1.
    runner_up : the architecture that comes next and its match; of an unknown one, the nearest.
    modules : number of modules by component.
    families : number of modules by family (lora, loha, full, dora, bias, ...).
    kinds : number of modules by kind (linear, conv 1x1, conv 3x3; dense in front of a difference of
        full rank; bias, norm, modulation).
    ranks : rank to number of matrices; a dense difference has that of its smaller side.
    dtypes : element type to number of tensors.
    scales : smallest and largest scale (alpha / rank).
    parameters : numbers in all tensors.
    notes : what a user should know.
    provenance : what loramix stored of how it made the file: version, sources, method or recipe,
        output, strengths; empty if it did not make it.  See `loramix.reproduce`.
    """

    name: str
    path: str | None
    size: int
    dialect: str
    architecture: str | None
    candidates: tuple[str, ...]
    match: float
    runner_up: tuple[str, float] | None
    modules: Mapping[str, int]
    families: Mapping[str, int]
    kinds: Mapping[str, int]
    ranks: Mapping[int, int]
    dtypes: Mapping[str, int]
    scales: tuple[float, float]
    parameters: int
    tensors: int
    notes: tuple[str, ...]
    metadata: Mapping[str, str]
    provenance: Mapping[str, object]

    def as_dict(self) -> dict[str, object]:
        """Plain data for JSON."""
        return asdict(self)


def inspect(
    source: StrPath | Adapter,
    *,
    architecture: str | None = None,
    skip: Sequence[str] = (),
    base: Base | StrPath | None = None,
    rslora: bool = False,
) -> Inspection:
    """Describe an adapter from its header: nothing but the header is read.

    Parameters
    ----------
    architecture, skip, base, rslora : see `load`; for a path.

    Raises
    ------
    FormatError, ShapeError, OSError : see `load`.
    """
    adapter = source
    if not isinstance(adapter, Adapter):
        adapter = load(adapter, architecture=architecture, skip=skip, base=base, rslora=rslora)
    pairs = adapter.targets
    tensors = [tensor for pair in pairs.values() for tensor in pair.stored]
    matrices = [pair for target, pair in pairs.items() if not target.is_vector]
    scales = [pair.scale for pair in matrices or pairs.values()]
    path = adapter.source.path
    return Inspection(
        name=adapter.name,
        path=str(path) if path else None,
        size=adapter.source.size,
        dialect=adapter.dialect,
        architecture=adapter.architecture,
        candidates=adapter.candidates,
        match=adapter.match,
        runner_up=adapter.runner_up,
        modules=_count(_component(t.key) for t in pairs),
        families=dict(adapter.families),
        kinds=_count(_kind(target, pair) for target, pair in pairs.items()),
        ranks=dict(sorted(Counter(pair.rank for pair in matrices).items())),
        dtypes=_count(tensor.dtype for tensor in tensors),
        scales=(min(scales), max(scales)),
        parameters=sum(math.prod(tensor.shape) for tensor in tensors),
        tensors=adapter.coverage.used,
        notes=adapter.coverage.notes,
        metadata=dict(adapter.metadata),
        provenance=told(adapter.metadata),
    )


@dataclass(frozen=True, slots=True)
class ModelInspection:
    """Facts about one base model.

    Attributes
    ----------
    size : bytes of all its files.
    match : share of its weights that are in the table of the architecture, 0 to 1.
    files, tensors : how many.
    parameters : numbers in all tensors.
    dtypes : element type to number of tensors.
    provenance : what `loramix.bake` stored of how it made the model; empty if it did not.
    """

    name: str
    path: str
    size: int
    architecture: str | None
    match: float
    files: int
    tensors: int
    parameters: int
    dtypes: Mapping[str, int]
    metadata: Mapping[str, str]
    provenance: Mapping[str, object]

    def as_dict(self) -> dict[str, object]:
        """Plain data for JSON."""
        return {"kind": "model", **asdict(self)}


def inspect_model(path: StrPath, *, architecture: str | None = None) -> ModelInspection:
    """Describe a base model from the headers of its files.

    Parameters
    ----------
    path, architecture : see `open_checkpoint`.

    Raises
    ------
    FormatError, ParamError, OSError : see `open_checkpoint`.
    """
    model = open_checkpoint(path, architecture=architecture)
    return ModelInspection(
        name=model.name,
        path=str(model.root),
        size=model.size,
        architecture=model.architecture,
        match=model.match,
        files=len(model.shards),
        tensors=len(model.tensors),
        parameters=sum(math.prod(tensor.shape) for tensor in model.tensors.values()),
        dtypes=_count(tensor.dtype for tensor in model.tensors.values()),
        metadata=dict(model.metadata),
        provenance=told(model.metadata),
    )


def _count(values: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(values).items()))


def _component(key: str) -> str:
    first = key.partition(".")[0]
    return first if first in COMPONENTS else "model"


def _kind(target: Target, factors: Factors) -> str:
    if target.is_vector:
        return factors.family
    shape = target.shape
    kind = "linear" if len(shape) == 2 else "conv " + "x".join(map(str, shape[2:]))
    return f"dense {kind}" if factors.identity else kind
