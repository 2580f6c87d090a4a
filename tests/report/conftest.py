"""One stack, planned by hand and merged, and what a report says of it."""

from dataclasses import dataclass
from pathlib import Path

import pytest
from report.stacks import Planted, picked, planted

from loramix import Merged, Output, merge
from loramix.report.facts import Overview
from loramix.report.overview import overview

WEIGHTS = (0.8, 1.0, -0.5)
NAMES = ("style", '<img src=x onerror="alert(1)">&\u202e\x1b[2J', "l" * 90)
RECIPE = 'seed = 7\n\n[[adapter]]\npath = "a<b>&.safetensors"\n'


@dataclass(frozen=True)
class Case:
    """A stack with its merge and its report."""

    stack: Planted
    merged: Merged
    found: Overview


@pytest.fixture(scope="session")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """Three adapters of hostile names, cut to rank 6, so that there are errors to show."""
    folder: Path = tmp_path_factory.mktemp("report")
    stack = planted(folder, 3, names=NAMES)
    merged = merge(
        list(stack.adapters), "linear", weights=WEIGHTS, path=folder / "out.safetensors",
        output=Output(rank=6), auto_strength=True,
    )  # fmt: skip
    found = overview(
        stack.adapters, WEIGHTS, stack.analysis, choices=picked(stack, WEIGHTS), merged=merged,
        recipe=RECIPE, notes=["a note of <the> policy"],
    )  # fmt: skip
    return Case(stack, merged, found)
