"""What the wrapper refuses, shows and keeps, around the mathematics."""

import json
import math
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from compose.held import Held
from compose.pipelines import KINDS, STEPS, adapter, flux, sd
from diffusers import (
    FirstBlockCacheConfig,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
)
from peft import LoKrConfig, LoraConfig, inject_adapter_in_model
from safetensors.numpy import load_file, save_file

import loramix
from loramix import FormatError, LoramixError, ParamError
from loramix.compose import Composite, Loratorio, Pool
from loramix.compose.components import tuner_layers
from loramix.compose.families import FAMILIES
from loramix.compose.picturing import picture_of

pytestmark = pytest.mark.filterwarnings(
    "ignore::FutureWarning", "ignore::DeprecationWarning", "ignore:Already found a `peft_config`"
)

SD, FLUX = KINDS["sd"], KINDS["flux"]
FULL = Loratorio(patch=2)


@pytest.fixture
def pipe() -> Any:
    from diffusers.utils import logging

    logging.set_verbosity_error()
    return sd(encoder=True)


@pytest.fixture
def files(pipe: Any, tmp_path: Path) -> list[Path]:
    return [
        adapter(pipe.unet, "unet", tmp_path / f"{name}.safetensors", seed=i, scale=0.4)
        for i, name in enumerate(("style", "face.v2"))
    ]


