"""PEFT's own merge of every family against ours: the same change of the same weights.

A tiny torch model gets an adapter of random numbers, is saved, and merged by
``merge_and_unload``; what its parameters moved by is what the reader must find in the saved files.
"""

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from families.files import deltas
from helpers import InMemory, relative
from oracles_families import F64

from loramix import load
from loramix.tensors import Tensor

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")


class Tiny(torch.nn.Module):  # type: ignore[misc, name-defined]
    """One layer of each kind."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Linear(24, 16)
        self.second = torch.nn.Linear(16, 24, bias=False)
        self.conv = torch.nn.Conv2d(8, 16, 3, bias=True)
        self.table = torch.nn.Embedding(30, 12)


class Model(InMemory):
    """The parameters before the merge, as a base for the reader."""

    def __init__(self, module: Any) -> None:
        self._values = {k: v.detach().clone().numpy() for k, v in module.state_dict().items()}

    def weight(self, key: str) -> Tensor | None:
        name = key if key in self._values else f"{key}.weight"
        values = self._values.get(name)
        return None if values is None else Tensor("F32", values.shape, values.data.cast("B"))

    def moved(self, module: Any) -> dict[str, F64]:
        """What became of every parameter that changed, as (rows, cols)."""
        found = {}
        for name, value in module.state_dict().items():
            key = name.removesuffix(".weight")
            gap = value.double().numpy() - self._values[name].astype(float)
            if np.abs(gap).max() > 0:
                found[key] = gap.reshape(gap.shape[0], -1)
        return found


LINEAR = ["first", "second"]
ALL = [*LINEAR, "conv"]
CONFIGS: Mapping[str, Callable[[], Any]] = {
    "lora": lambda: peft.LoraConfig(r=4, lora_alpha=6, target_modules=[*ALL, "table"]),
    "rslora": lambda: peft.LoraConfig(r=4, lora_alpha=6, use_rslora=True, target_modules=ALL),
    "patterns": lambda: peft.LoraConfig(
        r=4, lora_alpha=6, rank_pattern={"first": 3}, alpha_pattern={"second": 1},
        target_modules=ALL,
    ),
    "bias": lambda: peft.LoraConfig(r=4, lora_alpha=6, lora_bias=True, target_modules=["first"]),
    "dora": lambda: peft.LoraConfig(r=4, lora_alpha=6, use_dora=True, target_modules=ALL),
    "loha": lambda: peft.LoHaConfig(r=3, alpha=5, target_modules=ALL),
    "loha, kernel": lambda: peft.LoHaConfig(
        r=3, alpha=5, use_effective_conv2d=True, target_modules=ALL
    ),
    "lokr": lambda: peft.LoKrConfig(r=2, alpha=5, target_modules=ALL),
    "lokr, both": lambda: peft.LoKrConfig(r=1, alpha=5, decompose_both=True, target_modules=ALL),
    "lokr, full": lambda: peft.LoKrConfig(r=64, alpha=5, target_modules=ALL),
    "lokr, kernel": lambda: peft.LoKrConfig(
        r=2, alpha=5, use_effective_conv2d=True, decompose_factor=4, target_modules=ALL
    ),
    "ia3": lambda: peft.IA3Config(target_modules=ALL, feedforward_modules=["second"]),
    "ia3, conv inputs": lambda: peft.IA3Config(
        target_modules=ALL, feedforward_modules=["second", "conv"]
    ),
    "oft": lambda: peft.OFTConfig(
        r=0, oft_block_size=4, use_cayley_neumann=False, target_modules=ALL
    ),
    "oft, series": lambda: peft.OFTConfig(
        r=0, oft_block_size=4, use_cayley_neumann=True, target_modules=ALL
    ),
    "oft, few terms": lambda: peft.OFTConfig(
        r=0, oft_block_size=4, use_cayley_neumann=True, num_cayley_neumann_terms=3,
        target_modules=LINEAR,
    ),
    "oft, limited": lambda: peft.OFTConfig(
        r=0, oft_block_size=4, use_cayley_neumann=False, coft=True, eps=0.3, target_modules=LINEAR
    ),
    "oft, shared": lambda: peft.OFTConfig(
        r=0, oft_block_size=8, use_cayley_neumann=False, block_share=True, target_modules=LINEAR
    ),
    "boft": lambda: peft.BOFTConfig(
        boft_block_size=4, boft_n_butterfly_factor=1, target_modules=LINEAR
    ),
    "boft, stages": lambda: peft.BOFTConfig(
        boft_block_size=4, boft_n_butterfly_factor=2, target_modules=LINEAR[1:]
    ),
    "boft, conv": lambda: peft.BOFTConfig(
        boft_block_size=4, boft_n_butterfly_factor=1, target_modules=["conv"]
    ),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CONFIGS)
def test_merge_and_unload(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    tiny = Tiny()
    base = Model(tiny)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT speaks of CUDA extensions and of embeddings
        wrapped = peft.get_peft_model(tiny, CONFIGS[name]())
        for key, value in wrapped.named_parameters():
            if value.requires_grad:
                spread = 0.1 * torch.randn_like(value)
                near = any(part in key for part in ("magnitude", "ia3_l", "boft_s"))
                value.data = value.data * (1 + spread) if near else 3 * spread
        wrapped.save_pretrained(tmp_path, save_embedding_layers=False)
        merged = wrapped.merge_and_unload()
    meant = base.moved(merged)
    found = deltas(load(tmp_path, base=base))
    assert found.keys() == meant.keys()
    for key, moved in meant.items():
        assert relative(found[key], moved) < 2e-5, key
