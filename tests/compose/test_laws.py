"""What composition promises, on the real pipelines of diffusers with tiny random models."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from compose.pipelines import KINDS, STEPS, Kind, adapter, sd
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.numpy import load_file, save_file

import loramix
from loramix.compose import Cfg, Composite, Loratorio, Recentred

pytestmark = pytest.mark.filterwarnings(
    "ignore::FutureWarning", "ignore::DeprecationWarning", "ignore:Already found a `peft_config`"
)

SOME = ("sd", "flux-guided", "wan", "ltx")
FULL = Loratorio(tau=0.05, patch=2)


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Loaders say what a file has nothing for."""
    from diffusers.utils import logging

    logging.set_verbosity_error()
    yield
    logging.set_verbosity_warning()


class Case:
    """A pipeline and files of adapters for it."""

    def __init__(self, name: str, folder: Path, count: int = 3) -> None:
        self.kind: Kind = KINDS[name]
        self.pipe: Any = self.kind.make()
        model = getattr(self.pipe, self.kind.component)
        self.files = [
            adapter(model, self.kind.component, folder / f"{i}.safetensors", seed=i, scale=0.4)
            for i in range(count)
        ]
        self.last: Any = None

    def load(self) -> list[str]:
        """Load all adapters for good, which takes longer than to run the pipeline."""
        names = [f"a{i}" for i in range(len(self.files))]
        for name, file in zip(names, self.files, strict=True):
            self.pipe.load_lora_weights(str(file), adapter_name=name)
            if getattr(self.pipe, "transformer_2", None) is not None:
                self.pipe.load_lora_weights(
                    str(file), adapter_name=name, load_into_transformer_2=True
                )
        self.pipe.disable_lora()
        return names

    def composed(
        self, files: Any, *, call: dict[str, Any] | None = None, **how: Any
    ) -> torch.Tensor:
        self.last = loramix.compose(self.pipe, files, **how)
        with self.last as pipe:
            assert pipe is self.pipe
            return self.kind.run(pipe, **(call or {}))

    def plain(self, file: Path | None = None, weight: float = 1.0) -> torch.Tensor:
        """As anybody does it, with diffusers alone."""
        if file is None:
            return self.kind.run(self.pipe)
        self.pipe.load_lora_weights(str(file), adapter_name="plain")
        self.pipe.set_adapters(["plain"], [weight])
        found = self.kind.run(self.pipe)
        self.pipe.unload_lora_weights()
        return found


def near(a: torch.Tensor, b: torch.Tensor, tolerance: float = 2e-4) -> bool:
    return float((a - b).abs().max()) < tolerance * float(b.abs().max())


def differ(a: torch.Tensor, b: torch.Tensor) -> bool:
    return float((a - b).abs().max()) > 1e-2 * float(b.abs().max())


@pytest.mark.parametrize("name", KINDS)
def test_one_adapter_without_recentring_is_the_plain_pipeline(name: str, tmp_path: Path) -> None:
    case = Case(name, tmp_path, 1)
    base, meant = case.plain(), case.plain(case.files[0], 0.8)
    assert differ(meant, base)
    got = case.composed(case.files, weights=[0.8], mode=FULL, guidance=Recentred(0))
    assert torch.equal(got, meant)
    assert torch.equal(case.composed([], mode=FULL), base)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_one_adapter_is_the_plain_pipeline_in_half_precision(
    kind: torch.dtype, tmp_path: Path
) -> None:
    case = Case("flux", tmp_path, 1)
    case.pipe.to(kind)
    meant = case.plain(case.files[0])
    assert torch.equal(case.composed(case.files, mode=FULL), meant)


@pytest.mark.parametrize("name", KINDS)
def test_forwards_are_counted_exactly(name: str, tmp_path: Path) -> None:
    case = Case(name, tmp_path)
    names = case.load()
    seen = rows_seen(case)
    for count in (1, 3):
        seen.clear()
        case.composed(names[:count], mode=FULL)
        (run,) = case.last.runs
        steps, sides = case.kind.steps, case.kind.sides
        assert sum(seen) == 2 * steps * sides * (count + 1)  # two pictures
        assert run.forwards == steps * sides * (count + 1)
        assert [step.forwards for step in run.steps] == [sides * (count + 1)] * steps
        assert bool(run.notes) == (sides == 1)