def test_the_room_is_the_function_and_needs_no_heavy_package() -> None:
    code = (
        "import sys, loramix, loramix.compose.functional\n"
        "assert loramix.compose.functional.softmin\n"
        "assert callable(loramix.compose), loramix.compose\n"
        "from loramix.compose import Loratorio, compose\n"
        "found = {'torch', 'diffusers', 'peft', 'transformers'} & set(sys.modules)\n"
        "assert not found, found\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_the_account_of_a_run(pipe: Any, files: list[Path]) -> None:
    composition = loramix.compose(pipe, files, mode=FULL)
    assert composition.runs == ()
    seen: list[int] = []

    def look(_p: Any, _i: int, _t: Any, kept: dict[str, Any]) -> dict[str, Any]:
        seen.append(len(composition.runs[-1].steps))
        return kept

    with composition:
        SD.run(pipe, callback_on_step_end=look)
        SD.run(pipe, num_inference_steps=2)
    assert seen == [1, 2, 3]
    with composition:
        assert len(composition.runs) == 2
    first, second = composition.runs
    assert first.adapters == ("style", "face.v2")
    assert [len(run.steps) for run in (first, second)] == [STEPS, 2]
    assert [step.number for step in first.steps] == [0, 1, 2]
    assert [step.timestep for step in first.steps] == sorted(
        (step.timestep for step in first.steps), reverse=True
    )
    for step in first.steps:
        assert step.weights.shape == (2, 2, 4, 4)
        assert step.weights.sum(axis=0) == pytest.approx(1, abs=1e-6)
        assert step.chosen.all()
        flat = step.weights.astype(float).reshape(2, 2, -1)
        meant = -(flat * np.log(flat)).sum(axis=0).mean(axis=1)
        assert step.entropy == pytest.approx(meant)
        assert (step.entropy < math.log(2)).all()
    with composition:  # once more
        SD.run(pipe)
    assert [run.forwards for run in composition.runs] == [18, 12, 18]


def test_progress_shows_forwards(pipe: Any, files: list[Path]) -> None:
    shown: list[str] = []
    with loramix.compose(pipe, files, mode=FULL):
        bar_of = pipe.progress_bar

        def spy(*args: Any, **kwargs: Any) -> Any:
            bar = bar_of(*args, **kwargs)
            plain = bar._bar.update

            def update(n: float = 1) -> Any:
                shown.append(bar._bar.postfix)
                return plain(n)

            bar._bar.update = update
            return bar

        pipe.__dict__["progress_bar"] = spy
        SD.run(pipe)
    assert len(shown) == STEPS
    pipe.set_progress_bar_config(disable=False)
    assert "progress_bar" not in pipe.__dict__


def test_names_of_loaded_adapters_are_adapters_too(pipe: Any, files: list[Path]) -> None:
    for name, file in zip("ab", files, strict=True):
        pipe.load_lora_weights(str(file), adapter_name=name)
    pipe.set_adapters(["b"], [0.2])
    with loramix.compose(pipe, ["a", "b"], mode=FULL, weights=[1.0, 0.5]):
        got = SD.run(pipe)
    with loramix.compose(pipe, [files[0], "b"], mode=FULL, weights=[1.0, 0.5]):
        assert torch.equal(SD.run(pipe), got)
    with loramix.compose(pipe, []):
        base = SD.run(pipe)
    pipe.unload_lora_weights()
    assert torch.equal(SD.run(pipe), base)


def test_what_is_loaded_keeps_its_strength_unless_weights_are_given(
    pipe: Any, files: list[Path]
) -> None:
    for name, file in zip("ab", files, strict=True):
        pipe.load_lora_weights(str(file), adapter_name=name)
    blocks = {"unet": {"down": 0.3, "up": {"block_0": 0.7}}}
    pipe.set_adapters(["a", "b"], [0.5, blocks])
    layers = tuner_layers(pipe.unet).values()
    before = [dict(layer.scaling) for layer in layers]
    assert len({tuple(one.items()) for one in before}) > 1
    meant = SD.run(pipe)
    with loramix.compose(pipe, ["a", "b"], mode="merge:method=linear"):
        assert torch.equal(SD.run(pipe), meant)
    with loramix.compose(pipe, ["a", "b"], mode="merge:method=average") as inside:
        halved = SD.run(inside)
    assert [dict(layer.scaling) for layer in layers] == before
    with loramix.compose(pipe, [files[0], "b"], mode=FULL, weights=[0.5, 1.0]):
        loud = SD.run(pipe)
    with loramix.compose(pipe, ["a", "b"], mode=FULL, weights=[0.5, 1.0]):
        assert torch.equal(SD.run(pipe), loud)
    with loramix.compose(pipe, ["a", files[1]], mode=FULL):
        assert torch.equal(SD.run(pipe), loud)
    assert [dict(layer.scaling) for layer in layers] == before
    assert torch.equal(SD.run(pipe), meant)
    for layer, scaling in zip(layers, before, strict=True):
        layer.scaling = {name: scale / 2 for name, scale in scaling.items()}
    again = SD.run(pipe)
    assert float((again - halved).abs().max()) < 1e-3 * float(halved.abs().max())


def test_a_name_goes_before_a_file_and_is_shown_whole(
    pipe: Any, files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(files[0].parent)
    pipe.load_lora_weights(str(files[1]), adapter_name="style")
    Path("style").mkdir()
    composition = loramix.compose(pipe, ["style", files[0], "face.v2.safetensors"])
    with composition:
        SD.run(pipe)
    assert composition.runs[0].adapters == ("style", "style.safetensors", "face.v2")
    with loramix.compose(pipe, ["style"], mode="composite"):
        got = SD.run(pipe)
    with loramix.compose(pipe, [files[1]], mode="composite"):
        assert torch.equal(SD.run(pipe), got)
    with pytest.raises(ParamError, match="adapters = style: give a list"):
        loramix.compose(pipe, "style")


def test_a_global_scale_acts_on_every_adapter(pipe: Any, files: list[Path]) -> None:
    call = {"cross_attention_kwargs": {"scale": 0.5}}
    with loramix.compose(pipe, files, mode=FULL):
        meant = SD.run(pipe, **call)
    for size in (1, 3):
        with loramix.compose(pipe, files, mode=FULL, weights=[0.5, 0.5], max_batch=size):
            halved = SD.run(pipe)
        assert float((halved - meant).abs().max()) < 1e-3
        with loramix.compose(pipe, files, mode=FULL, max_batch=size):
            assert float((SD.run(pipe, **call) - meant).abs().max()) < 1e-3


def test_the_denoiser_can_be_called_by_itself(pipe: Any, files: list[Path]) -> None:
    SD.run(pipe)  # which leaves the pipeline guided
    x, text = torch.randn(4, 4, 8, 8), torch.randn(4, 5, 12)
    with torch.inference_mode(), loramix.compose(pipe, files, mode=FULL, max_batch=3) as inside:
        one = inside.unet(x, 10, text, return_dict=False)[0]
        for size in (1, 3):
            with_dict = inside.unet(sample=x, timestep=10, encoder_hidden_states=text)
            assert float((with_dict.sample - one).abs().max()) < 1e-5, size
        with pytest.raises(ParamError, match="gives the denoiser 3 rows"):
            inside.unet(x[:3], 10, text[:3])


def test_where_memory_runs_out_fewer_share_a_forward(
    pipe: Any, files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    mode = Loratorio(tau=0.01, patch=2)
    with loramix.compose(pipe, files, mode=mode):
        meant = SD.run(pipe)
    inner = type(pipe.unet).forward

    def small(
        self: Any, sample: Any, timestep: Any, encoder_hidden_states: Any, **more: Any
    ) -> Any:
        if len(sample) > 8:
            message = "CUDA out of memory"
            raise torch.cuda.OutOfMemoryError(message)
        return inner(self, sample, timestep, encoder_hidden_states, **more)

    monkeypatch.setattr(type(pipe.unet), "forward", small)
    composition = loramix.compose(pipe, files, mode=mode, max_batch=3)
    with composition:
        got = SD.run(pipe)
    assert float((got - meant).abs().max()) < 1e-3
    (run,) = composition.runs
    assert run.notes == ("memory ran out: 2 passes in one forward from here on",)
    assert run.forwards == 18


def test_no_more_predictions_are_alive_than_passes(pipe: Any, files: list[Path]) -> None:
    alive: list[int] = []
    known: list[Any] = []

    def note(_m: Any, _a: Any, returned: torch.Tensor) -> None:
        known.append(weakref.ref(returned))
        alive.append(sum(one() is not None for one in known))

    pipe.unet.conv_out.register_forward_hook(note)
    with loramix.compose(pipe, files, mode=FULL):
        SD.run(pipe)
    assert len(alive) == STEPS * 3
    assert max(alive) <= 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "mode", ["loratorio", "loratorio:how=bilinear", "composite", "cm", "switch", "merge"]
)
def test_what_is_made_on_the_way_is_less_than_the_prediction_that_is_returned(
    pipe: Any, tmp_path: Path, mode: str, dtype: torch.dtype
) -> None:
    count, latents = 8, torch.randn(2, 16, 64, 64).to(dtype)
    files = [
        adapter(pipe.unet, "unet", tmp_path / f"{i}.safetensors", seed=i, scale=0.4)
        for i in range(count)
    ]
    SD.run(pipe)  # which leaves the pipeline guided
    pipe.unet.to(dtype)
    held = Held()

    def random(self: Any, sample: Any, timestep: Any, encoder_hidden_states: Any, **_: Any) -> Any:  # noqa: ARG001
        return (torch.randn_like(sample),)

    pipe.unet.__dict__["forward"] = held.forward(random.__get__(pipe.unet))
    with loramix.compose(pipe, files, mode=mode) as inside, torch.inference_mode(), held:
        inside.unet(latents, 10, torch.randn(2, 5, 12).to(dtype), return_dict=False)
    returned = latents.nbytes
    assert returned <= held.peak <= (count + 2) * returned


def test_pipelines_that_are_not_known_are_refused(pipe: Any) -> None:
    other = StableDiffusionInpaintPipeline(**pipe.components, requires_safety_checker=False)
    with pytest.raises(
        ParamError, match=r"StableDiffusionInpaintPipeline.*: how it calls"
    ) as found:
        loramix.compose(other, [])
    assert all(name in str(found.value) for name in FAMILIES)

    class Mine(type(pipe)):  # type: ignore[misc]
        """Somebody's own."""

    mine = Mine(**pipe.components, requires_safety_checker=False)
    with loramix.compose(mine, []):
        found = SD.run(mine)
    assert torch.equal(found, SD.run(pipe))


def test_adapters_that_are_not_there_are_refused(pipe: Any, files: list[Path]) -> None:
    message = "adapter nobody: neither a file nor loaded in the pipeline; loaded: none"
    with pytest.raises(ParamError, match=message), loramix.compose(pipe, ["nobody"]):
        pytest.fail("entered")
    absent = files[0].with_name("absent.safetensors")
    with pytest.raises(FileNotFoundError, match="absent"), loramix.compose(pipe, [absent]):
        pytest.fail("entered")
    pipe.load_lora_weights(str(files[0]), adapter_name="a")
    with (
        pytest.raises(ParamError, match="adapter a is given twice"),
        loramix.compose(pipe, ["a", "a"]),
    ):
        pytest.fail("entered")


def test_adapters_of_another_model_are_refused(pipe: Any, tmp_path: Path) -> None:
    file = adapter(flux().transformer, "transformer", tmp_path / "f.safetensors", seed=1)
    with pytest.raises(FormatError, match=r"f.* no layer"), loramix.compose(pipe, [file]):
        pytest.fail("entered")


def test_what_would_mix_adapters_is_refused(pipe: Any, files: list[Path]) -> None:
    pipe.load_lora_weights(str(files[0]), adapter_name="a")
    pipe.fuse_lora()
    with pytest.raises(ParamError, match=r"a are fused.*unfuse_lora"), loramix.compose(pipe, ["a"]):
        pytest.fail("entered")
    other = flux()
    other.transformer.enable_cache(FirstBlockCacheConfig())
    with pytest.raises(ParamError, match="disable_cache"), loramix.compose(other, []):
        pytest.fail("entered")


def test_compiled_models_are_refused(pipe: Any) -> None:
    pipe.unet = torch.compile(pipe.unet)
    with pytest.raises(ParamError, match="OptimizedModule hides"), loramix.compose(pipe, []):
        pytest.fail("entered")


def test_adapters_that_cannot_share_a_batch_are_refused_by_name(pipe: Any) -> None:
    config = LoraConfig(r=2, target_modules=["to_q"], use_dora=True)
    pipe.unet.add_adapter(config, adapter_name="dora")
    with loramix.compose(pipe, ["dora"]):
        SD.run(pipe)
    with (
        pytest.raises(ParamError, match=r"to_q: .* in Linear with dora; use max_batch=1"),
        loramix.compose(pipe, ["dora"], max_batch=2),
    ):
        pytest.fail("entered")


def test_adapters_of_another_kind_rest_in_a_batch(pipe: Any, files: list[Path]) -> None:
    """Those of layers where nothing is composed are not asked for rows."""
    config = LoKrConfig(r=2, target_modules=["conv1"], init_weights=False)
    inject_adapter_in_model(config, pipe.unet, "resting")
    with loramix.compose(pipe, files, mode=FULL):
        meant = SD.run(pipe)
    with loramix.compose(pipe, files, mode=FULL, max_batch=3):
        assert float((SD.run(pipe) - meant).abs().max()) < 1e-3


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"weights": [1.0]}, "1 weights for 2 adapters: give one each"),
        ({"weights": [1.0, math.nan]}, "weights = nan"),
        ({"weights": [1.0, torch.tensor(math.nan)]}, "weights = nan"),
        ({"weights": [1.0, np.bool_(1)]}, "weights = True: allowed is a number"),
        ({"weights": [1.0, "0.8"]}, "weights = 0.8: allowed is a number"),
        ({"weights": 0.8}, "weights = 0.8: give a list with a number for each adapter"),
        ({"weights": np.ones((1, 2))}, "give a list with a number for each"),
        ({"weights": np.float32(0.75)}, "weights = 0.75: give a list"),
        ({"priors": [1.0, -1.0]}, r"priors = -1.0: allowed is a number in \[0, inf\)"),
        ({"priors": [0, 0]}, "at least one must be above 0"),
        ({"masks": [np.ones((2, 2))]}, "1 masks for 2 adapters"),
        (
            {"masks": [None, np.ones((2, 2))], "mode": "switch"},
            "mode switch has no weights for pixels; masks go with loratorio, composite, w-comp",
        ),
        ({"max_batch": 0}, "max_batch = 0"),
        ({"text": "some"}, "text = 'some': allowed is all, none"),
        ({"mode": "swich"}, "did you mean switch"),
        ({"guidance": "cfgg"}, "did you mean cfg"),
    ],
)
def test_arguments_out_of_range_are_refused(
    how: dict[str, Any], message: str, pipe: Any, files: list[Path]
) -> None:
    with pytest.raises(ParamError, match=message):
        loramix.compose(pipe, files, **how)


