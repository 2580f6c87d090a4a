"""The nouns of the library: tensors, targets, factors, adapters, groups.

All frozen; none knows about files, dialects or methods.
"""

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import lru_cache
from os import PathLike
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias, TypeVar
from weakref import ref

import numpy as np
import numpy.typing as npt

StrPath: TypeAlias = str | PathLike[str]
Shape: TypeAlias = tuple[int, ...]
F32: TypeAlias = npt.NDArray[np.float32]
F64: TypeAlias = npt.NDArray[np.float64]
Dtype: TypeAlias = Literal["f32", "f16", "bf16"]
Weight: TypeAlias = float | Mapping[str, float]
Side: TypeAlias = Literal["all", "low", "high", "around"]
"""What a member gives to its group: ``all`` of its delta; only entries with the sign of the
majority of the members (``low`` conflict), or only the others (``high``); or all of it, around the
method: it is added to the result, at its weight."""
RawMember: TypeAlias = tuple[str, memoryview, str, memoryview, int, float, int, int]
RawPart: TypeAlias = tuple["RawGroup", list[float], "Site", int, bool]
RawStep: TypeAlias = tuple[int, int, int, list[RawPart]]
RawGroup: TypeAlias = tuple[int, int, list[RawMember]]
RawWhole: TypeAlias = tuple[str, memoryview, float, int, int]
"""A member given entry by entry: type, bytes, factor, first row, rows."""
RawStrip: TypeAlias = tuple[str, memoryview, int, "RawGroup", list[RawWhole], int]
"""Rows of a base weight (type, bytes, rows), its delta in both forms, first row of that."""
RawBaked: TypeAlias = tuple[float, float, float, float, int]
"""``|delta|^2``, ``|moved|^2``, ``<moved, delta>``, ``|moved - delta|^2``, checksum."""
RawFactored: TypeAlias = tuple[int, float, float, float, list[float], list[float], list[float]]

_T = TypeVar("_T")

BIAS = ".bias"
"""What the key of a bias has behind that of its module."""
MODULATION = ".modulation"
"""What the key of a modulation parameter (Wan) has behind that of its block."""

ITEM_BYTES: Mapping[str, int] = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1,
}  # fmt: skip


class Progress(Protocol):
    """Called with the steps done and the steps in all, from the thread that called loramix."""

    def __call__(self, done: int, total: int) -> None:
        """Note the progress."""


class Made:
    """Bytes that are computed when somebody uses them, and forgotten when nobody does any more.

    Parameters
    ----------
    make : returns an array of the tensor's type and shape; called again after the last view of
        what it returned is gone, so it must return the same every time.
    """

    __slots__ = ("_array", "_make")

    def __init__(self, make: Callable[[], npt.NDArray[Any]]) -> None:
        self._make = make
        self._array: ref[npt.NDArray[Any]] | None = None

    def __call__(self) -> memoryview:
        """The bytes."""
        array = self._array() if self._array is not None else None
        if array is None:
            array = np.ascontiguousarray(self._make()).reshape(-1)
            self._array = ref(array)
        return array.data.cast("B")


