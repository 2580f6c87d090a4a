"""Adapters of language models: written by PEFT, merged by loramix, loaded by PEFT again.

The models are tiny and random, but of the real classes, with grouped keys and values.  What is
proved: with the merged folder the logits change by what the deltas do that are added to the
weights by hand, where the deltas are what PEFT itself says that its adapters add.
"""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
import torch
from clients.tiny import table_of
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

import loramix

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")

Deltas = dict[str, torch.Tensor]
SIZES: dict[str, Any] = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32,
    "tie_word_embeddings": False,
}
MODELS: Mapping[str, Callable[[], torch.nn.Module]] = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SIZES)),
}
TABLES = {"llama": "llama3_8b", "qwen2": "qwen2_5_7b"}
LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
WEIGHTS = (0.7, -0.4)
TOKENS = torch.arange(14).reshape(2, 7)


def make(name: str) -> torch.nn.Module:
    """The model: the same weights in every call, float32."""
    torch.manual_seed(5)
    return MODELS[name]().eval()


def trained(name: str, folder: Path, seed: int, **config: Any) -> tuple[Path, Deltas]:
    """What PEFT saves of a random adapter, and what it adds to every weight."""
    model = get_peft_model(make(name), LoraConfig(task_type="CAUSAL_LM", **config))
    torch.manual_seed(seed)
    for key, weight in model.named_parameters():
        if "lora_" in key:
            torch.nn.init.normal_(weight, std=0.1)
    # Without the argument PEFT asks the hub whether the vocabulary was resized.
    model.save_pretrained(str(folder), save_embedding_layers=False)
    deltas = {
        key: layer.get_delta_weight("default").detach().double()
        for key, layer in model.base_model.model.named_modules()
        if isinstance(layer, LoraLayer)
    }
    return folder, deltas


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(TOKENS).logits.double()


def check(name: str, folder: Path, parts: list[tuple[Deltas, float]]) -> None:
    """Require that PEFT loads the weighted sum."""
    base, edited = make(name), make(name)
    with torch.no_grad():
        for deltas, weight in parts:
            for key, delta in deltas.items():
                module = edited.get_submodule(key)
                module.weight.copy_((module.weight.double() + weight * delta).float())
    loaded = PeftModel.from_pretrained(base, str(folder)).eval()
    before = logits(make(name))
    meant, got = logits(edited) - before, logits(loaded) - before
    assert meant.norm() > 1e-2 * before.norm()
    assert (got - meant).norm() < 1e-4 * meant.norm()


@pytest.mark.parametrize("known", [False, True], ids=["unknown", "known"])
@pytest.mark.parametrize("name", MODELS)
def test_merged_folders_do_what_the_deltas_do(name: str, known: bool, tmp_path: Path) -> None:
    table = tmp_path / f"{name}.layout"
    table_of(TABLES[name], "transformer", make(name), table)
    one, first = trained(
        name, tmp_path / "one", 1, r=4, lora_alpha=6, target_modules=[*LINEAR, "lm_head"],
        rank_pattern={"k_proj": 2, r"layers\.1\.mlp\.up_proj": 3},
        alpha_pattern={"v_proj": 5},
    )  # fmt: skip
    two, second = trained(
        name, tmp_path / "two", 2, r=3, lora_alpha=4, use_rslora=True,
        target_modules=["q_proj", "down_proj"],
    )  # fmt: skip
    assert len(first) == 2 * len(LINEAR) + 1
    result = loramix.merge(
        [one, two], "linear", weights=WEIGHTS, path=tmp_path / "merged",
        architecture=str(table) if known else None,
    )  # fmt: skip
    assert (result.adapter.architecture is not None) == known
    assert len({row.rank for row in result.log}) > 2
    config = LoraConfig.from_pretrained(str(tmp_path / "merged"))
    assert config.task_type == "CAUSAL_LM"
    check(name, tmp_path / "merged", [(first, WEIGHTS[0]), (second, WEIGHTS[1])])


@pytest.mark.parametrize("name", MODELS)
def test_smaller_ranks_load(name: str, tmp_path: Path) -> None:
    # What is cut is random here, so the truth is what loramix says that it wrote.
    one, _ = trained(name, tmp_path / "one", 3, r=4, target_modules=list(LINEAR))
    small = loramix.resize(one, energy=0.8, path=tmp_path / "small")
    assert {row.rank for row in small.log} != {4}
    deltas = {
        target.key: torch.from_numpy(loramix.expand(target, [factors])).double()
        for target, factors in small.adapter.targets.items()
    }
    check(name, tmp_path / "small", [(deltas, 1.0)])


@pytest.mark.parametrize("name", MODELS)
def test_embeddings_merge_with_the_rest(name: str, tmp_path: Path) -> None:
    options = {"lora_alpha": 6, "target_modules": ["embed_tokens", "v_proj", "lm_head"]}
    one, first = trained(name, tmp_path / "one", 1, r=4, **options)
    two, second = trained(name, tmp_path / "two", 2, r=2, **options)
    loramix.merge([one, two], "linear", weights=WEIGHTS, path=tmp_path / "merged")
    check(name, tmp_path / "merged", [(first, WEIGHTS[0]), (second, WEIGHTS[1])])
