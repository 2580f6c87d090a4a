"""Tiny adapters, written without loramix, and the program in a process of its own."""

import json
import os
import struct
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

Tensors = Mapping[str, npt.NDArray[np.float32]]
BLOCK = "lora_unet_mid_block_attentions_0_transformer_blocks_0"
SIZES = {  # stem to (rows, cols): the second and third are those of SD 1.5 only
    f"{BLOCK}_attn1_to_q": (1280, 1280),
    f"{BLOCK}_attn2_to_k": (1280, 768),
    f"{BLOCK}_attn2_to_v": (1280, 768),
    "lora_te_text_model_encoder_layers_0_self_attn_q_proj": (768, 768),
}


def write_safetensors(path: Path, tensors: Tensors, metadata: Mapping[str, str]) -> None:
    """Write f32 tensors in the safetensors format."""
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    offset = 0
    for name, tensor in tensors.items():
        end = offset + tensor.nbytes
        shape = list(tensor.shape)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text = text.ljust(-(-len(text) // 8) * 8)
    data = b"".join(tensor.astype("<f4").tobytes() for tensor in tensors.values())
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def write_adapter(path: Path, seed: int, *, rank: int = 4, alpha: bool = True) -> Path:
    """Write an adapter for SD 1.5 in the Kohya dialect."""
    rng = np.random.default_rng(seed)
    tensors = {}
    for stem, (rows, cols) in SIZES.items():
        if alpha:
            tensors[f"{stem}.alpha"] = np.array(rank, dtype=np.float32)
        up, down = rng.standard_normal((rows, rank)), rng.standard_normal((rank, cols))
        tensors[f"{stem}.lora_up.weight"] = up.astype(np.float32)
        tensors[f"{stem}.lora_down.weight"] = down.astype(np.float32)
    write_safetensors(path, tensors, {"ss_network_dim": str(rank), "ss_network_alpha": "4.0"})
    return path


@dataclass(frozen=True)
class Outcome:
    """What the program did."""

    code: int
    out: str
    err: str


def spawn(*args: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run the program in a process of its own, as a console script does."""
    script = "import sys; from loramix.cli.app import main; sys.exit(main())"
    return subprocess.run(
        [sys.executable, "-c", script, *args],
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
        timeout=60,
        env={**os.environ, **environment},
    )
