"""What a family of adapters is: which tensors a module has, and the delta that they mean."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NoReturn, Protocol, TypeAlias

import numpy as np

from loramix.errors import FormatError, ShapeError
from loramix.formats.keys import Role
from loramix.formats.scales import PeftConfig, scalar
from loramix.formats.values import values
from loramix.tensors import F32, ITEM_BYTES, Shape, Tensor
from loramix.types import Factors

Part: TypeAlias = Literal["weight", "bias", "norm", "modulation"]
"""Which parameter of a module is changed."""


NUMBERS = ("alpha", "scale", "on_input")
"""Roles of tensors that hold one number."""


class Scaling(Protocol):
    """Resolves the scale of a module."""

    def __call__(self, rank: int) -> float:
        """Alpha over the rank, from the place that counts."""


@dataclass(frozen=True, slots=True)
class Parts:
    """The tensors of one module.

    Attributes
    ----------
    tensors : by role.
    names : theirs in the file.
    file : for messages.
    module : name of the module without prefix, as far as the file tells.
    scaling : resolves its scale.
    config : of PEFT, if there is one.
    """

    tensors: Mapping[Role, Tensor]
    names: Mapping[Role, str]
    file: str
    module: str
    scaling: Scaling
    config: PeftConfig | None = None

    def __contains__(self, role: Role) -> bool:
        return role in self.tensors

    def only(self, roles: Sequence[Role]) -> "Parts":
        """Those of some roles."""
        tensors = {role: self.tensors[role] for role in roles}
        return replace(self, tensors=tensors, names={role: self.names[role] for role in roles})

    def where(self, role: Role) -> str:
        """File and name of a tensor."""
        return f"{self.file}: {self.names[role]}"

    def tensor(self, role: Role, *axes: int) -> Tensor:
        """A tensor of numbers with one of these numbers of axes; any if none is given.

        Raises
        ------
        FormatError, ShapeError : another element type, another number of axes.
        """
        tensor = self.tensors[role]
        if tensor.dtype not in ITEM_BYTES:
            message = (
                f"{self.where(role)} has dtype {tensor.dtype}; factors may be "
                f"{', '.join(ITEM_BYTES)}"
            )
            raise FormatError(message)
        if axes and len(tensor.shape) not in axes:
            allowed = " or ".join(map(str, axes))
            message = f"{self.where(role)} has shape {list(tensor.shape)}; it must have {allowed}"
            raise ShapeError(message + (" axis" if axes == (1,) else " axes"))
        return tensor

    def factor(self, role: Role) -> Tensor:
        """A tensor that is a factor of a weight.

        Raises
        ------
        FormatError, ShapeError : another element type, fewer than two axes.
        """
        tensor = self.tensor(role)
        if len(tensor.shape) < 2:
            message = (
                f"{self.where(role)} has shape {list(tensor.shape)}; a factor has two axes "
                "(or those of a convolution)"
            )
            raise ShapeError(message)
        return tensor

    def values(self, role: Role) -> F32:
        """The numbers of a tensor."""
        return values(self.tensors[role], self.where(role))

    def number(self, role: Role, default: float) -> float:
        """The number in a one-element tensor; the default where there is none."""
        return scalar(self.tensors[role], self.where(role)) if role in self else default

    def refuse_misfit(self, first: Role, second: Role, rule: str) -> NoReturn:
        """Refuse two tensors that do not fit each other."""
        shapes = [
            f"{self.names[role]} is {list(self.tensors[role].shape)}" for role in (first, second)
        ]
        message = f"{self.file}: {' and '.join(shapes)}: {rule}"
        raise ShapeError(message)

    @property
    def origin(self) -> tuple[Tensor, ...]:
        """The tensors that a delta is made of: all but single numbers."""
        return tuple(self.tensors[role] for role in self.names if role not in NUMBERS)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a delta turned out to belong.

    Attributes
    ----------
    key : of the target.
    shape : of the weight.
    weight : the base weight in that shape, in the order of rows that the file has; None where no
        base is needed.
    transposed : whether the base model stores it as (in, out).
    """

    key: str
    shape: Shape
    weight: Tensor | None = None
    transposed: bool = False

    def values(self) -> F32:
        """The base weight (out, in, *kernel); or a bias.

        Raises
        ------
        FormatError : it holds NaN or infinity.
        """
        assert self.weight is not None  # see `Draft.base`
        found = values(self.weight, f"base weight {self.key}")
        return found.T if self.transposed and found.ndim == 2 else found


