"""The options that commands share, each written once."""

from pathlib import Path
from typing import Annotated

import typer

_ADAPTER = (
    "FILE, FILE:WEIGHT or FILE:WEIGHT:TE_WEIGHT: a file or folder, its weight (strength; any sign, "
    "default 1), another weight for its text encoders; :lbw=1,0,... behind it weighs its blocks "
    "(see docs/RECIPES.md)."
)
Adapters = Annotated[
    list[str],
    typer.Argument(
        metavar="ADAPTER",
        help=_ADAPTER,
        show_default=False,
    ),
]
MaybeAdapters = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[ADAPTER]...",
        help=_ADAPTER,
        show_default=False,
    ),
]
RecipeFile = Annotated[
    Path | None,
    typer.Option(
        "--recipe", metavar="FILE", help="Everything from a file: adapters, method, rules, output.",
        show_default=False,
    ),
]  # fmt: skip
PlanFile = Annotated[
    Path | None,
    typer.Option(
        "--plan", metavar="FILE", help="Do exactly what 'loramix plan' wrote, edited or not.",
        show_default=False,
    ),
]  # fmt: skip
PlanOutput = Annotated[
    Path | None,
    typer.Option(
        "--output", "-o", metavar="FILE", help="Where to keep the plan: TOML, or JSON by its name.",
        show_default=False,
    ),
]  # fmt: skip
Base = Annotated[
    Path,
    typer.Argument(
        metavar="BASE",
        help="The base model: a .safetensors file, a sharded model, the folder of a pipeline, or "
        "a model in a local cache of the hub.",
        show_default=False,
    ),
]
Tuned = Annotated[
    Path,
    typer.Argument(
        metavar="TUNED",
        help="The model after training, in any form that BASE may have.",
        show_default=False,
    ),
]
Targets = Annotated[
    list[str] | None,
    typer.Option(
        "--target", metavar="GLOB",
        help="Only weights whose canonical key matches, such as '*.attn*'; may be repeated.",
        show_default=False,
    ),
]  # fmt: skip
ModelOutput = Annotated[
    Path,
    typer.Option(
        "--output", "-o", metavar="PATH",
        help="Where the model goes: a file for a file, else a new folder.", show_default=False,
    ),
]  # fmt: skip
Force = Annotated[
    bool, typer.Option("--force", help="Bake into fp8 and int8 weights, too, where most is lost.")
]
AnalysisFile = Annotated[
    Path | None,
    typer.Option(
        "--analysis", metavar="FILE", help="Use the statistics that 'loramix analyze -o' wrote.",
        show_default=False,
    ),
]  # fmt: skip
AnalysisOutput = Annotated[
    Path | None,
    typer.Option(
        "--output", "-o", metavar="FILE", help="Where to keep the statistics, as JSON.",
        show_default=False,
    ),
]  # fmt: skip
Samples = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="Rows, and columns, of the block of entries that is looked at in every target; "
        "default 384.",
        show_default=False,
    ),
]
Exact = Annotated[bool, typer.Option("--exact", help="Look at all entries instead of samples.")]
Html = Annotated[
    Path | None,
    typer.Option(
        "--html", metavar="FILE", help="Write the report as a page for the browser, too.",
        show_default=False,
    ),
]  # fmt: skip
File = Annotated[str, typer.Argument(metavar="FILE", help="File or folder.", show_default=False)]
Files = Annotated[
    list[str], typer.Argument(metavar="FILE", help="Files or folders.", show_default=False)
]
OutputPath = Annotated[
    Path,
    typer.Option(
        "--output", "-o", metavar="PATH", help="File to write; for the PEFT dialect a folder.",
        show_default=False,
    ),
]  # fmt: skip
MethodName = Annotated[
    str | None,
    typer.Option(
        "--method",
        "-m",
        metavar="NAME",
        help="A method, the same for all (see 'loramix methods'), or a policy that chooses one for "
        "every group of weights: auto, published. Parameters follow: ties:density=0.3,vote=count. "
        "Default: auto.",
        show_default=False,
    ),
]
Sparsify = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="Drop entries first: dare, della or breadcrumbs, with parameters.",
        show_default=False,
    ),
]  # fmt: skip
Refine = Annotated[
    str,
    typer.Option(
        metavar="LEVEL",
        help="none, refine or full: keep what belongs to one adapter, orthogonalise the rest; "
        "refine-published, full-published: to the letter of the publication, for comparison (the "
        "latter takes seconds to minutes for each large weight).",
    ),
]
SpaceName = Annotated[
    str,
    typer.Option(
        "--space",
        metavar="NAME",
        help="weight, knots or core: where entries are looked at; core(ties) says it too.",
    ),
]
BackendName = Annotated[
    str | None,
    typer.Option(
        "--backend", metavar="NAME", help="rust (the default), torch or torch:DEVICE.",
        show_default=False,
    ),
]  # fmt: skip
Groups = Annotated[
    bool, typer.Option("--groups", help="Show every group of weights, and not only blocks.")
]
Rank = Annotated[
    int | None,
    typer.Option(
        metavar="K", help="At most this rank per target; default: exact.", show_default=False
    ),
]
Energy = Annotated[
    float | None,
    typer.Option(
        metavar="E", help="Smallest rank that keeps this share of the squared norm, in (0, 1].",
        show_default=False,
    ),
]  # fmt: skip
MaxError = Annotated[
    float | None,
    typer.Option(
        metavar="X", help="Smallest rank with at most this relative error, in [0, 1).",
        show_default=False,
    ),
]  # fmt: skip
Passes = Annotated[
    int,
    typer.Option(
        metavar="N",
        help="Over a result of full rank, on the way to a lower one: 4 or 6 take longer and leave "
        "less out.",
    ),
]
TotalError = Annotated[
    float | None,
    typer.Option(
        metavar="X",
        help="Relative error of the whole file, in (0, 1): every target gets the rank that pays "
        "most, and the file is as small as it can be.",
        show_default=False,
    ),
]
Size = Annotated[
    str | None,
    typer.Option(
        metavar="BYTES",
        help="Largest file, such as 100MB or 96MiB: likewise, with the least error that fits.",
        show_default=False,
    ),
]
DtypeName = Annotated[
    str | None,
    typer.Option(
        metavar="TYPE", help="f32, f16 or bf16; default: the widest of the inputs.",
        show_default=False,
    ),
]  # fmt: skip
DialectName = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="How names are spelled: kohya, diffusers, peft, comfyui, musubi, ai-toolkit, "
        "onetrainer, lycoris, original, xlabs, plain; default: that of the first input. Not every "
        "model has files of every dialect, see docs/FORMATS.md.",
        show_default=False,
    ),
]
Client = Annotated[
    str | None,
    typer.Option(
        "--for",
        metavar="PROGRAM",
        help="Write what this program loads best, and refuse what it does not load: comfyui, "
        "diffusers, a1111, peft, musubi.",
        show_default=False,
    ),
]
Dense = Annotated[
    bool,
    typer.Option(
        "--dense",
        help="Write results of full rank (of entry by entry methods) as they are, as dense "
        "differences: nothing is lost, and the file is large. Not in every dialect.",
    ),
]
AutoStrength = Annotated[
    bool,
    typer.Option(
        "--auto-strength",
        help="Shrink the model and the text encoders, each so that its norm is at most that of "
        "its strongest adapter.",
    ),
]
Floor = Annotated[
    float | None,
    typer.Option(
        metavar="F",
        help="Least scale that --auto-strength gives independent adapters, in (0, 1].",
        show_default=False,
    ),
]
Seed = Annotated[int, typer.Option(metavar="N", help="Of methods that draw at random.")]
Threads = Annotated[
    int | None,
    typer.Option(metavar="N", help="Default: all cores. Changes no byte.", show_default=False),
]
Strict = Annotated[
    bool, typer.Option("--strict", help="Refuse inputs that there is something to note about.")
]
Skip = Annotated[
    list[str] | None,
    typer.Option(
        metavar="GLOB", help="Leave out tensors of the inputs by name; may be repeated.",
        show_default=False,
    ),
]  # fmt: skip
Architecture = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", show_default=False,
        help="Base model, if names and shapes cannot tell: as flux1, or a module table (.layout).",
    ),
]  # fmt: skip
BaseModel = Annotated[
    str | None,
    typer.Option(
        "--base", metavar="MODEL", show_default=False,
        help="The base model that adapters were trained on: a file, a sharded model, a folder, or "
        "a model in a local cache. DoRA, (IA)3, OFT, BOFT and GLoRA are relative to its weights; "
        "for others nothing of it is read.",
    ),
]  # fmt: skip
RsLora = Annotated[
    bool,
    typer.Option(
        "--rslora",
        help="The scale of all inputs is alpha over the root of the rank, which only PEFT's "
        "config says.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print everything as JSON.")]
Images = Annotated[
    bool,
    typer.Option(
        "--images", help="Draw with the testbed's adapters instead, into images.html in the folder."
    ),
]
DemoFolder = Annotated[
    Path, typer.Option("--output", "-o", metavar="FOLDER", help="Folder to write.")
]
