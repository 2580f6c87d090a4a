"""Which cells a run measures."""

from loramix_testbed.matrix.ablations import ablations
from loramix_testbed.matrix.methods import FURTHER, METHODS, PAIRED
from loramix_testbed.matrix.running import Cell
from loramix_testbed.matrix.stacks import Stack, alone, mixed, others
from loramix_testbed.world.adapters import HALVES

_MANY = 16
"""Pictures of a stack that the quick matrix is about."""


def quick() -> list[Cell]:
    """All methods on the held-out mixed stacks of many pictures, and every held-out adapter alone.

    Each size has 64 pictures or more: four pairs and threes, two fives, one stack of all eight.
    """
    stacks = [s for s in mixed("held-out") if len(s.asked) * s.seeds >= _MANY]
    return [_alone(stack) for stack in alone("held-out")] + _compared(stacks)


def _compared(stacks: list[Stack]) -> list[Cell]:
    """Small stacks first: what a run that was stopped has is whole."""
    stacks = sorted(stacks, key=lambda stack: len(stack.adapters))
    pairs = [stack for stack in stacks if len(stack.adapters) == 2]
    cells = [Cell(s, name, way) for s in stacks for name, way in METHODS.items()]
    return cells + [Cell(s, name, way) for s in pairs for name, way in PAIRED.items()]


def full() -> list[Cell]:
    """Both halves, all kinds of stacks, all methods."""
    cells = [_alone(stack) for half in HALVES for stack in alone(half)]
    cells += _compared(mixed("held-out"))
    stacks = [*mixed("calibration"), *others("held-out"), *others("calibration")]
    cells += [Cell(s, name, way) for s in stacks for name, way in METHODS.items()]
    cells += [Cell(s, name, way) for s in mixed("held-out") for name, way in FURTHER.items()]
    return cells + ablations()


def _alone(stack: Stack) -> Cell:
    return Cell(stack, "sum", METHODS["sum"])
