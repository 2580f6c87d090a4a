"""Tiny adapters on disk, and the dense truth of any file, without the package's readers.

The writer and the reader below are the format's definition in a few lines each: an eight-byte
length, a JSON header, the tensors.  Every element type is encoded here by arithmetic, every scale
resolved here again, so that a mistake of the package cannot hide in its own mirror.
"""

import json
import math
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Self, TypeAlias

import numpy as np
import numpy.typing as npt

from loramix import Adapter

F64: TypeAlias = npt.NDArray[np.float64]
Raw: TypeAlias = tuple[str, tuple[int, ...], bytes]
DialectName: TypeAlias = Literal["peft", "diffusers", "kohya"]

DIALECTS: tuple[DialectName, ...] = ("peft", "diffusers", "kohya")
DTYPES = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")
ROUNDING: Mapping[str, float] = {"f32": 2.0**-24, "bf16": 2.0**-9, "f16": 2.0**-11}

MODULES: Mapping[str, tuple[int, ...]] = {
    "unet.blocks.0.attn.to_q": (24, 16),
    "unet.blocks.0.ff.proj": (40, 20),
    "unet.blocks.1.conv": (12, 8, 3, 3),
    "unet.blocks.1.proj_in": (14, 10, 1, 1),
}


@dataclass(frozen=True)
class Pair:
    """Factors of one module: ``up`` (rows, rank), ``down`` (rank, cols), and its alpha tensor.

    ``alpha`` is what stands in the file: element type, shape and value; None if nothing does.
    """

    up: F64
    down: F64
    shape: tuple[int, ...]
    dtype: str = "F32"
    alpha: tuple[str, tuple[int, ...], float] | None = None

    @property
    def rank(self) -> int:
        return int(self.up.shape[1])


def pair(
    rng: np.random.Generator,
    shape: tuple[int, ...],
    rank: int,
    *,
    dtype: str = "F32",
    alpha: float | None = None,
) -> Pair:
    """Random factors whose values the element type holds exactly."""
    cols = math.prod(shape[1:])
    up = decode(dtype, encode(dtype, rng.normal(size=(shape[0], rank)))).reshape(-1, rank)
    down = decode(dtype, encode(dtype, rng.normal(size=(rank, cols)))).reshape(rank, -1)
    stored = None if alpha is None else ("F32", (), alpha)
    return Pair(up, down, shape, dtype, stored)


def pairs(
    seed: int,
    rank: int = 4,
    *,
    dtype: str = "F32",
    alpha: float | None = None,
    modules: Mapping[str, tuple[int, ...]] = MODULES,
) -> dict[str, Pair]:
    """Random factors for every module."""
    rng = np.random.default_rng(seed)
    return {
        name: pair(rng, shape, rank, dtype=dtype, alpha=alpha) for name, shape in modules.items()
    }


def key_of(name: str, dialect: DialectName) -> str:
    """The key of a module's target in files of a model that nobody knows."""
    if dialect == "kohya":
        component, _, path = name.partition(".")
        prefix = {"unet": "lora_unet_", "text_encoder": "lora_te_"}[component]
        return prefix + path.replace(".", "_")
    return name if dialect == "diffusers" else name.partition(".")[2]


