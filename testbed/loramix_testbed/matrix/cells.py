"""Which cells a run measures."""

from loramix_testbed.matrix.ablations import ablations
from loramix_testbed.matrix.methods import FURTHER, METHODS, PAIRED
from loramix_testbed.matrix.running import Cell
from loramix_testbed.matrix.stacks import Stack, alone, mixed, others


def quick() -> list[Cell]:
    """All methods on the held-out mixed stacks, and every held-out adapter alone."""
    stacks = _small(mixed("held-out"))
    pairs = [stack for stack in stacks if len(stack.adapters) == 2]
    cells = [_alone(stack) for stack in alone("held-out")]
    cells += [Cell(s, name, way) for s in stacks for name, way in METHODS.items()]
    return cells + [Cell(s, name, way) for s in pairs for name, way in PAIRED.items()]


def _small(stacks: list[Stack]) -> list[Stack]:
    """Small stacks first: what a run that was stopped has is whole."""
    return sorted(stacks, key=lambda stack: len(stack.adapters))


def full() -> list[Cell]:
    """Both halves, all kinds of stacks, all methods."""
    cells = quick() + [_alone(stack) for stack in alone("calibration")]
    stacks = [*mixed("calibration"), *others("held-out"), *others("calibration")]
    cells += [Cell(s, name, way) for s in stacks for name, way in METHODS.items()]
    cells += [Cell(s, name, way) for s in mixed("held-out") for name, way in FURTHER.items()]
    return cells + ablations()


def _alone(stack: Stack) -> Cell:
    return Cell(stack, "sum", METHODS["sum"])