@pytest.mark.parametrize(
    "kind",
    [
        lambda values: [np.float32(value) for value in values],
        lambda values: [np.array(value) for value in values],
        lambda values: [torch.tensor(value) for value in values],
        lambda values: [torch.tensor(value, requires_grad=True) for value in values],
        np.array,
        torch.tensor,
    ],
)
def test_numbers_of_numpy_and_torch_are_numbers(kind: Any, pipe: Any, files: list[Path]) -> None:
    values = [0.75, -0.5]  # exact in every type
    with loramix.compose(pipe, files, mode="loratorio:patch=2", weights=values, priors=[0.5, 2.0]):
        meant = SD.run(pipe)
    how: dict[str, Any] = {"mode": "loratorio:patch=2", "max_batch": np.int64(1)}
    composition = loramix.compose(pipe, files, weights=kind(values), priors=kind([0.5, 2.0]), **how)
    with composition:
        assert torch.equal(SD.run(pipe), meant)
    assert json.dumps(composition.runs[0].as_dict(), allow_nan=False)
    assert Loratorio(tau=np.float32(0.5), k=np.int64(2)) == Loratorio(tau=0.5, k=2)  # type: ignore[arg-type]
    assert Pool("x", weight=torch.tensor(0.75)).weight == 0.75  # type: ignore[arg-type]


