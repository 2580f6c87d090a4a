"""Whole merges on synthetic stacks with the real shapes, beside PEFT on the same files.

Every row runs in a process of its own, so that its peak memory is its own; wall time is that of
the work, without the interpreter's start, which is given apart.  Run on an idle machine:

    python benches/pipeline.py                 # prints the table
    python benches/pipeline.py --record        # and writes it to benches/record/
"""

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import files
from stacks import Stack, make, modules_of

HERE = Path(__file__).parent
PEER_MODULES = 28
WEIGHTS = [0.8, 1.0, 0.6]


def run_import(_: list[Path], out: Path) -> dict[str, Any]:
    """Nothing but loading the code, NumPy included."""
    del out
    start = time.perf_counter()
    code = "import loramix; loramix.merge"
    subprocess.run([sys.executable, "-c", code], check=True)
    return {"seconds": time.perf_counter() - start}


def run_gram(paths: list[Path], out: Path) -> dict[str, Any]:
    """Inner products of all groups."""
    del out
    from loramix import groups
    from loramix.analysis.passing import products
    from loramix.backends.rust import RustBackend
    from loramix.opening import open_all

    stack = open_all(paths)
    aligned = groups.align(stack, split=False)
    start = time.perf_counter()
    products(aligned, stack, RustBackend())
    seconds = time.perf_counter() - start
    flops = 0
    for group in aligned:
        rank = sum(member.rank for member in group.members)
        flops += (group.target.rows + group.target.cols) * rank * (rank + 1)
    return {"seconds": seconds, "gflops": flops / seconds / 1e9}


def analyzer(samples: int | None) -> Callable[[list[Path], Path], dict[str, Any]]:
    """All statistics of all groups, from files; flops are those of the entries looked at."""

    def run(paths: list[Path], out: Path) -> dict[str, Any]:
        del out
        from loramix import groups
        from loramix.analysis.passing import analyze
        from loramix.opening import open_all

        start = time.perf_counter()
        stack = open_all(paths)
        aligned = groups.align(stack, split=True)
        analyze(aligned, stack, samples=samples)
        seconds = time.perf_counter() - start
        flops = 0
        for group in aligned:
            rank = sum(member.rank for member in group.members)
            rows, cols = group.target.rows, group.target.cols
            least = min(rows, samples or rows) * min(cols, samples or cols)
            flops += 2 * least * rank
        return {"seconds": seconds, "gflops": flops / seconds / 1e9}

    return run


def sgemm(_: list[Path], out: Path) -> dict[str, Any]:
    """What NumPy's sgemm makes of all cores."""
    del out
    import numpy as np

    side = 4096
    a = np.random.default_rng(0).standard_normal((side, side), dtype=np.float32)
    a @ a
    start = time.perf_counter()
    a @ a
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "gflops": 2 * side**3 / seconds / 1e9}


def merger(method: str, rank: int | None) -> Callable[[list[Path], Path], dict[str, Any]]:
    """A whole merge: open, merge, write, sync, verify."""

    def run(paths: list[Path], out: Path) -> dict[str, Any]:
        import loramix

        weights = [WEIGHTS[i % len(WEIGHTS)] for i in range(len(paths))]
        merged = loramix.merge(
            paths, method, weights=weights, path=out, output=loramix.Output(rank=rank)
        )
        return {"error": merged.error, "written": out.stat().st_size}

    return run


