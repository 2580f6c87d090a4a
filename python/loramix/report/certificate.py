"""The loss certificate: what a file lost against what was meant, target by target."""

import math
from collections.abc import Sequence
from statistics import median

from loramix.executing.running import Merged
from loramix.report.facts import Bin, Certificate, Worst

_WORST = 10
_PER_DECADE = 2


def certificate(merged: Merged) -> Certificate:
    """Errors of the written file, as measured after re-opening it."""
    errors = [row.error for row in merged.log]
    worst = sorted(merged.log, key=lambda row: (-row.error, row.target))[:_WORST]
    return Certificate(
        relative=merged.error,
        targets=len(errors),
        exact=sum(error == 0 for error in errors),
        median=median(errors),
        bins=bins([error for error in errors if error > 0]),
        worst=[
            Worst(target=row.target, error=row.error, rank=row.rank, norm=row.norm)
            for row in worst
            if row.error > 0
        ],
    )


def bins(errors: Sequence[float]) -> list[Bin]:
    """Counts by half decades, from the smallest error to the largest, empty ones included."""
    if not errors:
        return []
    steps = [math.floor(math.log10(error) * _PER_DECADE) for error in errors]
    return [
        Bin(
            low=10 ** (step / _PER_DECADE),
            high=10 ** ((step + 1) / _PER_DECADE),
            count=steps.count(step),
        )
        for step in range(min(steps), max(steps) + 1)
    ]