def test_a_mapping_gives_adapters_names(pipe: Any, files: list[Path]) -> None:
    mask = np.eye(4)
    how: dict[str, Any] = {"mode": "loratorio:patch=2"}
    numbers: dict[str, Any] = {"weights": [0.8, 0.4], "priors": [1, 2], "masks": [mask, None]}
    with loramix.compose(pipe, files, **numbers, **how):
        meant = SD.run(pipe)
    named = {"paint": files[0], "a/b.c: d": files[1]}
    composition = loramix.compose(pipe, named, **numbers, **how)
    with composition:
        assert torch.equal(SD.run(pipe), meant)
    assert composition.runs[0].adapters == ("paint", "a/b.c: d")
    turned = {
        what: dict(reversed(list(zip(named, each, strict=True)))) for what, each in numbers.items()
    }
    with loramix.compose(pipe, named, **turned, **how):
        assert torch.equal(SD.run(pipe), meant)
    merged = loramix.compose(pipe, named, mode="merge")
    with merged:
        SD.run(pipe)
    assert merged.runs[0].adapters == ("auto(paint, a/b.c: d)",)
    pipe.load_lora_weights(str(files[0]), adapter_name="loaded")
    composition = loramix.compose(pipe, {**named, "paint": "loaded"}, **numbers, **how)
    with composition:
        assert torch.equal(SD.run(pipe), meant)
    assert composition.runs[0].adapters == ("paint", "a/b.c: d")


