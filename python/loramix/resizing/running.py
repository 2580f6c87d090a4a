"""One adapter in less room: ranks for all its targets from one budget, as rules of a plan."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from loramix.backends import backend_of
from loramix.backends.base import Backend
from loramix.batching import READ_BYTES, batches
from loramix.deciding import Opened, Ticker, Wish, policy_for
from loramix.errors import ParamError
from loramix.executing import running
from loramix.planning.output import CODES, Output
from loramix.planning.steps import Plan, Step
from loramix.recipes.rules import Rule
from loramix.refusals import with_names
from loramix.resizing import ranks
from loramix.resizing.ranks import Spectrum
from loramix.tensors import ITEM_BYTES, Dtype
from loramix.types import Adapter

# Both factors are rounded, each by 0.54 of half a unit in the last place, root mean square.
_ROUNDING: dict[Dtype, float] = {"bf16": 2.0**-8, "f16": 2.0**-11, "f32": 2.0**-24}
_BACKEND = "rust"
_TYPICAL = 0.54 * 2**0.5


@dataclass(frozen=True, slots=True)
class Budget:
    """What a whole file may lose, or take.  Exactly one is given.

    Attributes
    ----------
    total_error : relative error of all targets together, (0, 1): the root of the sum of their
        squared errors over that of their squared norms, model and text encoders together.
    size : bytes of the file of tensors, header included.
    """

    total_error: float | None = None
    size: int | None = None

    def __post_init__(self) -> None:
        if (self.total_error is None) == (self.size is None):
            message = "total_error and size are two ways to choose all ranks: give one"
            raise ParamError(message)
        if self.total_error is not None and not 0 < self.total_error < 1:
            message = f"total_error = {self.total_error!r}: allowed is (0, 1)"
            raise ParamError(message)
        if self.size is not None and self.size < 1:
            message = f"size = {self.size}: allowed is a number of bytes of at least 1"
            raise ParamError(message)

    def check(self, output: Output) -> None:
        """Refuse other ways to choose the ranks.

        Raises
        ------
        ParamError : the output says one.
        """
        if (output.rank, output.energy, output.max_error) != (None, None, None):
            message = (
                "total_error and size choose the rank of every target; rank, energy and max_error "
                "do so as well: give one of them"
            )
            raise ParamError(message)


def rules_for(
    adapter: Adapter, budget: Budget, output: Output, *, threads: int | None = None
) -> tuple[Rule, ...]:
    """The ranks of all targets, one rule for each rank.

    Parameters
    ----------
    output : type and dialect; what is fused there has one rank.

    Raises
    ------
    ParamError : the budget is less than rounding takes, or than rank 1 everywhere takes.
    FormatError, ShapeError : see `loramix.merge`.

    Notes
    -----
    Cost: one read of the factors, 2 (rows + cols) r^2 flops in f64 and O(r^3) per target; memory:
    a batch of factors and 3 r^2 numbers for each target of it.  Singular values below a millionth
    of a target's largest count as 0.
    """
    budget.check(output)
    # A rule for all, though it changes nothing, has the parts of fused weights as groups of their
    # own: those that the rules with the ranks will be about.
    largest = max(factors.rank for factors in adapter.targets.values())
    plan = _plan(adapter, output, (Rule(target="*", rank=largest),), threads)
    spectra = _spectra(plan, threads)
    if budget.total_error is not None:
        chosen = ranks.for_error(spectra, _cut(budget.total_error, plan.dtype))
        return _rules(plan, chosen)
    assert budget.size is not None
    return _fitting(plan, spectra, budget.size, threads)


def _plan(adapter: Adapter, output: Output, rules: tuple[Rule, ...], threads: int | None) -> Plan:
    """What is written with these rules."""
    wish = Wish(policy_for("linear"), rules, output)
    stack = Opened.of([adapter], None, wish)
    return stack.plan(wish, backend_of(_BACKEND), Ticker(None, 0), threads)


def _rules(plan: Plan, chosen: Sequence[int]) -> tuple[Rule, ...]:
    keys: dict[int, list[str]] = {}
    for step, rank in zip(plan.steps, chosen, strict=True):
        keys.setdefault(rank, []).extend(step.keys)
    return tuple(
        Rule(regex="|".join(map(re.escape, sorted(found))), rank=rank)
        for rank, found in sorted(keys.items())
    )


def _spectra(plan: Plan, threads: int | None) -> list[Spectrum]:
    """Singular values of every step of a plan of sums."""
    backend = backend_of(_BACKEND)
    found: list[Spectrum] = []
    for batch in batches(plan.steps, _resident, READ_BYTES):
        work = partial(_of_batch, batch, backend, threads)
        found += with_names([step.group() for step in batch], work)
        for adapter in plan.adapters:
            adapter.release()
    return found


def _resident(step: Step) -> int:
    """Bytes that a step takes while its values are found: factors, bases, cores."""
    rank = sum(piece.factors.rank for piece in step.pieces)
    stored = sum(t.size for piece in step.pieces for t in piece.factors.stored)
    return stored + (2 + len(step.pieces)) * rank * rank * 8


def _of_batch(batch: Sequence[Step], backend: Backend, threads: int | None) -> list[Spectrum]:
    weights = [np.ones(len(step.pieces)) for step in batch]
    cores = backend.cores([step.raw() for step in batch], weights, threads=threads)
    found = []
    for step, one in zip(batch, cores, strict=True):
        values = np.linalg.svd(one.cores.sum(axis=0), compute_uv=False)
        cost = step.target.rows + step.target.cols
        found.append(Spectrum(values if len(values) else np.zeros(1), cost))
    return found


def _cut(total_error: float, dtype: Dtype) -> float:
    """What may be cut, where rounding to the type takes its share of the budget.

    Raises
    ------
    ParamError : rounding alone takes it all.
    """
    rounding = _TYPICAL * _ROUNDING[dtype]
    if total_error <= rounding:
        message = (
            f"total_error = {total_error:g}: rounding to {dtype} alone takes about "
            f"{rounding:.2g}; write a wider type (dtype f32) or allow more"
        )
        raise ParamError(message)
    return float((total_error**2 - rounding**2) ** 0.5)


def _fitting(
    plan: Plan, spectra: Sequence[Spectrum], size: int, threads: int | None
) -> tuple[Rule, ...]:
    """Ranks of a file of at most so many bytes.

    The header says the rules, so how much is left for factors is known when they are made.

    Raises
    ------
    ParamError : rank 1 everywhere takes more.
    """
    item = ITEM_BYTES[CODES[plan.dtype]]
    smallest = ranks.least(spectra)
    numbers = max(size // item, smallest)
    while True:
        chosen = ranks.for_size(spectra, numbers)
        taken = sum(one.cost * rank for one, rank in zip(spectra, chosen, strict=True))
        rules = _rules(plan, chosen)
        made = _plan(plan.adapters[0], plan.output, rules, threads)
        whole = running.bytes_around(made, _BACKEND) + taken * item
        if whole <= size:
            return rules
        if taken == smallest:
            message = (
                f"size = {size} bytes: rank 1 everywhere takes {whole} as {plan.dtype}; allow "
                "more, or leave targets out"
            )
            raise ParamError(message)
        too_many = -(-(whole - size) // item)
        numbers = max(taken - too_many, smallest)
