"""The command that makes a picture with several adapters, without merging them.

What it needs is imported inside: help stays fast.
"""

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from loramix.cli import arguments, console, drawing, options
from loramix.errors import ParamError
from loramix.spelling import spelled

if TYPE_CHECKING:
    from loramix.compose import Composition, Guidance, Mode, Pool, Run, Saving

_SEEDS = 2**64
_ALLOWED = "write FILE or FILE:WEIGHT, such as style.safetensors:0.8"

Adapters = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[ADAPTER]...",
        help="FILE or FILE:WEIGHT: a file or folder, its weight (strength; any sign, default 1).",
        show_default=False,
    ),
]
Model = Annotated[
    str,
    typer.Option(
        metavar="DIR_OR_ID",
        help="The folder of a diffusers pipeline, or its name in a local cache of the hub.",
        show_default=False,
    ),
]
Prompt = Annotated[str, typer.Option(metavar="TEXT", help="What to draw.", show_default=False)]
Negative = Annotated[
    str | None, typer.Option(metavar="TEXT", help="What not to draw.", show_default=False)
]
ModeName = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="loratorio, composite, switch, merge, w-switch, w-composite, cm, multlfg or k-lora, "
        "with parameters: loratorio:tau=0.1,k=2 (see docs/COMPOSE.md).",
    ),
]
GuidanceName = Annotated[
    str | None,
    typer.Option(
        "--guidance", metavar="NAME",
        help="cfg, recentred:lambda=0.5 or autolora:gamma=1.5; default: what goes with the mode.",
        show_default=False,
    ),
]  # fmt: skip
SavingText = Annotated[
    str | None,
    typer.Option(
        "--saving", metavar="PARAMETERS",
        help="Fewer forwards: window=0.2+0.8, the part of the run in which the mode composes; "
        "every=3, weights stay for three steps; skip=0.05, adapters of less weight rest meanwhile.",
        show_default=False,
    ),
]  # fmt: skip
Picture = Annotated[
    Path,
    typer.Option(
        "--output", "-o", metavar="FILE",
        help="The picture: .png, .webp or .jpg. Beside it: NAME.weights.png, NAME.json.",
        show_default=False,
    ),
]  # fmt: skip
PoolFolder = Annotated[
    Path | None,
    typer.Option(
        "--pool", metavar="FOLDER",
        help="In place of ADAPTERs: choose among all of a folder, by the prompt and the weights.",
        show_default=False,
    ),
]  # fmt: skip
Short = Annotated[
    int | None,
    typer.Option(
        metavar="N", help="Adapters of the pool that every step tries; default 8.",
        show_default=False,
    ),
]  # fmt: skip
Hold = Annotated[
    int | None,
    typer.Option(
        metavar="N", help="Adapters of the pool in the model's memory at a time; default 4.",
        show_default=False,
    ),
]  # fmt: skip
Steps = Annotated[int, typer.Option(metavar="N", help="Steps of denoising.")]
Strength = Annotated[
    float | None,
    typer.Option(
        metavar="G", help="The pipeline's guidance_scale; default: its own.", show_default=False
    ),
]
TrueCfg = Annotated[
    float | None,
    typer.Option(
        metavar="G",
        help="The pipeline's true_cfg_scale (FLUX.1, Qwen-Image); default: its own.",
        show_default=False,
    ),
]
Pixels = Annotated[
    int | None, typer.Option(metavar="N", help="Pixels; default: the model's.", show_default=False)
]
Seed = Annotated[int, typer.Option(metavar="N", help="Seed of the noise: the same on any device.")]
MaxBatch = Annotated[
    int,
    typer.Option(
        metavar="N", help="Adapters (the base is one) in one forward, if memory allows; 1: in turn."
    ),
]
Dtype = Annotated[
    str | None,
    typer.Option(
        metavar="TYPE", help="f32, f16 or bf16; default: f32 on a CPU, else bf16.",
        show_default=False,
    ),
]  # fmt: skip
Device = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="cpu, cuda, cuda:1, mps; default: a GPU if there is one.",
        show_default=False,
    ),
]  # fmt: skip
Fetch = Annotated[
    bool, typer.Option("--fetch", help="Let diffusers download the model if it is not there.")
]