def test_files_of_one_name_are_told_apart(
    pipe: Any, files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    many = []
    for number, folder in enumerate(("x/ann", "y/ann", "y/bob")):
        Path(folder).mkdir(parents=True)
        many.append(Path(folder) / "style.safetensors")
        adapter(pipe.unet, "unet", many[-1], seed=number, scale=0.4)
    composition = loramix.compose(pipe, [*many, "style.safetensors", files[1]], mode="composite")
    with composition:
        SD.run(pipe)
    (run,) = composition.runs
    said = ("x/ann/style", "y/ann/style", "bob/style", "style.safetensors", "face.v2")
    assert run.adapters == said
    assert [one["name"] for one in run.as_dict()["adapters"]] == list(said)  # type: ignore[attr-defined]
    merged = loramix.compose(pipe, many[1:], mode="merge")
    with merged:
        SD.run(pipe)
    assert merged.runs[0].adapters == ("auto(ann/style, bob/style)",)
    pool = loramix.compose(pipe, Pool("y"), mode="composite")
    with pool:
        SD.run(pipe)
    assert sorted(pool.runs[0].adapters) == ["ann/style", "bob/style"]
    assert [one.name for one in pool.candidates] == list(pool.runs[0].adapters)


def test_a_class_is_its_rule(pipe: Any, files: list[Path]) -> None:
    for kind, text in ((Loratorio, "loratorio"), (loramix.compose.Switch, "switch")):
        one = loramix.compose(pipe, files, mode=kind, guidance=loramix.compose.AutoLora)
        assert one.mode == kind() == loramix.compose(pipe, files, mode=text).mode
        assert one.guidance == loramix.compose.AutoLora()


@pytest.mark.parametrize(
    ("adapters", "how", "message"),
    [
        ({"a": "x"}, {"weights": {"b": 1.0}}, "weights by names: none for a; no adapter b"),
        (["x"], {"priors": {"x": 1.0}}, "priors by names: the adapters have none; give a list"),
        ({1: "x"}, {}, "adapters: 1 is no name for x"),
        ({" ": "x"}, {}, "is no name for x: give a text"),
        ([" "], {}, "adapters: ' ' is neither a file"),
        (["x"], {"masks": ["soft"]}, r"masks\[0\]: str is no mask"),
        ({"x", "y"}, {}, "adapters: a set has no order"),
        ([b"x" * 999], {}, r"adapters: b'x{57,58} is neither a file"),
        (["x"], {"masks": 5}, "masks = 5: give a list with a mask or None"),
        (["x"], {"weights": [math.nan]}, r"weights = nan: allowed is a number in \(-inf, inf\)"),
        ([1.5], {}, "adapters: 1.5 is neither a file nor the name"),
        ([("x", 0.8)], {}, r"adapters: \('x', 0.8\) is neither"),
        (5, {}, "adapters = 5: give a list of files or names, a mapping"),
        (None, {}, "adapters = None: give a list"),
        (["x"], {"mode": 3}, "mode = 3: give an object, its class, or a text; known are loratorio"),
        (["x"], {"mode": str}, "mode = <class 'str'>: give an object"),
        (["x"], {"mode": None}, "mode = None: give"),
        (["x"], {"guidance": 7.5}, "guidance = 7.5: give an object, .*; known are cfg"),
    ],
)
def test_arguments_of_another_kind_are_refused(
    adapters: Any, how: dict[str, Any], message: str, pipe: Any
) -> None:
    with pytest.raises(ParamError, match=message):
        loramix.compose(pipe, adapters, **how)


def test_importances_must_fit_the_adapters(pipe: Any, files: list[Path]) -> None:
    for name in ("w-switch", "w-composite"):
        mode = loramix.compose.MODES[name](importance=(1.0, 2.0, 3.0))  # type: ignore[call-arg]
        with (
            pytest.raises(ParamError, match=f"{name}: importance = .* for 2 adapters"),
            loramix.compose(pipe, files, mode=mode),
        ):
            pytest.fail("entered")


def test_a_composition_is_entered_once_at_a_time(pipe: Any, files: list[Path]) -> None:
    composition = loramix.compose(pipe, files, mode=Composite())
    with composition, pytest.raises(ParamError, match="already entered"):
        composition.__enter__()
    assert "forward" not in pipe.unet.__dict__


def test_rows_that_cannot_be_repeated_are_refused(tmp_path: Path) -> None:
    pipe = flux()
    file = adapter(pipe.transformer, "transformer", tmp_path / "a.safetensors", seed=1)
    with (
        torch.inference_mode(),
        loramix.compose(pipe, [file], max_batch=2) as inside,
        pytest.raises(ParamError, match=r"pooled_projections .* has 3 rows, the latents 2"),
    ):
        inside.transformer(
            hidden_states=torch.randn(2, 4, 16),
            timestep=torch.ones(2),
            pooled_projections=torch.randn(3, 10),
            encoder_hidden_states=torch.randn(2, 5, 12),
            img_ids=torch.tensor([[0, 0, 0], [0, 0, 1], [0, 1, 0], [0, 1, 1]]),
            txt_ids=torch.zeros(5, 3),
            guidance=torch.ones(2),
        )


@pytest.mark.parametrize("mode", ["loratorio", "loratorio:k=1", "cm", "multlfg", "composite"])
def test_predictions_that_overflow_are_noted_and_the_account_is_written(
    mode: str, pipe: Any, files: list[Path]
) -> None:
    composition = loramix.compose(pipe, files, mode=mode, weights=[1.0, 1e38])
    with composition:
        SD.run(pipe)
    (run,) = composition.runs
    assert run.notes == (
        "step 0: the prediction of face.v2 has NaN or infinity in float32, and so has what "
        "follows: try smaller weights",
    )
    found = json.loads(json.dumps(run.as_dict(), allow_nan=False))
    assert [step["number"] for step in found["steps"]] == [0, 1, 2]
    assert picture_of(run).width > 0


def test_a_composition_inside_another_is_refused_whichever_pipeline_asks(
    pipe: Any, files: list[Path]
) -> None:
    with loramix.compose(pipe, files[:1], mode="composite"):
        meant = SD.run(pipe)
    other = StableDiffusionImg2ImgPipeline(**pipe.components, requires_safety_checker=False)
    with loramix.compose(pipe, files[:1], mode="composite"):
        for one in (pipe, other):
            with (
                pytest.raises(ParamError, match=r"UNet2D.* is composing already.*leave that.*list"),
                loramix.compose(one, files[1:]),
            ):
                pytest.fail("entered")
        assert torch.equal(SD.run(pipe), meant)
    assert "forward" not in pipe.unet.__dict__


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda pipe, _: pipe.disable_lora(), "adapters were disabled"),
        (lambda pipe, _: pipe.unload_lora_weights(), "taken out"),
        (lambda pipe, _: pipe.fuse_lora(), "fused into the weights"),
        (lambda pipe, _: pipe.delete_adapters("style"), "style deleted"),
        (lambda pipe, _: pipe.set_adapters(["style"], [0.3]), "strength"),
        (lambda pipe, files: pipe.load_lora_weights(str(files[0]), adapter_name="x"), "x loaded"),
    ],
)
def test_adapters_that_are_changed_inside_are_noticed_before_the_next_forward(
    change: Any, said: str, pipe: Any, files: list[Path]
) -> None:
    before = SD.run(pipe)
    done: list[int] = []
    pipe.unet.conv_out.register_forward_pre_hook(lambda *_: done.append(1))
    with loramix.compose(pipe, files, mode=FULL) as inside:
        SD.run(inside)
        done.clear()
        change(inside, files)
        with pytest.raises(ParamError, match=f"inside the composition: .*{said}.*compose again"):
            SD.run(inside)
        assert not done
    assert float((SD.run(pipe) - before).abs().max()) < 1e-4
    if said != "fused into the weights":  # which rounds
        assert torch.equal(SD.run(pipe), before)