def baker(method: str) -> Callable[[list[Path], Path], dict[str, Any]]:
    """The dense results of a method in f16, one batch after the other into the same memory.

    That is the work of a merge into a checkpoint, but for adding: nothing is cut, nothing written.
    """

    def run(paths: list[Path], out: Path) -> dict[str, Any]:
        del out
        import numpy as np

        import loramix
        from loramix.backends.base import Job
        from loramix.backends.rust import RustBackend
        from loramix.batching import DENSE_BYTES, batches
        from loramix.executing.making import make
        from loramix.planning.steps import Step

        output = loramix.Output(dense=True, dtype="f16")
        plan = loramix.plan(paths, method, weights=WEIGHTS, output=output)
        steps = [step for step in plan.steps if step.kind == "dense"]

        def size(step: Step) -> int:
            return 2 * step.numbers(0)

        arena, backend = np.ones(DENSE_BYTES, dtype=np.uint8), RustBackend()
        before, start = os.times(), time.perf_counter()
        for batch in batches(steps, size, DENSE_BYTES):
            offsets = np.cumsum([0, *map(size, batch)]).tolist()
            make(batch, backend, Job(arena, offsets, "F16"))
        seconds, after = time.perf_counter() - start, os.times()
        return {"seconds": seconds, "user": after.user - before.user}

    return run


def copy(paths: list[Path], out: Path) -> dict[str, Any]:
    """The floor: read the inputs and write as many bytes as an exact merge, synced."""
    with out.open("wb", buffering=0) as target:
        for path in paths:
            with path.open("rb", buffering=0) as source:
                while chunk := source.read(8 << 20):
                    target.write(chunk)
        os.fsync(target.fileno())
    return {"written": out.stat().st_size}


