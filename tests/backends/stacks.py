"""Small stacks of files with what real ones have: fused weights, convolutions, mixed types."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from helpers import MODULES, DialectName, Pair, pair, write_adapter

from loramix.formats import layout as layouts
from loramix.formats.layout_text import Line
from loramix.formats.sketches import sketch

SHRINK = 64
"""What sides of FLUX.1 are divided by: its width is 48 then, that of the smallest weight 1."""


@contextmanager
def small_flux() -> Iterator[layouts.Layout]:
    """The module table of FLUX.1 at a small width: dense truths of fused weights are small, too."""
    original = layouts.read_lines

    def read(file: str, text: str) -> list[Line]:
        sizes = re.compile(r"\b\d+(?:[x+]\d+)+\b")
        small = lambda size: re.sub(r"\d+", lambda n: str(-(-int(n[0]) // SHRINK)), size[0])  # noqa: E731
        return original(file, sizes.sub(small, text))

    def forget() -> None:
        layouts.load_layout.cache_clear()
        sketch.cache_clear()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layouts, "read_lines", read)
        forget()
        yield layouts.load_layout("flux1")
    forget()


def flux(folder: Path) -> list[Path]:
    """Four adapters: fused and with one scale, in parts, q alone, fused without the attention."""
    table = layouts.load_layout("flux1")
    attention = "transformer_blocks.0.attn.to_"
    single = [m.name for m in table.modules if m.name.startswith("single_transformer_blocks.0.")]
    parts = [f"{attention}{x}" for x in "qkv"] + ["norm_out.linear", "proj_out"]
    return [
        _flux(folder / "a.safetensors", table, "kohya", 1, [*parts, *single], "F32", 3),
        _flux(folder / "b.safetensors", table, "diffusers", 2, [*parts, *single], "BF16", 5),
        _flux(folder / "c.safetensors", table, "diffusers", 3, [parts[0], single[1]], "F16", 2),
        _flux(folder / "d.safetensors", table, "kohya", 4, parts[3:], "BF16", 4),
    ]


def _flux(
    path: Path,
    table: layouts.Layout,
    dialect: DialectName,
    seed: int,
    names: list[str],
    dtype: str,
    rank: int,
) -> Path:
    rng = np.random.default_rng(seed)
    shapes: dict[str, tuple[int, ...]] = {}
    for stem, modules in table.by_kohya.items():
        used = [m for m in modules if m.name in names]
        if dialect == "kohya" and used:
            rows = sum(m.shape[0] for m in modules)
            shapes["unet." + stem.removeprefix("lora_unet_")] = (rows, *modules[0].shape[1:])
        elif dialect == "diffusers":
            shapes |= {f"transformer.{m.name}": m.shape for m in used}
    alpha = 1.5 * rank if dialect == "kohya" else None
    members = {
        name: pair(rng, shape, rank, dtype=dtype, alpha=alpha) for name, shape in shapes.items()
    }
    return write_adapter(path, members, dialect)


def unknown(folder: Path) -> list[Path]:
    """Four adapters of a model that nobody knows: convolutions, odd shapes, ranks above a side."""
    shapes = {**MODULES, "unet.blocks.2.thin": (3, 31), "unet.blocks.2.tall": (37, 2)}
    found = []
    kinds = [("F32", 5), ("BF16", 2), ("F16", 7), ("F32", 1)]
    for seed, (dtype, rank) in enumerate(kinds):
        rng, own = np.random.default_rng(seed), dict(shapes)
        if seed:
            del own["unet.blocks.0.ff.proj"]  # the first has it alone
        if seed == 2:
            del own["unet.blocks.1.conv"]
        members: dict[str, Pair] = {
            name: pair(rng, shape, rank, dtype=dtype) for name, shape in own.items()
        }
        found.append(write_adapter(folder / f"{seed}.safetensors", members))
    return found
