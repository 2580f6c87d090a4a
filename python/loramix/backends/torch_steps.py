"""What becomes of one step: its parts on the device, their result, and the account of it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch

from loramix import _core
from loramix.backends import torch_condense as condense
from loramix.backends import torch_programs as programs
from loramix.backends.base import Factored, Job, Mixed
from loramix.backends.torch_condense import Spectrum
from loramix.backends.torch_device import narrow, refuse, wide
from loramix.backends.torch_factors import Bases, Stack
from loramix.methods.base import Program
from loramix.methods.composite import Space
from loramix.raw import RawGroup, RawPart, RawStep, Site
from loramix.tensors import F64


@dataclass(frozen=True, slots=True)
class Part:
    """Rows of a step that one program makes.

    Attributes
    ----------
    stack : the members; their factors include the weights.
    seen, around : those that the program sees, and those that go around it, if there are any.
    weights : (n,) the users', of those that are seen.
    program, site : what is done; the plain sum where one adapter is alone.
    start : first row.
    number : of the step in its batch, for messages.
    bases : that the program's entries are coefficients in; None for the entries of the deltas.
    both : whether in both of them (space ``core``), or in the left one (``knots``).
    """

    stack: Stack
    seen: Stack
    around: Stack | None
    weights: F64
    program: Program
    site: Site
    start: int
    number: int
    bases: Bases | None
    both: bool

    @property
    def rows(self) -> slice:
        """Of the step."""
        return slice(self.start, self.start + self.stack.rows)

    def values(self) -> torch.Tensor:
        """What the program runs on: (n, rows, cols), (n, p, cols) or (n, p, q) f32."""
        stack, device = self.seen, self.seen.device
        if self.bases is None:
            return stack.deltas()
        found = []
        left, right = self.bases.decided(stack)
        for c in stack.columns:
            if self.both:
                pair = torch.from_numpy(left[c].T), torch.from_numpy(right[c])
            else:
                scale = self.bases.down_scale[c]
                pair = torch.from_numpy(left[c].T * scale), stack.down[c]
            found.append(narrow(pair[0], device) @ narrow(pair[1], device))
        return torch.stack(found)

    def run(self, values: torch.Tensor) -> torch.Tensor:
        """The program's result, but for its cleaning."""
        return programs.run(values, self.weights, self.program, self.site)

    def dense(self) -> torch.Tensor:
        """The program's result: (rows, cols) f32 where the entries are those of the deltas."""
        values = self.values()
        result = self.run(values)
        if self.program.clean:
            result = programs.shrunk(result, programs.noise(values, result))
        for delta in () if self.around is None else self.around.deltas():
            result = result + delta
        return result

    def pair(self) -> tuple[torch.Tensor, torch.Tensor, float]:
        """The result as a pair (rows, P), (P, cols) f64, and the square of what it leaves out."""
        left, right, outside = self._seen_pair()
        if self.around is None:
            return left, right, outside
        beside = self.around.pair()
        return torch.cat([left, beside[0]], dim=1), torch.cat([right, beside[1]]), outside

    def _seen_pair(self) -> tuple[torch.Tensor, torch.Tensor, float]:
        """Likewise, without the members that go around the program."""
        if self.bases is None and not self.program.clean:
            return *self.seen.pair(), 0.0
        values = self.values()
        result = self.run(values)
        norm = _norm_of(result, self.number)
        clean = programs.noise(values, result) if self.program.clean else 0.0
        if self.bases is None:
            return _clean_pair(self.seen, result, clean, norm)
        result = wide(programs.shrunk(result, clean))
        down = result @ self.bases.right_vectors(self.seen) if self.both else result
        return self.bases.left_vectors(self.seen), down, 0.0


def parts_of(
    step: RawStep, number: int, program: Program, space: Space, device: torch.device
) -> list[Part]:
    """The parts of a step, on the device.

    Raises
    ------
    CoreError : ``shape``: parts that leave the step or overlap; else see `Stack`.
    """
    rows, cols, _, raw = step
    ends = sorted((start, start + group[0]) for group, _, _, start, _ in raw)
    apart = all(one[1] <= two[0] for one, two in pairwise(ends))
    fits = all(group[1] == cols for group, *_ in raw) and (not raw or ends[-1][1] <= rows)
    if not (raw and apart and fits):
        text = (
            f"parts: expected parts within {rows} x {cols} that do not overlap, "
            f"got {len(raw)} parts"
        )
        refuse("shape", text, number)
    found: list[Part] = []
    before = 0
    for one in raw:
        found.append(_part(one, number, before, program, space, device))
        before += len(found[-1].stack.columns)
    return found