def write_adapter(
    path: Path,
    members: Mapping[str, Pair],
    dialect: DialectName = "diffusers",
    *,
    metadata: Mapping[str, str] | None = None,
    config: Mapping[str, object] | None = None,
) -> Path:
    """Write factors under the keys of a dialect; a config makes it a folder as PEFT writes."""
    tensors: dict[str, Raw] = {}
    for name, one in members.items():
        key = key_of(name, dialect)
        stem = f"base_model.model.{key}" if dialect == "peft" else key
        up, down = (
            (".lora_up.weight", ".lora_down.weight")
            if dialect == "kohya"
            else (".lora_B.weight", ".lora_A.weight")
        )
        ones = (1,) * (len(one.shape) - 2)
        tensors[stem + up] = (one.dtype, (one.shape[0], one.rank, *ones), encode(one.dtype, one.up))
        tensors[stem + down] = (one.dtype, (one.rank, *one.shape[1:]), encode(one.dtype, one.down))
        if one.alpha is not None:
            code, shape, value = one.alpha
            tensors[stem + ".alpha"] = (code, shape, encode(code, np.array([value])))
    if config is None:
        return write_safetensors(path, tensors, metadata)
    path.mkdir()
    (path / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    write_safetensors(path / "adapter_model.safetensors", tensors, metadata)
    return path


def write_safetensors(
    path: Path, tensors: Mapping[str, Raw], metadata: Mapping[str, str] | None = None
) -> Path:
    """The file format, written independently of the package."""
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    at = 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {
            "dtype": dtype, "shape": list(shape), "data_offsets": [at, at + len(data)],
        }  # fmt: skip
        at += len(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    body = b"".join(data for _, _, data in tensors.values())
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)
    return path


def read_safetensors(path: Path) -> tuple[dict[str, Raw], dict[str, str]]:
    """Tensors and metadata of a file, read independently of the package."""
    data = path.read_bytes()
    start = 8 + struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:start])
    strings = header.pop("__metadata__", {})
    tensors: dict[str, Raw] = {}
    for name, entry in header.items():
        first, last = entry["data_offsets"]
        shape = tuple(entry["shape"])
        tensors[name] = (entry["dtype"], shape, data[start + first : start + last])
    return tensors, strings


def truth(members: Mapping[str, Pair], dialect: DialectName = "diffusers") -> dict[str, F64]:
    """Dense deltas of factors as `write_adapter` stores them, by key."""
    found = {}
    for name, one in members.items():
        scale = 1.0 if one.alpha is None else one.alpha[2] / one.rank
        found[key_of(name, dialect)] = scale * one.up @ one.down
    return found


def delta_of(source: Path | Adapter) -> dict[str, F64]:
    """Dense deltas (rows, cols) of a file, a PEFT folder or an opened adapter, by key."""
    if isinstance(source, Adapter):
        # Flattened names of an unknown model have their component in front of the stem.
        flat = source.dialect == "kohya"
        return {
            target.key.partition(".")[2] if flat else target.key: f.scale
            * decode(f.up.dtype, bytes(f.up.data)).reshape(f.up.shape[0], -1)
            @ decode(f.down.dtype, bytes(f.down.data)).reshape(f.down.shape[0], -1)
            for target, f in source.targets.items()
        }
    config: dict[str, Any] = {}
    file = source
    if source.is_dir():
        config = json.loads((source / "adapter_config.json").read_text(encoding="utf-8"))
        file = source / "adapter_model.safetensors"
    tensors, strings = read_safetensors(file)
    config = config or json.loads(strings.get("lora_adapter_metadata", "{}"))
    found = {}
    for name in tensors:
        if name.endswith(".diff"):
            found[name.removesuffix(".diff")] = _matrix(tensors[name])
            continue
        stem, up, suffix = name.rpartition(".lora_B" if ".lora_B" in name else ".lora_up")
        if not up:
            continue
        below = ".lora_A" if up == ".lora_B" else ".lora_down"
        left, right = _matrix(tensors[name]), _matrix(tensors[stem + below + suffix])
        key = stem.removeprefix("base_model.model.")
        scale = _scale(tensors.get(stem + ".alpha"), config, key, right.shape[0])
        found[key] = scale * left @ right
    return found


def _scale(alpha: Raw | None, config: Mapping[str, Any], key: str, rank: int) -> float:
    if alpha is not None:
        return float(decode(alpha[0], alpha[2])[0]) / rank
    component, _, rest = key.partition(".")
    if f"{component}.r" in config:
        fields = {
            name.removeprefix(component + "."): value
            for name, value in config.items()
            if name.startswith(component + ".")
        }
        config, key = fields, rest
    if "lora_alpha" not in config:
        return 1.0
    number = config["lora_alpha"]
    for pattern, value in config.get("alpha_pattern", {}).items():
        if re.match(rf"(.*\.)?({pattern})$", key):
            number = value
            break
    return float(number) / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _matrix(raw: Raw) -> F64:
    dtype, shape, data = raw
    return decode(dtype, data).reshape(shape[0], -1)


