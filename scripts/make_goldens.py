"""Record what other tools make of small deltas: tests/data/goldens/*.json.

The tools are run, not copied: PEFT (Apache-2.0) in this interpreter, mergekit (LGPL-3.0) through
its command line only, from an environment of its own:

    python3 -m venv /tmp/mergekit && /tmp/mergekit/bin/pip install mergekit
    python scripts/make_goldens.py --mergekit /tmp/mergekit/bin

mergekit merges tensors of a zero base and "models" that are the deltas themselves, so that its
output is the merged delta, exactly.  All parameters of one method go through one run (it takes
seconds to start): every case is a tensor of its own, addressed by mergekit's tensor filters.

Numbers are float32 in their shortest spelling.  Deltas have no equal magnitudes, so that no cut
is a matter of taste; ``equal_magnitudes.json`` is the exception.
"""

import argparse
import json
import subprocess
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from peft import LoraConfig, get_peft_model
from peft.utils import merge_utils
from safetensors.numpy import load_file, save_file
from torch import nn

F32: TypeAlias = npt.NDArray[np.float32]
Case: TypeAlias = dict[str, Any]  # method, stack, weights, the tool's own parameters

PLAIN, MIXED, UNEQUAL = [1.0, 1.0, 1.0], [1.0, 0.5, -0.75], [0.6, 0.3, 0.1]
NEGATED, SILENT, CANCELLING = [-1.0, -0.5, 0.75], [1.0, 0.5, 0.0], [1.0, -1.0, 0.5]
# 0.29 * 100 and 0.57 * 100 are a little less than 29 and 57 in floating point; 0.57 * 35 is 19.95.
SHARES = (0.29, 0.57)
NOTHING = 0.005  # of 100 or 35 entries: less than one

PEFT = {"tool": "peft", "version": version("peft"), "torch": str(torch.__version__)}


def gaussians(shape: tuple[int, int], seed: int) -> list[F32]:
    """Three deltas of different norms, float32, magnitudes all different."""
    rng = np.random.default_rng(seed)
    return [(size * rng.normal(size=shape)).astype(np.float32) for size in (1.0, 0.6, 1.7)]


def draws() -> list[F32]:
    """Three deltas 7 x 5 with zeros, and sign votes that are drawn by sum, by heads or by both.

    The columns below are draws of the plain sum (first six), of the sum weighted by `MIXED` (next
    three), of the heads (two more), lone entries (three) and nothing.  Every column has its own
    size: no magnitude comes twice in a delta.
    """
    columns = np.array([
        [1, -1, 1, -1, 1, -1, 1, -1, 0, 2, -2, 1, -1, 0, 0],
        [-1, 1, 0, 0, 2, -2, -2, 2, 3, -1, 1, 0, 0, -1, 0],
        [0, 0, -1, 1, -3, 3, 0, 0, 2, 0, 0, 0, 0, 0, 0],
    ])  # fmt: skip
    # Odd numerators: times 1, 2 or 3 they stay apart.
    sizes = 4 + (2 * np.arange(columns.shape[1]) + 1) / 64 * 7
    stack = gaussians((7, 5), 2)
    for delta, column in zip(stack, columns, strict=True):
        delta.ravel()[: columns.shape[1]] = (column * sizes).astype(np.float32)
    return stack


def steps() -> list[F32]:
    """One delta 10 x 10 with five magnitudes only."""
    return [np.random.default_rng(3).integers(-5, 6, size=(10, 10)).astype(np.float32)]


STACKS: Mapping[str, list[F32]] = {
    "square": gaussians((10, 10), 1),
    "draws": draws(),
    "steps": steps(),
}


def spelled(array: npt.ArrayLike) -> Any:
    """Nested lists of the shortest decimals that read back as the same float32."""
    values = np.asarray(array, dtype=np.float32)
    flat = [float(str(value + np.float32(0))) for value in values.ravel()]  # -0 becomes 0
    return np.array(flat).reshape(values.shape).tolist()


def write(path: Path, head: Case, cases: Sequence[Case]) -> None:
    """One case a line, so that a difference between two versions can be read."""
    lines = ",\n".join("  " + json.dumps(case, separators=(",", ":")) for case in cases)
    start = json.dumps(head, separators=(",", ":"))[:-1].replace(',"', ',\n"')
    path.write_text(f'{start},\n"cases":[\n{lines}\n]}}\n', encoding="utf-8")
    print(f"{path}: {len(cases)} cases, {path.stat().st_size} bytes")