def peft(kind: str) -> Callable[[list[Path], Path], dict[str, Any]]:
    """PEFT's add_weighted_adapter on some of the modules, scaled up to all of them by entries.

    Only the call itself is timed: no reading, no writing.
    """

    def run(paths: list[Path], out: Path) -> dict[str, Any]:
        del out
        import torch
        from peft import LoraConfig, get_peft_model
        from safetensors.torch import load_file

        modules = modules_of(paths[0].parent.name.split("-")[0])
        chosen = modules[:: len(modules) // PEER_MODULES][:PEER_MODULES]
        base = torch.nn.Module()
        for stem, rows, cols in chosen:
            base.add_module(short(stem), torch.nn.Linear(cols, rows, bias=False))
        wrapped: Any = None
        names = [f"a{i}" for i in range(len(paths))]
        for name, path in zip(names, paths, strict=True):
            tensors = load_file(path)
            held = [s for s, _, _ in chosen if f"{s}.lora_up.weight" in tensors]
            config = LoraConfig(r=32, lora_alpha=16, target_modules=[short(s) for s in held])
            if wrapped is None:
                wrapped = get_peft_model(base, config, adapter_name=name)
            else:
                wrapped.add_adapter(name, config)
            for stem in held:
                layer = getattr(wrapped.base_model.model, short(stem))
                layer.lora_A[name].weight.data = tensors[f"{stem}.lora_down.weight"].float()
                layer.lora_B[name].weight.data = tensors[f"{stem}.lora_up.weight"].float()
        start = time.perf_counter()
        rank = {} if kind == "cat" else {"svd_rank": 96}
        if kind == "ties_svd":
            rank["density"] = 0.2
        wrapped.add_weighted_adapter(names, WEIGHTS, "merged", combination_type=kind, **rank)
        seconds = time.perf_counter() - start
        share = sum(r * c for _, r, c in chosen) / sum(r * c for _, r, c in modules)
        linear = sum(r + c for _, r, c in chosen) / sum(r + c for _, r, c in modules)
        return {"seconds": seconds / (linear if kind == "cat" else share), "measured": seconds}

    return run


def short(stem: str) -> str:
    """Name a module so that PEFT does not take it for one of its own (they contain ``lora_``)."""
    return stem.removeprefix("lora_unet_")


ROWS: Mapping[str, tuple[Stack | None, Callable[[list[Path], Path], dict[str, Any]]]] = {
    "start Python, import loramix": (None, run_import),
    "numpy sgemm 4096": (None, sgemm),
    "sdxl: copy of the inputs, synced": (Stack("sdxl"), copy),
    "sdxl: Gram of all groups": (Stack("sdxl"), run_gram),
    "sdxl: analyze, sampled": (Stack("sdxl"), analyzer(384)),
    "sdxl: analyze, exact": (Stack("sdxl"), analyzer(None)),
    "sd15: analyze, sampled, 2 adapters": (Stack("sd15", 2), analyzer(384)),
    "sd15: analyze, sampled, 8 adapters": (Stack("sd15", 8), analyzer(384)),
    "sd15: analyze, exact, 2 adapters": (Stack("sd15", 2), analyzer(None)),
    "sd15: analyze, exact, 8 adapters": (Stack("sd15", 8), analyzer(None)),
    "sdxl: linear, exact (rank 96)": (Stack("sdxl"), merger("linear", None)),
    "sdxl: auto, exact": (Stack("sdxl"), merger("auto", None)),
    "sdxl: auto to rank 32": (Stack("sdxl"), merger("auto", 32)),
    "sdxl: linear to rank 32": (Stack("sdxl"), merger("linear", 32)),
    "sdxl: slerp to rank 32": (Stack("sdxl"), merger("slerp", 32)),
    "sdxl: ties to rank 96": (Stack("sdxl"), merger("ties", 96)),
    "sdxl: ties to rank 32": (Stack("sdxl"), merger("ties", 32)),
    "sdxl: ties, dense f16, not written": (Stack("sdxl"), baker("ties")),
    "sd15: ties to rank 96, 2 adapters": (Stack("sd15", 2), merger("ties", 96)),
    "sd15: ties to rank 96, 8 adapters": (Stack("sd15", 8), merger("ties", 96)),
    "sdxl: dare-ties to rank 96": (Stack("sdxl"), merger("dare-ties", 96)),
    "sdxl: della-ties to rank 96": (Stack("sdxl"), merger("della-ties", 96)),
    "sdxl: knots(ties), exact": (Stack("sdxl"), merger("knots(ties)", None)),
    "sdxl: core(ties), exact": (Stack("sdxl"), merger("core(ties)", None)),
    "sdxl: iso-c, exact": (Stack("sdxl"), merger("iso-c", None)),
    "sdxl: PEFT cat, scaled": (Stack("sdxl"), peft("cat")),
    "sdxl: PEFT svd to rank 96, scaled": (Stack("sdxl"), peft("svd")),
    "sdxl: PEFT ties_svd to rank 96, scaled": (Stack("sdxl"), peft("ties_svd")),
    "flux1: copy of the inputs, synced": (Stack("flux1"), copy),
    "flux1: Gram of all groups": (Stack("flux1"), run_gram),
    "flux1: analyze, sampled": (Stack("flux1"), analyzer(384)),
    "flux1: analyze, exact": (Stack("flux1"), analyzer(None)),
    "flux1: linear, exact (rank 96)": (Stack("flux1"), merger("linear", None)),
    "flux1: auto, exact": (Stack("flux1"), merger("auto", None)),
    "flux1: linear to rank 32": (Stack("flux1"), merger("linear", 32)),
    "flux1: core(ties), exact": (Stack("flux1"), merger("core(ties)", None)),
    "flux1: ties to rank 96": (Stack("flux1"), merger("ties", 96)),
    **files.ROWS,
}


def work(name: str, folder: Path, out: Path) -> None:
    """Run one row in this process; its figures go to stdout as JSON."""
    import loramix  # noqa: F401 - its import is not part of the row

    stack, run = ROWS[name]
    paths = make(stack, folder) if stack else []
    start = time.perf_counter()
    figures = {"seconds": None, **run(paths, out)}
    figures["seconds"] = figures["seconds"] or time.perf_counter() - start
    print(json.dumps(figures))


def measure(name: str, folder: Path, runs: int) -> dict[str, Any]:
    """Median of several runs, each in a process of its own."""
    slow = any(word in name for word in ("PEFT svd", "_svd", "flux1: core", "flux1: ties"))
    runs = 1 if slow else runs  # minutes
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        for index in range(runs + (runs > 1)):
            out = Path(scratch) / f"out{index}.safetensors"
            command = [sys.executable, __file__, "--row", name, "--folder", str(folder)]
            with subprocess.Popen(
                [*command, "--out", str(out)], stdout=subprocess.PIPE, text=True
            ) as process:
                text = process.stdout.read() if process.stdout else ""
                _, status, usage = os.wait4(process.pid, 0)
                process.returncode = os.waitstatus_to_exitcode(status)
            if process.returncode:
                message = f"{name}: exit code {process.returncode}"
                raise SystemExit(message)
            out.unlink(missing_ok=True)
            figures = json.loads(text.splitlines()[-1])
            cpu = usage.ru_utime + usage.ru_stime
            found.append({**figures, "peak_mb": usage.ru_maxrss / 1024, "cpu": cpu})
    found = found[1:] or found  # the first warms the page cache
    middle = {key: median([f[key] for f in found]) for key in found[0]}
    return {"row": name, **middle, "fastest": min(f["seconds"] for f in found)}


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    info = Path("/proc/cpuinfo")
    text = info.read_text() if info.is_file() else ""
    model = re.search(r"model name\s*:\s*(.+)", text)
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "cpu": model[1] if model else platform.processor(),
        "cores": os.cpu_count(),
        "avx512": "avx512f" in text,
        "python": platform.python_version(),
    }