@dataclass(frozen=True, slots=True)
class Tensor:
    """Bytes, little endian, row-major: borrowed, or computed when they are used.

    Attributes
    ----------
    dtype : name in a safetensors header, e.g. ``BF16``.
    shape : sizes.
    content : the bytes, usually a part of a mapped file: not read before it is used; or what
        makes them, such as `Made`.
    """

    dtype: str
    shape: tuple[int, ...]
    content: memoryview | Callable[[], memoryview] = field(repr=False)

    @classmethod
    def made(cls, shape: tuple[int, ...], make: Callable[[], F32]) -> "Tensor":
        """F32 values that are computed when they are used."""
        return cls("F32", shape, Made(make))

    @property
    def data(self) -> memoryview:
        """The bytes; whoever keeps them keeps what was computed in memory."""
        return self.content if isinstance(self.content, memoryview) else self.content()

    @property
    def is_made(self) -> bool:
        """Whether the bytes are computed when they are used."""
        return not isinstance(self.content, memoryview)

    @property
    def size(self) -> int:
        """Number of bytes."""
        if isinstance(self.content, memoryview):
            return len(self.content)
        return math.prod(self.shape) * ITEM_BYTES[self.dtype]

    def rows(self, start: int, stop: int) -> "Tensor":
        """Rows ``start:stop`` of the first axis, without a copy."""
        size = self.size // self.shape[0] if self.shape[0] else 0
        shape = (stop - start, *self.shape[1:])
        span = slice(start * size, stop * size)
        if isinstance(self.content, memoryview):
            return Tensor(self.dtype, shape, self.content[span])
        return Tensor(self.dtype, shape, lambda: self.data[span])

    @classmethod
    def joined(cls, tensors: Sequence["Tensor"]) -> "Tensor":
        """The rows of several tensors of one type, one below the other: a copy, made when used."""
        first = tensors[0]
        shape = (sum(one.shape[0] for one in tensors), *first.shape[1:])

        def rows() -> npt.NDArray[np.uint8]:
            return np.frombuffer(b"".join(one.data for one in tensors), dtype=np.uint8)

        return cls(first.dtype, shape, Made(rows))

    def with_halves_swapped(self) -> "Tensor":
        """The second half of the rows before the first: a copy, made when it is used."""
        half = self.shape[0] // 2
        return Tensor.joined([self.rows(half, self.shape[0]), self.rows(0, half)])


@dataclass(frozen=True, slots=True, order=True)
class Target:
    """One weight of the base model.

    Attributes
    ----------
    key : canonical dotted name, with the component in front where it is known, e.g.
        ``unet.mid_block.attentions.0.proj_in``.
    shape : ``(out, in)`` or ``(out, in, *kernel)``; ``(n,)`` for biases and norms, whose keys are
        ``<module>.bias`` and the module's; a modulation (``<block>.modulation``) has its own.
    """

    key: str
    shape: tuple[int, ...]

    @property
    def rows(self) -> int:
        """Output size: rows of the delta."""
        return self.shape[0]

    @property
    def cols(self) -> int:
        """Input size times kernel size: columns of the delta."""
        return int(np.prod(self.shape[1:]))

    @property
    def is_vector(self) -> bool:
        """Whether it is a bias, the weight of a norm or a modulation: nothing of low rank."""
        return len(self.shape) == 1 or self.key.endswith(MODULATION)

    @property
    def key_hash(self) -> int:
        """Stable 64-bit hash of the key, for random draws."""
        return int.from_bytes(hashlib.blake2b(self.key.encode(), digest_size=8).digest(), "little")

    @property
    def branch(self) -> Literal["model", "text_encoder"]:
        """Which of the two energies the target counts towards."""
        return "text_encoder" if self.key.startswith("text_encoder") else "model"


@dataclass(frozen=True, slots=True)
class Factors:
    """A low-rank delta ``scale * up @ down``.

    Attributes
    ----------
    up : ``(rows, rank)``, or ``(rows, rank, 1, 1)`` for a convolution.
    down : ``(rank, cols)``, or ``(rank, in, *kernel)``.
    scale : alpha / rank (alpha / sqrt(rank) for rs-LoRA), resolved when the file was read.
    keys : names of up and down in their file, for messages.
    file : that file, for messages.
    identity : which side is no tensor of the file, but stands beside a dense difference.
    family : how the file parameterises the delta, see `loramix.formats.families`.
    origin : the tensors of the file that both sides are computed from; empty where they are those.
    """

    up: Tensor
    down: Tensor
    scale: float
    keys: tuple[str, str]
    file: str
    identity: Literal["up", "down"] | None = None
    family: str = "lora"
    origin: tuple[Tensor, ...] = field(default=(), repr=False)

    @classmethod
    def of_dense(cls, delta: Tensor, key: str, file: str) -> "Factors":
        """A dense difference as factors: beside an identity as large as its smaller side.

        A vector is one column (one row if it is a single number), of rank 1.  Exact, and
        everything that works on factors works on it, at the cost of the rank
        r = min(rows, cols): ``2 (rows + cols) r^2`` flops for inner products, O(r^3) more for an
        eigenproblem where a sum is cut.

        Parameters
        ----------
        delta : (out, in), (out, in, *kernel) or (n,).
        """
        shape, ones = delta.shape, (1,) * (len(delta.shape) - 2)
        rows, cols = shape[0], math.prod(shape[1:])
        if rows <= cols:
            up = _identity(rows, (rows, rows, *ones))
            return cls(up, delta, 1.0, (key, key), file, "up")
        up = replace(delta, shape=(rows, cols, *ones))
        down = _identity(cols, (cols, *shape[1:]))
        return cls(up, down, 1.0, (key, key), file, "down")

    @property
    def rank(self) -> int:
        """Columns of up, rows of down."""
        return self.down.shape[0]

    @property
    def sides(self) -> tuple[Tensor, ...]:
        """What takes memory when it is used: both sides, or the dense difference."""
        sides = {"up": self.up, "down": self.down}
        return tuple(side for name, side in sides.items() if name != self.identity)

    @property
    def stored(self) -> tuple[Tensor, ...]:
        """The tensors of the file."""
        return self.origin or self.sides

    def rows(self, start: int, stop: int) -> "Factors":
        """The delta's rows ``start:stop``: a view of up, the same down."""
        return replace(self, up=self.up.rows(start, stop))

    def raw(self, coefficient: float = 1.0, row_start: int = 0) -> RawMember:
        """What the kernels take."""
        up, down = self.up, self.down
        factor = self.scale * coefficient
        return (
            up.dtype, up.data, down.dtype, down.data, self.rank, factor, row_start, up.shape[0],
        )  # fmt: skip


