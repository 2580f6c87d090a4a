"""The nouns of the library: targets, factors, adapters, groups.

All frozen; none knows about files, dialects or methods.
"""

import hashlib
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import lru_cache
from os import PathLike
from pathlib import Path
from typing import Literal, Protocol, TypeAlias

import numpy as np

from loramix.raw import RawGroup, RawMember
from loramix.tensors import Tensor

StrPath: TypeAlias = str | PathLike[str]
Weight: TypeAlias = float | Mapping[str, float]
BIAS = ".bias"
"""What the key of a bias has behind that of its module."""
MODULATION = ".modulation"
"""What the key of a modulation parameter (Wan) has behind that of its block."""


class Progress(Protocol):
    """Called with the steps done and the steps in all, from the thread that called loramix."""

    def __call__(self, done: int, total: int) -> None:
        """Note the progress."""


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
        return math.prod(self.shape[1:])

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
        if self.identity is None:
            return self.up, self.down
        return (self.down if self.identity == "up" else self.up,)

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


class Source(Protocol):
    """Where an adapter's bytes live."""

    path: Path | None
    size: int
    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]

    def release(self) -> None:
        """Give touched pages back; they are read again when needed."""

    def digest(self) -> str:
        """What tells it from all others, see `loramix.io.hashing`."""


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

    def digest(self) -> str:
        """What tells it from all others, see `loramix.io.hashing`."""


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
    def keys(self) -> list[str]:
        """Keys of its targets, in their order."""
        return [target.key for target in self.targets]

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
