"""GPT-2's Conv1D stores its weight transposed: PEFT turns the delta, factors stay as they are."""

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers.pytorch_utils import Conv1D

import loramix


class Tiny(torch.nn.Module):
    """One transposed layer, 12 in and 20 out."""

    def __init__(self) -> None:
        super().__init__()
        self.c_attn = Conv1D(20, 12)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.c_attn(x)


def trained(folder: Path, base: Tiny, rank: int, seed: int) -> torch.Tensor:
    """Save a random adapter; what it adds to the stored weight."""
    config = LoraConfig(r=rank, lora_alpha=3, target_modules=["c_attn"], fan_in_fan_out=True)
    model = get_peft_model(base, config)
    layer = model.base_model.model.c_attn
    generator = torch.Generator().manual_seed(seed)
    for factor in (layer.lora_A["default"], layer.lora_B["default"]):
        factor.weight.data = torch.randn(factor.weight.shape, generator=generator)
    model.save_pretrained(folder)
    delta = layer.get_delta_weight("default").detach()
    model.unload()
    return delta


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_deltas_of_transposed_layers(tmp_path: Path) -> None:
    torch.manual_seed(0)
    first = trained(tmp_path / "a", Tiny(), 2, 1)
    second = trained(tmp_path / "b", Tiny(), 3, 2)
    loramix.merge(
        [tmp_path / "a", tmp_path / "b"], "linear", weights=[0.7, -1.2], path=tmp_path / "ab"
    )
    model = PeftModel.from_pretrained(Tiny(), tmp_path / "ab")
    layer = model.base_model.model.c_attn
    got = layer.get_delta_weight("default").detach()
    meant = 0.7 * first - 1.2 * second
    assert got.shape == (12, 20)
    assert (got - meant).norm() <= 1e-6 * meant.norm()
