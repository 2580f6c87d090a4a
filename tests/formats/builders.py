"""Adapters with a known truth, written by the reference library in every spelling.

Nothing here uses loramix to write or to multiply: files come from ``safetensors.numpy``, deltas
are compared in float64 NumPy.  Only the module tables (proved by ``test_layout``) are shared.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

from loramix import Adapter, Factors
from loramix.formats.layout import Layout, Module

Array: TypeAlias = npt.NDArray[Any]
Tensors: TypeAlias = dict[str, Array]
Choose: TypeAlias = Callable[[Module], bool]

_N = TypeVar("_N", int, float)
_TYPES = {"F64": np.float64, "F32": np.float32, "F16": np.float16}


@dataclass(frozen=True, slots=True)
class Pair:
    """A delta ``scale * up @ down`` of one module; both factors are matrices."""

    up: Array
    down: Array
    scale: float = 1.0

    @property
    def rank(self) -> int:
        return int(self.down.shape[0])

    def rows(self, start: int, stop: int) -> "Pair":
        return Pair(self.up[start:stop], self.down, self.scale)

    def times(self, factor: float) -> "Pair":
        return Pair(self.up, self.down, self.scale * factor)

    def swapped(self) -> "Pair":
        """Halves of the rows exchanged."""
        return Pair(np.roll(self.up, len(self.up) // 2, axis=0), self.down, self.scale)

    def dense(self) -> Array:
        return self.scale * (self.up.astype(np.float64) @ self.down.astype(np.float64))


Truth: TypeAlias = dict[str, list[Pair]]
"""Canonical key to the deltas that sum to what is meant."""


@dataclass(frozen=True, slots=True)
class Built:
    """The tensors of a file and what they mean."""

    tensors: Tensors
    truth: Truth

    def save(self, path: Path, metadata: Mapping[str, str] | None = None) -> Path:
        save_file(self.tensors, path, dict(metadata or {}))
        return path


def pair(rows: int, cols: int, rank: int, seed: int, scale: float = 1.0) -> Pair:
    """Random factors of about the size that training leaves."""
    rng = np.random.default_rng(seed)
    up = 0.1 * rng.standard_normal((rows, rank), dtype=np.float32)
    return Pair(up, 0.1 * rng.standard_normal((rank, cols), dtype=np.float32), scale)


def spell(
    stem: str, one: Pair, style: str, shape: Sequence[int], *, alpha: bool = False
) -> Tensors:
    """Both tensors of a pair, and alpha if asked for.

    Parameters
    ----------
    style : what follows the stem, with ``{}`` for ``up`` or ``down``, or ``AB`` for PEFT.
    shape : of the weight; convolutions have four axes.
    """
    kernel = tuple(shape[2:])
    up = one.up.reshape(*one.up.shape, *(1 for _ in kernel))
    down = one.down.reshape(one.rank, shape[1], *kernel)
    names = {"up": "lora_B.weight", "down": "lora_A.weight"}
    tensors = {
        stem + (f".{names[side]}" if style == "AB" else style.format(side)): np.ascontiguousarray(x)
        for side, x in (("up", up), ("down", down))
    }
    if alpha:
        tensors[f"{stem}.alpha"] = np.array(one.scale * one.rank, dtype=np.float32)
    return tensors


def _at(value: _N | Callable[[int], _N], index: int) -> _N:
    return value(index) if callable(value) else value


def kohya(
    layout: Layout,
    choose: Choose | None,
    rank: int | Callable[[int], int],
    seed: int,
    *,
    scale: float | Callable[[int], float] = 1.0,
) -> Built:
    """A Kohya file: fused where the original model is, alpha everywhere.

    Parameters
    ----------
    choose : which modules; None for all.
    rank, scale : one number, or a function of the module's position.
    """
    tensors: Tensors = {}
    truth: Truth = {}
    for index, (stem, members) in enumerate(layout.by_kohya.items()):
        if choose is not None and not choose(members[0]):
            continue
        rows = sum(m.shape[0] for m in members)
        cols = int(np.prod(members[0].shape[1:]))
        one = pair(rows, cols, _at(rank, index), seed + index, _at(scale, index))
        tensors |= spell(stem, one, ".lora_{}.weight", members[0].shape, alpha=True)
        for member in members:
            start, stop = member.rows or (0, rows)
            part = one.swapped() if member.swap else one.rows(start, stop)
            truth[f"{member.component}.{member.name}"] = [part]
    return Built(tensors, truth)


def diffusers(
    layout: Layout, choose: Choose | None, rank: int | Callable[[int], int], seed: int
) -> Built:
    """A diffusers file: dotted names, PEFT roles, scale one.  See `kohya`."""
    tensors: Tensors = {}
    truth: Truth = {}
    for index, module in enumerate(layout.modules):
        if choose is None or choose(module):
            cols = int(np.prod(module.shape[1:]))
            one = pair(module.shape[0], cols, _at(rank, index), seed + index)
            key = f"{module.component}.{module.name}"
            tensors |= spell(key, one, "AB", module.shape)
            truth[key] = [one]
    return Built(tensors, truth)


def total(parts: Iterable[tuple[Truth, float]]) -> Truth:
    """The weighted sum of adapters."""
    found: Truth = {}
    for truth, weight in parts:
        for key, pairs in truth.items():
            found.setdefault(key, []).extend(one.times(weight) for one in pairs)
    return found


def norm(pairs: Sequence[Pair]) -> float:
    """Frobenius norm of a sum of deltas from inner products of its factors.

    Float64: cancellation leaves about 1e-8 of the terms.
    """
    up = np.concatenate([one.scale * one.up.astype(np.float64) for one in pairs], axis=1)
    down = np.concatenate([one.down.astype(np.float64) for one in pairs])
    return float(max(np.vdot(up.T @ up, down @ down.T), 0.0) ** 0.5)


def gap(meant: Sequence[Pair], got: Sequence[Pair]) -> float:
    """Relative Frobenius distance of two sums of deltas."""
    return norm([*got, *(one.times(-1.0) for one in meant)]) / norm(meant)


def gaps(meant: Mapping[str, Sequence[Pair]], got: Mapping[str, Sequence[Pair]]) -> float:
    """The largest distance over all keys, which must be the same on both sides."""
    assert sorted(meant) == sorted(got)
    return max(gap(meant[key], got[key]) for key in meant)


def identical(meant: Mapping[str, Sequence[Pair]], got: Mapping[str, Sequence[Pair]]) -> bool:
    """Whether the same keys hold bit for bit the same factors and scales."""
    return sorted(meant) == sorted(got) and all(
        len(meant[key]) == len(got[key])
        and a.scale == b.scale
        and np.array_equal(a.up, b.up)
        and np.array_equal(a.down, b.down)
        for key in meant
        for a, b in zip(meant[key], got[key], strict=False)
    )


def from_factors(factors: Factors) -> Pair:
    """What loramix read, as arrays."""

    def matrix(side: str) -> Array:
        tensor = getattr(factors, side)
        flat = np.frombuffer(tensor.data, dtype=_TYPES[tensor.dtype])
        return flat.reshape(tensor.shape[0], -1)

    up = matrix("up")
    return Pair(up, matrix("down").reshape(factors.rank, -1), factors.scale)


def from_adapter(adapter: Adapter) -> Truth:
    """Every delta of an adapter that loramix opened."""
    return {t.key: [from_factors(factors)] for t, factors in adapter.targets.items()}
