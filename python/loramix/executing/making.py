"""The arithmetic of a batch of steps: which verbs of a backend a method needs, in which order."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise

import numpy as np

from loramix import _core
from loramix.arrays import block_diagonal
from loramix.backends.base import Backend, Cores, Factored, Job, Mixed
from loramix.batching import DENSE_BYTES, batches
from loramix.executing import multiplying
from loramix.executing.clearing import cleared
from loramix.methods import Coefficients, Composite, Elementwise, Subspace, published
from loramix.methods.composite import mixer_of, space_of
from loramix.planning.steps import Part, Step
from loramix.raw import RawGroup
from loramix.refusals import with_names
from loramix.tensors import F64, Tensor


def make(batch: Sequence[Step], backend: Backend, job: Job) -> list[Factored]:
    """Factors of every step of a batch, or their dense results, written into the job's arena.

    Parameters
    ----------
    batch : steps of one kind, and of one method if they have one.
    job : room and rule.

    Raises
    ------
    CoreError : what the kernels refuse; see `loramix.refusals.with_names`.
    """
    kind, method = batch[0].kind, batch[0].method
    if kind == "joint":
        batch = [cleared(step) for step in batch]
    if kind == "sum":
        return backend.recompress([one.raw() for one in batch], job)
    if kind == "difference":
        return _of_differences(batch, job)
    if isinstance(method, Elementwise | Composite):
        if any(map(multiplying.is_whole, batch)):
            return _one_by_one(method, batch, backend, job)
        return _by_entries(method, batch, backend, job)
    if kind == "joint":
        return _in_joint_bases(batch, backend, job)
    return _one_by_one(None, batch, backend, job)


def _of_differences(batch: Sequence[Step], job: Job) -> list[Factored]:
    """Factors of dense differences, of which a few are in memory at a time."""
    found: list[Factored] = []
    for own in batches(batch, lambda one: 4 * one.target.rows * one.target.cols, DENSE_BYTES):
        at = len(found)
        offsets = job.offsets[at : at + len(own) + 1]
        room = replace(
            job,
            arena=job.arena[offsets[0] : offsets[-1]],
            offsets=[offset - offsets[0] for offset in offsets],
        )
        sizes = [(one.target.rows, one.target.cols) for one in own]
        values = [np.frombuffer(_difference(one).data, dtype="<f4") for one in own]
        keys = [one.target.key_hash for one in own]
        made = with_names(
            [one.group() for one in own], partial(_core.extract, values, sizes, keys, room)
        )
        for rank, norm, rounding, cut, _, _, sketch in made:
            energy = norm * norm
            gram, along = np.array([[energy]]), np.array([energy * (1 - cut * cut)])
            found.append(Factored(rank, norm, rounding, cut, gram, along, tuple(sketch)))
    return found


def _difference(step: Step) -> Tensor:
    """The entries of the one piece, which are beside an identity."""
    (piece,) = step.pieces
    (entries,) = piece.factors.stored
    return entries


def _by_entries(
    method: Elementwise | Composite, batch: Sequence[Step], backend: Backend, job: Job
) -> list[Factored]:
    program, space, mixer = method.program(), space_of(method), mixer_of(method)
    steps = [one.raw_parts() for one in batch]
    if mixer is not None:
        mixes = []
        for one, grams in zip(
            batch, backend.kept(steps, program, space, threads=job.threads), strict=True
        ):
            pairs = zip(one.parts, grams, strict=True)
            mixes.append([_mix(mixer, part, gram) for part, gram in pairs])
        steps = [one.raw_parts(mix) for one, mix in zip(batch, mixes, strict=True)]
    if batch[0].kind == "dense":
        return backend.dense(steps, program, job)
    return backend.condense(steps, program, space, job)


def _mix(mixer: Callable[[F64, F64], F64], part: Part, gram: F64) -> list[float]:
    """What is kept of each member that the program sees in each; nothing where one is alone."""
    weights = np.array(part.site.seen(part.weights))
    return mixer(gram, weights).ravel().tolist() if len(weights) > 1 else []


def _one_by_one(
    method: Elementwise | Composite | None, batch: Sequence[Step], backend: Backend, job: Job
) -> list[Factored]:
    """What is multiplied out is in memory as it is, so there is one step at a time.

    Parameters
    ----------
    method : that of all steps; None where parts of a step have different ones.
    """
    found = []
    for one, (start, end) in zip(batch, pairwise(job.offsets), strict=True):
        own = replace(job, arena=job.arena[start:end], offsets=[0, end - start])
        if method is None or multiplying.is_whole(one):
            work = partial(multiplying.of_dense, one, backend, own)
        else:
            work = partial(_by_entries, method, [one], backend, own)
        found += with_names([one.group()], work)
    return found


def _in_joint_bases(batch: Sequence[Step], backend: Backend, job: Job) -> list[Factored]:
    parts = [part for one in batch for part in one.parts]
    weights = [np.array(part.site.seen(part.weights)) for part in parts]
    raw = [_seen(part) for part in parts]
    found = iter(backend.cores(raw, weights, threads=job.threads))
    run = partial(backend.run, threads=job.threads)

    def mixers(part: Part, sizes: F64, cores: Cores) -> tuple[F64, F64]:
        """What is left and right of the stacks in the result."""
        if len(sizes) < 2:
            unit = np.eye(len(cores.left))
            return _beside(part, sizes.sum() * unit, unit)
        core = _core_of(part, cores.cores, sizes, run)
        return _beside(part, cores.left, core @ cores.right.T)

    # One after the other: LAPACK has threads of its own, and they get into each other's way.
    pairs = map(mixers, parts, weights, found)
    blocks = [[next(pairs) for _ in one.parts] for one in batch]
    mixed = [
        Mixed(
            block_diagonal([a for a, _ in own]),
            block_diagonal([b for _, b in own]),
            one.target.key_hash,
        )
        for own, one in zip(blocks, batch, strict=True)
    ]
    return backend.recompress([one.raw_stored() for one in batch], job, mixed)


def _core_of(part: Part, cores: F64, sizes: F64, run: published.Run) -> F64:
    """The core (p, q) of the result of a part, from those of the members that it sees."""
    method = part.method
    if isinstance(method, Subspace):
        return method.merge(cores, sizes)
    if isinstance(method, Coefficients):
        return np.tensordot(sizes, cores, axes=1)
    site = replace(part.site, sides=part.site.seen(part.site.sides))
    values = list(cores.astype(np.float32))
    found = run(values, sizes.tolist(), method.program(), site, mix=mixer_of(method))
    return np.asarray(found).astype(np.float64)


def _seen(part: Part) -> RawGroup:
    """The members that do not go around a method, without their weights."""
    rows, cols, members = part.group.raw()
    return rows, cols, part.site.seen(members)


def _beside(part: Part, left: F64, right: F64) -> tuple[F64, F64]:
    """What is left and right of the stacks of all members, from that of those that are seen.

    Parameters
    ----------
    left, right : (R, p), (p, R), R the sum of the ranks of the members that are seen.
    """
    ends = np.cumsum([member.rank for member in part.group.members])
    columns = np.split(np.arange(ends[-1]), ends[:-1])
    around = part.site.around(list(zip(columns, part.weights, strict=True)))
    if not around:
        return left, right
    own, p = np.concatenate([*part.site.seen(columns), np.zeros(0, dtype=np.int64)]), len(right)
    others = np.concatenate([place for place, _ in around])
    up, down = np.zeros((ends[-1], p + len(others))), np.zeros((p + len(others), ends[-1]))
    up[own, :p], down[:p, own] = left, right
    up[others, np.arange(p, up.shape[1])] = np.concatenate([np.full(len(c), w) for c, w in around])
    down[np.arange(p, up.shape[1]), others] = 1.0
    return up, down
