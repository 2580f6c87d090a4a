"""From a file to an adapter: every tensor used, left out on request, or refused."""

import math
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from glob import escape
from pathlib import Path
from types import MappingProxyType

from loramix.errors import FormatError, ParamError, ShapeError
from loramix.finding import find, text_of
from loramix.formats import keys, scales
from loramix.formats.detect import Match, detect
from loramix.formats.dialects import Stem, convention, split_stem
from loramix.formats.layout import LAYOUTS, is_architecture
from loramix.io.safetensors import SafetensorsFile
from loramix.targeting import Delta, targets_of
from loramix.types import ITEM_BYTES, Adapter, Coverage, Factors, Source, StrPath, Tensor


def load(
    path: StrPath,
    *,
    name: str | None = None,
    architecture: str | None = None,
    skip: Sequence[str] = (),
) -> Adapter:
    """Open an adapter: a ``.safetensors`` file, or a folder that holds one.

    The file is mapped; a tensor's bytes are read when something uses them.

    Parameters
    ----------
    path : file, or folder such as PEFT writes (``adapter_model.safetensors`` with
        ``adapter_config.json``).
    name : for reports; default: the name of the file or folder.
    architecture : base model, if names and shapes cannot tell: one of
        `loramix.formats.layout.LAYOUTS`, or the path of a module table of your own (``.layout``).
    skip : globs of tensor names to leave out.

    Raises
    ------
    FormatError : not a safetensors file, unknown tensors, other parameterisations than LoRA.
    ParamError : no such architecture.
    ShapeError : factors that do not fit each other.
    OSError : the file cannot be read.
    """
    if architecture is not None and not is_architecture(architecture):
        message = (
            f"architecture {architecture!r}; known are {', '.join(LAYOUTS)}, and module tables of "
            "your own in files whose names end in .layout"
        )
        raise ParamError(message)
    file, config = find(Path(path))
    opened = SafetensorsFile(file)
    metadata = dict(opened.metadata)
    if config is not None:
        metadata[scales.CONFIG] = text_of(config)
    default = Path(path).resolve().name.removesuffix(".safetensors")
    return read(opened, name or default, metadata, architecture=architecture, skip=skip)


def place_of(adapter: Adapter) -> Path | None:
    """What to name to open it again: its file, or its folder where a config belongs to it."""
    path = adapter.source.path
    return path.parent if path is not None and scales.CONFIG in adapter.metadata else path


def resolve(adapter: Adapter, architecture: str) -> Adapter:
    """The same adapter, read as one for this base model."""
    return read(
        adapter.source,
        adapter.name,
        adapter.metadata,
        architecture=architecture,
        skip=[escape(name) for name in adapter.coverage.skipped],
    )


def read(
    file: Source,
    name: str,
    metadata: Mapping[str, str],
    *,
    architecture: str | None = None,
    skip: Sequence[str] = (),
) -> Adapter:
    """Turn an open file into an adapter.  See `load`."""
    where = str(file.path or name)
    skipped = tuple(n for n in file.tensors if any(fnmatchcase(n, glob) for glob in skip))
    left = [n for n in file.tensors if n not in set(skipped)]
    entries, unknown = keys.parse(left)
    _refuse_unknown(unknown, entries.values(), where)
    reader = _Reader(file, where, scales.configs(metadata, where))
    pairs = [p for p in map(reader.pair, entries.values()) if p is not None]
    if not pairs:
        message = f"{where}: no pair of LoRA factors among its {len(file.tensors)} tensors"
        raise FormatError(message)
    match = detect([(p.stem, p.size) for p in pairs], architecture, metadata)
    if architecture is not None and match.share == 0:
        message = f"{where}: none of its {len(pairs)} modules fits {architecture}"
        raise FormatError(message)
    found = targets_of(pairs, match.layout, where)
    notes = (*reader.notes(), *_match_notes(match, len(pairs)), *found.notes())
    stems = [p.stem for p in pairs]
    architecture = match.layout.name if match.layout else None
    return Adapter(
        name=name,
        dialect=convention(stems, found.worlds, left, architecture, metadata),
        architecture=architecture,
        candidates=match.candidates,
        match=match.share,
        targets=MappingProxyType(found.targets),
        metadata=MappingProxyType(dict(metadata)),
        coverage=Coverage(len(left), skipped, notes),
        source=file,
        runner_up=match.runner_up,
    )


