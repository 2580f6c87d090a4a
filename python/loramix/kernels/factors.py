"""Factored deltas."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from loramix import _core
from loramix.refusals import with_names
from loramix.types import Factors, Group, Target


def expand(target: Target, members: Sequence[Factors]) -> npt.NDArray[np.float32]:
    """Dense sum of factored deltas, ``(rows, cols)`` f32.

    Cost: 2 * (sum of ranks) flops per entry.

    Raises
    ------
    FormatError : NaN or infinity in a factor.

    Examples
    --------
    >>> adapter = load("style.safetensors")                            # doctest: +SKIP
    >>> target, factors = next(iter(adapter.targets.items()))          # doctest: +SKIP
    >>> expand(target, [factors])                                      # doctest: +SKIP
    """
    out = np.empty((target.rows, target.cols), dtype=np.float32)
    group = Group(target, tuple(members), tuple(range(len(members))))
    with_names([group], lambda: _core.expand(group.raw(), 0, target.rows, out))
    return out