def _identity(size: int, shape: tuple[int, ...]) -> Tensor:
    return Tensor("F8_E4M3", shape, _ones(size))


@lru_cache(maxsize=8)
def _ones(size: int) -> memoryview:
    """Bytes of an identity in the smallest type there is, one copy for all that need them."""
    one = 0x38  # 1.0 in F8_E4M3
    return memoryview((one * np.eye(size, dtype=np.uint8)).tobytes())


@dataclass(frozen=True, slots=True)
class Site:
    """What a program needs to know of the group that it runs on.

    Attributes
    ----------
    key : stable hash of the target, for the random draws.
    seed : of the random draws.
    most : largest share of positions in conflict, for rules that are limited to those.
    norm : what the result is brought to; None leaves it.
    mix : (n * n) row-major, how much of each kept delta goes into each; empty for nothing.  n are
        the members that the program sees: those that do not go around it.
    sides : for every member; empty: all.

        Before anything else happens, all members that are seen vote on the sign of every position:
        one vote each, that of the weighted entry; a draw is decided by the sum of these entries.
        ``low`` leaves the entries with the sign that won, ``high`` the others.  Where that sum is 0
        too nobody has won: nothing is left of ``low`` and everything of ``high``.  So negated
        deltas give the negated result.  What is left is what the program takes for the delta, but
        for `norm`, which the caller chose, and for cleaning: noise is what is outside the span of
        whole deltas.

        ``around`` is added at the very end, after norm and cleaning: weight times delta, whatever
        the space.  Bases, votes, draws and divisors are those of a group without that member.
    published_sides : whether a draw is positive instead, as published.  Of two members, ``high``
        leaves the negative entries where they disagree, and nothing else.
    """

    key: int = 0
    seed: int = 0
    most: float = 1.0
    norm: float | None = None
    mix: Sequence[float] = ()
    sides: Sequence[Side] = ()
    published_sides: bool = False

    def seen(self, members: Sequence[_T]) -> list[_T]:
        """What there is one of for every member: that of those that the program sees."""
        sides = self.sides or ["all"] * len(members)
        return [own for own, side in zip(members, sides, strict=True) if side != "around"]

    def around(self, members: Sequence[_T]) -> list[_T]:
        """Likewise, that of those that go around it."""
        sides = self.sides or ["all"] * len(members)
        return [own for own, side in zip(members, sides, strict=True) if side == "around"]

    def alone(self) -> "Site":
        """Where the program sees one member at most, which is its delta as it is."""
        sides: tuple[Side, ...] = ()
        if "around" in self.sides:
            sides = tuple("around" if side == "around" else "all" for side in self.sides)
        return replace(self, norm=None, mix=(), sides=sides)


