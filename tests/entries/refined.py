"""Published and full refinement: what the tests of deltas and of files share."""

from collections.abc import Mapping
from pathlib import Path

import pytest
from helpers import Pair, Stack, pairs

BACKENDS = ["rust", "torch:cpu"]

SHAPES = {
    "unet.blocks.0.attn.to_q": (272, 60),
    "unet.blocks.0.ff.proj": (40, 20),
    "unet.blocks.1.conv": (270, 30, 3, 3),
    "unet.blocks.2.alone": (260, 270),
}


def members(seed: int, modules: Mapping[str, tuple[int, ...]], dtype: str) -> dict[str, Pair]:
    return pairs(seed, 2 + seed, dtype=dtype, alpha=2.0 + seed, modules=modules)


@pytest.fixture
def stack(tmp_path: Path) -> Stack:
    """Three adapters; one module belongs to the first alone."""
    found = Stack(tmp_path, "kohya")
    for seed in range(3):
        own = {name: s for name, s in SHAPES.items() if seed == 0 or "alone" not in name}
        found.add(members(seed, own, "BF16"))
    return found