def case(method: str, stack: str, weights: Sequence[float], **parameters: object) -> Case:
    """One thing to ask a tool for; the weights pair with the first deltas of the stack."""
    return {"method": method, "stack": stack, "weights": list(weights), "parameters": parameters}


# --------------------------------------------------------------------------------------- PEFT


def peft_cases() -> list[Case]:
    """Sums, trims and votes; the random methods only where nothing is random (density 1)."""
    asked = [case("task_arithmetic", "draws", MIXED), case("task_arithmetic", "draws", SILENT)]
    for stack, density in product(("square", "draws"), SHARES):
        asked.append(case("magnitude_prune", stack, MIXED, density=density))
    for votes in ("total", "frequency"):
        how = {"majority_sign_method": votes}
        asked += [
            case("ties", "square", MIXED, density=0.29, **how),
            case("ties", "square", UNEQUAL, density=0.57, **how),
            case("ties", "square", PLAIN[:1], density=0.29, **how),
            case("ties", "draws", PLAIN, density=0.57, **how),
            case("ties", "draws", MIXED, density=1.0, **how),
            case("ties", "draws", NEGATED, density=1.0, **how),
            case("ties", "draws", SILENT, density=1.0, **how),
            case("ties", "draws", MIXED, density=NOTHING, **how),
            case("dare_ties", "draws", MIXED, density=1.0, **how),
        ]
    return [*asked, case("dare_linear", "draws", MIXED, density=1.0)]


def run_peft(wanted: Case) -> Case:
    """The case with PEFT's output; it warns at density 1."""
    merge: Callable[..., torch.Tensor] = getattr(merge_utils, wanted["method"])
    weights = wanted["weights"]
    deltas = [torch.from_numpy(d) for d in STACKS[wanted["stack"]][: len(weights)]]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The density 1.0 is greater")
        output = merge(deltas, torch.tensor(weights), **wanted["parameters"])
    return {**wanted, "output": spelled(output.numpy())}


def run_peft_model(out: Path, shape: tuple[int, int] = (12, 9), rank: int = 3) -> None:
    """`add_weighted_adapter`, which merges factors or deltas, as its combination type says."""
    rng, alphas, weights = np.random.default_rng(4), [6, 3, 9], [0.8, -0.5, 0.3]
    rows, cols = shape
    factors = [
        [rng.normal(size=side).astype(np.float32) for side in ((rows, rank), (rank, cols))]
        for _ in alphas
    ]
    model: Any = nn.ModuleDict({"target": nn.Linear(cols, rows, bias=False)})
    names = [str(i) for i in range(len(alphas))]
    for name, alpha, (up, down) in zip(names, alphas, factors, strict=True):
        config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=["target"])
        if name == names[0]:
            model = get_peft_model(model, config, adapter_name=name)
        else:
            model.add_adapter(name, config)
        layer = model.base_model.model["target"]
        layer.lora_B[name].weight.data = torch.from_numpy(up)
        layer.lora_A[name].weight.data = torch.from_numpy(down)
    cases = []
    for kind in ("linear", "cat", "svd", "ties", "ties_svd", "magnitude_prune_svd"):
        more: Case = {"svd_rank": min(shape)} if kind.endswith("svd") else {}
        if "ties" in kind or "prune" in kind:
            more["density"] = 0.57
        model.base_model.add_weighted_adapter(names, weights, kind, combination_type=kind, **more)
        output = layer.get_delta_weight(kind).detach().numpy()
        cases.append(
            {"method": kind, "weights": weights, "parameters": more, "output": spelled(output)}
        )
    stored = [
        {"up": spelled(up), "down": spelled(down), "scale": alpha / rank}
        for (up, down), alpha in zip(factors, alphas, strict=True)
    ]
    write(out / "peft_adapters.json", {**PEFT, "adapters": stored}, cases)


# ----------------------------------------------------------------------------------- mergekit