class Source(Protocol):
    """Where an adapter's bytes live."""

    path: Path | None
    size: int
    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]

    def release(self) -> None:
        """Give touched pages back; they are read again when needed."""

    def sha256(self) -> str:
        """Digest of the whole file."""


class Weights(Protocol):
    """Weights of a base model."""

    @property
    def name(self) -> str:
        """Of the model, for reports."""

    def weight(self, key: str) -> Tensor | None:
        """That of a target by its canonical key; None if there is none."""


class Base(Weights, Protocol):
    """A base model, such as an opened checkpoint."""

    @property
    def path(self) -> Path | None:
        """What to name to open it again; None if it is in memory."""

    @property
    def size(self) -> int:
        """Bytes of its files."""

    @property
    def architecture(self) -> str | None:
        """Whose module table its names and shapes hit, or None."""

    def read_as(self, architecture: str | None) -> "Base":
        """The same model by the names of this architecture; None: as it is."""

    def release(self) -> None:
        """Give touched pages back; they are read again when needed."""

    def sha256(self) -> str:
        """Digest of the file; of several, digest of their digests, one a line."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What a user says of a file that the file does not.

    Attributes
    ----------
    base : the model that deltas are relative to; some families cannot be read without.
    rslora : alpha is over the root of the rank, everywhere.
    """

    base: Base | None = field(default=None, repr=False)
    rslora: bool = False


@dataclass(frozen=True, slots=True)
class Coverage:
    """What became of the tensors of a file.

    Attributes
    ----------
    used : number of tensors that take part.
    skipped : names left out on request.
    notes : one line for everything a user should know, e.g. a missing alpha.
    """

    used: int
    skipped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Adapter:
    """One trained low-rank file, all its targets.

    Attributes
    ----------
    name : for reports.
    dialect : how its keys are spelled.
    architecture : the base model whose layout the keys hit, or None.
    candidates : architectures that fit equally well.
    match : share of the targets that hit the layout, 0 to 1.
    targets : what it changes, in order of their keys.
    metadata : strings of the file's header (and ``adapter_config.json`` under that name).
    coverage : what became of its tensors.
    source : the mapped file.
    runner_up : the base model that comes next and its match; of an unknown one, the nearest.
    reading : what the user said of it.
    base : the model that some of its deltas are relative to; None: all of them are in the file.
    """

    name: str
    dialect: str
    architecture: str | None
    candidates: tuple[str, ...]
    match: float
    targets: Mapping[Target, Factors] = field(repr=False)
    metadata: Mapping[str, str] = field(repr=False)
    coverage: Coverage = field(repr=False)
    source: Source = field(repr=False, compare=False)
    runner_up: tuple[str, float] | None = field(default=None, repr=False, compare=False)
    reading: Reading = field(default=Reading(), repr=False, compare=False)
    base: Base | None = field(default=None, repr=False, compare=False)

    def release(self) -> None:
        """Give touched pages of its file, and of the base model, back."""
        self.source.release()
        if self.base is not None:
            self.base.release()

    def __iter__(self) -> Iterator[Target]:
        return iter(self.targets)

    @property
    def families(self) -> Mapping[str, int]:
        """Number of targets by the family of their factors."""
        return dict(sorted(Counter(one.family for one in self.targets.values()).items()))


@dataclass(frozen=True, slots=True)
class Group:
    """The members of one target across adapters.

    Attributes
    ----------
    owners : for each member, the position of its adapter in the stack.
    """

    target: Target
    members: tuple[Factors, ...]
    owners: tuple[int, ...]

    def raw(self, coefficients: Sequence[float] | None = None) -> RawGroup:
        """What the kernels take; coefficients multiply the members."""
        each = coefficients if coefficients is not None else [1.0] * len(self.members)
        members = [m.raw(c) for m, c in zip(self.members, each, strict=True)]
        return (self.target.rows, self.target.cols, members)


def weight_of(weight: Weight, target: Target) -> float:
    """A user's weight for one target: the number, or that of the first matching glob.

    A target that no glob matches has weight 1.
    """
    if isinstance(weight, Mapping):
        matches = (value for glob, value in weight.items() if fnmatchcase(target.key, glob))
        return next(matches, 1.0)
    return weight
