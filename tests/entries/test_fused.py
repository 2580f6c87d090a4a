"""The fused weights of FLUX are decided part by part."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from formats.builders import Built, diffusers, kohya
from helpers import F64, relative
from oracles import ties

from loramix import Output, load, merge
from loramix.formats.layout import Module, load_layout

WIDE = 3072

CORNER = (8, 9)
"""Rows and columns of each part that are not zero: small enough for a dense truth."""

KEPT = 30


def flux(folder: Path, name: str, build: Callable[..., Built], seed: int, only: str = "") -> Path:
    """An adapter of one attention whose parts touch a corner of their weights."""
    layout = load_layout("flux1")

    def choose(module: Module) -> bool:
        names = [f"transformer_blocks.0.attn.{x}" for x in ("to_q", "to_k", "to_v")]
        return module.name in names and module.name.endswith(only)

    built = build(layout, choose, 4, seed)
    for tensor in built.tensors.values():
        if tensor.ndim == 2:
            is_up = tensor.shape[1] == 4
            mask = np.zeros_like(tensor)
            rows = [start + i for start in range(0, len(tensor), WIDE) for i in range(CORNER[0])]
            mask[rows if is_up else slice(None), slice(None) if is_up else slice(CORNER[1])] = 1
            tensor *= mask
    return built.save(folder / name)


def corners(source: Any) -> dict[str, F64]:
    """The corners of every part, by the last word of its name."""
    found = {}
    for target, one in source.targets.items():
        up = np.frombuffer(one.up.data, np.float32).reshape(target.rows, -1).astype(np.float64)
        down = np.frombuffer(one.down.data, np.float32).reshape(-1, WIDE)[:, : CORNER[1]]
        dense = one.scale * up @ down
        names = ["to_q", "to_k", "to_v"] if target.rows > WIDE else [target.key[-4:]]
        for index, name in enumerate(names):
            found[name] = dense[index * WIDE :][: CORNER[0]]
    return found


@pytest.mark.parametrize("dialect", ["kohya", "diffusers"])
@pytest.mark.parametrize("second", ["kohya", "diffusers", "diffusers, q only"])
def test_fused_weights_are_decided_part_by_part(second: str, dialect: str, tmp_path: Path) -> None:
    first = flux(tmp_path, "a.safetensors", kohya, 1)
    build = kohya if second == "kohya" else diffusers
    other = flux(tmp_path, "b.safetensors", build, 60, "to_q" if "only" in second else "")
    density = (KEPT + 0.5) / WIDE**2
    merged = merge(
        [first, other], f"ties:density={density!r}", weights=[1.0, 0.5], architecture="flux1",
        output=Output(rank=32, dtype="f32", dialect=dialect),
    )  # fmt: skip
    sources = [corners(load(path, architecture="flux1")) for path in (first, other)]
    for name, got in corners(merged.adapter).items():
        own = [(s[name], w) for s, w in zip(sources, [1.0, 0.5], strict=True) if name in s]
        share = (KEPT + 0.5) / math.prod(CORNER)
        expected = ties([d for d, _ in own], [w for _, w in own], share)
        assert relative(got, expected) < 1e-3, name
