"""Looking at a file of a gigabyte touches its header and its numbers, and nothing between them."""

import json
import math
import struct
import sys
from pathlib import Path

import numpy as np
import pytest

import loramix
from loramix.formats.layout import load_layout
from loramix.io.safetensors import SafetensorsFile


def sparse(path: Path, rank: int) -> int:
    """A file with holes for tensors: SDXL in the Kohya dialect; the length of its header."""
    header: dict[str, object] = {}
    alphas, end = [], 0
    for stem, modules in load_layout("sdxl").by_kohya.items():
        rows, rest = sum(m.shape[0] for m in modules), modules[0].shape[1:]
        shapes = {
            ".alpha": (), ".lora_up.weight": (rows, rank, *(1,) * (len(rest) - 1)),
            ".lora_down.weight": (rank, *rest),
        }  # fmt: skip
        for role, shape in shapes.items():
            start, end = end, end + 4 * math.prod(shape)
            alphas += [start] if shape == () else []
            header[stem + role] = {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)
        for place in alphas:
            file.seek(8 + len(text) + place)
            file.write(struct.pack("<f", rank / 2))
    return len(text)


def resident(path: Path) -> int:
    """Bytes of a mapped file that are in the memory of this process."""
    total, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        words = line.split()
        if "-" in words[0] and len(words) >= 5:
            inside = line.endswith(str(path))
        elif inside and words[0] == "Rss:":
            total += 1024 * int(words[1])
    return total


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/self/smaps")
def test_nothing_but_the_header_is_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "big.safetensors"
    length = sparse(path, 64)
    assert path.stat().st_size > 1e9
    adapter = loramix.load(path)
    assert loramix.inspect(adapter).scales == (0.5, 0.5)
    # What the system brings along with a page that is asked for may be 64 kB.
    assert length / 2 < resident(path) < length + (1 << 18)
    for factors in adapter.targets.values():
        bytes(factors.up.data)
    assert resident(path) > 1e8  # or this test would not see it
    path.unlink()


def test_small_tensors_are_what_they_are(tmp_path: Path) -> None:
    """Numbers beside empty tensors, vectors of two, and a file that ends with a number."""
    path = tmp_path / "a.safetensors"
    parts = {
        name: np.array(values, dtype="<f4")
        for name, values in {"e": [], "n": [3.5], "f": [], "v": [1, 2], "z": [-1]}.items()
    }
    header, data = {}, b""
    for name, values in parts.items():
        offsets = [len(data), len(data) + values.nbytes]
        header[name] = {"dtype": "F32", "shape": [len(values)], "data_offsets": offsets}
        data += values.tobytes()
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    found = SafetensorsFile(path).tensors
    assert {name: bytes(t.data) for name, t in found.items()} == {
        name: values.tobytes() for name, values in parts.items()
    }
