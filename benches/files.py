"""Work on files, beside copying them: convert, inspect, bake, extract."""

import json
import math
import os
import shutil
import struct
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from stacks import Stack

from loramix.formats.layout import load_layout

Run = Callable[[list[Path], Path], dict[str, Any]]
_BLOCK = 64 << 20


def model(folder: Path) -> Path:
    """A U-Net of SDXL in bf16 under its own names, 5.1 GB of random numbers, made once."""
    path = folder / "sdxl-unet.safetensors"
    if not path.is_file():
        found = {m.original: m.shape for m in load_layout("sdxl").modules if m.component == "unet"}
        names = {f"model.diffusion_model.{name}.weight": shape for name, shape in found.items()}
        _write(path, names)
    return path


def large(folder: Path) -> Path:
    """An adapter of 1.2 GB for SDXL, rank 192, that nobody reads but its header: sparse."""
    path = folder / "sdxl-large.safetensors"
    if not path.is_file():
        shapes: dict[str, tuple[int, ...]] = {}
        for module in load_layout("sdxl").modules:
            if module.component == "unet":
                ones = (1,) * (len(module.shape) - 2)
                shapes[f"{module.kohya}.lora_up.weight"] = (module.shape[0], 192, *ones)
                shapes[f"{module.kohya}.lora_down.weight"] = (192, *module.shape[1:])
        text, size = _header(shapes)
        with path.open("wb") as file:
            file.write(text)
            file.truncate(len(text) + size)
    return path


def _header(shapes: Mapping[str, tuple[int, ...]]) -> tuple[bytes, int]:
    entries, offset = {}, 0
    for name, shape in shapes.items():
        end = offset + 2 * math.prod(shape)
        entries[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text = text.ljust(-(-len(text) // 8) * 8)
    return struct.pack("<Q", len(text)) + text, offset


def _write(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
    text, size = _header(shapes)
    values = np.random.default_rng(5).standard_normal(_BLOCK // 2, dtype=np.float32) * 0.02
    block = (values.view(np.uint32) >> 16).astype(np.uint16).tobytes()
    with path.open("wb") as file:
        file.write(text)
        for length in _pieces(size):
            file.write(block[:length])
        os.fsync(file.fileno())


def _pieces(size: int) -> Iterator[int]:
    for start in range(0, size, _BLOCK):
        yield min(_BLOCK, size - start)


def copier(source: Callable[[list[Path]], Path]) -> Run:
    """As the system copies files, synced."""

    def run(paths: list[Path], out: Path) -> dict[str, Any]:
        origin = source(paths)
        start = time.perf_counter()
        shutil.copyfile(origin, out)
        with out.open("rb") as new:
            os.fsync(new.fileno())
        return {"seconds": time.perf_counter() - start, "written": out.stat().st_size}

    return run


def converter(dialect: str) -> Run:
    """One adapter of the stack in another dialect."""

    def run(paths: list[Path], out: Path) -> dict[str, Any]:
        import loramix

        convert = loramix.convert
        start = time.perf_counter()
        convert(paths[0], out, dialect=dialect)
        return {"seconds": time.perf_counter() - start, "written": out.stat().st_size}

    return run


def inspector(paths: list[Path], out: Path) -> dict[str, Any]:
    """The header of a large adapter."""
    del out
    import loramix

    inspect, path = loramix.inspect, large(paths[0].parent.parent)
    start = time.perf_counter()
    inspect(path)
    return {"seconds": time.perf_counter() - start}


def baker(method: str) -> Run:
    """Two adapters of the stack into the model."""

    def run(paths: list[Path], out: Path) -> dict[str, Any]:
        import loramix

        base = model(paths[0].parent.parent)
        start = time.perf_counter()
        baked = loramix.bake(base, paths[:2], method, weights=[0.8, 1.0], path=out)
        seconds = time.perf_counter() - start
        return {"seconds": seconds, "survival": baked.survival, "written": out.stat().st_size}

    return run


def extractor(paths: list[Path], out: Path) -> dict[str, Any]:
    """What a bake did to the model, at rank 32."""
    import loramix

    base = model(paths[0].parent.parent)
    tuned = out.with_name("tuned.safetensors")
    loramix.bake(base, paths[:1], "linear", path=tuned)
    start = time.perf_counter()
    made = loramix.extract(tuned, base, path=out, rank=32)
    seconds = time.perf_counter() - start
    tuned.unlink()
    return {"seconds": seconds, "error": made.error}


def _model(paths: list[Path]) -> Path:
    return model(paths[0].parent.parent)


def _first(paths: list[Path]) -> Path:
    return paths[0]


ROWS: Mapping[str, tuple[Stack, Run]] = {
    "files: inspect an adapter of 1.2 GB": (Stack("sdxl"), inspector),
    "files: copy an adapter of rank 32, synced": (Stack("sdxl"), copier(_first)),
    "files: convert it, Kohya to Kohya": (Stack("sdxl"), converter("kohya")),
    "files: convert it, Kohya to diffusers": (Stack("sdxl"), converter("diffusers")),
    "files: copy an adapter of rank 128, synced": (Stack("sdxl", 1, 128), copier(_first)),
    "files: convert it, Kohya to Kohya, rank 128": (Stack("sdxl", 1, 128), converter("kohya")),
    "files: copy an adapter of rank 256, synced": (Stack("sdxl", 1, 256), copier(_first)),
    "files: convert it, Kohya to Kohya, rank 256": (Stack("sdxl", 1, 256), converter("kohya")),
    "files: copy a model of 5.1 GB, synced": (Stack("sdxl"), copier(_model)),
    "files: bake linear into it": (Stack("sdxl"), baker("linear")),
    "files: bake auto into it": (Stack("sdxl"), baker("auto")),
    "files: bake ties into it": (Stack("sdxl"), baker("ties")),
    "files: extract, rank 32": (Stack("sdxl"), extractor),
}