def compose(  # noqa: PLR0913 - one parameter per option
    *,
    adapters: Adapters = None,
    model: Model,
    prompt: Prompt,
    output: Picture,
    mode: ModeName = "loratorio",
    guidance: GuidanceName = None,
    saving: SavingText = None,
    pool: PoolFolder = None,
    short: Short = None,
    hold: Hold = None,
    negative_prompt: Negative = None,
    steps: Steps = 30,
    guidance_scale: Strength = None,
    true_cfg_scale: TrueCfg = None,
    width: Pixels = None,
    height: Pixels = None,
    seed: Seed = 0,
    max_batch: MaxBatch = 1,
    dtype: Dtype = None,
    device: Device = None,
    fetch: Fetch = False,
    architecture: options.Architecture = None,
    as_json: options.Json = False,
) -> None:
    """Draw a picture with several adapters at once, without merging them.

    In every step the model runs with the base and with single adapters, and their predictions are
    put together.  Writes the picture, the weights of the adapters over places and steps as a
    picture, and everything as JSON.  Needs pip install 'loramix[diffusers]'.
    """
    places = _places(output)
    given = {
        "prompt": prompt, "negative_prompt": negative_prompt, "num_inference_steps": steps,
        "guidance_scale": guidance_scale, "true_cfg_scale": true_cfg_scale, "width": width,
        "height": height,
    }  # fmt: skip
    call = {name: value for name, value in given.items() if value is not None}
    _check(call, seed)
    chosen, guided, saved = _rules(mode, guidance, saving)
    sources, weights = _sources(adapters, pool, short, hold, prompt)
    drawing.need_diffusers("compose")
    with drawing.quiet():
        from loramix.compose import compose as composed

        drawing.refuse_model(model, call)
        pipe = drawing.open_pipeline(model, dtype, device, fetch=fetch)
        drawing.refuse_call(type(pipe), call)
        composition = composed(
            pipe, sources, mode=chosen, guidance=guided, saving=saved, weights=weights,
            max_batch=max_batch, architecture=architecture,
        )  # fmt: skip
        start = time.perf_counter()
        picture = drawing.drawn(composition, call, seed, hidden=as_json)
        seconds = time.perf_counter() - start
    (run,) = composition.runs
    facts = {
        "model": model, "given": adapters or [str(pool)], **call, "seed": seed,
        "mode": spelled(composition.mode), "guidance": spelled(composition.guidance),
        "saving": spelled(composition.saving),
        "dtype": drawing.type_of(pipe), "device": str(pipe.device), "max_batch": max_batch,
        "short": getattr(sources, "short", None), "hold": getattr(sources, "hold", None),
        "seconds": seconds, "files": [str(place) for place in places], **run.as_dict(),
        "pool": [one.as_dict() for one in composition.candidates],
    }  # fmt: skip
    drawing.write(places, picture, run, facts)
    if as_json:
        console.show_json(facts)
    else:
        console.show(_text(run, composition, seconds, places))


def _places(output: Path) -> tuple[Path, Path, Path]:
    """Where picture, map and account go.

    Raises
    ------
    ParamError : another kind of file.
    OutputError : no file can be there.
    """
    from loramix.io.text import refuse_place

    refuse_place(output)
    if output.suffix.lower() not in drawing.KINDS:
        message = f"{output}: a picture ends in {', '.join(drawing.KINDS)}"
        raise ParamError(message)
    places = output, output.with_suffix(".weights.png"), output.with_suffix(".json")
    for one in places[1:]:
        refuse_place(one)
    return places


def _check(call: Mapping[str, Any], seed: int) -> None:
    """Refuse numbers before anything large is opened.

    Raises
    ------
    ParamError : one that is out of range.
    """
    for name, option in (("num_inference_steps", "steps"), ("width", ""), ("height", "")):
        if call.get(name, 1) < 1:
            message = f"--{option or name} {call[name]}: at least 1"
            raise ParamError(message)
    for name in ("guidance_scale", "true_cfg_scale"):
        if not 0 <= call.get(name, 1.0) < math.inf:
            message = f"--{name.replace('_', '-')} {call[name]}: a number in [0, inf)"
            raise ParamError(message)
    if not 0 <= seed < _SEEDS:
        message = f"--seed {seed}: from 0 to 2^64 - 1"
        raise ParamError(message)


