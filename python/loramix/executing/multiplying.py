"""Groups that are multiplied out: what programs on tiles of factors cannot do, or not in time.

Members of full rank are dense in memory anyway.  As pairs beside an identity they would have their
eigenproblems solved, O((n s)^3) for n of smaller side s; here a sketch finds the directions that a
result of given rank needs, and inner products are those of entries.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from loramix import _core
from loramix.arrays import block_diagonal
from loramix.backends.base import Backend, Factored, Job
from loramix.formats.values import decoded, values
from loramix.methods import Composite, Elementwise, Linear, published
from loramix.methods.composite import mixer_of
from loramix.planning.steps import Part, Step
from loramix.raw import Site
from loramix.refusals import with_names
from loramix.tensors import F32, F64, ITEM_BYTES, Tensor
from loramix.types import Factors, Group

_EXTRA = 32
"""Directions that a sketch has more than the result."""
_TURNS = 3
"""How often a sketch is multiplied by the result and its transpose."""


def is_whole(step: Step) -> bool:
    """Whether a step must be multiplied out, or is faster so; joint bases are of factors."""
    whole = step.is_full or any(_looks_at_all(part) for part in step.parts)
    return whole and step.kind != "joint"


def _looks_at_all(part: Part) -> bool:
    target, count = part.group.target, len(part.site.seen(part.weights))
    method = part.method
    return isinstance(method, Composite) and method.whole(target.rows, target.cols, count)


def of_dense(step: Step, backend: Backend, job: Job) -> list[Factored]:
    """By way of the dense result, group by group.

    Memory: the result, the deltas of a group, and what `published.merged` needs; where members are
    of full rank, the deltas of all groups of the step.
    """
    run = partial(backend.run, threads=job.threads)
    result = np.zeros((step.target.rows, step.target.cols), dtype=np.float32)
    kept: list[list[F32]] = []
    for part in step.parts:
        deltas = [_expanded(part.group, i, job.threads) for i in range(len(part.group.members))]
        if all(np.isfinite(delta).all() for delta in deltas):
            result[_rows(part)] = _merged(part, deltas, run)
        else:
            result[_rows(part)] = np.inf  # refused, with the name of the target, below
        kept += [deltas] if step.is_full else []
    write = backend.store if step.kind == "dense" else backend.approximate
    dense, target = step.kind == "dense", step.target
    if not step.is_full or (job.rank is None and not dense) or not np.isfinite(result).all():
        return write([step.raw_parts()], [result], job)
    stand_in = _sketched(step, result, 1 if dense else (job.rank or 0) + _EXTRA).raw()
    (made,) = write([(target.rows, target.cols, target.key_hash, [stand_in])], [result], job)
    gram, along = _inner(step, kept, _written(step, made, job, result))
    return [replace(made, gram=gram, along=along)]


def _rows(part: Part) -> slice:
    return slice(part.row_start, part.row_start + part.group.target.rows)


def _merged(part: Part, deltas: Sequence[F32], run: published.Run) -> F32:
    """What a method of any kind but rules on cores makes of dense deltas."""
    method = part.method
    if part.place == "anywhere":
        result = np.zeros_like(deltas[0])
        for weight, delta in zip(part.weights, deltas, strict=True):
            result += np.float32(weight) * delta
        return result
    assert isinstance(method, Elementwise | Composite)
    if isinstance(method, Composite) and _looks_at_all(part):
        return published.merged(method, deltas, part.weights, part.site, run)
    found = run(deltas, part.weights, method.program(), part.site, mix=mixer_of(method))
    return np.asarray(found)


def _expanded(group: Group, index: int, threads: int | None) -> F32:
    """The delta of a member, (rows, cols)."""
    rows, cols, member = group.target.rows, group.target.cols, group.members[index]
    if member.identity is not None:
        (side,) = member.sides
        found = values(side, f"{member.file}: {member.keys[0]}").reshape(rows, cols)
        return found if member.scale == 1 else found * np.float32(member.scale)
    out = np.empty((rows, cols), dtype=np.float32)
    one = Group(group.target, (member,), (0,))
    with_names([one], partial(_core.expand, one.raw(), 0, rows, out, threads=threads))
    return out


def _sketched(step: Step, result: F32, width: int) -> Part:
    """A delta of low rank with the leading directions of a result, where a search may begin.

    Halko et al. 2011, arXiv:0909.4061, algorithm 4.4.  Cost: ``4 rows cols width`` flops a turn.
    """
    rows, cols = result.shape
    width = min(width, rows, cols)
    random = np.random.Generator(np.random.Philox(step.target.key_hash))
    basis = random.standard_normal((cols, width), dtype=np.float32)
    for _ in range(_TURNS):
        left = np.linalg.qr(result @ basis)[0]
        basis = np.linalg.qr(result.T @ left)[0]
    sides = (result @ basis, np.ascontiguousarray(basis.T))
    up, down = (Tensor("F32", one.shape, one.data.cast("B")) for one in sides)
    member = Factors(up, down, 1.0, (step.stem, step.stem), "")
    group = Group(step.target, (member,), (0,))
    return Part(group, Linear(), (1.0,), (1.0,), 0, Site())


def _written(step: Step, made: Factored, job: Job, result: F32) -> tuple[F32, F32] | F32:
    """Up and down of what was written at scale one; or the result itself."""
    if step.kind == "dense":
        return result
    (rows, cols), rank = result.shape, made.rank
    split = rows * rank * ITEM_BYTES[job.dtype]
    end = split + rank * cols * ITEM_BYTES[job.dtype]
    scale = np.float32(1.0 if job.alpha is None else job.alpha / rank)
    up = Tensor(job.dtype, (rows, rank), job.arena[:split].data)
    down = Tensor(job.dtype, (rank, cols), job.arena[split:end].data)
    return decoded(up) * scale, decoded(down)


def _inner(
    step: Step, kept: Sequence[Sequence[F32]], written: tuple[F32, F32] | F32
) -> tuple[F64, F64]:
    """Inner products of the members ``up @ down`` with each other and with what was written."""
    blocks, along = [], []
    for part, deltas in zip(step.parts, kept, strict=True):
        place = _rows(part)
        if isinstance(written, tuple):
            up, down = written[0][place], written[1]
            own = [float(np.vdot(delta @ down.T, up)) for delta in deltas]
        else:
            own = [float(np.vdot(delta, written[place])) for delta in deltas]
        rows = [("F32", delta.reshape(-1).view(np.uint8)) for delta in deltas]
        gram = np.array(_core.dense_gram(rows)).reshape(len(deltas), -1)
        scales = np.array([member.scale for member in part.group.members])
        safe = np.where(scales != 0, scales, 1.0)
        blocks.append(gram / np.outer(safe, safe))
        along += (np.array(own) / safe).tolist()
    return block_diagonal(blocks), np.array(along)
