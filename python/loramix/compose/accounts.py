"""What happened in a run: who was active where and when, and what it cost."""

from dataclasses import dataclass

import numpy as np

from loramix.tensors import F32, F64


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a run.

    Attributes
    ----------
    number : from 0.
    timestep : as the pipeline gives it to the denoiser.
    forwards : predictions of the denoiser per image, conditional and unconditional ones.
    weights : (n, batch, *grid), what every adapter weighed in every patch; grid is empty for modes
        that have one weight per image.
    """

    number: int
    timestep: float
    forwards: int
    weights: F32

    @property
    def entropy(self) -> F64:
        """(batch,), entropy of the weights in nats, mean over patches, in [0, ln n]."""
        weights = self.weights.astype(np.float64)
        each = -(weights * np.log(np.where(weights > 0, weights, 1))).sum(axis=0)
        return np.asarray(each.reshape(len(each), -1).mean(axis=1) + 0.0)

    @property
    def chosen(self) -> np.ndarray[tuple[int, int], np.dtype[np.bool_]]:
        """(n, batch), which adapters had any weight."""
        return np.asarray((self.weights != 0).reshape(*self.weights.shape[:2], -1).any(axis=2))


@dataclass(frozen=True, slots=True)
class Run:
    """One call of the pipeline.

    Attributes
    ----------
    adapters : their names, in the order of the weights.
    steps : those that were done.
    notes : what the user should know, as sentences.
    """

    adapters: tuple[str, ...]
    steps: tuple[Step, ...]
    notes: tuple[str, ...]

    @property
    def forwards(self) -> int:
        """Predictions of the denoiser per image in all."""
        return sum(step.forwards for step in self.steps)
