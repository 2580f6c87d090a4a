"""The command that draws: its files, its words, what it refuses before it loads anything large."""

import dataclasses
import json
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli.program import Outcome
from compose.pipelines import adapter, flux, sd
from PIL import Image
from safetensors.numpy import load_file, save_file

import loramix

Run = Callable[..., Outcome]
DRAW = ("compose", "--model", "model", "--prompt", "a cat")
SMALL = ("--steps", "3", "--width", "48", "--height", "32")
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


@pytest.fixture(scope="session")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, and adapters for it."""
    folder = tmp_path_factory.mktemp("studio")
    pipe = sd(encoder=True)
    pipe.save_pretrained(folder / "model")
    (folder / "pool").mkdir()
    for seed, name in enumerate(("style", "face.v2", "pool/cat", "pool/dog", "pool/tree")):
        adapter(pipe.unet, "unet", folder / f"{name}.safetensors", seed=seed, scale=0.4)
    adapter(flux().transformer, "transformer", folder / "flux.safetensors", seed=1)
    whole = (folder / "style.safetensors").read_bytes()
    (folder / "broken.safetensors").write_bytes(whole[:3000])
    tensors = load_file(folder / "style.safetensors")
    tensors[sorted(tensors)[0]][0, 0] = np.nan
    save_file(tensors, folder / "nan.safetensors")
    (folder / "empty").mkdir()
    index = json.loads((folder / "model" / "model_index.json").read_text())
    for name, kind in (
        ("video", "WanPipeline"),
        ("image", "StableDiffusionImg2ImgPipeline"),
        ("inpaint", "StableDiffusionInpaintPipeline"),
        ("unheard", "BananaPipeline"),
    ):
        (folder / name).mkdir()
        text = json.dumps({**index, "_class_name": kind})
        (folder / name / "model_index.json").write_text(text)
    return folder


@pytest.fixture(autouse=True)
def folder(studio: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working folder of links to the studio."""
    for one in studio.iterdir():
        (tmp_path / one.name).symlink_to(one)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    from diffusers.utils import logging as theirs
    from transformers.utils import logging as others

    before = [(one, one.get_verbosity()) for one in (theirs, others)]
    yield tmp_path
    for one, level in before:
        one.set_verbosity(level)
        one.enable_progress_bar()


def written() -> set[str]:
    return {path.name for path in Path().iterdir() if not path.is_symlink()}


