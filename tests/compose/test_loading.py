"""Adapters of every dialect and family, and merged ones, in a pipeline."""

import errno
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from clients.models import CLIENTS
from clients.tiny import table_of
from compose.pipelines import KINDS, adapter, sd
from peft import LoraConfig
from safetensors.numpy import load_file, save_file

import loramix
from loramix import FormatError, ParamError
from loramix.compose import writing as compose_writing
from loramix.compose.components import tuner_layers

pytestmark = pytest.mark.filterwarnings(
    "ignore::FutureWarning", "ignore::DeprecationWarning", "ignore:Already found a `peft_config`"
)

SD = KINDS["sd"]
LINEAR = {"mode": "merge:method=linear"}
PLACES = (
    "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q",
    "up_blocks.1.attentions.1.transformer_blocks.0.attn2.to_v",
    "down_blocks.0.attentions.0.transformer_blocks.0.ff.net.2",
)


def pipe_of_sd15() -> Any:
    pipe = sd()
    pipe.unet = CLIENTS["sd15"].make()
    return pipe


@pytest.fixture
def pipe() -> Any:
    return pipe_of_sd15()


@pytest.fixture
def table(pipe: Any, tmp_path: Path) -> str:
    path = tmp_path / "tiny.layout"
    table_of("sd15", "unet", pipe.unet, path)
    return str(path)


def flat(place: str) -> str:
    return "lora_unet_" + place.replace(".", "_")


def shapes(pipe: Any) -> dict[str, tuple[int, int]]:
    layers = dict(pipe.unet.named_modules())
    return {place: tuple(layers[place].weight.shape) for place in PLACES}


Tensors = dict[str, np.ndarray[Any, Any]]


def random(rng: np.random.Generator, *shape: int) -> np.ndarray[Any, Any]:
    return rng.standard_normal(shape).astype(np.float32) * 0.7


def loha(stem: str, m: int, n: int, rng: np.random.Generator) -> tuple[Tensors, Any]:
    a, b, c, d = (random(rng, *s) for s in ((m, 2), (2, n), (m, 2), (2, n)))
    names = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")
    tensors = {f"{stem}.{name}": one for name, one in zip(names, (a, b, c, d), strict=True)}
    tensors[f"{stem}.alpha"] = np.array(3, np.float32)
    return tensors, (a @ b) * (c @ d) * 3 / 2


