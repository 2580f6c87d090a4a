"""Weights of a baked model are the oracle's, and everything else is what it was."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from baking.cases import (
    STEP,
    WEIGHTS,
    base_tensors,
    matrix,
    stored,
    survived,
    two_adapters,
    write_base,
)
from helpers import (
    F64,
    MODULES,
    Stack,
    delta_of,
    pairs,
    read_safetensors,
    scaled,
    write_adapter,
    write_safetensors,
)

import loramix
from loramix import (
    FormatError,
    Output,
    OutputError,
    ParamError,
    bake,
    merge,
)  # fmt: skip
from loramix.backends.torch import TorchBackend
from loramix.baking import adding, stripping
from loramix.io.hashing import digest_of

TYPES = ("F64", "F32", "F16", "BF16")


@pytest.fixture
def stack(tmp_path: Path) -> Stack:
    return two_adapters(tmp_path)


def check(out: Path, dtype: str, deltas: dict[str, F64], noise: float) -> None:
    """Every weight is base plus delta, rounded once; the rest is equal to the bit."""
    old = base_tensors(dtype)
    new, _ = read_safetensors(out)
    assert list(new) == list(old)
    for name, delta in deltas.items():
        weight, got = matrix(old, stored(name)), matrix(new, stored(name))
        size = float(np.abs(delta).max())
        room = STEP[dtype] / 2 * np.abs(weight + delta) * (1 + 1e-5) + noise * size
        assert np.all(np.abs(got - weight - delta) <= room), name
    touched = {stored(name) for name in deltas}
    for name, tensor in old.items():
        assert name in touched or new[name] == tensor


@pytest.mark.parametrize("dtype", TYPES)
def test_sums_are_added_and_rounded_once(dtype: str, stack: Stack) -> None:
    base, out = write_base(stack.folder, dtype), stack.folder / "out.safetensors"
    baked = bake(base, stack.paths, "linear", weights=WEIGHTS, path=out)
    deltas = stack.sum(WEIGHTS)
    check(out, dtype, deltas, 1e-15 if dtype == "F64" else 1e-6)
    old, (new, _) = base_tensors(dtype), read_safetensors(out)
    rows = {row.target: row for row in baked.log}
    assert rows.keys() == deltas.keys()
    for name, delta in deltas.items():
        row = rows[name]
        share, cosine = survived(matrix(old, stored(name)), matrix(new, stored(name)), delta)
        assert (row.stored, row.dtype, row.members) == (stored(name), dtype, 2)
        assert row.norm == pytest.approx(float(np.linalg.norm(delta)), rel=1e-6)
        assert row.survival == pytest.approx(share, abs=1e-6)
        assert row.cosine == pytest.approx(cosine, abs=1e-6)
    assert baked.path == out
    assert baked.notes == ()


METHODS: Sequence[dict[str, Any]] = (
    {"method": "average"},
    {"method": "slerp"},
    {"method": "ties"},
    {"method": "dare", "seed": 5},
    {"method": "tsv"},
    {"method": "core(ties)"},
    {"method": "ties", "refine": "refine"},
    {"method": "auto"},
    {"method": "linear", "auto_strength": True},
)


@pytest.mark.parametrize("options", METHODS, ids=str)
def test_methods_are_those_of_merge(options: dict[str, Any], stack: Stack) -> None:
    base, out = write_base(stack.folder), stack.folder / "out.safetensors"
    lora = stack.folder / "lora.safetensors"
    # A result of full rank is in the file as it is: exact rank for what bake adds.
    merge(stack.paths, weights=WEIGHTS, output=Output(dtype="f32", rank=400), path=lora, **options)
    bake(base, stack.paths, weights=WEIGHTS, path=out, **options)
    check(out, "F32", delta_of(lora), 2e-5)


def test_nothing_is_lost_where_merge_would_cut(stack: Stack) -> None:
    base, out = write_base(stack.folder, "F64"), stack.folder / "out.safetensors"
    recipe = stack.folder / "recipe.toml"
    entries = "".join(
        f'[[adapter]]\npath = "{path.name}"\nweight = {weight}\n'
        for path, weight in zip(stack.paths, WEIGHTS, strict=True)
    )
    recipe.write_text(f'{entries}[method]\nname = "linear"\n[output]\nrank = 1\n', encoding="utf-8")
    bake(base, recipe=recipe, path=out)
    check(out, "F64", stack.sum(WEIGHTS), 1e-15)
    with pytest.raises(ParamError, match="sources or a recipe"):
        bake(base, stack.paths, recipe=recipe, path=out)


def test_dense_differences_are_added_as_they_are(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    diffs = {
        f"{name}.diff": ("F32", shape, rng.normal(size=shape).astype("<f4").tobytes())
        for name, shape in MODULES.items()
    }
    diff = write_safetensors(tmp_path / "diff.safetensors", diffs)
    stack = two_adapters(tmp_path)
    base, out = write_base(tmp_path), tmp_path / "out.safetensors"
    bake(base, [diff, stack.paths[0]], "linear", weights=[0.5, 2.0], path=out)
    first = {name.removesuffix(".diff"): matrix(diffs, name) for name in diffs}
    deltas = {n: 0.5 * first[n] + 2.0 * stack.deltas[0][n] for n in first}
    check(out, "F32", deltas, 1e-6)


def test_a_dense_difference_alone_is_bit_exact(tmp_path: Path) -> None:
    old = base_tensors("F16")
    name = "unet.blocks.0.ff.proj"
    data = np.arange(800, dtype="<f4").tobytes()
    diff = write_safetensors(tmp_path / "d.safetensors", {f"{name}.diff": ("F32", (40, 20), data)})
    bake(write_base(tmp_path, "F16"), [diff], path=tmp_path / "out.safetensors")
    new, _ = read_safetensors(tmp_path / "out.safetensors")
    weight = np.frombuffer(old[stored(name)][2], dtype="<f2").astype("<f4")
    meant = (weight + np.arange(800, dtype="<f4")).astype("<f2")
    assert new[stored(name)][2] == meant.tobytes()


@pytest.mark.parametrize("method", ["linear", "ties", "tsv"])
def test_bytes_depend_neither_on_threads_nor_on_strips(
    method: str, stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, found = write_base(stack.folder, "BF16"), set()
    for threads, size in ((1, 1 << 20), (2, 1 << 20), (7, 1), (2, 1)):
        monkeypatch.setattr(stripping, "STRIP_BYTES", size)
        out = stack.folder / f"out-{threads}-{size}.safetensors"
        bake(base, stack.paths, method, path=out, threads=threads)
        found.add(out.read_bytes())
    assert len(found) == 1


def test_torch_makes_the_same_deltas(stack: Stack) -> None:
    base, found = write_base(stack.folder), []
    for backend in ("rust", TorchBackend("cpu")):
        out = stack.folder / "out.safetensors"
        bake(base, stack.paths, "ties", path=out, backend=backend)
        found.append({n: matrix(read_safetensors(out)[0], stored(n)) for n in MODULES})
    for name, one in found[0].items():
        assert np.abs(one - found[1][name]).max() <= 1e-5 * np.abs(one).max()


def test_survival_says_what_a_small_type_loses(tmp_path: Path) -> None:
    """A delta far below the rounding of the base does nothing, and the figure says so."""
    path = write_adapter(tmp_path / "a.safetensors", scaled(pairs(1), 2.0**-20))
    out = tmp_path / "out.safetensors"
    baked = {}
    for dtype in TYPES:
        baked[dtype] = bake(write_base(tmp_path, dtype), [path], path=out).survival
    assert baked["F64"] > 1 - 1e-12
    assert baked["F32"] > 0.9
    assert baked["F64"] > baked["F32"] > baked["F16"] > -1
    assert abs(baked["BF16"]) < 0.3
    report = bake(write_base(tmp_path, "BF16"), [path], path=out)
    moved = sum(
        float(np.sum((matrix(read_safetensors(out)[0], stored(n)) - w) ** 2))
        for n in MODULES
        for w in [matrix(base_tensors("BF16"), stored(n))]
    )
    assert (report.total.moved > 0) == (moved > 0)


def test_strings_are_kept_and_say_where_it_comes_from(stack: Stack) -> None:
    base, out = write_base(stack.folder), stack.folder / "out.safetensors"
    bake(base, stack.paths, "ties", weights=WEIGHTS, path=out)
    _, strings = read_safetensors(out)
    assert strings["modelspec.title"] == "mine"
    assert "modelspec.hash_sha256" not in strings  # of other bytes
    made = json.loads(strings["loramix"])
    assert made["base"]["name"] == "base"
    assert made["base"]["digest"] == digest_of(base, "blake3")
    assert made["method"]["name"] == "ties"
    assert [one["weight"] for one in made["sources"]] == WEIGHTS
    again = stack.folder / "again.safetensors"
    bake(out, stack.paths[:1], "linear", path=again)
    history = json.loads(json.loads(read_safetensors(again)[1]["loramix"])["base"]["loramix"])
    assert history == made


def test_weight_zero_touches_nothing(stack: Stack) -> None:
    base, out = write_base(stack.folder, "BF16"), stack.folder / "out.safetensors"
    weights = [{"unet.blocks.0*": 0.0}, 0.0]
    baked = bake(base, stack.paths, "linear", weights=weights, path=out)
    assert [row.target for row in baked.log] == ["unet.blocks.1.conv", "unet.blocks.1.proj_in"]
    assert baked.notes == ("2 targets have weight 0 and stay as they are",)
    new, _ = read_safetensors(out)
    name = stored("unet.blocks.0.ff.proj")
    assert new[name] == base_tensors("BF16")[name]


def refused(stack: Stack, pattern: str, kind: type[Exception] = FormatError, **more: Any) -> None:
    base, out = stack.folder / "base.safetensors", stack.folder / "out.safetensors"
    out.write_bytes(b"before")
    before = sorted(stack.folder.iterdir())
    with pytest.raises(kind, match=pattern):
        bake(base, stack.paths, "linear", path=out, **more)
    assert out.read_bytes() == b"before"
    assert sorted(stack.folder.iterdir()) == before


def test_missing_weights_are_refused(stack: Stack) -> None:
    tensors = base_tensors()
    del tensors[stored("unet.blocks.1.conv")]
    write_safetensors(stack.folder / "base.safetensors", tensors)
    refused(stack, r"unet\.blocks\.1\.conv of shape \[12, 8, 3, 3\].*1 of 4 targets")


def test_weights_of_another_shape_are_refused(stack: Stack) -> None:
    tensors = base_tensors()
    name = stored("unet.blocks.0.attn.to_q")
    tensors[name] = ("F32", (24, 17), bytes(4 * 24 * 17))
    write_safetensors(stack.folder / "base.safetensors", tensors)
    refused(stack, r"to_q of shape \[24, 16\].*there is .*\[24, 17\]")


def test_fp8_is_refused_unless_forced(stack: Stack) -> None:
    base, out = write_base(stack.folder, "F8_E4M3"), stack.folder / "out.safetensors"
    refused(stack, "F8_E4M3.*mantissa.*--force")
    baked = bake(base, stack.paths, "linear", weights=WEIGHTS, path=out, force=True)
    check(out, "F8_E4M3", stack.sum(WEIGHTS), 2e-3)
    assert 0.99 < baked.survival < 0.9999


def test_bad_numbers_are_named(stack: Stack) -> None:
    tensors = base_tensors()
    name = stored("unet.blocks.1.conv")
    dtype, shape, data = tensors[name]
    tensors[name] = (dtype, shape, np.float32("nan").tobytes() + data[4:])
    write_safetensors(stack.folder / "base.safetensors", tensors)
    refused(stack, r"base\.safetensors: .*conv\.weight holds NaN")
    write_base(stack.folder)
    bad = pairs(7)
    bad["unet.blocks.0.ff.proj"].down[0, 0] = np.inf
    write_adapter(stack.paths[1], bad)
    refused(stack, r"source-1\.safetensors: unet\.blocks\.0\.ff\.proj\.lora_A\.weight holds NaN")


def test_what_leaves_the_type_is_refused(stack: Stack) -> None:
    write_base(stack.folder, "F16")
    refused(stack, r"too large for F16.*bf16 or f32", OutputError, weights=[1e6, 1.0])


def test_a_file_that_differs_from_what_was_meant_is_refused(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = adding.SafetensorsWriter.append
    base = write_base(stack.folder)
    for name in (stored("unet.blocks.1.conv"), "first_stage_model.conv.weight"):
        current = [""]
        begin = adding.SafetensorsWriter.begin

        def began(self: Any, at: str, *more: Any, begin: Any = begin, now: Any = current) -> None:
            now[0] = at
            begin(self, at, *more)

        def damaged(self: Any, data: Any, name: str = name, now: Any = current) -> None:
            copied = bytearray(bytes(memoryview(data).cast("B")))
            if now[0] == name:
                copied[-1] ^= 1
            append(self, copied)

        monkeypatch.setattr(adding.SafetensorsWriter, "begin", began)
        monkeypatch.setattr(adding.SafetensorsWriter, "append", damaged)
        refused(stack, "differs from what was meant", OutputError)
        monkeypatch.undo()
    assert bake(base, stack.paths, path=stack.folder / "good.safetensors").log


def test_progress_reaches_its_end(stack: Stack) -> None:
    seen: list[tuple[int, int]] = []
    base, out = write_base(stack.folder), stack.folder / "out.safetensors"
    bake(base, stack.paths, path=out, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1][0] == seen[-1][1]
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_what_makes_nothing_is_told_apart_from_weights_of_nothing(stack: Stack) -> None:
    base, out = write_base(stack.folder), stack.folder / "out.safetensors"
    with pytest.raises(ParamError, match="all weights are 0: nothing to add"):
        bake(base, stack.paths, "linear", weights=[0.0, 0.0], path=out)
    first, second = (stack.folder / f"{name}.safetensors" for name in ("first", "second"))
    members = pairs(1, 2)
    write_adapter(first, members)
    write_adapter(second, scaled(members, -1.0))
    with pytest.raises(ParamError, match="model-stock makes all deltas 0: nothing to add"):
        bake(base, [first, second], "model-stock", path=out)
    assert not out.exists()


def test_arguments_out_of_range(stack: Stack) -> None:
    write_base(stack.folder)
    refused(stack, "threads", ParamError, threads=0)
    with pytest.raises(ParamError, match="no adapters"):
        bake(stack.folder / "base.safetensors", [], path=stack.folder / "x.safetensors")
    assert loramix.bake is bake
