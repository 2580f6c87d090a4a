"""Adapters that some part of a pipeline does not have, or that are left out."""

from pathlib import Path
from typing import Any

import pytest
import torch
from compose.pipelines import KINDS, STEPS, adapter, sd
from safetensors.numpy import load_file, save_file

import loramix
from loramix import ParamError
from loramix.compose import MODES, Cfg, Loratorio
from loramix.compose.picturing import picture_of

pytestmark = pytest.mark.filterwarnings(
    "ignore::FutureWarning", "ignore::DeprecationWarning", "ignore:Already found a `peft_config`"
)

SD, WAN = KINDS["sd"], KINDS["wan-two"]
WORDS = {
    "prompt": ["a cat", "two dogs"], "prompt_embeds": None, "negative_prompt_embeds": None,
}  # fmt: skip
APART = tuple("merge:method=linear" if name == "merge" else name for name in MODES)
"""Modes that do not make one file of several."""
BOTH = ("transformer", "transformer_2")


@pytest.fixture
def pipe() -> Any:
    return sd(encoder=True)


@pytest.fixture
def files(pipe: Any, tmp_path: Path) -> tuple[Path, Path, Path, Path]:
    """Two for the denoiser, one for that and the text encoder, one for the text encoder."""
    plain = [
        adapter(pipe.unet, "unet", tmp_path / f"{name}.safetensors", seed=i, scale=0.4)
        for i, name in enumerate(("one", "two", "both"))
    ]
    words = tmp_path / "words.safetensors"
    adapter(pipe.text_encoder, "text_encoder", words, seed=5, scale=0.8)
    save_file({**load_file(plain[2]), **load_file(words)}, plain[2])
    return plain[0], plain[1], plain[2], words


def composed(pipe: Any, files: list[Path], **how: Any) -> tuple[torch.Tensor, Any]:
    kind = SD if hasattr(pipe, "unet") else WAN
    composition = loramix.compose(pipe, files, **how)
    with composition as inside:
        found = kind.run(inside, **(WORDS if kind is SD else {}))
    return found, composition.runs[0]


@pytest.mark.parametrize("mode", [*MODES, "merge:method=linear"])
def test_a_prior_of_zero_leaves_an_adapter_out(
    mode: str, pipe: Any, files: tuple[Path, ...]
) -> None:
    one, two, both, _ = files
    several = [one, two] if mode == "k-lora" else [one]
    meant, plain = composed(pipe, several, mode=mode)
    for first in (True, False):
        given = [both, *several] if first else [*several, both]
        priors = [0, *[1] * len(several)] if first else [*[1] * len(several), 0]
        got, run = composed(pipe, given, mode=mode, priors=priors)
        assert torch.equal(got, meant)
        assert run.forwards == plain.forwards
        assert run.notes == plain.notes


def test_k_lora_of_a_single_one_that_is_left_is_refused(pipe: Any, files: tuple[Path, ...]) -> None:
    with pytest.raises(ParamError, match=r"1 adapters with a prior above 0 \(one\): give two"):
        composed(pipe, list(files[:2]), mode="k-lora", priors=[1, 0])


@pytest.mark.parametrize("mode", APART)
def test_what_is_for_text_encoders_only_takes_part_in_no_forward(
    mode: str, pipe: Any, files: tuple[Path, ...]
) -> None:
    one, two, _, words = files
    several = [one, two] if mode == "k-lora" else [one]
    pipe.load_lora_weights(str(words), adapter_name="words")
    prompts = pipe.encode_prompt(WORDS["prompt"], "cpu", 1, do_classifier_free_guidance=True)
    pipe.unload_lora_weights()
    encoded = dict(zip(("prompt_embeds", "negative_prompt_embeds"), prompts, strict=True))
    with loramix.compose(pipe, several, mode=mode) as inside:
        meant = SD.run(inside, **encoded)
    for size in (1, 4):
        got, run = composed(pipe, [*several, words], mode=mode, max_batch=size)
        if size == 1:
            assert torch.equal(got, meant)
        assert run.notes == (
            "words: for text encoders only: it takes part in no forward and has no weight",
        )
        assert not any(step.chosen[-1].any() for step in run.steps)
    meant, plain = composed(pipe, several, mode=mode, text="none")
    got, run = composed(pipe, [*several, words], mode=mode, text="none")
    assert torch.equal(got, meant)
    assert run.forwards == plain.forwards
    assert run.notes == ("words: for text encoders only: it does nothing here",)