def encode(dtype: str, values: npt.ArrayLike) -> bytes:
    """Numbers as little-endian bytes, rounded to nearest."""
    array = np.asarray(values, dtype=np.float64).ravel()
    if dtype in _NUMPY:
        return bytes(array.astype(_NUMPY[dtype]))
    if dtype == "BF16":
        bits = array.astype("<f4").view("<u4")
        even = (bits >> 16) & 1
        return bytes(((bits + 0x7FFF + even) >> 16).astype("<u2"))
    table = np.array([_fp8(dtype, code) for code in range(256)])
    usable = np.where(np.isfinite(table), table, np.inf)
    return bytes(np.abs(array[:, None] - usable).argmin(axis=1).astype(np.uint8))


def decode(dtype: str, data: bytes) -> F64:
    """Exact values of little-endian bytes."""
    if dtype in _NUMPY:
        return np.frombuffer(data, dtype=_NUMPY[dtype]).astype(np.float64)
    if dtype == "BF16":
        bits = np.frombuffer(data, dtype="<u2").astype("<u4") << 16
        return bits.view("<f4").astype(np.float64)
    table = np.array([_fp8(dtype, code) for code in range(256)])
    return table[np.frombuffer(data, dtype=np.uint8)]


_NUMPY = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8"}


def _fp8(dtype: str, code: int) -> float:
    bits, bias = (3, 7) if dtype == "F8_E4M3" else (2, 15)
    mantissa, exponent = (code & 0x7F) % (1 << bits), (code & 0x7F) >> bits
    sign = -1.0 if code & 0x80 else 1.0
    if (dtype == "F8_E4M3" and code & 0x7F == 0x7F) or (dtype == "F8_E5M2" and exponent == 31):
        return math.nan
    if exponent == 0:
        return sign * mantissa * 2.0 ** (1 - bias - bits)
    return sign * (1 + mantissa / (1 << bits)) * 2.0 ** (exponent - bias)


@dataclass
class Stack:
    """Adapters of one dialect in a folder, with their truth."""

    folder: Path
    dialect: DialectName = "diffusers"
    paths: list[Path] = field(default_factory=list)
    deltas: list[dict[str, F64]] = field(default_factory=list)

    def add(self, members: Mapping[str, Pair]) -> Path:
        """Write one more adapter."""
        path = self.folder / f"source-{len(self.paths)}.safetensors"
        self.paths.append(write_adapter(path, members, self.dialect))
        self.deltas.append(truth(members, self.dialect))
        return path

    def sum(self, weights: Sequence[float]) -> dict[str, F64]:
        """Dense weighted sum of everything."""
        total: dict[str, F64] = {}
        for weight, deltas in zip(weights, self.deltas, strict=True):
            for key, delta in deltas.items():
                total[key] = total.get(key, 0.0) + weight * delta
        return total


def scaled(members: Mapping[str, Pair], factor: float) -> dict[str, Pair]:
    """The same adapter times a power of two (so that nothing is rounded)."""
    return {name: replace(one, up=one.up * factor) for name, one in members.items()}


def distance(got: Mapping[str, F64], expected: Mapping[str, F64]) -> float:
    """Largest relative Frobenius distance of all keys, which must agree."""
    assert got.keys() == expected.keys(), sorted(got.keys() ^ expected.keys())
    return max(relative(got[key], expected[key]) for key in expected)


def relative(got: F64, expected: F64) -> float:
    """``|got - expected| / |expected|``; zero is only equal to zero."""
    gap, size = float(np.linalg.norm(got - expected)), float(np.linalg.norm(expected))
    return gap / size if size > 0 else (0.0 if gap == 0 else math.inf)


class InMemory:
    """What a base model in memory is, but for its weights: see `loramix.types.Base`."""

    name = "base"
    path: Path | None = None
    size = 0
    architecture: str | None = None

    def read_as(self, _: str | None) -> Self:
        return self

    def release(self) -> None:
        """Nothing was mapped."""

    def digest(self) -> str:
        return "sha256:" + "0" * 64