def test_a_picture_its_weights_and_its_account(run: Run) -> None:
    files = ("style.safetensors:0.8", "face.v2.safetensors")
    how = ("--mode", "loratorio:patch=1,tau=0.2", "--seed", "7", "--guidance-scale", "1.5")
    done = run(*DRAW, *files, *SMALL, *how, "-o", "out.png")
    assert (done.code, done.err) == (0, "")
    assert written() == {"out.png", "out.weights.png", "out.json"}
    assert max(map(len, done.out.splitlines())) <= 80
    for words in ("picture    out.png", "forwards   18 in 3 steps", "style", "face.v2", "3 of 3"):
        assert words in done.out
    found = json.loads(Path("out.json").read_text())
    assert found["given"] == list(files)
    assert (found["seed"], found["forwards"], found["notes"]) == (7, 18, [])
    assert [one["name"] for one in found["adapters"]] == ["style", "face.v2"]
    assert np.shape(found["adapters"][0]["map"]) == (1, 16, 24)
    assert found["mode"].startswith("loratorio:tau=0.2,patch=1,how=nearest,")
    assert found["guidance"] == "recentred:lambda=0.5"
    assert (found["dtype"], found["device"], found["max_batch"]) == ("f32", "cpu", 1)
    assert (found["short"], found["hold"]) == (None, None)

    # As anybody draws it from Python.
    import torch
    from diffusers import DiffusionPipeline

    pipe = DiffusionPipeline.from_pretrained("model", local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    paths = [file.partition(":")[0] for file in files]
    with loramix.compose(pipe, paths, mode=how[1], weights=[0.8, 1.0]) as inside:
        meant = inside(
            "a cat", num_inference_steps=3, width=48, height=32, guidance_scale=1.5,
            generator=torch.Generator().manual_seed(7),
        ).images[0]  # fmt: skip
    with Image.open("out.png") as picture:
        assert picture.size == (48, 32)
        assert np.array_equal(np.asarray(picture), np.asarray(meant))
    first = Path("out.png").read_bytes()
    assert run(*DRAW, *files, *SMALL, *how, "-o", "out.png").code == 0
    assert Path("out.png").read_bytes() == first


def test_a_pool(run: Run) -> None:
    done = run(*DRAW, "--pool", "pool", "--short", "2", "--hold", "1", *SMALL, "-o", "p.webp")
    assert (done.code, done.err) == (0, "")
    assert written() == {"p.webp", "p.weights.png", "p.json"}
    assert "swaps      3" in done.out
    found = json.loads(Path("p.json").read_text())
    assert found["pool"][0]["name"] == "cat"
    assert sum(one["left_out"] is None for one in found["pool"]) == 2
    assert f"left out   {found['pool'][2]['name']}: the short list has 2 places" in done.out
    assert found["given"] == ["pool"]
    assert (found["short"], found["hold"]) == (2, 1)


def test_a_bad_file_of_a_pool_is_said_once(run: Run, studio: Path) -> None:
    Path("mixed").mkdir()
    shutil.copy(studio / "style.safetensors", "mixed/style.safetensors")
    bad = [f"river{i}" for i in range(5)]
    for name in bad:
        shutil.copy(studio / "broken.safetensors", f"mixed/{name}.safetensors")
    done = run(*DRAW, "--pool", "mixed", *SMALL, "-o", "b.png")
    assert (done.code, done.err) == (0, "")
    for name in bad:
        assert done.out.count(f"{name}: it cannot be read") == 1
    (note,) = json.loads(Path("b.json").read_text())["notes"]
    assert note.startswith("5 of 6 files of the pool cannot take part: river0: ")


def test_json_and_a_merge(run: Run) -> None:
    how = ("--mode", "merge", "--guidance", "cfg", "--max-batch", "2", "--json")
    done = run(*DRAW, "style.safetensors", "face.v2.safetensors", *SMALL, *how, "-o", "m.jpg")
    assert (done.code, done.err) == (0, "")
    found = json.loads(done.out)
    assert found == json.loads(Path("m.json").read_text())
    assert [one["name"] for one in found["adapters"]] == ["auto(style, face.v2)"]
    assert found["forwards"] == 6
    assert (found["mode"], found["guidance"]) == ("merge:method=auto", "cfg")
    assert (found["max_batch"], found["dtype"]) == (2, "f32")


def test_predictions_that_overflow_leave_all_three_files(run: Run) -> None:
    done = run(*DRAW, "style.safetensors:1e38", "face.v2.safetensors", *SMALL, "-o", "o.png")
    assert (done.code, done.err) == (0, "")
    assert written() == {"o.png", "o.weights.png", "o.json"}
    (note,) = json.loads(Path("o.json").read_text())["notes"]
    assert note.startswith("step 0: the prediction of style has NaN or infinity in float32")


@pytest.mark.parametrize(
    "args",
    [
        ("compose",),
        ("compose", "--model", "model", "style.safetensors", "-o", "o.png"),
        (*DRAW, "style.safetensors"),
        (*DRAW, "-o", "o.png"),
        (*DRAW, "style.safetensors", "-o", "o.gif"),
        (*DRAW, "style.safetensors:0.5:0.7", "-o", "o.png"),
        (*DRAW, "style.safetensors:lbw=1,0", "-o", "o.png"),
        (*DRAW, "style.safetensors:x", "-o", "o.png"),
        (*DRAW, "style.safetensors", "--mode", "loratorrio", "-o", "o.png"),
        (*DRAW, "style.safetensors", "--mode", "loratorio:tau=0", "-o", "o.png"),
        (*DRAW, "style.safetensors", "--mode", "k-lora", "-o", "o.png"),
        (*DRAW, "style.safetensors", "--guidance", "cgf", "-o", "o.png"),
        (*DRAW, "style.safetensors", "--saving", "every=0", "-o", "o.png"),
        (*DRAW, "style.safetensors", "--saving", "window=0.8+0.2", "-o", "o.png"),
        (*DRAW, "style.safetensors", "--steps", "0", "-o", "o.png"),
        (*DRAW, "style.safetensors", "--width", "0", "-o", "o.png"),
        (*DRAW, "style.safetensors", "--guidance-scale", "nan", "-o", "o.png"),
        (*DRAW, "style.safetensors", "--true-cfg-scale", "2", "-o", "o.png"),
        (*DRAW, "style.safetensors", "--seed", "-1", "-o", "o.png"),
        (*DRAW, "style.safetensors", "--dtype", "f8", "-o", "o.png"),
        (*DRAW, "style.safetensors", "--device", "banana", "-o", "o.png"),
        (*DRAW, "style.safetensors", "--max-batch", "0", "-o", "o.png"),
        (*DRAW, "style.safetensors", "style.safetensors", "-o", "o.png"),
        (*DRAW, "style.safetensors", "--pool", "pool", "-o", "o.png"),
        (*DRAW, "style.safetensors", "--short", "2", "-o", "o.png"),
        (*DRAW, "--pool", "empty", "-o", "o.png"),
        (*DRAW, "--pool", "nowhere", "-o", "o.png"),
        (*DRAW, "--pool", "pool", "--hold", "0", "-o", "o.png"),
        ("compose", "--model", "video", "--prompt", "x", "style.safetensors", "-o", "o.png"),
        ("compose", "--model", "image", "--prompt", "x", "style.safetensors", "-o", "o.png"),
    ],
)
def test_usage_errors(run: Run, args: Sequence[str]) -> None:
    done = run(*args)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1
    assert written() == set()


@pytest.mark.parametrize(
    ("args", "named"),
    [
        ((*DRAW, "missing.safetensors", "-o", "o.png"), "missing.safetensors: No such file"),
        ((*DRAW, "broken.safetensors", "-o", "o.png"), "a truncated download"),
        ((*DRAW, "style.safetensors", "nan.safetensors", "-o", "o.png"), "nan: unet."),
        ((*DRAW, "flux.safetensors", "-o", "o.png"),
         "flux.safetensors: it has no layer of StableDiffusionPipeline; it is for"),
        ((*DRAW, "style.safetensors", "-o", "empty"), "empty is a folder"),
        ((*DRAW, "style.safetensors", "-o", "no/o.png"), "the folder no does not exist"),
        (("compose", "--model", "nowhere", "--prompt", "x", "style.safetensors", "-o", "o.png"),
         "nowhere: no such folder, and no such model in the local cache"),
        (("compose", "--model", "empty", "--prompt", "x", "style.safetensors", "-o", "o.png"),
         "empty: no model_index.json"),
        (("compose", "--model", "style.safetensors", "--prompt", "x", "style.safetensors", "-o",
          "o.png"), "style.safetensors: no model_index.json"),
    ],
)  # fmt: skip
def test_failures(run: Run, args: Sequence[str], named: str) -> None:
    done = run(*args)
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("error: ")
    assert named in done.err
    assert done.err.count("\n") == 1
    assert written() == set()


@pytest.mark.parametrize("where", ["folder", "cache"])
def test_a_model_of_another_kind_is_refused_before_its_weights_are_read(
    where: str, run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from diffusers import DiffusionPipeline

    def opened(*_: object, **__: object) -> None:
        pytest.fail("opened")

    monkeypatch.setattr(DiffusionPipeline, "from_pretrained", opened)
    for name, code, said in (
        ("inpaint", 2, "pipeline StableDiffusionInpaintPipeline (did you mean Stable"),
        ("inpaint", 2, "not known; known are StableDiffusionPipeline, "),
        ("video", 2, "WanPipeline makes videos: use loramix.compose from Python"),
        ("unheard", 1, "its _class_name is 'BananaPipeline', and diffusers "),
    ):
        model = name
        if where == "cache":
            monkeypatch.setenv("HF_HUB_CACHE", str(folder))
            model = f"org/{name}"
            snapshot = folder / f"models--org--{name}" / "snapshots" / "1a2b"
            if not snapshot.exists():
                snapshot.parent.mkdir(parents=True)
                snapshot.symlink_to(folder / name)
        done = run("compose", "--model", model, "--prompt", "x", "style.safetensors", "-o", "o.png")
        assert done.code == code
        assert said in done.err
        assert "model_index.json: " in done.err
        assert done.err.count("\n") == 1


@pytest.mark.parametrize(
    ("kind", "configs", "step"),
    [
        ("StableDiffusionPipeline", {}, 8),
        ("StableDiffusionXLPipeline", {"vae": {"block_out_channels": [4] * 6}}, 8),
        ("StableDiffusion3Pipeline",
         {"vae": {"block_out_channels": [4] * 4}, "transformer": {"patch_size": 2}}, 16),
        ("FluxPipeline", {"vae": {"block_out_channels": [4] * 4}}, 16),
        ("QwenImagePipeline", {"vae": {"temperal_downsample": [True, True, False, True]}}, 32),
    ],
)  # fmt: skip
def test_sizes_that_a_model_cannot_draw_are_refused_before_its_weights_are_read(
    kind: str, configs: dict[str, dict[str, object]], step: int, run: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    from diffusers import DiffusionPipeline

    def opened(*_: object, **__: object) -> None:
        message = "opened"
        raise OSError(message)

    monkeypatch.setattr(DiffusionPipeline, "from_pretrained", opened)
    Path("sized").mkdir()
    Path("sized/model_index.json").write_text(json.dumps({"_class_name": kind}))
    for name, config in configs.items():
        (Path("sized") / name).mkdir()
        (Path("sized") / name / "config.json").write_text(json.dumps(config))
    drawn = ("compose", "--model", "sized", "--prompt", "x", "style.safetensors", "-o", "o.png")
    for option in ("--width", "--height"):
        done = run(*drawn, option, "33")
        near = " or ".join(str(one) for one in (32 // step * step, 32 // step * step + step) if one)
        assert done.code == 2
        said = f"error: {option} 33: {kind} draws multiples of {step}: try {near}\n"
        assert done.err == said
        assert "opened" in run(*drawn, option, str(5 * step)).err
    for component in configs:  # what cannot be known is left to the pipeline
        (Path("sized") / component / "config.json").write_text("{no json")
    if step != 8:
        assert "opened" in run(*drawn, "--width", "33").err


@pytest.mark.parametrize("kind", ["sd", "sdxl", "sd3", "flux", "qwen"])
def test_steps_of_sizes_are_those_of_the_pipelines(kind: str, tmp_path: Path) -> None:
    """diffusers' own numbers, from the configurations of its own classes."""
    from compose.pipelines import KINDS
    from diffusers import AutoencoderKL, AutoencoderKLQwenImage

    from loramix import ParamError
    from loramix.cli.sizing import refuse_size

    pipe = KINDS[kind].make()
    own: Any = type(pipe)
    channels = (4, 4, 8, 8)
    vae = (
        AutoencoderKLQwenImage(base_dim=4, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1)
        if kind == "qwen"
        else AutoencoderKL(
            block_out_channels=channels, norm_num_groups=2, latent_channels=4,
            down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        )
    )  # fmt: skip
    pipe = own(**{**pipe.components, "vae": vae})
    for name, one in pipe.components.items():
        if name in ("vae", "transformer"):
            one.save_config(tmp_path / "sized" / name)
    factor = {"sd": 1, "sdxl": 1, "sd3": getattr(pipe, "patch_size", 1)}.get(kind, 2)
    step = pipe.vae_scale_factor * factor
    assert step in (8, 16)
    refuse_size(type(pipe), tmp_path / "sized", {"width": 3 * step, "height": step})
    with pytest.raises(ParamError, match=f"draws multiples of {step}: try {step} or {2 * step}"):
        refuse_size(type(pipe), tmp_path / "sized", {"height": step + 1})


def test_messages_say_what_compose_can_do(run: Run) -> None:
    """Options of other commands are named as theirs."""
    tensors = load_file("style.safetensors")
    stem = sorted(tensors)[0].partition(".lora_")[0]
    rows = len(tensors[f"{stem}.lora_B.weight"])
    tensors[f"{stem}.lora_magnitude_vector"] = np.ones(rows, np.float32)
    save_file(tensors, "some.safetensors")
    whole = {key: value for key, value in tensors.items() if key.startswith(f"{stem}.")}
    save_file(whole, "dora.safetensors")
    save_file({"emb_params": np.ones((2, 8), np.float32)}, "words.safetensors")
    mended = "of 'loramix convert' and 'loramix merge', not of compose"
    done = run(*DRAW, "dora.safetensors", *SMALL, "-o", "d.png")
    assert done.code == 0
    (note,) = json.loads(Path("d.json").read_text())["notes"]
    assert f"(--base and --skip: {mended}" in note
    done = run(*DRAW, "some.safetensors", *SMALL, "-o", "o.png")
    assert done.code == 1
    assert "lacks weights that diffusers expects there: the file has DoRA" in done.err
    done = run(*DRAW, "words.safetensors", *SMALL, "-o", "o.png")
    assert (done.code, f"(--skip: {mended}" in done.err) == (1, True)
    done = run(*DRAW, "words.safetensors", "style.safetensors", "--mode", "merge", "-o", "o.png")
    assert (done.code, f"(--skip: {mended}" in done.err) == (1, True)
    done = run(*DRAW, "style.safetensors:x", "-o", "o.png")
    assert done.err.endswith("'x' is not a number; write FILE or FILE:WEIGHT, such as "
                             "style.safetensors:0.8\n")  # fmt: skip
    done = run(*DRAW, "style.safetensors", "style.safetensors", *SMALL, "-o", "o.png")
    assert done.err.endswith("is given twice: give it once\n")


def test_weights_that_are_nearly_even_are_noted_once(run: Run) -> None:
    done = run(*DRAW, "style.safetensors:0.2", "face.v2.safetensors:0.2", *SMALL, "-o", "n.png")
    (note,) = json.loads(Path("n.json").read_text())["notes"]
    assert note.startswith("weights differ by ")
    said = " ".join(done.out.split())
    assert said.count(note) == 1
    assert said.count("weights differ") == 1


def test_work_that_is_saved(run: Run) -> None:
    files = ("style.safetensors", "face.v2.safetensors")
    small = ("--steps", "4", *SMALL[2:], "--guidance", "cfg", "-o", "s.png")
    how = ("--saving", "every=2,window=0.0+0.75")
    done = run(*DRAW, *files, *small, *how)
    assert (done.code, done.err) == (0, "")
    assert "forwards   18 in 4 steps" in done.out
    found = json.loads(Path("s.json").read_text())
    assert [one["forwards"] for one in found["steps"]] == [6, 4, 6, 2]
    assert found["saving"] == "saving:every=2,skip=0.0,window=0.0+0.75"
    assert run(*DRAW, *files, *small, "--saving", found["saving"]).code == 0
    assert json.loads(Path("s.json").read_text())["saving"] == found["saving"]


@pytest.mark.parametrize(
    ("saving", "said"),
    [
        ("every=3", "one adapter acts at a time, by the number of the step; for turns of 3 steps "
         "write switch:every=3"),
        ("skip=0.1", "give every of 2 or more"),
    ],
)  # fmt: skip
def test_savings_are_checked_before_the_model_is_opened(
    saving: str, said: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    from diffusers import DiffusionPipeline

    def opened(*_: object, **__: object) -> None:
        pytest.fail("opened")

    monkeypatch.setattr(DiffusionPipeline, "from_pretrained", opened)
    how = ("--mode", "switch", "--saving", saving, "-o", "o.png")
    done = run(*DRAW, "style.safetensors", *how)
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert said in done.err


def test_a_model_without_its_weights(run: Run) -> None:
    shutil.copytree("model", "bad")
    (Path("bad") / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    args = ("compose", "--model", "bad", "--prompt", "x", "style.safetensors", "-o", "o.png")
    done = run(*args)
    assert done.code == 1
    assert done.err.startswith("error: bad: diffusers cannot open it: ")
    assert done.err.count("\n") == 1
    assert written() == {"bad"}


def test_help_and_guide_name_every_mode_and_guidance(run: Run) -> None:
    from loramix.compose import GUIDANCE, MODES, Saving

    guide = (Path(__file__).parents[2] / "docs" / "COMPOSE.md").read_text(encoding="utf-8")
    said = set(re.findall(r"[a-z][a-z-]*", run("compose", "--help").out))
    fields = {one.name for one in dataclasses.fields(Saving)}
    assert {*MODES, *GUIDANCE, *fields} <= said
    rows = "".join(line for line in guide.splitlines() if line.startswith("| `"))
    for name in (*MODES, *GUIDANCE, *fields):
        assert f"`{name}`" in rows, name


def test_without_the_packages(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    plain = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "peft" else plain(name)
    )
    done = run(*DRAW, "style.safetensors", "-o", "o.png")
    assert done.code == 2
    assert done.err == "error: compose needs peft: pip install 'loramix[diffusers]'\n"
