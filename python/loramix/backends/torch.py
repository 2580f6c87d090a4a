"""The kernels in torch: for a GPU, or for tensors that are on one.

Imported only where ``backend="torch"`` is asked for.  Decisions are those of the Rust kernels;
factors get into a file's bytes through them, so rounding and refusals are theirs.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch

from loramix.backends import torch_programs as programs
from loramix.backends.base import Cores, Factored, Job, Mixed
from loramix.backends.torch_condense import check_rule
from loramix.backends.torch_device import device_of, full_precision, narrow, refuse, single
from loramix.backends.torch_factors import Bases, Stack, refuse_non_finite
from loramix.backends.torch_steps import (
    approximated,
    check_program,
    condensed,
    parts_of,
    recompressed,
    stored,
    whole,
    written,
)
from loramix.methods.base import Program
from loramix.methods.composite import Space
from loramix.raw import RawGroup, RawStep, Site
from loramix.tensors import F32, F64

_FLOATS = ("float64", "float32", "float16", "bfloat16")


class TorchBackend:
    """See `Backend`.

    One group is on the device at a time: its deltas in f32, about eight times over while a program
    runs.  `threads` are those of the Rust kernels that encode the result; torch has its own.

    Parameters
    ----------
    device : as torch names it, e.g. ``cuda:1``; default cuda, else mps, else cpu.

    Raises
    ------
    ParamError : there is no such device.

    Every verb raises `CoreError` as the Rust kernels do; see `refusals.with_names`.
    """

    name: ClassVar[str] = "torch"

    def __init__(self, device: str | None = None) -> None:
        self.device = device_of(device)

    def gram(self, groups: Sequence[RawGroup], *, threads: int | None) -> list[F64]:  # noqa: ARG002
        """In f64 throughout: 2 (rows + cols) R^2 flops and one read of the factors."""
        stacks = (Stack(group, self.device, number) for number, group in enumerate(groups))
        return [stack.inner() * np.outer(stack.factors, stack.factors) for stack in stacks]

    def cores(
        self,
        groups: Sequence[RawGroup],
        weights: Sequence[F64],
        *,
        threads: int | None,  # noqa: ARG002
    ) -> list[Cores]:
        """From f64 inner products of the factors; two eigenproblems of size R on the CPU."""
        found = []
        for number, (group, own) in enumerate(zip(groups, weights, strict=True)):
            stack = Stack(group, self.device, number)
            found.append(Bases(stack, np.asarray(own, dtype=np.float64), number).cores(stack))
        return found

    def kept(
        self,
        steps: Sequence[RawStep],
        program: Program,
        space: Space,
        *,
        threads: int | None,  # noqa: ARG002
    ) -> list[list[F64]]:
        """Dense deltas, or coefficients in a space; what is kept of them is summed in f64."""
        with full_precision():
            return [
                [
                    programs.kept_gram(part.values(), part.program, part.site)
                    for part in parts_of(step, number, program, space, self.device)
                ]
                for number, step in enumerate(steps)
            ]

    def condense(
        self, steps: Sequence[RawStep], program: Program, space: Space, job: Job
    ) -> list[Factored]:
        """Dense in the space of weights, as in `DESIGN.md`; the result of other spaces is exact."""
        check_rule(job)
        with full_precision():
            made = [
                condensed(step, parts_of(step, number, program, space, self.device), job, number)
                for number, step in enumerate(steps)
            ]
        return written(made, job)

    def dense(self, steps: Sequence[RawStep], program: Program, job: Job) -> list[Factored]:
        """One dense result at a time; its account in f64."""
        with full_precision():
            return [
                whole(step, parts_of(step, number, program, "weight", self.device), job, number)
                for number, step in enumerate(steps)
            ]

    def approximate(
        self, steps: Sequence[RawStep], results: Sequence[F32], job: Job
    ) -> list[Factored]:
        """As `condense` does it with the results of programs."""
        check_rule(job)
        made = []
        with full_precision():
            for number, (step, result) in enumerate(zip(steps, results, strict=True)):
                parts = parts_of(step, number, Program(), "weight", self.device)
                made.append(approximated(step, parts, self._dense(result), job, number))
        return written(made, job)

    def store(self, steps: Sequence[RawStep], results: Sequence[F32], job: Job) -> list[Factored]:
        """As `dense` does it with the results of programs."""
        made = []
        with full_precision():
            for number, (step, result) in enumerate(zip(steps, results, strict=True)):
                parts = parts_of(step, number, Program(), "weight", self.device)
                made.append(stored(step, parts, self._dense(result), job, number))
        return made

    def _dense(self, result: F32) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(result, dtype=np.float32)).to(self.device)

    def recompress(
        self,
        groups: Sequence[RawGroup],
        job: Job,
        mixed: Sequence[Mixed] | None = None,
    ) -> list[Factored]:
        """Through QR factorisations in f64.  The members' factors are in ``up_stack``.

        What need not be cut is handed to the Rust kernels as it is, which keep every digit.
        """
        check_rule(job)
        made = []
        for number, group in enumerate(groups):
            stack = Stack(group, self.device, number)
            pair = None if mixed is None else mixed[number]
            made.append(recompressed(group, stack, pair, job, number))
        return written(made, job)

    def run(
        self,
        deltas: Sequence[Any],
        weights: Sequence[float],
        program: Program,
        site: Site,
        *,
        mix: Callable[[F64, F64], F64] | None = None,
        threads: int | None,  # noqa: ARG002
    ) -> Any:  # noqa: ANN401 - see `Backend`
        """NumPy arrays or tensors of f64, f32, f16, bf16; the result is where the first one is.

        ``mix`` makes `Site.mix` from the inner products of what is kept, and the weights.
        """
        if not deltas or len(weights) != len(deltas) or len({d.shape for d in deltas}) > 1:
            text = (
                "deltas and weights: expected at least one delta, all of one shape, one weight "
                f"each, got {len(deltas)} deltas, {len(weights)} weights"
            )
            refuse("shape", text)
        tensors = [_tensor(delta) for delta in deltas]
        for member, tensor in enumerate(tensors):
            if not bool(torch.isfinite(tensor).all()):
                refuse_non_finite(member, "dense", None)
        check_program(program, site, len(deltas))
        shape = tuple(tensors[0].shape)
        rows = shape[0] if len(shape) > 1 else 1
        cols = int(np.prod(shape[1:] if len(shape) > 1 else shape))
        each = zip(tensors, weights, strict=True)
        values = torch.stack(
            [narrow(t, self.device).reshape(rows, cols) * single(w, self.device) for t, w in each]
        )
        around = site.around(list(values))
        if around:
            values = values[site.seen(range(len(values)))]
        own = np.array(site.seen(weights), dtype=np.float64)
        if mix is not None:
            turn = mix(programs.kept_gram(values, program, site), own)
            site = replace(site, mix=turn.ravel().tolist())
        result = programs.run(values, own, program, site)
        if program.clean:
            result = programs.shrunk(result, programs.noise(values, result))
        for value in around:
            result = result + value
        result = result.reshape(shape)
        if isinstance(deltas[0], torch.Tensor):
            return result.to(deltas[0].device)
        return result.cpu().numpy()


def _tensor(delta: Any) -> torch.Tensor:  # noqa: ANN401 - NumPy or torch
    """A tensor without history, on the device of the delta."""
    name = getattr(delta.dtype, "name", str(delta.dtype).removeprefix("torch."))
    if name not in _FLOATS:
        text = f"dtype {delta.dtype}: allowed are {', '.join(_FLOATS)}"
        refuse("dtype", text)
    if isinstance(delta, torch.Tensor):
        return delta.detach()
    # A copy in native byte order: torch wants memory that it may write to.
    return torch.from_numpy(np.array(delta, dtype=delta.dtype.newbyteorder("="), order="C"))
