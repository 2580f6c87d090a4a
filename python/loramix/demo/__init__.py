"""Three small trained adapters, merged for real, and a check that shares no code with loramix.

The check is what a doubter would write: read the files with ``json`` and NumPy, multiply the
factors out in float64, add, compare.  It is slow, and it knows PEFT folders only.
"""

import json
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from loramix import merging
from loramix.errors import FormatError, LoramixError, OutputError
from loramix.executing.running import Merged
from loramix.inspecting import inspect
from loramix.report.inspection import json_object
from loramix.tensors import F64

FOLDER = Path(__file__).parent / "adapters"
WEIGHTS = (1.0, 0.8, 0.6)
TOLERANCE = 1e-6
"""Relative difference of one target; the result is stored in f32 (2**-24 per number)."""

PAGE = "images.html"
"""The page with pictures, which may be in the same folder."""

_TENSORS, _CONFIG = "adapter_model.safetensors", "adapter_config.json"


@dataclass(frozen=True, slots=True)
class Check:
    """Outcome of the comparison.

    Attributes
    ----------
    targets : in the sources or in the result.
    equal : of these within `TOLERANCE`.
    error : largest relative difference of a target; infinite if one is missing.
    worst : the target that has it.
    """

    targets: int
    equal: int
    error: float
    worst: str

    @property
    def passed(self) -> bool:
        """Whether every target is right."""
        return self.equal == self.targets


def adapters() -> list[tuple[Path, float]]:
    """The packaged adapters, with the weights they are merged with."""
    found = sorted(path for path in FOLDER.iterdir() if (path / _TENSORS).is_file())
    if len(found) != len(WEIGHTS):
        message = f"{FOLDER}: {len(found)} adapters instead of {len(WEIGHTS)}; reinstall loramix"
        raise FormatError(message)
    return list(zip(found, WEIGHTS, strict=True))


def base() -> str:
    """The model that they are for."""
    config = json.loads((adapters()[0][0] / _CONFIG).read_text(encoding="utf-8"))
    return str(config["base_model_name_or_path"])


def merge(folder: Path) -> Merged:
    """Merge them, exactly."""
    paths, weights = zip(*adapters(), strict=True)
    return merging.merge(list(paths), "linear", weights=weights, path=folder)


def refuse_foreign(folder: Path) -> None:
    """Only an empty folder, or what an earlier demo left, may be written to.

    Raises
    ------
    OutputError : there is something else.
    """
    if not folder.exists():
        return
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else {""}
    names -= {PAGE}
    if not names <= {_TENSORS, _CONFIG} or (names and not _is_demo(folder)):
        message = f"{folder}: exists and is not from an earlier demo; name another folder with -o"
        raise OutputError(message)


def _is_demo(folder: Path) -> bool:
    try:
        made = json_object(inspect(folder).metadata.get("loramix"))
    except LoramixError:
        return False
    sources = made.get("sources")
    listed = [s for s in sources if isinstance(s, dict)] if isinstance(sources, list) else []
    return [source.get("name") for source in listed] == [path.name for path, _ in adapters()]


def check(folder: Path) -> Check:
    """Compare a merged folder with the dense sum of its sources."""
    meant: dict[str, F64] = {}
    for path, weight in adapters():
        for key, delta in dense(path).items():
            meant[key] = meant.get(key, 0.0) + weight * delta
    written = dense(folder)
    errors = dict.fromkeys(meant.keys() ^ written.keys(), float("inf"))
    for key in meant.keys() & written.keys():
        gap = np.linalg.norm(written[key] - meant[key])
        errors[key] = float(gap / np.linalg.norm(meant[key]))
    worst = max(sorted(errors), key=lambda key: errors[key])
    equal = sum(error <= TOLERANCE for error in errors.values())
    return Check(len(errors), equal, errors[worst], worst)


def dense(folder: Path) -> dict[str, F64]:
    """Every delta of a PEFT folder, multiplied out in float64."""
    config = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
    tensors = _read(folder / _TENSORS)
    found = {}
    for name, up in tensors.items():
        stem, is_up, _ = name.partition(".lora_B.weight")
        if is_up:
            module = stem.removeprefix("base_model.model.")
            found[module] = _scale(config, module) * up @ tensors[f"{stem}.lora_A.weight"]
    return found


def _scale(config: Mapping[str, Any], module: str) -> float:
    rank = _of(config["rank_pattern"], module, config["r"])
    alpha = _of(config["alpha_pattern"], module, config["lora_alpha"])
    return float(alpha / (np.sqrt(rank) if config.get("use_rslora") else rank))


def _of(patterns: Mapping[str, float], module: str, default: float) -> float:
    """PEFT's rule: the first pattern that matches the end of the name."""
    matches = (v for key, v in patterns.items() if re.match(rf"(.*\.)?({key})$", module))
    return next(matches, default)


def _read(path: Path) -> dict[str, F64]:
    """All tensors of a safetensors file."""
    data = path.read_bytes()
    (length,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    found = {}
    for name, entry in header.items():
        start, end = (8 + length + offset for offset in entry["data_offsets"])
        found[name] = _decode(data[start:end], entry["dtype"]).reshape(entry["shape"])
    return found


def _decode(data: bytes, dtype: str) -> F64:
    if dtype == "BF16":
        halves = np.frombuffer(data, "<u2").astype(np.uint32)
        return (halves << 16).view(np.float32).astype(np.float64)
    return np.frombuffer(data, {"F32": "<f4", "F16": "<f2"}[dtype]).astype(np.float64)
