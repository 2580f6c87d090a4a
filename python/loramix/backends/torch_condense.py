"""Few factors for a result: from a dense matrix or from a longer pair, and into a file's bytes.

A dense result M of an elementwise program has full rank.  Its best rank-k approximation is sought
where it is known to be, in the row space of the deltas: with E an orthonormal basis of the down
rows (and random signs where more are wanted), ``Q = orth(M E^T)`` and ``B = Q^T M``.  The singular
values of B decide the rank, ``|M|^2 - |B|^2`` is what Q left out.  A pair goes through two QR
factorisations instead.  Both products over M are f32, everything else is f64.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from loramix import _core
from loramix.backends import torch_draws as draws
from loramix.backends.base import Job
from loramix.backends.torch_device import narrow, refuse, wide
from loramix.backends.torch_programs import norm_of
from loramix.raw import RawGroup
from loramix.tensors import F64, ITEM_BYTES

BUCKETS = 8
"""Sums that a sketch has on either side."""
_SPARE = 8
_SMALL_SIDE = 256
"""Side up to which the whole singular value decomposition costs little."""
_MORE = 2
"""Turns of the subspace iteration beyond the first, each two more products over M: where singular
values fall slowly, one leaves up to 2 % more error than the best, two up to 1 %."""
_CANCELLED = 1e-3
"""Share of the squared norm below which ``|M|^2 - |B|^2`` has too few digits to be trusted."""
_NOISE = 2e-7
"""Relative norm below which a tail of singular values is rounding noise of f32 factors."""


@dataclass(frozen=True, slots=True)
class Spectrum:
    """A matrix as ``left @ right``, but for what was left out.

    Attributes
    ----------
    left : (rows, q) f64, orthonormal columns.
    right : (q, cols) f64, orthogonal rows, longest first: their norms are singular values.
    sigmas : (q,) these norms.
    outside : squared norm of what was left out.
    """

    left: torch.Tensor
    right: torch.Tensor
    sigmas: F64
    outside: float = 0.0

    @property
    def norm(self) -> float:
        """Of the matrix."""
        return math.sqrt(float(self.tails[0]))

    @property
    def tails(self) -> F64:
        """(q + 1,) squared norm of what is lost if the first k are kept."""
        squares = np.append(self.sigmas**2, self.outside)
        return np.cumsum(squares[::-1])[::-1]

    def choose(self, job: Job, largest: int, rounding: float) -> int:
        """Smallest rank that satisfies the rule; 0 where there is only rounding noise.

        Parameters
        ----------
        largest : rank allowed.
        rounding : norm of the terms that the matrix is a sum of.
        """
        tails = self.tails
        losses = np.sqrt(tails / tails[0]) if tails[0] > 0 else np.zeros(len(tails))

        def first(good: npt.NDArray[np.bool_]) -> int:
            found = np.flatnonzero(good[:-1])
            return int(found[0]) if found.size else len(self.sigmas)

        kept = min(first(np.sqrt(tails) <= _NOISE * max(rounding, self.norm)), largest)
        if kept == 0:
            return 0
        if job.energy is not None:
            kept = min(kept, first(losses <= math.sqrt(max(1 - job.energy, 0.0))))
        if job.max_error is not None:
            kept = min(kept, first(losses <= job.max_error))
        return max(kept, 1)

    def cut(self, kept: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The first directions, as a pair of equally long sides."""
        roots = torch.from_numpy(np.sqrt(self.sigmas[:kept])).to(self.left)
        return self.left[:, :kept] * roots, self.right[:kept] / roots[:, None]

    def loss(self, kept: int) -> float:
        """Relative error of keeping the first."""
        return math.sqrt(float(self.tails[kept] / self.tails[0])) if self.norm > 0 else 0.0


def spectrum_of_pair(up: torch.Tensor, down: torch.Tensor, number: int) -> Spectrum:
    """Of ``up @ down``, (rows, R) and (R, cols) f64: exact, O((rows + cols) R^2).

    Raises
    ------
    CoreError : ``overflow``, the product leaves f64.
    """
    left, upper = torch.linalg.qr(up)
    right, lower = torch.linalg.qr(down.T)
    core = (upper @ lower.T).cpu().numpy()
    if not np.isfinite(core).all():
        refuse("overflow", "a result too large for F64", number)
    u, sigmas, vt = np.linalg.svd(core, full_matrices=False)
    turned = torch.from_numpy(sigmas[:, None] * vt).to(right) @ right.T
    return Spectrum(left @ torch.from_numpy(u).to(left), turned, sigmas)


