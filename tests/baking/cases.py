"""A small base model of nobody's architecture, and what should become of it, in float64."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from helpers import F64, MODULES, Raw, Stack, decode, encode, pairs, write_safetensors

PREFIX = "model.diffusion_model."
WEIGHTS = [0.8, -0.6]
STEP: Mapping[str, float] = {
    "F64": 2.0**-52, "F32": 2.0**-23, "F16": 2.0**-10, "BF16": 2.0**-7, "F8_E4M3": 2.0**-3,
}  # fmt: skip
"""Distance of neighbouring numbers, relative to them."""


def stored(name: str) -> str:
    """Name of a module's weight in the base."""
    return f"{PREFIX}{name.partition('.')[2]}.weight"


def base_tensors(dtype: str = "F32", seed: int = 0) -> dict[str, Raw]:
    """Weights and biases of all modules, and what no adapter changes."""
    rng = np.random.default_rng(seed)
    found: dict[str, Raw] = {
        "first_stage_model.conv.weight": ("F32", (3, 5), encode("F32", rng.normal(size=15))),
        "steps": ("I64", (4,), encode("I64", np.arange(4))),
        "nothing": ("F32", (0, 3), b""),
    }
    for name, shape in MODULES.items():
        size = int(np.prod(shape))
        found[stored(name)] = (dtype, shape, encode(dtype, rng.normal(size=size)))
        bias = stored(name).replace(".weight", ".bias")
        found[bias] = (dtype, shape[:1], encode(dtype, rng.normal(size=shape[0])))
    found["logit_scale"] = ("F32", (), encode("F32", [4.6]))
    return found


def write_base(folder: Path, dtype: str = "F32") -> Path:
    """The same as a file with strings of its own."""
    path = folder / "base.safetensors"
    strings = {"modelspec.title": "mine", "modelspec.hash_sha256": "0xabc"}
    return write_safetensors(path, base_tensors(dtype), strings)


def two_adapters(folder: Path) -> Stack:
    """Two adapters of all modules."""
    stack = Stack(folder)
    for seed in (1, 2):
        stack.add(pairs(seed, 2 + seed))
    return stack


def matrix(tensors: Mapping[str, Raw], name: str) -> F64:
    """Entries of a stored weight."""
    dtype, shape, data = tensors[name]
    return decode(dtype, data).reshape(shape[0], -1)


def survived(old: F64, new: F64, delta: F64) -> tuple[float, float]:
    """Share of the energy of a delta that survived, and its cosine with what the weight moved."""
    moved = new - old
    share = 1 - float(np.sum((moved - delta) ** 2)) / float(np.sum(delta**2))
    size = float(np.linalg.norm(moved)) * float(np.linalg.norm(delta))
    return share, float(np.sum(moved * delta)) / size if size > 0 else 0.0