def lokr(stem: str, m: int, n: int, rng: np.random.Generator) -> tuple[Tensors, Any]:
    small, a, b = random(rng, 2, 2), random(rng, m // 2, 2), random(rng, 2, n // 2)
    tensors = {f"{stem}.lokr_w1": small, f"{stem}.lokr_w2_a": a, f"{stem}.lokr_w2_b": b}
    tensors[f"{stem}.alpha"] = np.array(3, np.float32)
    return tensors, np.kron(small, a @ b) * 3 / 2


def dense(stem: str, m: int, n: int, rng: np.random.Generator) -> tuple[Tensors, Any]:
    delta = random(rng, m, n)
    return {f"{stem}.diff": delta}, delta


def scaled(stem: str, m: int, n: int, rng: np.random.Generator) -> tuple[Tensors, Any]:
    up, down = random(rng, m, 3), random(rng, 3, n)
    tensors = {f"{stem}.lora_up.weight": up, f"{stem}.lora_down.weight": down}
    tensors[f"{stem}.alpha"] = np.array(1.1, np.float32)
    return tensors, up @ down * np.float32(1.1) / 3


@pytest.mark.parametrize("make", [loha, lokr, dense, scaled])
def test_every_family_changes_what_it_means(
    make: Callable[..., tuple[Tensors, Any]], pipe: Any, table: str, tmp_path: Path
) -> None:
    rng = np.random.default_rng(3)
    file, tensors = tmp_path / "a.safetensors", {}
    with torch.no_grad():
        base = SD.run(pipe)
        deltas = {}
        for place, (m, n) in shapes(pipe).items():
            found, deltas[place] = make(flat(place), m, n, rng)
            tensors |= found
        save_file(tensors, file)
        how = {"weights": [-0.6], "architecture": table, "guidance": "cfg", **LINEAR}
        for size in (1, 2):
            composition = loramix.compose(pipe, [file], max_batch=size, **how)
            with composition as inside:
                got = SD.run(inside)
            layers = dict(pipe.unet.named_modules())
            assert composition.runs[0].notes == ()
            assert torch.equal(SD.run(pipe), base)
            if size == 1:
                for place, delta in deltas.items():
                    layers[place].weight += -0.6 * torch.from_numpy(delta)
                meant = SD.run(pipe)
                for place, delta in deltas.items():
                    layers[place].weight -= -0.6 * torch.from_numpy(delta)
                base = SD.run(pipe)  # rounding did not come back as it went
            assert float((got - meant).abs().max()) < 1e-3 * float(meant.abs().max())
            assert float((base - meant).abs().max()) > 1e-2 * float(meant.abs().max())


@pytest.mark.parametrize("dialect", ["kohya", "comfyui", "original", "plain", "peft"])
def test_every_dialect_is_the_same_adapter(
    dialect: str, pipe: Any, table: str, tmp_path: Path
) -> None:
    file = adapter(pipe.unet, "unet", tmp_path / "a.safetensors", seed=1, scale=0.4)
    with loramix.compose(pipe, [file], **LINEAR) as inside:
        meant = SD.run(inside)
    other = tmp_path / ("folder" if dialect == "peft" else f"{dialect}.safetensors")
    loramix.convert(file, other, dialect=dialect, architecture=table)
    composition = loramix.compose(pipe, [other], architecture=table, **LINEAR)
    with composition as inside:
        got = SD.run(inside)
    assert float((got - meant).abs().max()) < 1e-4 * float(meant.abs().max())
    assert composition.runs[0].adapters == (other.stem,)
    assert composition.runs[0].notes == ()


def test_a_plain_file_of_diffusers_is_not_touched(pipe: Any, tmp_path: Path) -> None:
    """Its bits are those of anybody's pipeline, so nothing may be multiplied or balanced."""
    file = adapter(pipe.unet, "unet", tmp_path / "a.safetensors", seed=1, scale=0.4)
    with loramix.compose(pipe, [file]) as inside:
        for key, value in load_file(file).items():
            where, _, rest = key.removeprefix("unet.").rpartition(".lora_")
            layer = inside.unet.get_submodule(where)
            part = layer.lora_A if rest.startswith("A") else layer.lora_B
            assert torch.equal(part["a"].weight, torch.from_numpy(value))


def test_targets_that_the_pipeline_lacks_are_noted(pipe: Any, tmp_path: Path) -> None:
    file = adapter(pipe.unet, "unet", tmp_path / "a.safetensors", seed=1, scale=0.4)
    tensors = load_file(file)
    for side, shape in (("A", (2, 8)), ("B", (8, 2))):
        tensors[f"unet.elsewhere.attn.to_q.lora_{side}.weight"] = np.ones(shape, np.float32)
    save_file(tensors, file)
    composition = loramix.compose(pipe, [file], **LINEAR)
    with composition as inside:
        SD.run(inside)
    (note,) = composition.runs[0].notes
    assert note == (
        f"a: 1 of {len(tensors) // 2} targets are not in the pipeline: unet.elsewhere.attn.to_q"
    )


@pytest.mark.parametrize("prefix", ["text_encoder.text_model.encoder", "text_encoder.encoder"])
def test_text_encoders_have_two_spellings(prefix: str, tmp_path: Path) -> None:
    pipe = sd(encoder=True)
    made = adapter(pipe.text_encoder, "text_encoder", tmp_path / "t", seed=1, scale=0.6)
    plain = load_file(adapter(pipe.unet, "unet", tmp_path / "u", seed=2, scale=0.4))
    end = ".encoder.layers"
    parts = {f"{prefix}.layers{key.partition(end)[2]}": v for key, v in load_file(made).items()}
    file, other = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    save_file({**plain, **parts}, file)
    save_file({**plain, **{key: value * 0.5 for key, value in parts.items()}}, other)
    words = {"prompt": ["a cat", "a dog"], "prompt_embeds": None, "negative_prompt_embeds": None}
    composition = loramix.compose(pipe, [file, other], mode="composite")
    with composition as inside:
        SD.run(inside, **words)
        layer = inside.text_encoder.encoder.layers[0].self_attn.q_proj
        assert set(layer.lora_A) == {"a", "b"}
    assert composition.runs[0].notes == ()
    if "text_model" in prefix:  # what files have; what is loaded is merged with them
        mode = "merge:method=average"
        with loramix.compose(pipe, [file, other], mode=mode) as inside:
            meant = SD.run(inside, **words)
        pipe.load_lora_weights(str(file), adapter_name="loaded")
        with loramix.compose(pipe, ["loaded", other], mode=mode) as inside:
            got = SD.run(inside, **words)
        assert float((got - meant).abs().max()) < 1e-3 * float(meant.abs().max())


def test_what_loramix_refuses_is_left_to_diffusers_and_noted(pipe: Any, tmp_path: Path) -> None:
    """DoRA needs weights of its base model here, and none there."""
    where = PLACES[0]
    m, n = shapes(pipe)[where]
    rng = np.random.default_rng(0)
    stem = f"unet.{where}"
    tensors = {
        f"{stem}.lora_A.weight": random(rng, 2, n),
        f"{stem}.lora_B.weight": random(rng, m, 2),
        f"{stem}.lora_magnitude_vector": random(rng, m),
    }
    file = tmp_path / "dora.safetensors"
    save_file(tensors, file)
    composition = loramix.compose(pipe, [file], **LINEAR)
    with composition as inside:
        got = SD.run(inside)
    pipe.load_lora_weights(str(file), adapter_name="plain")
    assert torch.equal(SD.run(pipe), got)
    (note,) = composition.runs[0].notes
    assert note.startswith("dora: loaded by diffusers alone")
    assert "base" in note


def test_what_nobody_understands_is_refused_with_both_reasons(pipe: Any, tmp_path: Path) -> None:
    file = tmp_path / "strange.safetensors"
    save_file({"unet.conv_in.mystery": np.ones((2, 2), np.float32)}, file)
    with (
        pytest.raises(FormatError, match=r"strange.*diffusers cannot load it.*; and loramix: "),
        loramix.compose(pipe, [file]),
    ):
        pytest.fail("entered")


@pytest.mark.parametrize("method", ["auto", "ties:density=0.4", "slerp"])
def test_mode_merge_is_what_loramix_merges(method: str, pipe: Any, tmp_path: Path) -> None:
    files = [
        adapter(pipe.unet, "unet", tmp_path / f"{i}.safetensors", seed=i, scale=0.4)
        for i in range(3)
    ]
    merged = tmp_path / "merged.safetensors"
    loramix.merge(files[:2], method, weights=[0.8, -0.5], path=merged)
    with loramix.compose(pipe, [merged], **LINEAR) as inside:
        meant = SD.run(inside)
    mode = loramix.compose.Merge(method)
    how: dict[str, Any] = {"mode": mode, "weights": [0.8, -0.5, 9.0], "priors": [1, 1, 0]}
    composition = loramix.compose(pipe, files, **how)
    with composition as inside:
        assert torch.equal(SD.run(inside), meant)
    (run,) = composition.runs
    assert run.adapters == (f"{method}(0, 1)",)
    assert run.forwards == 2 * 3
    # Those that are loaded are the same adapters.
    pipe.load_lora_weights(str(files[1]), adapter_name="loaded")
    pipe.set_adapters(["loaded"], [0.3])
    with loramix.compose(pipe, [files[0], "loaded", files[2]], **how) as inside:
        again = SD.run(inside)
    assert float((again - meant).abs().max()) < 1e-3 * float(meant.abs().max())
    assert pipe.get_list_adapters() == {"unet": ["loaded"]}


def test_scales_of_loaded_adapters_are_merged(pipe: Any) -> None:
    """Alpha is not the rank, and weights of before are not looked at."""
    for name, alpha in (("a", 3), ("b", 1)):
        config = LoraConfig(
            r=2, lora_alpha=alpha, target_modules=["to_q", "to_v"], init_lora_weights=False
        )
        pipe.unet.add_adapter(config, adapter_name=name)
    pipe.set_adapters(["a"], [5.0])
    layer = pipe.unet.get_submodule(PLACES[0])
    before = dict(layer.scaling)
    with loramix.compose(pipe, ["a", "b"], mode="merge:method=average", weights=[0.5, 0.7]) as one:
        inside_layer = one.unet.get_submodule(PLACES[0])
        (name,) = set(inside_layer.lora_A) - {"a", "b"}
        delta = inside_layer.get_delta_weight(name).detach()
    scales = {"a": 1.5, "b": 0.5}
    deltas = [
        layer.get_delta_weight(name).detach() / layer.scaling[name] * scale
        for name, scale in scales.items()
    ]
    mean = loramix.combine(deltas, "average", weights=[0.5, 0.7])
    assert float((delta - mean).abs().max()) < 1e-5 * float(mean.abs().max())
    assert layer.scaling == before


def test_a_merge_says_what_it_cannot_take(pipe: Any, tmp_path: Path) -> None:
    file = adapter(pipe.unet, "unet", tmp_path / "a.safetensors", seed=1)
    with pytest.raises(ParamError, match="did you mean"):
        loramix.compose(pipe, [file, file], mode="merge:method=tiess")
    config = LoraConfig(r=2, target_modules=["to_q"], use_dora=True)
    pipe.unet.add_adapter(config, adapter_name="dora")
    with (
        pytest.raises(ParamError, match=r"to_q: dora is no plain LoRA there"),
        loramix.compose(pipe, ["dora", file], mode="merge"),
    ):
        pytest.fail("entered")
    message = "adapter nobody: neither a file nor loaded in the pipeline; loaded: dora"
    with pytest.raises(ParamError, match=message), loramix.compose(pipe, ["nobody", file]):
        pytest.fail("entered")


def test_the_account_is_plain_data(pipe: Any, tmp_path: Path) -> None:
    files = [
        adapter(pipe.unet, "unet", tmp_path / f"{i}.safetensors", seed=i, scale=0.4)
        for i in range(2)
    ]
    composition = loramix.compose(pipe, files, mode="loratorio:patch=2,k=1,scope=patch")
    with composition as inside:
        SD.run(inside)
    (run,) = composition.runs
    found = json.loads(json.dumps(run.as_dict(), allow_nan=False))
    assert found["forwards"] == run.forwards == 18
    assert [one["name"] for one in found["adapters"]] == ["0", "1"]
    stack = np.array([step.weights for step in run.steps])
    for i, one in enumerate(found["adapters"]):
        assert np.allclose(one["map"], stack[:, i].mean(axis=0))
        assert one["weight"] == pytest.approx(stack[:, i].mean())
        assert one["steps"] == [s for s in range(3) if stack[s, i].any()]
    for row, step in zip(found["steps"], run.steps, strict=True):
        assert np.allclose(row["weights"], step.weights.mean(axis=(2, 3)))
        assert row["entropy"] == pytest.approx([0.0, 0.0])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_no_numbers_are_refused_by_name(value: float, tmp_path: Path) -> None:
    pipe = sd()
    path = adapter(pipe.unet, "unet", tmp_path / "broken.safetensors", seed=1)
    tensors = load_file(path)
    key = sorted(tensors)[0]
    tensors[key][1, 0] = value
    save_file(tensors, path)
    stem = key.partition(".lora_")[0]
    with (
        pytest.raises(FormatError, match=rf"broken: {stem} holds NaN or inf.*another copy"),
        loramix.compose(pipe, [path]),
    ):
        pytest.fail("entered")
    pipe.load_lora_weights(str(path), adapter_name="mine")
    with (
        pytest.raises(FormatError, match=rf"mine: {stem} holds NaN or infinity as float32"),
        loramix.compose(pipe, ["mine"]),
    ):
        pytest.fail("entered")


def test_values_too_large_for_the_type_of_the_pipeline_are_refused(tmp_path: Path) -> None:
    pipe = sd()
    path = adapter(pipe.unet, "unet", tmp_path / "loud.safetensors", seed=1, scale=1e5)
    pipe.to(torch.float16)
    with (
        pytest.raises(FormatError, match=r"loud: unet\..* infinity as float16; .*torch.bfloat16"),
        loramix.compose(pipe, [path]),
    ):
        pytest.fail("entered")


def test_weights_that_offloading_holds_elsewhere_are_not_looked_at(tmp_path: Path) -> None:
    """As sequential offloading leaves them: on the device ``meta``, without values."""
    pipe = sd()
    path = adapter(pipe.unet, "unet", tmp_path / "away.safetensors", seed=1)
    pipe.load_lora_weights(str(path), adapter_name="away")
    for layer in tuner_layers(pipe.unet).values():
        layer.lora_A.to("meta")
    with loramix.compose(pipe, ["away"]):
        pass


def test_a_file_of_another_model_says_what_it_is_and_diffusers_is_silent(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One sentence, in place of a line of every component and of every layer."""
    pipe = sd(encoder=True)
    own = adapter(pipe.unet, "unet", tmp_path / "own.safetensors", seed=1)
    wide = {
        key: value.repeat(2, 0) if "lora_B" in key else value
        for key, value in load_file(own).items()
    }
    save_file(wide, tmp_path / "wide.safetensors")
    flux = CLIENTS["flux1"].make()
    adapter(flux, "transformer", tmp_path / "flux.safetensors", seed=1)
    (tmp_path / "two").mkdir()
    for name in "ab":
        save_file(wide, tmp_path / "two" / f"{name}.safetensors")
    logger = logging.getLogger("diffusers")
    logger.addHandler(caplog.handler)
    logger.setLevel(logging.WARNING)
    try:
        for name, said in (
            ("flux.safetensors", "it has no layer of StableDiffusionPipeline; it is for "),
            ("wide.safetensors", r"unet\..* is 32 x 16 in it, and 16 x 16 in StableDiffusionP"),
            ("two", "a folder with 2 .safetensors files .* name the file: a.safetensors, b.s"),
        ):
            with (
                pytest.raises(FormatError, match=said) as found,
                loramix.compose(pipe, [tmp_path / name]),
            ):
                pytest.fail("entered")
            assert "\n" not in str(found.value)
            assert len(str(found.value)) < 400 + len(str(tmp_path))
        part = {**load_file(own), "unet.elsewhere.lora_A.weight": np.ones((2, 8), np.float32)}
        part["unet.elsewhere.lora_B.weight"] = np.ones((8, 2), np.float32)
        save_file(part, tmp_path / "part.safetensors")
        with loramix.compose(pipe, [own, tmp_path / "part.safetensors"]):
            pass
    finally:
        logger.removeHandler(caplog.handler)
    assert caplog.messages == []


@pytest.mark.parametrize("name", ["double", "items", "train", "training", "type"])
def test_any_name_of_a_file_is_a_name_of_an_adapter(name: str, tmp_path: Path) -> None:
    """Though PEFT puts adapters into containers that have such attributes."""
    pipe = sd()
    file = adapter(pipe.unet, "unet", tmp_path / f"{name}.safetensors", seed=1)
    composition = loramix.compose(pipe, [file], mode="composite")
    with composition:
        SD.run(pipe)
    assert composition.runs[0].adapters == (name,)


def test_no_room_for_temporary_files_says_where_they_are(
    pipe: Any, table: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a.safetensors"
    m, n = shapes(pipe)[PLACES[0]]
    save_file(loha(flat(PLACES[0]), m, n, np.random.default_rng(0))[0], file)

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "disk full; lower --rank", "x")

    monkeypatch.setattr(compose_writing, "convert", full)
    with (
        pytest.raises(OSError, match=r"temporary files of composing.*TMPDIR") as found,
        loramix.compose(pipe, [file], architecture=table),
    ):
        pytest.fail("entered")
    assert found.value.errno == errno.ENOSPC