def rows_seen(case: Case) -> list[int]:
    """Rows that the denoisers really compute, counted in their output layers."""
    found: list[int] = []
    for name in ("unet", "transformer", "transformer_2"):
        model = getattr(case.pipe, name, None)
        if model is not None:
            last = model.conv_out if name == "unet" else model.proj_out
            last.register_forward_pre_hook(lambda _, args: found.append(len(args[0])))
    return found


@pytest.mark.parametrize("name", SOME)
def test_infinite_temperature_is_composite(name: str, tmp_path: Path) -> None:
    case = Case(name, tmp_path)
    names = case.load()
    meant = case.composed(names, mode="composite")
    got = case.composed(names, mode=Loratorio(tau=math.inf, patch=2), guidance="cfg")
    assert near(got, meant, 1e-6)
    assert differ(case.composed(names, mode=FULL, guidance="cfg"), meant)


@pytest.mark.parametrize("name", SOME)
def test_identical_adapters_are_the_single_one(name: str, tmp_path: Path) -> None:
    case = Case(name, tmp_path, 1)
    copies = [tmp_path / f"copy{i}.safetensors" for i in range(3)]
    for copy in copies:
        save_file(load_file(case.files[0]), copy)
    for mode in (FULL, Loratorio(patch=2, scale="patch", tau=1.0), Composite()):
        meant = case.composed(case.files, mode=mode)
        assert near(case.composed(copies, mode=mode), meant)


@pytest.mark.parametrize("name", SOME)
def test_the_order_of_adapters_does_not_matter(name: str, tmp_path: Path) -> None:
    case = Case(name, tmp_path)
    names = case.load()
    how = {"weights": [1.0, 0.5, -0.7], "priors": [1.0, 2.0, 0.5]}
    turned = {key: values[::-1] for key, values in how.items()}
    for mode in (FULL, Loratorio(patch=2, k=2, level="adapter", scale="image"), Composite()):
        meant = case.composed(names, mode=mode, **how)
        assert near(case.composed(names[::-1], mode=mode, **turned), meant)


@pytest.mark.parametrize("name", SOME)
def test_choosing_all_is_choosing_none(name: str, tmp_path: Path) -> None:
    case = Case(name, tmp_path)
    names = case.load()
    meant = case.composed(names, mode=FULL)
    for scope in ("image", "patch"):
        mode = Loratorio(tau=0.05, patch=2, k=3, scope=scope, hysteresis=0.1)
        assert torch.equal(case.composed(names, mode=mode), meant)
    one = case.composed(names, mode=Loratorio(patch=2, k=1), guidance="cfg")
    assert differ(one, meant)
    assert all((step.chosen.sum(axis=0) == 1).all() for step in case.last.runs[0].steps)


@pytest.mark.parametrize("name", SOME)
def test_the_base_as_an_adapter_of_prior_zero_adds_nothing(name: str, tmp_path: Path) -> None:
    case = Case(name, tmp_path, 2)
    nothing = tmp_path / "nothing.safetensors"
    save_file({k: v * 0 for k, v in load_file(case.files[0]).items()}, nothing)
    for mode in (FULL, Composite()):
        meant = case.composed(case.files, mode=mode)
        files = [case.files[0], nothing, case.files[1]]
        assert torch.equal(case.composed(files, mode=mode, priors=[1, 0, 1]), meant)
        assert (case.last.runs[0].steps[0].weights[1] == 0).all()
    # With a prior it is most like the base, and weighs least.
    case.composed(files, mode=FULL)
    weights = case.last.runs[0].steps[0].weights
    assert (weights[1] <= weights[[0, 2]].min(axis=0)).all()