@dataclass(frozen=True, slots=True)
class Draft:
    """A delta whose place is not known yet.

    Attributes
    ----------
    family : its name.
    rows, cols : size, as far as the tensors tell.
    shape : of the delta, where they tell; several axes behind the second are a kernel.
    make : what it is at its place: nothing is computed before it is used.
    part : which parameter of the module it changes.
    base : whether the base weight is needed; ``optional``: without it there is no such delta.
    other : makes another reading of the same tensors, for weights that the first does not fit.
    transposed : whether the base model stores the weight as (in, out): PEFT's ``fan_in_fan_out``.
    rank : of a pair of factors; None for what is something else.
    """

    family: str
    rows: int | None
    cols: int | None
    shape: Shape | None
    make: Callable[[Place], Factors]
    part: Part = "weight"
    base: Literal["no", "needed", "optional"] = "no"
    other: "Callable[[], Draft] | None" = None
    transposed: bool = False
    rank: int | None = None


@dataclass(frozen=True, slots=True)
class Family:
    """A parameterisation.

    Attributes
    ----------
    name : for reports.
    title : for messages.
    forms : the sets of roles of which one must be there as a whole.
    allows : roles that may be there, too.
    read : makes deltas of the tensors of a module; none if they are of rank 0.
    magnitude : whether a magnitude (DoRA) may stand beside them.
    """

    name: str
    title: str
    forms: tuple[frozenset[Role], ...]
    allows: frozenset[Role]
    read: Callable[[Parts], tuple[Draft, ...]]
    magnitude: bool = False

    def fits(self, roles: frozenset[Role]) -> bool:
        """Whether a module with these roles is of this family."""
        return any(form <= roles <= form | self.allows for form in self.forms)


def roles(*forms: str) -> tuple[frozenset[Role], ...]:
    """Sets of roles from their names with blanks between."""
    return tuple(frozenset(form.split()) for form in forms)


def kernel_ones(shape: Shape) -> Shape:
    """Trailing ones of an up side beside a down side of this shape."""
    return (1,) * (len(shape) - 2)


def flat(matrix: F32) -> F32:
    """A matrix of what may have a kernel."""
    return matrix.reshape(matrix.shape[0], -1)


def with_kernel(core: F32, right: F32) -> F32:
    """``result[a, i, k] = core[a, b, k] right[b, i]``: a kernel tensor goes into a down side."""
    return np.moveaxis(np.tensordot(core, right, axes=(1, 0)), -1, 1)


def made(shape: Shape, make: Callable[[], F32]) -> Tensor:
    """A tensor that is computed when it is used; overflow is left to those who look at it."""

    def quiet() -> F32:
        with np.errstate(all="ignore"):
            return np.ascontiguousarray(make(), dtype=np.float32)

    return Tensor.made(shape, quiet)


def dense(parts: Parts, role: Role, place: Place, make: Callable[[], F32]) -> Factors:
    """A difference of full rank that is computed when it is used.

    Parameters
    ----------
    role : of the tensor that messages name.
    """
    delta = made(place.shape, make)
    found = Factors.of_dense(delta, parts.names[role], parts.file)
    return replace(found, origin=parts.origin)


def product(factors: Factors) -> F32:
    """The delta ``scale * up @ down`` of factors, (rows, cols).

    Cost: ``2 rows cols rank`` flops; nothing for a dense difference.
    """
    up, down = (
        values(side, f"{factors.file}: {key}")
        for side, key in zip((factors.up, factors.down), factors.keys, strict=True)
    )
    up, down = flat(up), flat(down)
    if factors.identity is None:
        return np.asarray(up @ down * np.float32(factors.scale))
    return np.asarray((down if factors.identity == "up" else up) * np.float32(factors.scale))
