"""Synthetic stacks of adapters with the real shapes of known models, for benches.

Factors are random with a decaying spectrum; blocks take turns in how the adapters relate:
independent, aligned, opposed, partially shared.  One adapter lacks every fourth target.
"""

import argparse
import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from loramix.formats.layout import Module, load_layout

REGIMES = ("independent", "aligned", "opposed", "partial")


@dataclass(frozen=True, slots=True)
class Stack:
    """One workload.

    Attributes
    ----------
    layout : model whose shapes are used.
    count : number of adapters.
    rank : of each.
    """

    layout: str
    count: int = 3
    rank: int = 32

    @property
    def name(self) -> str:
        """Folder of its files."""
        return f"{self.layout}-{self.count}x{self.rank}"


def modules_of(layout: str) -> list[tuple[str, int, int]]:
    """Kohya stem, rows and cols of the Linear modules of the denoiser's attention and MLPs."""
    table = load_layout(layout)
    found = {}
    for stem, members in table.by_kohya.items():
        first = members[0]
        if first.component in ("unet", "transformer") and _wanted(first, layout):
            found[stem] = (stem, sum(m.shape[0] for m in members), first.shape[1])
    return list(found.values())


def _wanted(module: Module, layout: str) -> bool:
    if len(module.shape) != 2:
        return False
    if layout == "flux1":
        return "transformer_blocks" in module.name
    return "transformer_blocks" in module.name and (".attn" in module.name or ".ff." in module.name)


def make(stack: Stack, folder: Path) -> list[Path]:
    """Write the adapters of a stack (bf16, alpha 16, Kohya names), once."""
    target = folder / stack.name
    paths = [target / f"adapter{i}.safetensors" for i in range(stack.count)]
    if all(path.is_file() for path in paths):
        return paths
    target.mkdir(parents=True, exist_ok=True)
    tensors: list[dict[str, npt.NDArray[Any]]] = [{} for _ in paths]
    decay = np.exp(-np.arange(stack.rank) / stack.rank * 3).astype(np.float32)
    for index, (stem, rows, cols) in enumerate(modules_of(stack.layout)):
        rng = np.random.default_rng([7, index])
        regime = REGIMES[index // 10 % len(REGIMES)]
        up = rng.standard_normal((rows, stack.rank), dtype=np.float32) * decay * 0.02
        down = rng.standard_normal((stack.rank, cols), dtype=np.float32) * 0.02
        for i, tensor in enumerate(tensors):
            if i == stack.count - 1 and index % 4 == 3:
                continue
            own_up = rng.standard_normal(up.shape, dtype=np.float32) * decay * 0.02
            own_down = rng.standard_normal(down.shape, dtype=np.float32) * 0.02
            mixed_up, mixed_down = _relate(regime, i, (up, down), (own_up, own_down))
            tensor[f"{stem}.lora_down.weight"] = _bf16(mixed_down)
            tensor[f"{stem}.lora_up.weight"] = _bf16(mixed_up)
    for path, tensor in zip(paths, tensors, strict=True):
        _write(path, tensor)
    return paths


Pair = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]


def _relate(regime: str, i: int, common: Pair, own: Pair) -> Pair:
    if i == 0 or regime == "independent":
        return own if i else common
    half = common[0].shape[1] // 2
    if regime == "partial":
        up, down = own[0].copy(), own[1].copy()
        up[:, :half], down[:half] = common[0][:, :half], common[1][:half]
        return up, down
    sign = -1.0 if regime == "opposed" and i == 1 else 1.0
    return sign * common[0] + 0.3 * own[0], common[1] + 0.3 * own[1]


def _bf16(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    bits = np.ascontiguousarray(values).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def _write(path: Path, tensors: dict[str, npt.NDArray[Any]]) -> None:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    alphas = [name.replace(".lora_up.weight", ".alpha") for name in tensors if "lora_up" in name]
    offset = 0
    for name in alphas:
        header[name] = {"dtype": "F32", "shape": [], "data_offsets": [offset, offset + 4]}
        offset += 4
    for name, values in tensors.items():
        span = [offset, offset + values.nbytes]
        header[name] = {"dtype": "BF16", "shape": list(values.shape), "data_offsets": span}
        offset += values.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text = text.ljust(-(-len(text) // 8) * 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.write(struct.pack("<f", 16.0) * len(alphas))
        for values in tensors.values():
            file.write(values.tobytes())


def main() -> None:
    """Write stacks from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("layout", choices=["sd15", "sdxl", "flux1"])
    parser.add_argument("--count", type=int, default=3)
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent / ".data")
    given = parser.parse_args()
    make(Stack(given.layout, given.count, given.rank), given.folder)


if __name__ == "__main__":
    main()