def _part(
    raw: RawPart, number: int, before: int, program: Program, space: Space, device: torch.device
) -> Part:
    group, weights, site, start, alone = raw
    stack = Stack(group, device, number, before)
    if len(weights) != len(stack.columns):
        text = f"weights: expected {len(stack.columns)}, got {len(weights)}"
        refuse("shape", text, number)
    if alone:
        program, site = Program(), site.alone()
    check_program(program, site, len(weights))
    seen, around = stack, None
    if "around" in site.sides:
        rows, cols, members = group
        seen = Stack((rows, cols, site.seen(members)), device, number, before)
        around = Stack((rows, cols, site.around(members)), device, number, before)
    own = np.array(site.seen(weights), dtype=np.float64)
    bases = None if alone or space == "weight" else Bases(seen, np.ones_like(own), number)
    return Part(stack, seen, around, own, program, site, start, number, bases, space == "core")


def check_program(program: Program, site: Site, members: int) -> None:
    """Refuse what the kernels refuse: they run it on nothing."""
    deltas = [("F32", np.empty(0, dtype=np.uint8))] * members
    out = np.empty((0, 0), dtype=np.float32)
    _core.run_program(deltas, 0, 0, [1.0] * members, program, site, out, threads=1)


_STEPS = 8
"""Towards the leading directions of a result that is cleaned, as in the kernels."""


def _clean_pair(
    stack: Stack, result: torch.Tensor, clean: float, norm: float
) -> tuple[torch.Tensor, torch.Tensor, float]:
    """A dense result with its singular values shrunk, at the norm it had before."""
    width = stack.rank
    while True:
        found = condense.spectrum_of_dense(result, stack.down, width, norm, least=_STEPS)
        new = programs.shrinkage(found.sigmas, clean, *result.shape)
        # The last directions are found too short: that they look like noise says nothing.
        beyond = 4 * int((new == 0).sum()) >= len(new)
        complete = len(new) < width or len(new) == min(result.shape)
        if complete or clean == 0 or beyond:
            break
        width *= 2
    if clean == 0 or norm == 0:
        return found.left, found.right, found.outside
    kept = int((new > 0).sum())
    after = float(np.linalg.norm(new))
    gains = new[:kept] / found.sigmas[:kept] * (norm / after if after > 0 else 1.0)
    gains_here = torch.from_numpy(gains).to(found.right)
    return found.left[:, :kept], found.right[:kept] * gains_here[:, None], 0.0


@dataclass(frozen=True, slots=True)
class Made:
    """A result before it is encoded.

    Attributes
    ----------
    group : that the kernels write.
    numbers : norm, rounding and cut as in `Factored`; None where the kernels keep the group whole
        and say them.
    gram, along, sketch : see `Factored`.
    """

    group: RawGroup
    numbers: tuple[float, float, float] | None
    gram: F64
    along: F64
    sketch: tuple[float, ...] = ()


def condensed(step: RawStep, parts: Sequence[Part], job: Job, number: int) -> Made:
    """The result of a step, cut by the rule of the job."""
    if all(part.bases is None and not part.program.clean for part in parts):
        return approximated(step, parts, _filled(step, parts), job, number)
    rows, _, key, _ = step
    pairs = [part.pair() for part in parts]
    up = pairs[0][0].new_zeros(rows, sum(p[0].shape[1] for p in pairs))
    at = 0
    for part, (left, _, _) in zip(parts, pairs, strict=True):
        up[part.rows, at : at + left.shape[1]] = left
        at += left.shape[1]
    down = torch.cat([pair[1] for pair in pairs])
    spectrum = condense.spectrum_of_pair(up, down, number)
    spectrum = replace(spectrum, outside=sum(pair[2] for pair in pairs))
    return _cut(step, parts, spectrum, condense.sketch(up, down, key), job, number)


def approximated(
    step: RawStep, parts: Sequence[Part], dense: torch.Tensor, job: Job, number: int
) -> Made:
    """A dense result of a step, (rows, cols) f32, cut by the rule of the job.

    Raises
    ------
    CoreError : ``shape``, another size than the step's; ``overflow``, no longer finite.
    """
    key = step[2]
    _check_result(step, dense, number)
    norm = _norm_of(dense, number)
    known = torch.cat([part.stack.down for part in parts])
    rank, most = _ranks(step, parts, job)
    while True:
        spectrum = condense.spectrum_of_dense(dense, known, rank, norm, least=job.steps)
        if rank == most or condense.is_met(job, spectrum.loss(min(rank, len(spectrum.sigmas)))):
            return _cut(step, parts, spectrum, condense.sketch(dense, None, key), job, number)
        rank = min(2 * rank, most)


def _ranks(step: RawStep, parts: Sequence[Part], job: Job) -> tuple[int, int]:
    """The rank to begin with, and the largest that the rule allows."""
    bound = min(step[:2])
    known = max(min(sum(part.stack.rank for part in parts), bound), 1)
    if job.energy is None and job.max_error is None:
        most = known if job.rank is None else min(job.rank, bound)
        return most, most
    most = min(job.rank or bound, bound)
    return min(known, most), most