def mergekit_cases() -> list[Case]:
    """Every method, without chance (density 1); a parameter not given is not in the recipe."""
    asked = [
        case("linear", "draws", MIXED),
        case("linear", "draws", MIXED, normalize=False),
        case("linear", "draws", SILENT),
        case("task_arithmetic", "draws", MIXED),
        case("task_arithmetic", "draws", MIXED, normalize=True, **{"lambda": 0.5}),
        case("task_arithmetic", "draws", [1.0, -1.0, 0.0], normalize=True),
        case("ties", "draws", MIXED),
        case("ties", "draws", UNEQUAL, density=0.57, normalize=True, **{"lambda": 0.5}),
        case("ties", "draws", MIXED, density=0.57, normalize=False),
        case("ties", "draws", PLAIN, density=1.0, normalize=False),
        case("ties", "draws", MIXED, density=1.0, normalize=False, **{"lambda": 0.5}),
        case("ties", "draws", NEGATED, density=1.0, normalize=False),
        case("ties", "draws", NEGATED, density=1.0, normalize=True),
        case("ties", "draws", SILENT, density=1.0, normalize=True),
        case("ties", "draws", CANCELLING, density=1.0, normalize=True),
        case("ties", "draws", MIXED, density=NOTHING, normalize=True),
        case("ties", "square", MIXED, density=0.29, normalize=True),
        case("ties", "square", UNEQUAL, density=0.57, normalize=True),
        case("ties", "square", UNEQUAL, density=[0.29, 0.57, 1.0], normalize=False),
        case("ties", "square", [2.0], density=0.29, normalize=True),
        *(case("ties", "draws", [tiny], density=1.0, normalize=True) for tiny in (5e-9, 2e-8)),
    ]
    for method in ("dare_linear", "dare_ties", "della_linear", "della"):
        more: Case = {"epsilon": 0.1} if "della" in method else {}
        asked += [
            case(method, "draws", MIXED, density=1.0, **more),
            case(method, "draws", UNEQUAL, density=1.0, normalize=True, **more),
        ]
    for method in ("breadcrumbs", "breadcrumbs_ties"):
        asked += [
            case(method, "square", MIXED, density=0.57, gamma=0.29),
            case(method, "draws", MIXED, density=0.57, gamma=0.05, normalize=True),
            case(method, "draws", UNEQUAL, density=0.9, gamma=0.2, normalize=False),
            case(method, "draws", MIXED, density=1.0, gamma=0.1, normalize=False),
            case(method, "square", [2.0], density=0.29, gamma=0.07, **{"lambda": 0.5}),
        ]
    return asked


PER_MODEL = ("density", "epsilon", "gamma")


def recipe(method: str, named: Mapping[str, Case], count: int) -> Case:
    """One mergekit recipe for cases of one method and number of deltas, by tensor name.

    JSON is YAML.  A parameter is a list of values, each for the tensors whose name its filter is
    part of; one that no case mentions is left out, so its default applies.
    """

    def values(key: str, place: int) -> list[Case]:
        found = []
        for name, wanted in named.items():
            value = (wanted["parameters"] | {"weight": wanted["weights"]}).get(key)
            if value is not None:
                value = value[place] if isinstance(value, list) else value
                found.append({"filter": name, "value": value})
        return found

    def block(keys: Sequence[str], place: int = 0) -> Case:
        found = {key: values(key, place) for key in keys}
        return {key: value for key, value in found.items() if value}

    models = [
        {"model": f"{place}.safetensors", "parameters": block(("weight", *PER_MODEL), place)}
        for place in range(count)
    ]
    common = block(("normalize", "lambda", "rescale"))
    result: Case = {"merge_method": method, "dtype": "float32", "models": models}
    base = {} if method == "linear" else {"base_model": "base.safetensors"}
    return result | base | ({"parameters": common} if common else {})


def mergekit(bin_: Path, setup: Case, stack: Sequence[Mapping[str, F32]]) -> dict[str, F32]:
    """Run one recipe; a list of models, tensor name -> delta, in; tensor name -> merged out."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        save_file({key: 0 * value for key, value in stack[0].items()}, folder / "base.safetensors")
        for place, deltas in enumerate(stack):
            save_file(dict(deltas), folder / f"{place}.safetensors")
        (folder / "recipe.yml").write_text(json.dumps(setup), encoding="utf-8")
        call = [
            str(bin_ / "mergekit-pytorch"),
            "recipe.yml",
            "out",
            "--quiet",
            "--random-seed",
            "3",
        ]
        done = subprocess.run(call, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode:
            last = done.stderr.strip().splitlines()[-1]
            message = f"mergekit refused {setup['merge_method']}: {last}"
            raise SystemExit(message)
        return dict(load_file(folder / "out" / "model.safetensors"))


def run_mergekit(bin_: Path, asked: Sequence[Case]) -> list[Case]:
    """The cases with mergekit's outputs, in their order."""
    jobs: dict[tuple[str, int], dict[str, Case]] = {}
    for number, wanted in enumerate(asked):
        job = jobs.setdefault((wanted["method"], len(wanted["weights"])), {})
        job[f"case{number:03}."] = wanted
    done: dict[str, F32] = {}
    for (method, count), named in jobs.items():
        stack = [
            {name: STACKS[wanted["stack"]][place] for name, wanted in named.items()}
            for place in range(count)
        ]
        done |= mergekit(bin_, recipe(method, named, count), stack)
    return [
        {**wanted, "output": spelled(done[f"case{number:03}."])}
        for number, wanted in enumerate(asked)
    ]