def test_what_was_fused_inside_is_taken_out_of_the_weights(pipe: Any, files: list[Path]) -> None:
    meant = {key: one.clone() for key, one in pipe.unet.state_dict().items()}
    with loramix.compose(pipe, files, mode=FULL) as inside:
        inside.fuse_lora(lora_scale=0.7)
        inside.unload_lora_weights()
    found = pipe.unet.state_dict()
    assert found.keys() == meant.keys()
    assert max(float((found[key] - meant[key]).abs().max()) for key in meant) < 1e-6
    composition = loramix.compose(pipe, files, mode=FULL)
    composition.__enter__()
    pipe.fuse_lora(adapter_names=["style"])
    pipe.delete_adapters("style")
    with pytest.raises(ParamError, match=r"style: fused .*deleted.*open the pipeline anew"):
        composition.__exit__(None, None, None)
    assert "forward" not in pipe.unet.__dict__


@pytest.mark.parametrize("size", [1, 3])
def test_strengths_survive_a_global_scale_of_zero(size: int, pipe: Any, files: list[Path]) -> None:
    words = {
        "prompt": ["a cat", "two dogs"], "prompt_embeds": None, "negative_prompt_embeds": None,
    }  # fmt: skip
    text = adapter(pipe.text_encoder, "text_encoder", files[1], seed=5, scale=0.6)
    save_file(
        {**load_file(text), **load_file(adapter(pipe.unet, "unet", files[0], seed=9))}, files[1]
    )
    base = SD.run(pipe, **words)
    with loramix.compose(pipe, files, mode=FULL, weights=[0.5, 0.5], max_batch=size) as inside:
        meant = SD.run(inside, **words)
        for scale in (0.0, 0.3):
            off = SD.run(inside, cross_attention_kwargs={"scale": scale}, **words)
            assert (float((off - base).abs().max()) < 1e-3) == (scale == 0)
            assert torch.equal(SD.run(inside, **words), meant)