def _cut(
    step: RawStep,
    parts: Sequence[Part],
    spectrum: Spectrum,
    sketch: tuple[float, ...],
    job: Job,
    number: int,
) -> Made:
    """What is written of a spectrum, and the account of it."""
    rows, cols, *_ = step
    kept = spectrum.choose(job, _ranks(step, parts, job)[1], spectrum.norm)
    left, right = spectrum.cut(kept) if kept else _zeros(parts[0].stack.up, rows, cols)
    gram = _inner(parts)
    along = [part.stack.along(left[part.rows], right) for part in parts]
    numbers = (spectrum.norm, spectrum.norm, spectrum.loss(kept) if kept else 0.0)
    group = condense.as_group(left, right, number)
    return Made(group, numbers, gram, np.concatenate(along), sketch)


def _filled(step: RawStep, parts: Sequence[Part]) -> torch.Tensor:
    """The results of the parts where they belong, (rows, cols) f32; zeros where none is."""
    rows, cols = step[:2]
    dense = torch.zeros(rows, cols, dtype=torch.float32, device=parts[0].stack.device)
    for part in parts:
        dense[part.rows] = part.dense()
    return dense


def whole(step: RawStep, parts: Sequence[Part], job: Job, number: int) -> Factored:
    """The result of a step, every entry of it, written into the arena."""
    return stored(step, parts, _filled(step, parts), job, number)


def stored(
    step: RawStep, parts: Sequence[Part], dense: torch.Tensor, job: Job, number: int
) -> Factored:
    """A dense result of a step, (rows, cols) f32, written into the arena.

    Raises
    ------
    CoreError : as `approximated`.
    """
    _check_result(step, dense, number)
    norm = _norm_of(dense, number)
    condense.encode_dense(dense, job, number)
    along = np.concatenate([part.stack.along_dense(wide(dense[part.rows])) for part in parts])
    sketch = condense.sketch(dense, None, step[2])
    return Factored(min(dense.shape), norm, norm, 0.0, _inner(parts), along, sketch)


def _check_result(step: RawStep, dense: torch.Tensor, number: int) -> None:
    rows, cols = step[:2]
    if dense.shape != (rows, cols):
        text = f"result: expected {rows} x {cols}, got {tuple(dense.shape)}"
        refuse("shape", text, number)


def _norm_of(result: torch.Tensor, number: int) -> float:
    """Frobenius norm of what must not have left f32."""
    norm = programs.norm_of(result)
    if not math.isfinite(norm):
        refuse("overflow", "a result too large for F32", number)
    return norm


def _zeros(like: torch.Tensor, rows: int, cols: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A delta of zero still needs a pair that every reader accepts: rank one."""
    return like.new_zeros(rows, 1), like.new_zeros(1, cols)


def _inner(parts: Sequence[Part]) -> F64:
    """Inner products of the members of all parts; those of different rows have none."""
    gram = np.zeros((0, 0))
    for part in parts:
        n, m = len(gram), len(part.stack.columns)
        gram = np.block([[gram, np.zeros((n, m))], [np.zeros((m, n)), part.stack.inner()]])
    return gram


def recompressed(group: RawGroup, stack: Stack, mixed: Mixed | None, job: Job, number: int) -> Made:
    """The sum of a group, mixed or not, cut by the rule of the job."""
    inner, rank = stack.inner(), stack.rank
    rule = job.energy is not None or job.max_error is not None
    if mixed is None and not rule and min(job.rank or rank, stack.rows, stack.cols) >= rank:
        return Made(group, None, inner, inner @ stack.factors)
    up, down = stack.pair()
    rounding = math.sqrt(float(np.diag(inner) @ stack.factors**2))
    sketch: tuple[float, ...] = ()
    if mixed is not None:
        sides = (mixed.left, mixed.right)
        a, b = (np.ascontiguousarray(side, dtype=np.float64) for side in sides)
        if a.shape != b.T.shape or len(a) != rank:
            text = f"mixers: expected {rank} x p and p x {rank}, got {a.shape} and {b.shape}"
            refuse("shape", text, number)
        sizes = [(side**2).sum(axis).cpu().numpy() for side, axis in ((up, 0), (down, 1))]
        rounding = math.sqrt(float(sizes[0] @ (a @ b) ** 2 @ sizes[1]))
        up, down = up @ torch.from_numpy(a).to(up), torch.from_numpy(b).to(up) @ down
        sketch = condense.sketch(up, down, mixed.key)
    spectrum = condense.spectrum_of_pair(up, down, number)
    largest = min(job.rank or up.shape[1], *up.shape, stack.cols)
    kept = spectrum.choose(job, largest, rounding)
    left, right = spectrum.cut(kept) if kept else _zeros(stack.up, stack.rows, stack.cols)
    numbers = (spectrum.norm if kept else 0.0, rounding, spectrum.loss(kept) if kept else 0.0)
    group = condense.as_group(left, right, number)
    return Made(group, numbers, inner, stack.along(left, right), sketch)


def written(made: Sequence[Made], job: Job) -> list[Factored]:
    """Encode results into the arena."""
    found = []
    for one, row in zip(made, condense.encode([m.group for m in made], job), strict=True):
        norm, rounding, cut = one.numbers or row[1:]
        if one.numbers and norm > 0:
            cut = math.hypot(cut, row[3] * row[1] / norm)
        found.append(Factored(row[0], norm, rounding, cut, one.gram, one.along, one.sketch))
    return found