@pytest.mark.parametrize("name", SOME)
def test_recentring_at_one_is_the_unconditional_prediction_of_the_base(
    name: str, tmp_path: Path
) -> None:
    case = Case(name, tmp_path)
    names = case.load()
    denoiser = getattr(case.pipe, case.kind.component)
    found: list[torch.Tensor] = []
    denoiser.register_forward_hook(lambda _m, _a, returned: found.append(returned[0]))

    def first(**how: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Unconditional and conditional prediction of the first step."""
        found.clear()
        if how:
            case.composed(names, **how)
        else:
            case.plain()
        return (found[1], found[0]) if case.kind.calls == 2 else found[0].chunk(2)

    base = first()
    full, half, off = (first(mode=FULL, guidance=Recentred(x)) for x in (1.0, 0.5, 0.0))
    assert torch.equal(full[0], base[0])
    assert near(half[0], (base[0] + off[0]) / 2, 1e-5)
    assert differ(off[0], base[0])
    assert torch.equal(full[1], off[1])
    assert torch.equal(half[1], off[1])
    assert differ(full[1], base[1])


@pytest.mark.parametrize("name", SOME)
def test_outside_masks_is_the_base(name: str, tmp_path: Path) -> None:
    case = Case(name, tmp_path, 2)
    names = case.load()
    base = case.plain()
    for mode in (FULL, Composite()):
        nowhere = case.composed(names, mode=mode, masks=[torch.zeros(2, 2)] * 2)
        assert near(nowhere, base, 1e-5)
        meant = case.composed(names, mode=mode)
        everywhere = case.composed(names, mode=mode, masks=[torch.ones(4, 4), None])
        assert near(everywhere, meant, 1e-5)
        # One adapter everywhere, the other nowhere: only the first is left.
        meant = case.composed(names[:1], mode=mode)
        alone = case.composed(names, mode=mode, masks=[None, torch.zeros(1, 1)])
        assert near(alone, meant, 1e-5)


@pytest.mark.parametrize("name", KINDS)
def test_adapters_in_one_batch_are_those_in_turn(name: str, tmp_path: Path) -> None:
    case = Case(name, tmp_path)
    names = case.load()
    how = {"weights": [1.0, 0.5, -0.7], "mode": FULL}
    meant = case.composed(names, **how)
    turn = case.last.runs[0]
    seen = rows_seen(case)
    sizes = ((4, 1), (3, 2)) if name in SOME else ((3, 2),)
    for size, forwards in sizes:
        seen.clear()
        got = case.composed(names, max_batch=size, **how)
        assert near(got, meant, 1e-3)
        assert len(seen) == forwards * case.kind.calls * case.kind.steps
        assert case.last.runs[0].forwards == turn.forwards


Picture = dict[str, Any]


def picture(pipe: Any) -> Picture:
    """All that a composition could leave behind."""
    # What a call of the pipeline itself keeps begins with a line.
    found: Picture = {"pipe": {k: v for k, v in pipe.__dict__.items() if not k.startswith("_")}}
    for name, part in pipe.components.items():
        if isinstance(part, torch.nn.Module):
            found[name] = {
                "modules": [(key, id(one), one.training) for key, one in part.named_modules()],
                "weights": {
                    key: (id(one), one.requires_grad, one.clone())
                    for key, one in part.named_parameters()
                },
                "hooks": [
                    len(hooks)
                    for one in part.modules()
                    for hooks in (one._forward_hooks, one._forward_pre_hooks)
                ],
                "own": {
                    key: value
                    for one in part.modules()
                    for key, value in one.__dict__.items()
                    if key in ("forward", "cache_context", "_hf_peft_config_loaded")
                },
                "config": sorted(getattr(part, "peft_config", {}) or {}),
                "active": [
                    (one._active_adapter, one._disable_adapters, dict(one.scaling))
                    for one in part.modules()
                    if isinstance(one, BaseTunerLayer)
                ],
            }
    return found


def same(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a is b or bool(a == b)


@pytest.mark.parametrize(
    ("name", "loaded", "size"),
    [
        ("sd", "nothing", 1),
        ("sd", "one", 4),
        ("sd-control", "one-resting", 1),
        ("flux", "nothing", 4),
        ("flux", "one", 1),
        ("flux", "one-resting", 4),
        ("wan-two", "nothing", 4),
        ("wan-two", "one", 1),
    ],
)
def test_everything_is_put_back(name: str, loaded: str, size: int, tmp_path: Path) -> None:
    case = Case(name, tmp_path)
    case.plain()  # what a call leaves on the pipeline itself
    if loaded != "nothing":
        case.pipe.load_lora_weights(str(case.files[2]), adapter_name="mine")
        case.pipe.set_adapters(["mine"], [0.3])
        if loaded == "one-resting":
            case.pipe.disable_lora()
    before, result = picture(case.pipe), case.kind.run(case.pipe)
    files = [*case.files[:2], *(["mine"] if loaded != "nothing" else [])]
    case.composed(files, mode=FULL, weights=[0.5] * len(files), max_batch=size)
    assert same(picture(case.pipe), before)
    assert torch.equal(case.kind.run(case.pipe), result)

    def fails(*_: Any, **__: Any) -> Any:
        message = "in the middle"
        raise RuntimeError(message)

    with (
        pytest.raises(RuntimeError, match="in the middle"),
        loramix.compose(case.pipe, files, mode=FULL, max_batch=size) as pipe,
    ):
        case.kind.run(pipe, callback_on_step_end=fails)
    assert same(picture(case.pipe), before)
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"\x08\0\0\0\0\0\0\0{}      ")
    both = loramix.compose(case.pipe, [case.files[0], broken])
    with pytest.raises(loramix.FormatError, match="broken"), both:
        pytest.fail("entered")
    assert same(picture(case.pipe), before)
    assert torch.equal(case.kind.run(case.pipe), result)


def test_adapters_of_text_encoders_act_while_prompts_are_encoded(tmp_path: Path) -> None:
    pipe, kind = sd(encoder=True), KINDS["sd"]
    files = [
        adapter(pipe.text_encoder, "text_encoder", tmp_path / f"{i}.safetensors", seed=i, scale=0.6)
        for i in range(2)
    ]
    for number, file in enumerate(files):
        tensors = load_file(adapter(pipe.unet, "unet", tmp_path / "u", seed=9 + number, scale=0.4))
        save_file({**load_file(file), **tensors}, file)
    words = {
        "prompt": ["a cat", "two dogs"], "prompt_embeds": None, "negative_prompt_embeds": None,
    }  # fmt: skip
    pipe.load_lora_weights(str(files[0]), adapter_name="plain")
    pipe.set_adapters(["plain"], [0.9])
    meant = kind.run(pipe, **words)
    pipe.unload_lora_weights()
    how: dict[str, Any] = {"mode": FULL, "guidance": Cfg(), "weights": [0.9]}
    with loramix.compose(pipe, files[:1], **how) as inside:
        assert torch.equal(kind.run(inside, **words), meant)
    with loramix.compose(pipe, files[:1], text="none", **how) as inside:
        without = kind.run(inside, **words)
    assert differ(without, meant)
    pipe.load_lora_weights(str(files[0]), adapter_name="plain")
    pipe.set_adapters(["plain"], [0.9])
    pipe.text_encoder.disable_adapters()
    assert torch.equal(kind.run(pipe, **words), without)


def test_skipped_layers_are_guided_with_the_same_weights(tmp_path: Path) -> None:
    case = Case("sd3", tmp_path)
    call = {
        "skip_guidance_layers": [0], "skip_layer_guidance_start": 0.0,
        "skip_layer_guidance_stop": 1.0,
    }  # fmt: skip
    one = case.composed(case.files[:1], mode=FULL, guidance="cfg", call=call)
    case.pipe.load_lora_weights(str(case.files[0]), adapter_name="plain")
    assert torch.equal(case.kind.run(case.pipe, **call), one)
    case.pipe.unload_lora_weights()
    case.composed(case.files, mode=FULL, call=call)
    per_step = [step.forwards for step in case.last.runs[0].steps]
    assert per_step == [8] + [8 + 3] * (STEPS - 1)  # the pipeline leaves the first step out
