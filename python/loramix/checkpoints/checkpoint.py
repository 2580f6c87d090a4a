"""A base model, opened: views of the weights that adapters change."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType

from loramix.checkpoints import naming
from loramix.checkpoints.finding import Found, Part, find
from loramix.checkpoints.naming import Names, Place, Stored
from loramix.checkpoints.scaling import Scaling, scaled, scaling_of
from loramix.errors import FormatError
from loramix.finding import plain_name
from loramix.formats.keys import has_role
from loramix.formats.layout import LAYOUTS, Layout, load_layout
from loramix.io.hashing import MODELS, together
from loramix.io.safetensors import SafetensorsFile
from loramix.tensors import Tensor
from loramix.types import StrPath, Target

__all__ = ["Checkpoint", "Place", "Shard", "open_checkpoint"]

_BIAS = ".bias"


@dataclass(frozen=True, slots=True)
class Shard:
    """One tensor file of a model, mapped.

    Attributes
    ----------
    component : sub-folder of a pipeline that it is in; None elsewhere.
    """

    file: SafetensorsFile = field(repr=False)
    path: Path
    component: str | None

    def name(self, stored: str) -> str:
        """Name in `Checkpoint.tensors` of one of its tensors."""
        return stored if self.component is None else f"{self.component}.{stored}"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A base model.

    Attributes
    ----------
    name : for reports.
    path : what the user named.
    root : its file, or its folder.
    shards : its files.
    tensors : name to tensor, file after file, each in its order.  In a pipeline the name of the
        component stands in front.
    metadata : strings of the headers; where they differ those of the first file.
    architecture : whose module table its names and shapes hit, or None.
    match : share of its weights that do, 0 to 1.
    """

    name: str
    path: Path
    root: Path
    shards: tuple[Shard, ...] = field(repr=False)
    tensors: Mapping[str, Tensor] = field(repr=False)
    metadata: Mapping[str, str] = field(repr=False)
    architecture: str | None
    match: float
    _names: Names = field(repr=False)
    _layout: Layout | None = field(repr=False)

    @property
    def size(self) -> int:
        """Bytes of all its files."""
        return sum(shard.file.size for shard in self.shards)

    def read_as(self, architecture: str | None) -> "Checkpoint":
        """The same model, its names looked up in the table of this architecture.

        Parameters
        ----------
        architecture : None: as it is.

        Raises
        ------
        FormatError : two tensors for one target.
        """
        if architecture in (None, self.architecture):
            return self
        found = _named(self.path, self.root, self.shards, self.tensors, architecture)
        return replace(found, name=self.name)

    @property
    def targets(self) -> tuple[Target, ...]:
        """Every weight that an adapter may change, in the order of the table or of the files.

        Of a known model the modules of its table that are there, parts of fused weights by
        themselves; of another one all weights with two axes or more, by their names.
        """
        if self._layout is not None:
            keys = ((f"{m.component}.{m.name}", m.shape) for m in self._layout.modules)
            return tuple(Target(key, shape) for key, shape in keys if self.places(key))
        return tuple(
            Target(key, self.tensors[name].shape)
            for key, name in self._names.plain.items()
            if len(self.tensors[name].shape) > 1
        )

    def place(self, key: str) -> Place | None:
        """Where a target is.

        Parameters
        ----------
        key : canonical, such as ``unet.mid_block.attentions.0.proj_in``; with ``.bias`` behind it
            for the bias; of a model that no table knows, the name of the module.

        Returns
        -------
        None if there is no such weight, or if it is stored in parts: see `weight`.
        """
        if key.endswith(_BIAS):
            return self._bias(key.removesuffix(_BIAS))
        return self._names.place(key)

    def _bias(self, key: str) -> Place | None:
        place = self._names.place(key)
        if place is None:
            return None
        name = naming.bias_beside(place.name)
        weight, bias = self.tensors[place.name], self.tensors.get(name)
        if bias is None or bias.shape[:1] != weight.shape[:1]:
            return None
        return Place(name, place.rows, place.swapped)

    def places(self, key: str) -> tuple[Place, ...]:
        """Likewise, in order of their rows, where a fused original is stored in parts."""
        place = self.place(key)
        if place is not None:
            return (place,)
        bias = _BIAS if key.endswith(_BIAS) else ""
        component, _, original = key.removesuffix(_BIAS).partition(".")
        modules = self._layout.modules if self._layout else ()
        parts = [m for m in modules if (m.component, m.original) == (component, original)]
        found = [self.place(f"{component}.{module.name}{bias}") for module in parts]
        complete = [place for place in found if place is not None]
        return tuple(complete) if len(complete) == len(parts) else ()

    def weight(self, key: str) -> Tensor | None:
        """The weight (or bias) of a target, rows as the target counts them.

        A view where the bytes lie together as they are; made, when it is used, where the halves of
        its rows are exchanged, a fused original is stored in parts, or numbers have a scale.

        Parameters
        ----------
        key : see `place`.

        Returns
        -------
        None if the model has no such weight.

        Raises
        ------
        FormatError : parts of different types; a scale that is not known, see `scaling`.
        """
        parts = [self._view(place) for place in self.places(key)]
        if len(parts) < 2:
            return parts[0] if parts else None
        first = parts[0]
        if any((p.dtype, p.shape[1:]) != (first.dtype, first.shape[1:]) for p in parts):
            message = f"{self.path}: the parts of {key} have different types or shapes"
            raise FormatError(message)
        return Tensor.joined(parts)

    def scaling(self, name: str) -> Scaling | None:
        """What the numbers of a stored weight are multiplied by; None: nothing is said.

        Raises
        ------
        FormatError : something is said that is not known here.
        """
        try:
            return scaling_of(self.tensors, name, self.metadata)
        except FormatError as error:
            message = f"{self.path}: {error}"
            raise FormatError(message) from None

    def _view(self, place: Place) -> Tensor:
        tensor = self.tensors[place.name]
        scaling = self.scaling(place.name)
        if scaling is not None:
            tensor = scaled(tensor, scaling, f"{self.path}: {place.name}")
        if place.rows is not None:
            tensor = tensor.rows(*place.rows)
        return tensor.with_halves_swapped() if place.swapped else tensor

    def release(self) -> None:
        """Give touched pages of all files back; they are read again when needed."""
        for shard in self.shards:
            shard.file.release()

    def digest(self) -> str:
        """BLAKE3 of the file, as ``blake3:...``; of several, that of theirs, one a line."""
        return together([shard.file.digest(MODELS) for shard in self.shards])


