"""Groups of factors on a device: their stacks, inner products and joint bases.

Stacks are f64, and what is small (R x R) is NumPy float64 on the CPU, so nothing here depends on
how a device rounds its products.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch

from loramix.backends.base import Cores
from loramix.backends.torch_device import home_of, narrow, refuse, single
from loramix.raw import RawGroup, RawMember
from loramix.tensors import F64

_TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}
_DEPENDENT = 1e-12
"""Share of the largest square up to which a direction of a basis is rounding noise: f64 inner
products of a thousand entries have noise of 1e-13."""

_NOISE = 2e-7
"""Share of a delta along a direction that is rounding noise of f32 factors."""


class Stack:
    """The members of a group side by side, their factors left out.

    Parameters
    ----------
    group : as the kernels take it.
    number : of the group in its batch, for messages.
    before : members of the same step before this group, likewise.

    Attributes
    ----------
    up, down : (rows, R), (R, cols) f64, where the device has f64.
    factors : (n,) of the members.
    columns : of the stack, that belong to each member.

    Raises
    ------
    CoreError : ``shape``, ``dtype``, ``param``, ``non_finite`` as the kernels raise it.
    """

    def __init__(self, group: RawGroup, device: torch.device, number: int, before: int = 0) -> None:
        self.rows, self.cols, members = group
        self.device = device
        self.factors = np.array([member[5] for member in members], dtype=np.float64)
        ends = np.cumsum([0, *(member[4] for member in members)]).tolist()
        self.columns = [slice(a, b) for a, b in pairwise(ends)]
        self.rank = ends[-1]
        home = home_of(device)
        self.up = torch.zeros(self.rows, self.rank, dtype=torch.float64, device=home)
        self.down = torch.zeros(self.rank, self.cols, dtype=torch.float64, device=home)
        for columns, member in zip(self.columns, members, strict=True):
            _check(member, self.rows, number)
            code, up, down_code, down, rank, _, first, rows = member
            self.up[first : first + rows, columns] = _decode(code, up, (rows, rank), home, number)
            self.down[columns] = _decode(down_code, down, (rank, self.cols), home, number)
        self._refuse_non_finite(number, before)

    def _refuse_non_finite(self, number: int, before: int) -> None:
        if bool(torch.isfinite(self.up).all()) and bool(torch.isfinite(self.down).all()):
            return
        for index, columns in enumerate(self.columns):
            for side, part in (("up", self.up[:, columns]), ("down", self.down[columns])):
                if not bool(torch.isfinite(part).all()):
                    refuse_non_finite(before + index, side, number)

    @property
    def column_factors(self) -> F64:
        """(R,) the factor of every column of the stack."""
        return np.repeat(self.factors, [c.stop - c.start for c in self.columns])

    def pair(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(rows, R), (R, cols) f64, whose product is the sum of the members, factors included."""
        return self.up * torch.from_numpy(self.column_factors).to(self.up), self.down

    def deltas(self) -> torch.Tensor:
        """(n, rows, cols) f32, factors included: 2 rows cols R flops in f32."""
        shape = (len(self.columns), self.rows, self.cols)
        made = torch.empty(shape, dtype=torch.float32, device=self.device)
        for out, columns, factor in zip(made, self.columns, self.factors, strict=True):
            up, down = (
                narrow(self.up[:, columns], self.device),
                narrow(self.down[columns], self.device),
            )
            torch.mul(up @ down, single(factor, self.device), out=out)
        return made

    def grams(self) -> tuple[F64, F64]:
        """``up^T up`` and ``down down^T``, (R, R) each: 2 (rows + cols) R^2 flops in f64."""
        return (self.up.T @ self.up).cpu().numpy(), (self.down @ self.down.T).cpu().numpy()

    def inner(self) -> F64:
        """``<up_i @ down_i, up_j @ down_j>``, (n, n)."""
        up, down = self.grams()
        return self.sums(up * down)

    def sums(self, values: F64) -> F64:
        """Sums over the members' columns: (R, R) to (n, n), (R,) to (n,)."""
        member = np.zeros((len(self.columns), self.rank))
        for row, columns in zip(member, self.columns, strict=True):
            row[columns] = 1
        return member @ values @ member.T if values.ndim == 2 else member @ values

    def along(self, left: torch.Tensor, right: torch.Tensor) -> F64:
        """``<left @ right, up_i @ down_i>`` for every member; factors as of `Stack.up`."""
        each = ((self.up.T @ left) * (self.down @ right.T)).sum(1)
        return self.sums(each.cpu().numpy())

    def along_dense(self, dense: torch.Tensor) -> F64:
        """``<dense, up_i @ down_i>``, for a (rows, cols) f64."""
        each = ((dense @ self.down.T) * self.up).sum(0)
        return self.sums(each.cpu().numpy())


def _check(member: RawMember, group_rows: int, number: int) -> None:
    factor, first, rows = member[5:]
    if first < 0 or first + rows > group_rows:
        text = f"rows of up: expected at most {group_rows} in all, got {rows} from row {first}"
        refuse("shape", text, number)
    if not math.isfinite(factor):
        text = f"factor = {factor}: allowed is a finite number"
        refuse("param", text, number)


def _decode(
    code: str, data: memoryview, shape: tuple[int, int], device: torch.device, number: int
) -> torch.Tensor:
    """Bytes as f64; exact."""
    if code not in _TYPES:
        text = f"dtype {code}: allowed are {', '.join(_TYPES)}"
        refuse("dtype", text, number)
    count = math.prod(shape)
    size = count * _TYPES[code].itemsize
    if len(data) != size:
        text = f"bytes: expected {shape[0]} x {shape[1]} elements of {code}, got {len(data)} bytes"
        refuse("shape", text, number)
    if count == 0:
        return torch.zeros(shape, dtype=torch.float64, device=device)
    # A copy: torch wants memory that it may write to.
    flat = torch.from_numpy(np.frombuffer(data, dtype=np.uint8).copy()).to(device)
    return flat.view(_TYPES[code]).to(torch.float64).reshape(shape)