@pytest.mark.parametrize("called", [False, True])
def test_another_pipeline_that_calls_the_denoiser_is_refused(
    called: bool, pipe: Any, files: list[Path]
) -> None:
    other = StableDiffusionImg2ImgPipeline(**pipe.components, requires_safety_checker=False)
    image = KINDS["sd-image"]
    with loramix.compose(pipe, files, mode=FULL) as inside:
        if called:
            SD.run(inside)
        with pytest.raises(
            ParamError,
            match=r"StableDiffusionImg2ImgPipeline calls .* that StableDiffusionPipeline composes",
        ):
            image.run(other)
    composition = loramix.compose(other, files, mode=FULL)
    with composition:
        image.run(other)
    assert composition.runs[0].forwards == 2 * 2 * 3


def test_bad_masks_are_refused_at_once(pipe: Any, files: list[Path]) -> None:
    for mask, message in (
        (np.ones((4, 4, 1)), r"masks\[1\]: a mask of shape \(4, 4, 1\): \(rows, columns\)"),
        (np.full((2, 2), 255), r"masks\[1\]: a mask with values from 255 to 255: allowed is \[0"),
        (np.full((2, 2), np.nan), r"masks\[1\]: a mask with values"),
    ):
        with pytest.raises(LoramixError, match=message):
            loramix.compose(pipe, files, masks=[None, mask])