def test_words_alone_need_no_more_forwards_than_the_base(
    pipe: Any, files: tuple[Path, ...]
) -> None:
    pipe.load_lora_weights(str(files[3]), adapter_name="words")
    meant = SD.run(pipe, **WORDS)
    pipe.unload_lora_weights()
    got, run = composed(pipe, [files[3]])
    assert torch.equal(got, meant)
    assert run.forwards == 2 * STEPS
    assert len(run.notes) == 1
    assert run.as_dict()["adapters"][0]["weight"] == 0  # type: ignore[index]
    assert picture_of(run)


def wan_files(pipe: Any, folder: Path) -> tuple[Path, Path, Path]:
    """For the model of high noise, for that of low noise, and for both."""
    made = [
        adapter(getattr(pipe, part), part, folder / f"{name}.safetensors", seed=i, scale=0.4)
        for i, (part, name) in enumerate(zip(BOTH, ("high", "low"), strict=True))
    ]
    both = folder / "pair.safetensors"
    save_file({**load_file(made[0]), **load_file(made[1])}, both)
    return made[0], made[1], both


def test_files_for_one_or_both_of_two_models(tmp_path: Path) -> None:
    pipe = WAN.make()
    high, low, _ = wan_files(pipe, tmp_path)
    renamed = {key.replace("_2.", ".", 1): value for key, value in load_file(low).items()}
    save_file(renamed, tmp_path / "plain.safetensors")
    base = WAN.run(pipe)
    meant = {}
    for name in ("high", "low", "pair"):  # as people load them
        if name != "low":
            pipe.load_lora_weights(str(high), adapter_name=name)
        if name != "high":
            pipe.load_lora_weights(
                str(tmp_path / "plain.safetensors"),
                adapter_name=name, load_into_transformer_2=True,
            )  # fmt: skip
        meant[name] = WAN.run(pipe)
        got, run = composed(pipe, [name], mode="composite")  # type: ignore[list-item]
        assert torch.equal(got, meant[name])
        pipe.unload_lora_weights()
        pipe.transformer_2.unload_lora()
        assert torch.equal(WAN.run(pipe), base)
        got, run = composed(pipe, [tmp_path / f"{name}.safetensors"], mode="composite")
        assert torch.equal(got, meant[name])
        assert run.forwards == 2 * STEPS
        here, there = BOTH if name == "high" else BOTH[::-1]
        assert run.notes == (() if name == "pair" else (
            f"{name}: for {here} only: where {there} runs, it takes part in no forward (see 'Two "
            "models' in docs/COMPOSE.md)",
        ))  # fmt: skip
    assert not torch.equal(meant["high"], meant["low"])
    assert not torch.equal(meant["high"], base)


@pytest.mark.parametrize("mode", APART)
def test_each_of_two_models_runs_only_the_adapters_that_it_has(mode: str, tmp_path: Path) -> None:
    pipe = WAN.make()
    high, low, pair = wan_files(pipe, tmp_path)
    meant, _ = composed(pipe, [pair], mode="composite")
    got, run = composed(pipe, [high, low], mode=mode, guidance=Cfg())
    assert float((got - meant).abs().max()) < 1e-5 * float(meant.abs().max())
    assert [one.partition(":")[0] for one in run.notes] == ["high", "low"]
    assert [step.chosen[:, 0].tolist() for step in run.steps] == [
        [True, False], [False, True], [False, True],
    ]  # fmt: skip


def test_where_no_adapter_is_the_base_runs_alone(tmp_path: Path) -> None:
    pipe = WAN.make()
    high, *_ = wan_files(pipe, tmp_path)
    seen: list[str] = []
    for part in BOTH:
        model = getattr(pipe, part)
        model.proj_out.register_forward_hook(lambda *_, name=part: seen.append(name))
    _, run = composed(pipe, [high])
    assert [step.forwards for step in run.steps] == [4, 2, 2]
    assert seen == ["transformer"] * 4 + ["transformer_2"] * 4
    assert run.steps[0].weights.mean() == 1
    assert run.steps[-1].weights.shape == (1, 2)
    assert not run.steps[-1].weights.any()
    assert picture_of(run)


def test_a_choice_that_stays_stays_within_its_model(tmp_path: Path) -> None:
    pipe = WAN.make()
    high, low, _ = wan_files(pipe, tmp_path)
    mode = Loratorio(patch=2, k=1, freeze=1)
    _, run = composed(pipe, [high, low], mode=mode, saving="every=2,skip=0.1")
    assert [step.chosen[:, 0].tolist() for step in run.steps] == [
        [True, False], [False, True], [False, True],
    ]  # fmt: skip
