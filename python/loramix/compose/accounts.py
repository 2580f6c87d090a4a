"""What happened in a run: who was active where and when, and what it cost."""

from dataclasses import dataclass

import numpy as np

from loramix.tensors import F32, F64

_ROUNDING = 1e-5
"""What weights in float32 may lack in a sum of 1."""


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a run.

    Attributes
    ----------
    number : from 0.
    timestep : as the pipeline gives it to the denoiser.
    forwards : predictions of the denoiser per image, conditional and unconditional ones.
    weights : (n, batch, *grid), what every adapter weighed in every patch, inside its mask if there
        are masks; grid is empty for modes that have one weight per image.
    """

    number: int
    timestep: float
    forwards: int
    weights: F32

    @property
    def base(self) -> F32:
        """(batch, *grid), what is left to the base: outside masks, or all without adapters."""
        left = 1 - self.weights.sum(axis=0, dtype=np.float64)
        return np.where(left < _ROUNDING, 0, left).astype(np.float32)

    @property
    def entropy(self) -> F64:
        """(batch,), entropy of the shares in nats, mean over patches, in [0, ln n].

        Where the base has a share (masks) it counts as one more adapter.
        """
        weights = np.concatenate((self.weights, self.base[None])).astype(np.float64)
        each = -(weights * np.log(np.where(weights > 0, weights, 1))).sum(axis=0)
        return np.asarray(each.reshape(len(each), -1).mean(axis=1) + 0.0)

    @property
    def chosen(self) -> np.ndarray[tuple[int, int], np.dtype[np.bool_]]:
        """(n, batch), which adapters had any weight."""
        return np.asarray((self.weights != 0).reshape(*self.weights.shape[:2], -1).any(axis=2))

    @property
    def means(self) -> F64:
        """(n, batch), weights as means over patches."""
        flat = self.weights.reshape(*self.weights.shape[:2], -1)
        return np.asarray(flat.mean(axis=2, dtype=np.float64))


@dataclass(frozen=True, slots=True)
class Run:
    """One call of the pipeline.

    Attributes
    ----------
    adapters : their names, in the order of the weights.
    steps : those that were done.
    notes : what the user should know, as sentences.
    swaps : how often an adapter of a pool came back into the denoiser.
    """

    adapters: tuple[str, ...]
    steps: tuple[Step, ...]
    notes: tuple[str, ...]
    swaps: int = 0

    @property
    def forwards(self) -> int:
        """Predictions of the denoiser per image in all."""
        return sum(step.forwards for step in self.steps)

    @property
    def map(self) -> F32:
        """(n, batch, *grid), weights as means over the steps: who was active where.

        Steps of another grid (outside a window, say) count with their mean weight everywhere.
        """
        if not self.steps:
            return np.zeros((len(self.adapters), 1), np.float32)
        widest = max((step.weights for step in self.steps), key=lambda one: (one.ndim, one.size))
        grid = widest.shape[2:]
        total = np.zeros(widest.shape)
        for step in self.steps:
            same = step.weights.shape == widest.shape
            flat = step.means.reshape(*step.means.shape, *(1,) * len(grid))
            total += step.weights if same else flat
        return (total / len(self.steps)).astype(np.float32)

    @property
    def base(self) -> F32:
        """(batch, *grid), what `map` leaves to the base."""
        return Step(0, 0.0, 0, self.map).base

    def as_dict(self) -> dict[str, object]:
        """Plain data for JSON: who was active where and when, and what it cost.

        What is no number, of predictions that overflowed, is None.
        ``adapters[i].steps`` are the steps in which it had weight in any picture, its ``map`` the
        mean over the steps; ``steps[t].weights`` means over patches, of every adapter in every
        picture; ``base`` what they leave to the base.
        """
        chosen = np.array([step.chosen.any(axis=1) for step in self.steps])
        maps, base = self.map, self.base
        return {
            "forwards": self.forwards,
            "swaps": self.swaps,
            "notes": list(self.notes),
            "base": {"weight": _plain(base.mean(dtype=np.float64)), "map": _plain(base)},
            "adapters": [
                {
                    "name": name,
                    "weight": _plain(maps[i].mean(dtype=np.float64)),
                    "steps": [s.number for s, c in zip(self.steps, chosen, strict=True) if c[i]],
                    "map": _plain(maps[i]),
                }
                for i, name in enumerate(self.adapters)
            ],
            "steps": [
                {
                    "number": step.number,
                    "timestep": _plain(np.float64(step.timestep)),
                    "forwards": step.forwards,
                    "entropy": _plain(step.entropy),
                    "weights": _plain(step.means),
                    "base": _plain(step.base.reshape(len(step.base), -1).mean(axis=1)),
                    "chosen": step.chosen.tolist(),
                }
                for step in self.steps
            ],
        }


def _plain(values: F32 | F64 | np.float64) -> object:
    """Numbers in lists, None for those that are none: JSON has no NaN."""
    found = np.asarray(values, dtype=np.float64).astype(object)
    found[~np.isfinite(values)] = None
    return found.tolist()
