"""What the rules look at: one file, taken apart as far as it can be."""

import struct
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from loramix.adapters import loading
from loramix.adapters.deltas import Delta
from loramix.adapters.targeting import targets_of
from loramix.diagnosing.values import Values, values_of
from loramix.errors import FormatError, LoramixError
from loramix.formats import keys, scales
from loramix.formats.detect import Match, detect
from loramix.formats.dialects import Stem, default_dialect, dialect_for, split_stem
from loramix.formats.families import Draft
from loramix.formats.layout import Layout, load_layout
from loramix.io.safetensors import SafetensorsFile
from loramix.tensors import Tensor
from loramix.types import Adapter, Factors, Reading, Target


@dataclass(frozen=True, slots=True)
class Module:
    """A module that has both factors.

    Attributes
    ----------
    entry : its tensors by role.
    up, down : the factors, of whatever shape.
    alpha : None if there is none, or it is no number.
    """

    entry: keys.Entry
    stem: Stem
    up: Tensor
    down: Tensor
    alpha: float | None

    @property
    def sides(self) -> tuple[tuple[keys.Role, Tensor], ...]:
        """Both factors by their role."""
        return (("up", self.up), ("down", self.down))

    @property
    def rank(self) -> int:
        """As all readers find it: the first size of down."""
        return self.down.shape[0] if self.down.shape else 0

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns of the delta; 0 for what has no such size."""
        cols = 1
        for length in self.down.shape[1:]:
            cols *= length
        return (self.up.shape[0] if self.up.shape else 0), cols


@dataclass(frozen=True, slots=True)
class Subject:
    """One readable file.

    Attributes
    ----------
    path : what to name in commands: the file, or its folder where a config belongs to it.
    tensors : those that are not left out.
    strings : of the header, with the text of ``adapter_config.json`` under that name.
    entries : modules by stem, whatever they have.
    unknown : names of no known role.
    modules : those with both factors.
    match : which base model, by the modules with both factors.
    adapter : what `load` makes of it, or
    refusal : why it does not.
    values : of every tensor of floating point.
    digest : sha256 of the bytes behind the header.
    reading : what the user says of the file.
    """

    path: Path
    file: SafetensorsFile = field(repr=False)
    tensors: Mapping[str, Tensor] = field(repr=False)
    strings: Mapping[str, str] = field(repr=False)
    entries: Mapping[str, keys.Entry] = field(repr=False)
    unknown: Sequence[str] = field(repr=False)
    modules: Sequence[Module] = field(repr=False)
    match: Match
    adapter: Adapter | None = field(repr=False)
    refusal: LoramixError | None
    values: Mapping[str, Values] = field(repr=False)
    digest: Callable[[], str] = field(repr=False)
    reading: Reading = field(repr=False)

    @property
    def architecture(self) -> str | None:
        """Name of the base model."""
        if self.adapter is not None:
            return self.adapter.architecture
        return self.match.layout.name if self.match.layout else None

    @property
    def layout(self) -> Layout | None:
        """Module table of the base model."""
        return load_layout(self.architecture) if self.architecture else None

    @property
    def candidates(self) -> tuple[str, ...]:
        """Base models that fit equally well."""
        return self.adapter.candidates if self.adapter is not None else self.match.candidates

    @property
    def share(self) -> float:
        """Of the modules that are in the table."""
        return self.adapter.match if self.adapter is not None else self.match.share

    def targets_of(self, module: Module) -> tuple[Target, ...]:
        """What a module changes; nothing for factors that cannot be."""
        if min(len(module.up.shape), len(module.down.shape)) < 2 or 0 in module.size:
            return ()
        factors = Factors(module.up, module.down, 1.0, ("", ""), "")
        shape = (module.up.shape[0], *module.down.shape[1:])
        draft = Draft("lora", *module.size, shape, lambda _place: factors)
        found = targets_of([Delta(module.stem, draft)], self.layout, str(self.path))
        return tuple(found.targets)

    @property
    def dialect(self) -> str | None:
        """How most of its modules are spelled."""
        if self.adapter is not None:
            return self.adapter.dialect
        counts = Counter(module.stem.dialect for module in self.modules)
        return max(sorted(counts), key=lambda name: counts[name]) if counts else None

    @property
    def is_folder(self) -> bool:
        """Whether it would be written as a folder, as PEFT's adapters are."""
        dialect = dialect_for(default_dialect(self.dialect or "", self.layout), self.layout)
        return dialect.folder

    @property
    def is_unet(self) -> bool:
        """Whether the base model is one of Stable Diffusion with a U-Net: 1.5, 2, XL."""
        named = (self.architecture,) if self.architecture else self.candidates
        return any(name in _UNETS for name in named)

    def refusal_of(self, names: Sequence[str]) -> LoramixError | None:
        """Why these tensors would be refused beside a sound pair; None if they would not.

        Without any names it is the strings that are refused.
        """
        part = _Part(self.file, _SOUND | {name: self.tensors[name] for name in names})
        try:
            loading.read(part, "part", self.strings, reading=self.reading)
        except LoramixError as error:
            return error
        return None


_ONE = memoryview(struct.pack("<f", 1.0))
_SOUND = {f"sound.lora_{side}.weight": Tensor("F32", (1, 1), _ONE) for side in "AB"}
_UNETS = ("sd15", "sd21", "sdxl")


class _Part:
    """Some tensors of a file, as a file: see `loramix.types.Source`."""

    def __init__(self, file: SafetensorsFile, tensors: Mapping[str, Tensor]) -> None:
        self.path = file.path
        self.size = file.size
        self.tensors = tensors
        self.metadata = file.metadata

    def release(self) -> None:
        """Nothing to give back: the whole file does it."""

    def digest(self) -> str:
        """No digest of a part is ever asked for."""
        raise NotImplementedError


def subject_of(
    file: SafetensorsFile,
    path: Path,
    strings: Mapping[str, str],
    *,
    architecture: str | None,
    skip: Sequence[str],
    reading: Reading,
    digest: Callable[[], str],
) -> Subject:
    """Take an open file apart.

    Parameters
    ----------
    path : what to name in commands.
    reading : what the user says of the file.
    digest : of the bytes behind the header.
    """
    tensors = {
        name: tensor
        for name, tensor in file.tensors.items()
        if not any(fnmatchcase(name, glob) for glob in skip)
    }
    entries, unknown = keys.parse(tensors)
    modules = [_module(entry, tensors) for entry in entries.values() if _has_both(entry)]
    found, refusal = None, None
    try:
        found = loading.read(
            file, path.name, strings, architecture=architecture, skip=skip, reading=reading
        )
    except LoramixError as error:
        refusal = error
    values = {}
    for name, tensor in tensors.items():
        judged = values_of(tensor)
        if judged is not None:
            values[name] = judged
        file.release()
    match = detect([(one.stem, one.size) for one in modules], architecture, strings)
    return Subject(
        path, file, tensors, strings, entries, unknown, modules, match, found, refusal, values,
        digest, reading,
    )  # fmt: skip


def _has_both(entry: keys.Entry) -> bool:
    return "up" in entry.names and "down" in entry.names


def _module(entry: keys.Entry, tensors: Mapping[str, Tensor]) -> Module:
    alpha = None
    if "alpha" in entry.names:
        name = entry.names["alpha"]
        try:
            alpha = scales.scalar(tensors[name], name)
        except FormatError:
            alpha = None  # `load` refuses it, and says why
    up, down = tensors[entry.names["up"]], tensors[entry.names["down"]]
    return Module(entry, split_stem(entry.stem), up, down, alpha)