def _rules(
    mode: str, guidance: str | None, saving: str | None
) -> "tuple[Mode, Guidance | None, Saving]":
    """The mode, the guidance and what saves work, before anything large is opened.

    Raises
    ------
    ParamError : no such name, a parameter out of range, or two that do not go together.
    """
    from loramix.compose.guidance import GUIDANCE
    from loramix.compose.modes import MODES
    from loramix.compose.wishes import saving_of
    from loramix.spelling import named

    chosen: Mode = named("mode", mode, MODES)
    saved = saving_of(saving)
    saved.around(chosen)
    return chosen, None if guidance is None else named("guidance", guidance, GUIDANCE), saved


def _sources(
    adapters: list[str] | None,
    pool: Path | None,
    short: int | None,
    hold: int | None,
    prompt: str,
) -> "tuple[list[str] | Pool, list[float] | None]":
    """The adapters with their weights, or the pool.

    Raises
    ------
    ParamError : both, none, or a weight that no forward knows.
    FileNotFoundError : a file that is not there.
    """
    if pool is not None:
        if adapters:
            message = f"--pool {pool} and {adapters[0]}: give adapters or a pool"
            raise ParamError(message)
        from loramix.compose import Pool

        sizes = {"short": short, "hold": hold}
        said = {name: value for name, value in sizes.items() if value is not None}
        return Pool(pool, prompt=prompt, **said), None
    if short is not None or hold is not None:
        message = "--short and --hold are about a --pool: name its folder"
        raise ParamError(message)
    from loramix.finding import cached

    if not adapters:
        message = "no adapters: name files, or a folder with --pool"
        raise ParamError(message)
    specs = [arguments.parse(text, allowed=_ALLOWED) for text in adapters]
    for spec in specs:
        if spec.text_encoder is not None or spec.blocks is not None:
            message = (
                f"{spec.path}: composing knows one weight for each adapter; weights for text "
                "encoders and blocks go with 'loramix merge'"
            )
            raise ParamError(message)
    paths = [one.path if Path(one.path).exists() else str(cached(one.path)) for one in specs]
    return paths, [spec.weight for spec in specs]


def _text(run: "Run", composition: "Composition", seconds: float, places: tuple[Path, ...]) -> str:
    """What was done, for the terminal."""
    from loramix.compose.filling import unfit
    from loramix.report import cells

    width = console.width()
    entropy = [float(step.entropy.mean()) for step in run.steps]
    most = math.log(max(len(run.adapters), 1))
    rows = [
        [
            name,
            f"{float(weight):.3f}",
            f"{sum(bool(step.chosen[i].any()) for step in run.steps)} of {len(run.steps)}",
        ]
        for i, (name, weight) in enumerate(
            zip(run.adapters, run.map.mean(axis=tuple(range(1, run.map.ndim))), strict=True)
        )
    ]
    out = [one for one in composition.candidates if one.left_out]
    told = set(unfit(composition.candidates))  # a note that sums up some of them
    lines = [
        ("picture", str(places[0])),
        ("weights", str(places[1])),
        ("account", str(places[2])),
        ("forwards", f"{run.forwards} in {len(run.steps)} steps, {cells.seconds(seconds)}"),
        ("entropy", f"{min(entropy):.3f} to {max(entropy):.3f} (uniform: {most:.3f})"),
        *([("swaps", str(run.swaps))] if composition.candidates else []),
        *((("left out" if i == 0 else ""), f"{one.name}: {one.left_out}")
          for i, one in enumerate(out)),
        *(("note", note) for note in run.notes if note not in told),
    ]  # fmt: skip
    table = cells.table(["adapter", "mean weight", "steps"], rows, "lrr", width)
    return f"{cells.fields(lines, width)}\n\n{table}"