class _Reader:
    """Pairs of one file; counts what the user should hear about."""

    def __init__(self, file: Source, where: str, configs: dict[str, scales.LoraConfig]) -> None:
        self._file = file
        self._where = where
        self._configs = configs
        self._counts = {"no alpha": 0, "alpha 0": 0, "rank 0": 0, "alpha ignored": 0}

    def pair(self, entry: keys.Entry) -> Delta | None:
        if "diff" in entry.names:
            return self._dense(entry)
        names = (entry.names["up"], entry.names["down"])
        up, down = (self._factor(name) for name in names)
        rank = down.shape[0]
        if up.shape[0] and math.prod(up.shape[1:]) != rank:
            message = (
                f"{self._where}: {names[0]} is {list(up.shape)} and {names[1]} is "
                f"{list(down.shape)}: the second size of up must equal the first of down"
            )
            raise ShapeError(message)
        if 0 in up.shape or 0 in down.shape:
            self._counts["rank 0"] += 1
            return None
        stem = split_stem(entry.stem)
        return Delta(stem, Factors(up, down, self._scale(entry, stem, rank), names, self._where))

    def _dense(self, entry: keys.Entry) -> Delta:
        """A dense difference; the clients that read it multiply it by nothing."""
        name = entry.names["diff"]
        shape = self._file.tensors[name].shape
        if len(shape) < 2 or 0 in shape:
            message = (
                f"{self._where}: {name} has shape {list(shape)}; the difference of a linear layer "
                "or a convolution is read, that of a norm or a bias is not: leave it out with "
                "--skip 'GLOB' if the rest is worth merging"
            )
            raise ShapeError(message)
        self._counts["alpha ignored"] += "alpha" in entry.names
        factors = Factors.of_dense(self._factor(name), name, self._where)
        return Delta(split_stem(entry.stem), factors)

    def notes(self) -> list[str]:
        """What was noticed, one line each."""
        texts = {
            "no alpha": "pairs have neither alpha nor config: scale 1 (alpha = rank)",
            "alpha 0": "pairs have alpha 0: their delta is zero",
            "rank 0": "pairs of rank 0: absent",
            "alpha ignored": "dense differences have an alpha, which no client reads: ignored",
        }
        return [f"{n} {texts[what]}" for what, n in self._counts.items() if n]

    def _factor(self, name: str) -> Tensor:
        tensor = self._file.tensors[name]
        if tensor.dtype not in ITEM_BYTES:
            message = (
                f"{self._where}: {name} has dtype {tensor.dtype}; factors may be "
                f"{', '.join(ITEM_BYTES)}"
            )
            raise FormatError(message)
        if len(tensor.shape) < 2:
            message = (
                f"{self._where}: {name} has shape {list(tensor.shape)}; a factor has two axes "
                "(or those of a convolution)"
            )
            raise ShapeError(message)
        return tensor

    def _scale(self, entry: keys.Entry, stem: Stem, rank: int) -> float:
        if "scale" in entry.names:
            name = entry.names["scale"]
            return scales.scalar(self._file.tensors[name], f"{self._where}: {name}")
        if "alpha" in entry.names:
            name = entry.names["alpha"]
            alpha = scales.scalar(self._file.tensors[name], f"{self._where}: {name}")
            self._counts["alpha 0"] += alpha == 0
            return alpha / rank
        component = stem.component or ""
        config = self._configs.get(component) or self._configs.get("")
        if config is not None:
            return config.scale(stem.path, rank)
        self._counts["no alpha"] += stem.flat
        return 1.0


def _refuse_unknown(unknown: Sequence[str], entries: Iterable[keys.Entry], where: str) -> None:
    halves = [e for e in entries if not e.is_delta]
    rest = [*unknown, *(name for entry in halves for name in entry.names.values())]
    if not rest:
        return
    first = rest[0]
    family = keys.family_of(first)
    what = f"belongs to {family}, which loramix does not read" if family else "is not understood"
    if keys.has_role(first):
        what = "is a second tensor for a factor that has one"
    if first not in unknown:
        what = "has no partner (a pair needs up and down)"
        if "diff" in halves[0].names:
            what = "belongs to a module that has a dense difference and other factors, too"
    message = (
        f"{where}: tensor {first} {what}; {len(rest)} such tensors. Nothing is dropped "
        "silently: leave them out with --skip 'GLOB' if the rest is worth merging"
    )
    raise FormatError(message)


def _match_notes(match: Match, pairs: int) -> list[str]:
    """What a user should know about the base model: at most two lines."""
    names, notes = ", ".join(match.candidates), []
    if len(match.candidates) > 1:
        reason = f": {match.because}" if match.because else ""
        taken = f"taken for {match.layout.name}" if match.layout else "--architecture decides"
        notes.append(f"fits {names} equally well; {taken}{reason}")
    if match.layout and match.hits < pairs:
        missed = pairs - match.hits
        notes.append(f"{missed} of {pairs} modules are not in the table of {match.layout.name}")
    return notes