def refuse_non_finite(member: int, side: str, number: int | None) -> None:
    """Raise what the kernels raise for NaN and infinity."""
    text = f"NaN or infinity in the {side} factor of member {member}"
    refuse("non_finite", text, number, member, side)


class Bases:
    """Joint orthonormal bases of the weighted deltas of a stack.

    The left one are the eigenvectors of ``sum w_i^2 delta_i delta_i^T``, the right one those of
    ``sum w_i^2 delta_i^T delta_i``, by falling eigenvalue; the largest coefficient of each is
    positive.  Made from the deltas, they depend neither on how a delta is shared between its
    factors nor on the order of the members.

    Attributes
    ----------
    up_scale, down_scale : (R,) what makes columns of up and rows of down equally long; the
        factors are in the former, both are 0 where the other side is.
    left, right : (R, p), (R, q): the bases are ``up @ (up_scale * left)`` and
        ``down.T @ (down_scale * right)``.
    left_dual, right_dual : (R, p), (R, q) coefficients of the scaled columns in the bases.
    grams : (R, R) each, inner products of the scaled columns of up and of the rows of down.

    References
    ----------
    Stoica et al. 2024, arXiv:2410.19735 (KnOTS); Panariello et al. 2025, arXiv:2509.17786.
    """

    def __init__(self, stack: Stack, weights: F64, number: int) -> None:
        grams, factors = stack.grams(), stack.column_factors
        up, down = np.diag(grams[0]) * factors**2, np.diag(grams[1])
        used = (up > 0) & (down > 0)
        ratio = np.divide(up, down, out=np.ones_like(up), where=used)
        balance = np.exp2(np.round(np.log2(ratio) / 4))
        self.up_scale = np.where(used, factors / balance, 0.0)
        self.down_scale = np.where(used, balance, 0.0)
        up_gram = grams[0] * np.outer(self.up_scale, self.up_scale)
        down_gram = grams[1] * np.outer(self.down_scale, self.down_scale)
        if not (np.isfinite(up_gram).all() and np.isfinite(down_gram).all()):
            refuse("overflow", "a result too large for F64", number)
        sizes = np.abs(weights) / max(float(np.abs(weights).max(initial=0.0)), 1e-300)
        self.grams = up_gram, down_gram
        self.left, self.left_dual = _basis(up_gram, down_gram, stack.columns, sizes)
        self.right, self.right_dual = _basis(down_gram, up_gram, stack.columns, sizes)

    def left_vectors(self, stack: Stack) -> torch.Tensor:
        """(rows, p) f64."""
        return stack.up @ torch.from_numpy(self.up_scale[:, None] * self.left).to(stack.up)

    def right_vectors(self, stack: Stack) -> torch.Tensor:
        """(q, cols) f64, rows are the vectors."""
        return torch.from_numpy((self.down_scale[:, None] * self.right).T).to(stack.up) @ stack.down

    def decided(self, stack: Stack) -> tuple[F64, F64]:
        """Both duals for programs, (R, p) and (R, q).

        They are zero where a delta has nothing but rounding along a direction: noise would have a
        vote there.
        """
        up, down = self.grams
        left = _decided(self.left_dual, down, stack.columns)
        return left, _decided(self.right_dual, up, stack.columns)

    def cores(self, stack: Stack) -> Cores:
        """For a caller whose up stack holds the factors."""
        factors = stack.column_factors
        beside = np.divide(
            self.up_scale, factors, out=np.zeros_like(factors), where=self.up_scale != 0
        )
        each = [self.left_dual[c].T @ self.right_dual[c] for c in stack.columns]
        shape = (len(each), self.left.shape[1], self.right.shape[1])
        return Cores(
            beside[:, None] * self.left,
            self.down_scale[:, None] * self.right,
            np.array(each, dtype=np.float64).reshape(shape),
        )


def _decided(dual: F64, other: F64, columns: Sequence[slice]) -> F64:
    """Zero where a member has nothing but rounding along a direction; see `Bases.decided`."""
    dual = dual.copy()
    for own in columns:
        squares = np.einsum("aj,ab,bj->j", dual[own], other[own, own], dual[own])
        dual[own, squares <= _NOISE**2 * squares.sum()] = 0.0
    return dual


def _basis(gram: F64, other: F64, columns: Sequence[slice], sizes: F64) -> tuple[F64, F64]:
    """(R, p) coefficients of a basis of one side, and its dual, from the blocks of the other.

    With ``F F^T = blockdiag(size_i^2 other_ii)`` and ``F^T gram F = W L W^T``, it is
    ``F W L^(-1/2)``.
    """
    root = np.zeros_like(gram)
    for block, size in zip(columns, sizes, strict=True):
        values, vectors = np.linalg.eigh(other[block, block])
        root[block, block] = size * vectors * np.sqrt(np.maximum(values, 0))
    values, vectors = np.linalg.eigh(root.T @ gram @ root)
    # Rising: the last ones count.
    used = np.flatnonzero((values > _DEPENDENT * values.max(initial=0.0)) & (values > 0))[::-1]
    turn = root @ (vectors[:, used] / np.sqrt(values[used]))
    places = np.abs(turn).argmax(axis=0) if turn.size else np.zeros(0, dtype=np.int64)
    turn = turn * np.where(turn[places, np.arange(len(used))] < 0, -1.0, 1.0)
    return turn, gram @ turn