# --------------------------------------------------------------- equal magnitudes, random drops


def equal_magnitudes(bin_: Path) -> list[Case]:
    """One delta whose cut falls among equal magnitudes, at weight 1: which are kept is seen."""
    asked = [case("magnitude_prune", "steps", [1.0], density=density) for density in SHARES]
    done = [{"tool": "peft", **run_peft(wanted)} for wanted in asked]
    asked = [case("ties", "steps", [1.0], density=density) for density in SHARES]
    asked.append(case("breadcrumbs", "steps", [1.0], density=0.57, gamma=0.1))
    return done + [{"tool": "mergekit", **found} for found in run_mergekit(bin_, asked)]


LEVELS = np.array([0.1, 0.2, 0.4, 0.8, 1.6, 3.2], dtype=np.float32)
"""The magnitudes of every row of `shuffled_rows`: the value of an entry tells its rank."""


def shuffled_rows(rows: int = 4000) -> F32:
    """All of `LEVELS` in each row, rows x 6, in random order with random signs."""
    rng = np.random.default_rng(5)
    sizes = rng.permuted(np.tile(LEVELS, (rows, 1)), axis=1)
    signs = rng.choice(np.array([-1, 1], dtype=np.float32), size=sizes.shape)
    return np.asarray(sizes * signs, dtype=np.float32)


def survivors(delta: F32, output: F32) -> Case:
    """How many entries of each magnitude were kept, and the one factor they were scaled by."""
    kept = [int(np.count_nonzero(output[np.abs(delta) == level])) for level in LEVELS]
    scale = output[output != 0] / delta[output != 0]
    if np.ptp(scale) > 1e-5 * scale.mean():
        message = f"survivors have factors from {scale.min()} to {scale.max()}: expected one"
        raise SystemExit(message)
    return {"kept": kept, "scale": spelled(np.median(scale))}


def drops(bin_: Path) -> list[Case]:
    """Random drops of one delta: PEFT's and mergekit's, the seeds fixed."""
    delta = shuffled_rows()
    torch.manual_seed(3)
    dropped = merge_utils.dare_linear([torch.from_numpy(delta)], torch.tensor([1.0]), 0.3).numpy()
    done = [
        {"tool": "peft", "method": "dare_linear", "parameters": {"density": 0.3}}
        | survivors(delta, dropped)
    ]
    for method, parameters in (
        ("dare_linear", {"density": 0.3}),
        ("dare_linear", {"density": 0.3, "rescale": False}),
        ("dare_ties", {"density": 0.3}),
        ("della_linear", {"density": 0.5, "epsilon": 0.2}),
        ("della", {"density": 0.6, "epsilon": 0.1}),
    ):
        wanted = {"weights": [1.0], "parameters": parameters}
        merged = mergekit(bin_, recipe(method, {"delta": wanted}, 1), [{"delta": delta}])
        done.append(
            {"tool": "mergekit", "method": method, "parameters": parameters}
            | survivors(delta, merged["delta"])
        )
    return done


def main() -> None:
    """Write the five files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mergekit", type=Path, required=True, help="bin folder of its venv")
    parser.add_argument("--out", type=Path, default=Path("tests/data/goldens"))
    options = parser.parse_args()
    bin_: Path = options.mergekit.absolute()
    ask = "from importlib.metadata import version; print(version('mergekit'), version('torch'))"
    call = [str(bin_ / "python"), "-c", ask]
    told = subprocess.run(call, capture_output=True, text=True, check=True).stdout.split()
    kit = {"tool": "mergekit", "version": told[0], "torch": told[1]}
    stacks = {"stacks": {name: spelled(STACKS[name]) for name in ("square", "draws")}}
    both = {"tools": [PEFT, kit]}
    options.out.mkdir(parents=True, exist_ok=True)
    write(options.out / "peft.json", PEFT | stacks, [run_peft(case) for case in peft_cases()])
    run_peft_model(options.out)
    found = run_mergekit(bin_, mergekit_cases())
    write(options.out / "mergekit.json", kit | stacks, found)
    steps_only = both | {"stacks": {"steps": spelled(STACKS["steps"])}}
    write(options.out / "equal_magnitudes.json", steps_only, equal_magnitudes(bin_))
    levels = both | {"levels": spelled(LEVELS), "rows": 4000}
    write(options.out / "drops.json", levels, drops(bin_))


if __name__ == "__main__":
    main()