def open_checkpoint(path: StrPath, *, architecture: str | None = None) -> Checkpoint:
    """Open a base model: headers are read, tensors are mapped.

    Parameters
    ----------
    path : a ``.safetensors`` file; the index of a sharded model, or the folder with it; a folder
        of a diffusers pipeline or a transformers model; a model in a local cache of the hub
        (``models--org--name``; the revision of ``refs/main``).
    architecture : base model, where names and shapes should not decide; a name of `LAYOUTS`, or
        the path of a module table of your own (``.layout``).

    Raises
    ------
    FormatError : no safetensors file, an index that does not fit, two tensors for one target, an
        adapter.
    ParamError : no such architecture.
    OSError : it cannot be read.
    """
    if architecture is not None:
        load_layout(architecture)  # says what is known
    found = find(Path(path))
    shards = tuple(_open(part) for part in found.parts)
    _refuse_adapters(shards)
    return _named(Path(path), found.root, shards, _tensors(shards, found), architecture)


def _refuse_adapters(shards: Sequence[Shard]) -> None:
    """Refuse files that have nothing but tensors of adapters: differences of those mean nothing."""
    for shard in shards:
        names = shard.file.tensors
        if names and all(map(has_role, names)):
            message = (
                f"{shard.path}: an adapter, such as {next(iter(names))}, where a model is wanted: "
                "name the base model that adapters are for"
            )
            raise FormatError(message)


def _named(
    path: Path,
    root: Path,
    shards: tuple[Shard, ...],
    tensors: Mapping[str, Tensor],
    architecture: str | None,
) -> Checkpoint:
    """Targets of open files."""
    stored = [
        Stored.of(shard.name(name), shard.component)
        for shard in shards
        for name in shard.file.tensors
    ]
    best = naming.fits_of(stored, tensors, (architecture,) if architecture else LAYOUTS)[0]
    if architecture is None and best.accepted:
        architecture = best.table
    layout = load_layout(architecture) if architecture else None
    metadata: dict[str, str] = {}
    for shard in shards:
        metadata = {**shard.file.metadata, **metadata}
    return Checkpoint(
        name=plain_name(path),
        path=path,
        root=root,
        shards=shards,
        tensors=MappingProxyType(tensors),
        metadata=MappingProxyType(metadata),
        architecture=architecture,
        match=best.share,
        _names=naming.names_of(stored, tensors, layout, str(path)),
        _layout=layout,
    )


def _open(part: Part) -> Shard:
    file = SafetensorsFile(part.path)
    if part.names is not None:
        missing = sorted(part.names - file.tensors.keys())
        if missing:
            message = (
                f"{part.path}: the index expects {missing[0]} in it ({len(missing)} such tensors); "
                "index and shards are of different models, or a download is incomplete"
            )
            raise FormatError(message)
    return Shard(file, part.path, part.component)


def _tensors(shards: Sequence[Shard], found: Found) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for shard in shards:
        for stored, tensor in shard.file.tensors.items():
            name = shard.name(stored)
            if name in tensors:
                message = f"{found.root}: two of its files hold {name}; which one counts?"
                raise FormatError(message)
            tensors[name] = tensor
    return tensors