def spectrum_of_dense(
    dense: torch.Tensor, known: torch.Tensor, width: int, norm: float, *, least: int = 0
) -> Spectrum:
    """The largest singular directions of a dense result.

    Parameters
    ----------
    dense : (rows, cols) f32.
    known : (R, cols) f64, rows that span most of its row space.
    width : directions wanted; at least those and a few more are returned where there are more.
    norm : of `dense`.
    least : further steps towards them that are made at least.

    Cost: ``4 (1 + steps) rows cols width`` flops; the whole decomposition where a side is short.
    """
    rows, cols = dense.shape
    extra = max(width + _SPARE - len(known), 0)
    if min(rows, cols) <= max(_SMALL_SIDE, len(known) + extra):
        left, sigmas, right = torch.linalg.svd(wide(dense), full_matrices=False)
        return Spectrum(left, sigmas[:, None] * right, sigmas.cpu().numpy())
    sizes = torch.linalg.vector_norm(known, dim=1, keepdim=True)
    unit = torch.where(sizes > 0, known / sizes, 0.0)
    words = draws.words(0, 0, 0, extra * cols, dense.device)
    noise = draws.signs(words).reshape(extra, cols) / math.sqrt(cols)
    start = torch.linalg.qr(torch.cat([unit, noise]).T)[0]
    left = _range(dense, start)
    for _ in range(max(least, _MORE)):
        left = _range(dense, torch.linalg.qr(wide(dense.T @ left))[0])
    right = wide(left.T @ dense)
    squares, turn = np.linalg.eigh((right @ right.T).cpu().numpy())
    squares, turn = np.maximum(squares[::-1], 0), turn[:, ::-1].copy()
    outside = max(norm**2 - float(squares.sum()), 0.0)
    if outside < _CANCELLED * norm**2:
        outside = norm_of(dense - left @ narrow(right, dense.device)) ** 2
    # What of B is rounding noise is left out, too: M may have low rank.
    lost = np.cumsum(squares[::-1])[::-1]
    kept = int((np.sqrt(lost) > _NOISE * norm).sum())
    outside += float(squares[kept:].sum())
    turned = torch.from_numpy(turn[:, :kept]).to(right)
    return Spectrum(wide(left) @ turned, turned.T @ right, np.sqrt(squares[:kept]), outside)


def _range(dense: torch.Tensor, start: torch.Tensor) -> torch.Tensor:
    """An orthonormal basis of ``dense @ start``, (rows, p) f32; start is (cols, p)."""
    product = wide(dense @ narrow(start, dense.device))
    return narrow(torch.linalg.qr(product)[0], dense.device)


def sketch(left: torch.Tensor, right: torch.Tensor | None, key: int) -> tuple[float, ...]:
    """``Z^T M X`` of ``M = left @ right`` (or `left`), as `rust/src/probe.rs` draws Z and X."""

    def buckets(count: int, place: int) -> torch.Tensor:
        signs = draws.signs(draws.words(0, key, place, count, left.device))
        turns = torch.eye(BUCKETS, dtype=signs.dtype, device=signs.device)
        return signs[:, None] * turns.repeat(count // BUCKETS + 1, 1)[:count]

    cols = left.shape[1] if right is None else right.shape[1]
    x, z = buckets(cols, 0), buckets(len(left), 1)
    seen = wide(left @ narrow(x, left.device)) if right is None else left @ (right @ x)
    return tuple((z.T @ seen).cpu().flatten().tolist())


def as_group(left: torch.Tensor, right: torch.Tensor, number: int) -> RawGroup:
    """A pair as a group of one f32 member.

    Raises
    ------
    CoreError : ``overflow``, the pair leaves f32.
    """
    (rows, rank), cols = left.shape, right.shape[1]
    sides = [side.to(torch.float32).cpu().contiguous().numpy() for side in (left, right)]
    if not all(np.isfinite(side).all() for side in sides):
        refuse("overflow", "a result too large for F32", number)
    up, down = (memoryview(side.reshape(-1).view(np.uint8)) for side in sides)
    return (rows, cols, [("F32", up, "F32", down, rank, 1.0, 0, rows)])


def is_met(job: Job, loss: float) -> bool:
    """Whether a relative error is as little as is asked for."""
    return (job.max_error is None or loss <= job.max_error) and (
        job.energy is None or 1 - loss**2 >= job.energy
    )


def encode(groups: Sequence[RawGroup], job: Job) -> list[tuple[int, float, float, float]]:
    """Write pairs, and groups that are kept whole, into the arena.

    Returns
    -------
    (rank, norm, rounding, relative error) of each, see `_core.recompress`.
    """
    whole = replace(job, rank=None, energy=None, max_error=None)
    return [row[:4] for row in _core.recompress(groups, whole)]


def encode_dense(dense: torch.Tensor, job: Job, number: int) -> None:
    """Write the entries of a step into the arena, row by row.

    Raises
    ------
    CoreError : ``overflow``, the type is too small.
    """
    raw = dense.cpu().numpy().reshape(-1).view(np.uint8)
    start = job.offsets[number]
    out = job.arena[start : start + dense.numel() * ITEM_BYTES[job.dtype]]
    try:
        _core.dense_combine([("F32", raw)], [1.0], out, dtype=job.dtype, threads=job.threads)
    except _core.CoreError as error:
        refuse(error.args[0], error.args[1], number)


def check_rule(job: Job) -> None:
    """Refuse a rule outside its range, as the kernels do."""
    checks = (
        ("rank", job.rank, job.rank is None or job.rank >= 1, "at least 1"),
        ("energy", job.energy, job.energy is None or 0 < job.energy <= 1, "in (0, 1]"),
        ("max_error", job.max_error, job.max_error is None or 0 <= job.max_error < 1, "in [0, 1)"),
    )
    for name, value, good, allowed in checks:
        if not good:
            text = f"{name} = {value}: allowed is {allowed}"
            refuse("param", text)
