"""Record what LyCORIS makes of its own modules: tests/data/goldens/lycoris.safetensors.

    pip install lycoris-lora==4.1.3 && python scripts/make_family_goldens.py

Every case is a small layer with random numbers in its module, the tensors that LyCORIS saves for
it, and the difference that its forward pass at strength one makes to the weight.
"""

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from lycoris.modules.boft import ButterflyOFTModule
from lycoris.modules.diag_oft import DiagOFTModule
from lycoris.modules.glora import GLoRAModule
from lycoris.modules.ia3 import IA3Module
from lycoris.modules.locon import LoConModule
from lycoris.modules.loha import LohaModule
from lycoris.modules.lokr import LokrModule
from safetensors.torch import save_file

PLACE = Path(__file__).parent.parent / "tests" / "data" / "goldens" / "lycoris.safetensors"
LINEAR, CONV = (16, 12), (16, 4, 3, 3)
_RANK: Mapping[str, Any] = {"lora_dim": 2, "alpha": 3.0}
_DORA: Mapping[str, Any] = {**_RANK, "weight_decompose": True}
_SHAPES = {"linear": LINEAR, "conv": CONV}
CASES: Mapping[str, tuple[str, Any, Mapping[str, Any]]] = {
    "locon": ("linear", LoConModule, _RANK),
    "locon-rs": ("linear", LoConModule, {**_RANK, "rs_lora": True}),
    "locon-conv": ("conv", LoConModule, _RANK),
    "locon-tucker": ("conv", LoConModule, {**_RANK, "use_tucker": True}),
    "dora-outputs": ("linear", LoConModule, {**_DORA, "wd_on_out": True}),
    "dora-inputs": ("linear", LoConModule, {**_DORA, "wd_on_out": False}),
    "dora-conv-outputs": ("conv", LoConModule, {**_DORA, "wd_on_out": True}),
    "dora-conv-inputs": ("conv", LoConModule, {**_DORA, "wd_on_out": False}),
    "loha": ("linear", LohaModule, _RANK),
    "loha-conv": ("conv", LohaModule, _RANK),
    "loha-tucker": ("conv", LohaModule, {**_RANK, "use_tucker": True}),
    "loha-dora": ("linear", LohaModule, _DORA),
    "lokr": ("linear", LokrModule, {"lora_dim": 1, "alpha": 3.0, "factor": 4}),
    "lokr-both": (
        "linear", LokrModule, {"lora_dim": 1, "alpha": 3.0, "factor": 4, "decompose_both": True}
    ),
    "lokr-full": ("linear", LokrModule, {"lora_dim": 99, "alpha": 3.0, "factor": 4}),
    "lokr-conv": ("conv", LokrModule, {"lora_dim": 1, "alpha": 3.0, "factor": 4}),
    "lokr-tucker": (
        "conv", LokrModule, {"lora_dim": 1, "alpha": 3.0, "factor": 4, "use_tucker": True}
    ),
    "lokr-dora": (
        "linear", LokrModule, {"lora_dim": 1, "alpha": 3.0, "factor": 4, "weight_decompose": True}
    ),
    "ia3-outputs": ("linear", IA3Module, {"train_on_input": False}),
    "ia3-inputs": ("linear", IA3Module, {"train_on_input": True}),
    "ia3-conv": ("conv", IA3Module, {"train_on_input": False}),
    "oft": ("linear", DiagOFTModule, {"lora_dim": 4}),
    "oft-constrained": ("linear", DiagOFTModule, {"lora_dim": 4, "constraint": 0.05}),
    "oft-rescaled": ("conv", DiagOFTModule, {"lora_dim": 4, "rescaled": True}),
    "boft": ("linear", ButterflyOFTModule, {"lora_dim": 2}),
    "boft-rescaled": (
        "conv", ButterflyOFTModule, {"lora_dim": 2, "rescaled": True, "constraint": 0.05}
    ),
    "glora": ("linear", GLoRAModule, _RANK),
    "glora-conv": ("conv", GLoRAModule, _RANK),
}  # fmt: skip


def layer(kind: str) -> torch.nn.Module:
    """A layer with random weights."""
    out, wide, *kernel = _SHAPES[kind]
    if kind == "linear":
        return torch.nn.Linear(wide, out)
    return torch.nn.Conv2d(wide, out, (kernel[0], kernel[1]))


def record(name: str) -> dict[str, torch.Tensor]:
    """Tensors of one case, under its name."""
    kind, module, options = CASES[name]
    base = layer(kind)
    made = module("lora_unet_x", base, 1.0, **options)
    with torch.no_grad():
        for key, value in made.named_parameters():
            near = "dora_scale" in key or "rescale" in key
            noise = torch.randn_like(value)
            value.copy_(value * (1 + 0.1 * noise) if near else 0.3 * noise)
    made.eval()
    own = made.custom_state_dict()
    saved = own if own is not None else made.state_dict()
    # Its forward pass, one input after the other: `get_merged_weight` counts some scales twice.
    inputs = torch.eye(base.weight[0].numel()).reshape(-1, *base.weight.shape[1:])
    outputs = made(inputs).reshape(len(inputs), -1) - base.bias
    delta = outputs.T.reshape(base.weight.shape) - base.weight
    found = {f"{name}/file/{key}": value for key, value in saved.items() if value is not None}
    found |= {f"{name}/base": base.weight, f"{name}/delta": delta}
    return {key: value.detach().clone().contiguous() for key, value in found.items()}


def main() -> None:
    """Record all cases."""
    torch.manual_seed(0)
    tensors: dict[str, torch.Tensor] = {}
    for name in CASES:
        tensors |= record(name)
    save_file(tensors, PLACE, {"lycoris-lora": version("lycoris-lora")})
    print(f"{PLACE}: {len(CASES)} cases, {PLACE.stat().st_size} bytes")


if __name__ == "__main__":
    main()
