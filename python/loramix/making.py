"""The arithmetic of a batch of steps: which verbs of a backend a method needs, in which order."""

from collections.abc import Sequence

import numpy as np

from loramix.backends.base import Backend, Cores, Factored, Job, Mixed
from loramix.methods import Composite, Elementwise, Method, Subspace
from loramix.methods.composite import mixer_of, space_of
from loramix.steps import Part, Step
from loramix.types import F64


def make(method: Method, batch: Sequence[Step], backend: Backend, job: Job) -> list[Factored]:
    """Factors of every step of a batch, or their dense results, written into the job's arena.

    Parameters
    ----------
    batch : steps of one kind.
    job : room and rule.

    Raises
    ------
    CoreError : what the kernels refuse; see `loramix.refusals.with_names`.
    """
    if batch[0].kind == "sum":
        return backend.recompress([one.raw() for one in batch], job)
    if isinstance(method, Subspace):
        return _in_joint_bases(method, batch, backend, job)
    assert isinstance(method, Elementwise | Composite)
    program, space, mixer = method.program(), space_of(method), mixer_of(method)
    steps = [one.raw_parts() for one in batch]
    if mixer is not None:
        mixes = []
        for one, grams in zip(
            batch, backend.kept(steps, program, space, threads=job.threads), strict=True
        ):
            pairs = zip(one.parts, grams, strict=True)
            mixes.append(
                [mixer(gram, np.array(part.weights)).ravel().tolist() for part, gram in pairs]
            )
        steps = [one.raw_parts(mix) for one, mix in zip(batch, mixes, strict=True)]
    if batch[0].kind == "dense":
        return backend.dense(steps, program, job)
    return backend.condense(steps, program, space, job)


def _in_joint_bases(
    method: Subspace, batch: Sequence[Step], backend: Backend, job: Job
) -> list[Factored]:
    parts = [part for one in batch for part in one.parts]
    weights = [np.array(part.weights) for part in parts]
    raw = [part.group.raw() for part in parts]
    found = iter(backend.cores(raw, weights, threads=job.threads))

    def mixers(part: Part, cores: Cores) -> tuple[F64, F64]:
        """What is left and right of the stacks in the result."""
        sizes = np.array(part.weights)
        if len(sizes) == 1:
            unit = np.eye(part.group.members[0].rank)
            return sizes[0] * unit, unit
        return cores.left, method.merge(cores.cores, sizes) @ cores.right.T

    # One after the other: LAPACK has threads of its own, and they get into each other's way.
    pairs = map(mixers, parts, found)
    blocks = [[next(pairs) for _ in one.parts] for one in batch]
    mixed = [
        Mixed(_diagonal([a for a, _ in own]), _diagonal([b for _, b in own]), one.target.key_hash)
        for own, one in zip(blocks, batch, strict=True)
    ]
    return backend.recompress([one.raw_stored() for one in batch], job, mixed)


def _diagonal(blocks: Sequence[F64]) -> F64:
    """A block diagonal matrix."""
    rows, cols = (sum(b.shape[axis] for b in blocks) for axis in (0, 1))
    result = np.zeros((rows, cols))
    row = col = 0
    for block in blocks:
        result[row : row + block.shape[0], col : col + block.shape[1]] = block
        row, col = row + block.shape[0], col + block.shape[1]
    return result