def table(rows: list[dict[str, Any]], sizes: Mapping[str, int]) -> str:
    """Markdown."""
    seconds = {row["row"]: row["seconds"] for row in rows}
    ours = seconds.get("sdxl: linear, exact (rank 96)")
    lines = [
        "| work | seconds | fastest | CPU s | peak MB | GB/s of input | GFLOP/s |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        stack = ROWS[row["row"]][0]
        size = sizes[stack.name] if stack else 0
        rate = f"{size / row['seconds'] / 1e9:.2f}" if size and "PEFT" not in row["row"] else ""
        label = row["row"]
        if "PEFT" in label and ours:
            label += f": {row['seconds'] / ours:.1f} times the exact sum above"
        two = seconds.get(label.replace("8 adapters", "2 adapters"))
        if "8 adapters" in label and two:
            label += f": {row['seconds'] / two:.1f} times those of 2"
        lines.append(
            f"| {label} | {row['seconds']:.2f} | {row['fastest']:.2f} | {row['cpu']:.2f} | "
            f"{row['peak_mb']:.0f} | {rate} | {row.get('gflops', 0):.0f} |".replace("| 0 |", "| |")
        )
    return "\n".join(lines)


def main() -> None:
    """Print the table of all rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--row")
    parser.add_argument("--only", default="", help="rows that contain this text")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=HERE / ".data")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--record", action="store_true")
    given = parser.parse_args()
    if given.row:
        work(given.row, given.folder, given.out)
        return
    given.folder.mkdir(exist_ok=True)
    chosen = [name for name in ROWS if given.only in name]
    stacks = {stack for stack, _ in map(ROWS.__getitem__, chosen) if stack}
    # Elsewhere: a process inherits the peak memory of the one that starts it.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        made = {stack.name: pool.submit(make, stack, given.folder).result() for stack in stacks}
    sizes = {name: sum(path.stat().st_size for path in paths) for name, paths in made.items()}
    rows = [measure(name, given.folder, given.runs) for name in chosen]
    print(json.dumps(machine()))
    print(table(rows, sizes))
    if given.record:
        host = machine()
        name = f"{host['date']}-pipeline-{host['cores']}-cores.json"
        text = json.dumps({"machine": host, "input_bytes": sizes, "rows": rows}, indent=1)
        (HERE / "record" / name).write_text(text + "\n")


if __name__ == "__main__":
    main()
