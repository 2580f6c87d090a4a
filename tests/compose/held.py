"""Bytes of tensors that are made and held outside the forwards of a denoiser."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Held(TorchDispatchMode):
    """Counts every storage that an operation returns, until it is freed."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._inside = False
        self._known: dict[int, tuple[StorageWeakRef, int]] = {}

    def forward(self, inner: Callable[..., Any]) -> Callable[..., Any]:
        """A denoiser's forward, of which only what it returns counts."""

        @functools.wraps(inner)
        def counted(*args: Any, **kwargs: Any) -> Any:
            self._inside = True
            returned = inner(*args, **kwargs)
            self._inside = False
            self._add(returned[0])
            return returned

        return counted

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        returned = func(*args, **(kwargs or {}))
        if not self._inside:
            for one in tree_leaves(returned):
                if isinstance(one, torch.Tensor):
                    self._add(one)
        return returned

    def _add(self, tensor: torch.Tensor) -> None:
        self._known = {at: one for at, one in self._known.items() if not one[0].expired()}
        storage = tensor.untyped_storage()
        self._known[storage.data_ptr()] = StorageWeakRef(storage), storage.nbytes()
        self.peak = max(self.peak, sum(count for _, count in self._known.values()))
