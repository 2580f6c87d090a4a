"""Arrays and tensors of every kind for the verbs on dense deltas.

Deltas hold float32 values, so that the oracles rank and draw what the package does.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from helpers import F64

from loramix import kernels

TILE = 1 << 16

SHAPES: list[tuple[int, ...]] = [
    (), (0,), (3, 0), (1,), (31,), (1000,), (TILE - 1,), (TILE,), (TILE + 1,),
    (1, 7), (33, 31), (6, 5, 3, 3), (2, TILE + 1), (300, 401),
]  # fmt: skip

NUMPY = ["float64", "float32", "float16"]

TORCH = ["float64", "float32", "float16", "bfloat16"]

KINDS = [f"numpy-{name}" for name in NUMPY] + [f"torch-{name}" for name in TORCH]

WEIGHTS = [1.0, -2.0, 0.5]

ON_ONE = ["trim", "dare", "della"]

ON_SEVERAL = ["gram", "sign_conflict", "elect_sign", "tall_masks"]

WHOLE = ["ties", "dare_ties", "della_ties", "consensus"]

VERBS = [*ON_ONE, *ON_SEVERAL, *WHOLE]


def draw(shape: tuple[int, ...], count: int = 3, seed: int = 0) -> list[F64]:
    """Values that float32 has, some of them zero."""
    rng = np.random.default_rng([seed, *shape])
    values = rng.normal(size=(count, *shape)) * (rng.uniform(size=(count, *shape)) > 0.2)
    rounded = values.astype(np.float32).astype(np.float64)
    return [rounded[i, ...] for i in range(count)]  # arrays, without axes too


def laid(array: Any, layout: str) -> Any:
    """The same numbers, elsewhere in memory."""
    if layout == "reversed axes":
        axes = tuple(reversed(range(array.ndim)))
        if isinstance(array, torch.Tensor):
            return array.permute(axes).contiguous().permute(axes)
        return np.asarray(array.transpose(axes).copy()).transpose(axes)
    if layout == "every second":
        if isinstance(array, torch.Tensor):
            return torch.stack([array, 7 + array], dim=-1)[..., 0]
        return np.stack([array, 7 + array], axis=-1)[..., 0]
    return array


def made(values: F64, kind: str, layout: str = "plain") -> Any:
    room, _, name = kind.partition("-")
    if room == "torch":
        tensor = torch.empty(values.shape, dtype=getattr(torch, name))
        return laid(tensor.copy_(torch.from_numpy(values)), layout)
    return laid(values.astype(name), layout)


def truth(array: Any) -> F64:
    """Numbers of an array in float64."""
    if isinstance(array, torch.Tensor):
        return array.detach().double().numpy()
    return np.asarray(array, dtype=np.float64)


def assert_like(result: Any, delta: Any) -> None:
    assert type(result) is type(delta) or isinstance(result, np.ndarray)
    assert isinstance(result, torch.Tensor) == isinstance(delta, torch.Tensor)
    assert result.dtype == delta.dtype
    assert tuple(result.shape) == tuple(delta.shape)


def call(verb: str, deltas: Sequence[Any]) -> Any:
    if verb in ON_ONE:
        return getattr(kernels, verb)(deltas[0], 0.5)
    return getattr(kernels, verb)(deltas)
