"""How sure a mean is: a bootstrap over prompts, and over seeds within each."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean and its 95 % interval."""

    mean: float
    low: float
    high: float


def interval(prompts: Sequence[NDArray[np.float64]], seed: int = 0) -> Interval:
    """Of values by prompt, of each as many as it has seeds.

    Prompts are drawn with replacement, and of each drawn one its seeds with replacement; every
    prompt counts the same.
    """
    return interval_over([prompts], seed)


def interval_over(groups: Sequence[Sequence[NDArray[np.float64]]], seed: int = 0) -> Interval:
    """Of the mean over groups of prompts, such as all of one size; every group counts the same."""
    random = np.random.default_rng(seed)
    mean = float(np.mean([np.mean([values.mean() for values in group]) for group in groups]))
    means = np.mean([_resampled(group, random) for group in groups], axis=0)
    low, high = np.quantile(means, (0.025, 0.975))
    return Interval(mean, float(low), float(high))


def _resampled(
    prompts: Sequence[NDArray[np.float64]], random: np.random.Generator
) -> NDArray[np.float64]:
    """`RESAMPLES` means over prompts."""
    resampled = np.stack(
        [
            values[random.integers(len(values), size=(RESAMPLES, len(values)))].mean(1)
            for values in prompts
        ],
        axis=1,
    )
    chosen = random.integers(len(prompts), size=(RESAMPLES, len(prompts)))
    return np.asarray(np.take_along_axis(resampled, chosen, axis=1).mean(1))
