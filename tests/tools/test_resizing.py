"""One budget for a whole file, measured on the dense deltas of what was written."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cli.program import Outcome
from formats.builders import Built, diffusers, kohya
from helpers import (
    DIALECTS,
    F64,
    DialectName,
    Raw,
    delta_of,
    encode,
    pairs,
    read_safetensors,
    write_adapter,
    write_safetensors,
)

from loramix import Adapter, ParamError, load, reproduce, resize
from loramix.cli.app import main
from loramix.cli.arguments import bytes_of
from loramix.formats.layout import load_layout

MODULES = {f"unet.blocks.{i}.attn.to_q": (24 + 8 * i, 20 + 4 * i) for i in range(6)} | {
    "unet.blocks.1.conv": (12, 8, 3, 3),
    "text_encoder.layers.0.proj": (30, 40),
}


def source(folder: Path, dialect: DialectName = "diffusers", dtype: str = "F32") -> Path:
    """An adapter whose targets have decaying spectra of different sizes."""
    members = pairs(7, 8, modules=MODULES, alpha=4.0 if dialect == "kohya" else None)
    for i, (name, one) in enumerate(members.items()):
        slope = 3.0**-i * 1.7 ** -np.arange(8.0)
        members[name] = replace(one, up=one.up * slope, dtype=dtype)
    if dialect == "peft":
        members = {name: one for name, one in members.items() if name.startswith("unet")}
        return write_adapter(folder / "source", members, "peft", config={"r": 8, "lora_alpha": 8})
    return write_adapter(folder / "source.safetensors", members, dialect)


def total(got: dict[str, F64], expected: dict[str, F64]) -> float:
    """Relative error of all together."""
    assert got.keys() == expected.keys()
    gap = sum(float(((got[key] - expected[key]) ** 2).sum()) for key in expected)
    return math.sqrt(gap / sum(float((delta**2).sum()) for delta in expected.values()))


def ranks_of(adapter: Adapter) -> dict[str, int]:
    return {target.key: factors.rank for target, factors in adapter.targets.items()}


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("error", [0.3, 0.05, 0.001])
def test_the_error_of_the_file_is_within_the_budget(
    tmp_path: Path, dialect: DialectName, error: float
) -> None:
    path = source(tmp_path, dialect)
    merged = resize(path, total_error=error)
    expected = delta_of(path)
    assert total(delta_of(merged.adapter), expected) <= error
    values = {key: np.linalg.svd(delta, compute_uv=False) for key, delta in expected.items()}
    assert len(set(ranks_of(merged.adapter).values())) > 1
    whole = sum(float((v**2).sum()) for v in values.values())
    smaller = _one_rank_less(values, expected, ranks_of_deltas(merged.adapter))
    assert all(math.sqrt(left / whole) > error * 0.999 for left in smaller)


def ranks_of_deltas(adapter: Adapter) -> dict[str, int]:
    return {
        key: int(np.linalg.matrix_rank(delta, tol=1e-6 * np.linalg.norm(delta)))
        for key, delta in delta_of(adapter).items()
    }


def _one_rank_less(
    values: dict[str, F64], deltas: dict[str, F64], chosen: dict[str, int]
) -> list[float]:
    """Squared errors where the least worthwhile kept value is left out, too."""
    left = sum(float((v[chosen[key] :] ** 2).sum()) for key, v in values.items())
    last = [
        (float(v[chosen[key] - 1] ** 2) / sum(deltas[key].shape), float(v[chosen[key] - 1] ** 2))
        for key, v in values.items()
        if chosen[key] > 1
    ]
    return [left + min(last)[1]] if last else []


def test_it_is_smaller_than_one_error_for_each_target(tmp_path: Path) -> None:
    path = source(tmp_path)
    each = resize(path, max_error=0.1)
    whole = resize(path, total_error=total(delta_of(each.adapter), delta_of(path)) * 1.000001)
    assert whole.adapter.source.size < each.adapter.source.size


@pytest.mark.parametrize("dialect", ["kohya", "diffusers"])
@pytest.mark.parametrize("dtype", ["f32", "f16"])
def test_a_size_is_never_exceeded(tmp_path: Path, dialect: DialectName, dtype: str) -> None:
    path = source(tmp_path, dialect)
    errors = []
    for size in (12_000, 15_000, 40_000) if dtype == "f16" else (18_000, 24_000, 40_000):
        out = tmp_path / f"{size}.safetensors"
        resize(path, path=out, size=size, dtype=dtype)  # type: ignore[arg-type]
        assert out.stat().st_size <= size
        errors.append(total(delta_of(out), delta_of(path)))
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > errors[-1]


def test_a_size_is_used_up(tmp_path: Path) -> None:
    """Less is left than one more rank of any target takes, but for the words of the header."""
    path = source(tmp_path)
    adapter = load(path)
    for size in range(11_500, 15_200, 211):
        out = tmp_path / f"{size}.safetensors"
        merged = resize(adapter, path=out, size=size, dtype="f16")
        used = out.stat().st_size
        chosen = ranks_of(merged.adapter)
        open_ = [
            2 * (t.rows + t.cols)  # bytes
            for t, one in adapter.targets.items()
            if chosen[t.key] < one.rank
        ]
        assert used <= size
        assert not open_ or size - used < min(open_) + 30


def test_a_size_that_holds_everything_loses_nothing(tmp_path: Path) -> None:
    path = source(tmp_path)
    merged = resize(path, size=10**9)
    assert total(delta_of(merged.adapter), delta_of(path)) < 1e-6


def test_alpha_stays_one_value_in_kohya_files(tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    resize(source(tmp_path, "kohya"), path=out, total_error=0.2)
    tensors, strings = read_safetensors(out)
    alphas = {raw for name, raw in tensors.items() if name.endswith(".alpha")}
    assert len(alphas) == 1
    assert strings["ss_network_dim"] == "Dynamic"


@pytest.mark.parametrize("spelling", [kohya, diffusers], ids=["fused", "split"])
def test_what_the_original_fuses_gets_one_rank(
    tmp_path: Path, spelling: Callable[..., Built]
) -> None:
    layout = load_layout("flux1")
    wanted = {"transformer_blocks.0.attn.to_q", "transformer_blocks.0.attn.to_k",
              "transformer_blocks.0.attn.to_v", "transformer_blocks.0.ff.net.0.proj"}  # fmt: skip
    built = spelling(layout, lambda module: module.name in wanted, 6, 3)
    source = load(built.save(tmp_path / "flux.safetensors"), architecture="flux1")
    merged = resize(source, total_error=0.4, dialect="kohya")
    choices = {choice.target.key: choice.rank for choice in merged.plan.choices}
    assert len(choices) == 4
    fused = [rank for key, rank in choices.items() if ".attn.to_" in key]
    assert len(set(fused)) == 1
    exact = resize(source, dialect="kohya").adapter
    assert sum(ranks_of(merged.adapter).values()) < sum(ranks_of(exact).values())
    assert 0 < merged.error < 0.44  # an estimate


def test_the_plan_says_the_ranks(tmp_path: Path) -> None:
    merged = resize(source(tmp_path), total_error=0.1)
    said = {choice.target.key: choice.rank for choice in merged.plan.choices}
    assert said == ranks_of(merged.adapter)
    assert "rank = " in merged.plan.recipe


@pytest.mark.parametrize("budget", [{"total_error": 0.1}, {"size": 30_000}], ids=str)
def test_it_can_be_made_again(tmp_path: Path, budget: dict[str, float]) -> None:
    path, out = source(tmp_path), tmp_path / "out.safetensors"
    resize(path, path=out, **budget)  # type: ignore[arg-type]
    assert reproduce(out, [path]).identical


def test_dense_differences_are_cut_as_well(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    left, right = (np.linalg.qr(rng.normal(size=(size, 12)))[0] for size in (16, 12))
    tensors: dict[str, Raw] = {}
    deltas: dict[str, F64] = {}
    for name, slope in (("steep", 2.0), ("flat", 1.1)):
        delta = left * slope ** -np.arange(12.0) @ right.T
        tensors[f"lora_unet_{name}.diff"] = ("F32", (16, 12), encode("F32", delta))
        deltas[f"lora_unet_{name}"] = delta
    path = write_safetensors(tmp_path / "a.safetensors", tensors)
    small = resize(path, total_error=0.2)
    assert total(delta_of(small.adapter), deltas) <= 0.2
    steep, flat = (ranks_of(small.adapter)[f"model.lora_unet_{n}"] for n in ("steep", "flat"))
    assert 1 <= steep < flat < 12


@pytest.mark.parametrize(
    ("budget", "said"),
    [
        ({"total_error": 0.0}, "total_error = 0.0"),
        ({"total_error": 1.0}, "total_error = 1.0"),
        ({"total_error": float("nan")}, "total_error = nan"),
        ({"size": 0}, "size = 0"),
        ({"size": 100}, "rank 1 everywhere takes"),
        ({"total_error": 0.1, "size": 1000}, "give one"),
        ({"total_error": 0.1, "rank": 4}, "give one of them"),
        ({"size": 10_000, "max_error": 0.1}, "give one of them"),
        ({"total_error": 0.001, "dtype": "bf16"}, "rounding to bf16"),
    ],
)
def test_refusals(tmp_path: Path, budget: dict[str, float], said: str) -> None:
    with pytest.raises(ParamError, match=said):
        resize(source(tmp_path), **budget)  # type: ignore[arg-type]


def run(capsys: pytest.CaptureFixture[str], *args: str) -> Outcome:
    code = main(args)
    found = capsys.readouterr()
    return Outcome(code, found.out, found.err)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = source(tmp_path), tmp_path / "out.safetensors"
    done = run(capsys, "resize", str(path), "-o", str(out), "--size", "20kB", "--json")
    assert done.code == 0
    assert json.loads(done.out)["output"]["size"] == out.stat().st_size <= 20_000
    done = run(capsys, "resize", str(path), "-o", str(out), "--total-error", "0.1")
    assert done.code == 0
    assert total(delta_of(out), delta_of(path)) <= 0.1
    assert set(ranks_of(load(out)).values()) != {8}


@pytest.mark.parametrize("size", ["many", "-5MB", "0", "1TB", "", "MB"])
def test_sizes_that_are_none(tmp_path: Path, capsys: pytest.CaptureFixture[str], size: str) -> None:
    path = str(source(tmp_path))
    done = run(capsys, "resize", path, "-o", str(tmp_path / "o.safetensors"), f"--size={size}")
    assert done.code == 2
    assert "write a number of bytes" in done.err


@pytest.mark.parametrize(
    ("text", "count"),
    [("100MB", 10**8), ("96MiB", 96 << 20), ("1.5 gb", 1_500_000_000), ("700", 700), ("2k", 2000)],
)
def test_sizes(text: str, count: int) -> None:
    assert bytes_of(text) == count
