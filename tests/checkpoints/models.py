"""Small base models on disk, written without the package.

Names and shapes are those of real models; the tables that say so are proved by ``test_layout``.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from helpers import F64, Raw, decode, encode, write_safetensors

from loramix.formats.layout import Module, load_layout

LDM_BLOCK = "input_blocks.4.1.transformer_blocks.0"
BLOCK = "down_blocks.1.attentions.0.transformer_blocks.0"
SMALL = 700 * 700
"""Entries up to which a weight is small enough for a test."""


def modules_of(architecture: str, component: str, count: int) -> list[Module]:
    """Some small modules of a model."""
    layout = load_layout(architecture)
    own = [m for m in layout.modules if m.component == component]
    return [m for m in own if int(np.prod(m.shape)) <= SMALL][:count]


def values(shape: tuple[int, ...], seed: int, size: float = 0.05) -> F64:
    """Weights of about the size that models have."""
    return size * np.random.default_rng(seed).normal(size=shape)


def raw(shape: tuple[int, ...], seed: int, dtype: str = "BF16") -> Raw:
    """The same as a tensor of a file."""
    return dtype, shape, encode(dtype, values(shape, seed))


def tensors_of(
    modules: Iterable[Module], prefix: str = "", *, original: bool = False, dtype: str = "BF16"
) -> dict[str, Raw]:
    """Weight and bias of modules, each under one of its names."""
    found: dict[str, Raw] = {}
    for seed, module in enumerate(modules):
        name = prefix + (module.original if original else module.name)
        found[f"{name}.weight"] = raw(module.shape, 2 * seed, dtype)
        found[f"{name}.bias"] = raw(module.shape[:1], 2 * seed + 1, dtype)
    return found


def write_shards(folder: Path, tensors: Mapping[str, Raw], count: int, stem: str = "model") -> Path:
    """Several files with an index; neighbours are in different ones."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [f"{stem}-{i + 1:05}-of-{count:05}.safetensors" for i in range(count)]
    homes = {name: files[i % count] for i, name in enumerate(tensors)}
    for file in files:
        own = {name: one for name, one in tensors.items() if homes[name] == file}
        write_safetensors(folder / file, own, {"format": "pt"})
    index = folder / f"{stem}.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": homes}), encoding="utf-8")
    return index


def matrix(one: Raw) -> F64:
    """Entries of a tensor, (rows, columns)."""
    dtype, shape, data = one
    return decode(dtype, data).reshape(shape[0], -1)