@pytest.mark.parametrize("name", ["sd", "flux", "qwen", "wan", "ltx"])
def test_patches_of_another_number_of_axes_are_refused_before_a_forward(
    name: str, tmp_path: Path
) -> None:
    kind = KINDS[name]
    made = kind.make()
    model = getattr(made, kind.component)
    file = adapter(model, kind.component, tmp_path / "a.safetensors", seed=1)
    axes = 2 if name in ("sd", "flux") else 3
    calls: list[int] = []
    model.register_forward_pre_hook(lambda *_: calls.append(1))
    last = model.conv_out if name == "sd" else model.proj_out
    last.register_forward_pre_hook(lambda *_: calls.append(2))
    for edges in (axes, axes + 1):
        calls.clear()
        with loramix.compose(made, [file], mode=Loratorio(patch=(2,) * edges)) as inside:
            if edges == axes:
                kind.run(inside)
                assert 2 in calls
            else:
                with pytest.raises(ParamError, match=f"or {axes} of them, one per axis"):
                    kind.run(inside)
                assert calls == [1]


@pytest.mark.parametrize(
    ("mode", "priors", "noted"),
    [
        ("switch", [1, 5], "w-switch"),
        ("cm", [1, 5], "w-composite"),
        ("merge:method=linear", [1, 5], "weights"),
        ("merge:method=average", [1, 5], "weights"),
        ("k-lora", [1, 5], "weights"),
        ("switch", [5, 5], None),
        ("cm", [0, 5], None),
        ("merge:method=linear", [0, 5], None),
        ("w-switch", [1, 5], None),
        ("w-composite", [1, 5], None),
        ("multlfg", [1, 5], None),
        ("loratorio", [1, 5], None),
        ("composite", [1, 5], None),
    ],
)
def test_priors_that_a_mode_does_not_look_at_are_noted(
    mode: str, priors: list[float], noted: str | None, pipe: Any, files: list[Path]
) -> None:
    composition = loramix.compose(pipe, files, mode=mode, priors=priors)
    with composition:
        got = SD.run(pipe)
    (run,) = composition.runs
    name = mode.partition(":")[0]
    said = [note for note in run.notes if note.startswith(f"mode {name} does not weigh by priors")]
    assert [noted in note for note in said if noted] == [True] * bool(noted)
    even = [float(prior > 0) for prior in priors]
    with loramix.compose(pipe, files, mode=mode, priors=even):
        same = torch.equal(SD.run(pipe), got)
    assert same == (noted is not None or len(set(priors) - {0}) == 1)


def test_an_overflow_of_half_precision_says_which_types_have_room(
    pipe: Any, files: list[Path]
) -> None:
    pipe.to(torch.float16)
    composition = loramix.compose(pipe, files, mode=FULL)
    later: list[int] = []

    def loud(_m: Any, _a: Any, returned: torch.Tensor) -> torch.Tensor:
        later.append(1)
        return returned * 1e9 if len(later) == 5 else returned

    pipe.unet.conv_out.register_forward_hook(loud)
    with composition:
        SD.run(pipe)
    (note,) = composition.runs[0].notes
    assert note.startswith("step 1: the prediction of style has NaN or infinity in float16")
    assert note.endswith("try torch.bfloat16 or torch.float32, or smaller weights")
