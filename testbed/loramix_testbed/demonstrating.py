"""What ``loramix demo --images`` shows: one held-out stack, drawn in several ways."""

from dataclasses import replace

import torch

import loramix
from loramix.executing.running import Merged
from loramix_testbed.judging.drawing import png
from loramix_testbed.judging.metrics import measure
from loramix_testbed.matrix.methods import METHODS
from loramix_testbed.matrix.running import drawn_by
from loramix_testbed.matrix.stacks import mixed
from loramix_testbed.world.adapters import SPECS

STACK = next(stack for stack in mixed("held-out") if len(stack.adapters) == 3)


def strip(way: str, seeds: int) -> tuple[str, int, int]:
    """Pictures by one of `METHODS`: a row as a PNG in base64, how many are right, of how many."""
    stack = replace(STACK, seeds=seeds)
    drawn, _ = drawn_by(METHODS[way], stack)
    groups = drawn.split(seeds)
    found = [measure(group, *asked) for group, asked in zip(groups, stack.asked, strict=True)]
    right = sum(int((one.content & one.style).sum()) for one in found)
    row = torch.cat([picture for group in groups for picture in group], dim=2)
    return png(row), right, seeds * len(groups)


def merged_by(method: str) -> Merged:
    """The stack as one adapter, in memory."""
    return loramix.merge([SPECS[name].path for name in STACK.adapters], method)
