"""Dense differences: results of full rank written as they are, read back, merged again.

Written entries are the oracle's, in every type; files are read by ``helpers``, without the
package.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import (
    F64,
    MODULES,
    Stack,
    delta_of,
    encode,
    pair,
    pairs,
    read_safetensors,
    relative,
    scaled,
    write_adapter,
    write_safetensors,
)
from oracles import ties
from oracles_suite import MODIFIED, TARGETED, Targeted, on_target

from loramix import (
    METHODS,
    FormatError,
    Output,
    OutputError,
    ParamError,
    inspect,
    merge,
    resize,
)  # fmt: skip
from loramix.io.writing import MemoryWriter
from loramix.methods import Elementwise
from loramix.types import Target

ENTRIES = sorted(name for name, kind in METHODS.items() if isinstance(kind(), Elementwise))
WEIGHTS = [0.9, -0.6, 1.37]

ALONE = "unet.blocks.0.ff.proj"
F32 = Output(dense=True, dtype="f32")

ROUNDING: Mapping[str, float] = {"f32": 2.0**-24, "f16": 2.0**-11, "bf16": 2.0**-8}
"""Largest relative error of an entry that is rounded to nearest."""

LEAST: Mapping[str, float] = {"f32": 0.0, "f16": 2.0**-25, "bf16": 0.0}
"""Half of the smallest number of a type, if that is of any size."""


@pytest.fixture
def stack(tmp_path: Path) -> Stack:
    """Three adapters with Kohya names, of different ranks; one module is the first's alone."""
    found = Stack(tmp_path, "kohya")
    for seed in range(3):
        modules = {name: s for name, s in MODULES.items() if seed == 0 or name != ALONE}
        found.add(pairs(seed, 2 + seed, alpha=2.0 + 2 * seed, modules=modules))
    return found


def truth(stack: Stack, oracle: Targeted) -> dict[str, tuple[F64, float]]:
    """Dense result of every target, and the size of what goes in."""
    found = {}
    for key in stack.deltas[0]:
        have = [(d[key], w) for d, w in zip(stack.deltas, WEIGHTS, strict=True) if key in d]
        target = Target(f"model.{key}", (1, 1)).key_hash
        result = on_target(oracle, target)([d for d, _ in have], [w for _, w in have])
        found[key] = result, sum(abs(w) * float(np.linalg.norm(d)) for d, w in have)
    return found


def check(stack: Stack, path: Path, oracle: Targeted, dtype: str, bound: float = 1e-6) -> None:
    """Every entry of a file is the oracle's, but for f32 arithmetic and one rounding."""
    written, expected = delta_of(path), truth(stack, oracle)
    assert written.keys() == expected.keys()
    for key, (delta, size) in expected.items():
        room = bound * size + ROUNDING[dtype] * np.abs(delta) * (1 + bound) + LEAST[dtype]
        assert np.all(np.abs(written[key] - delta) <= room), key


@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16"])
@pytest.mark.parametrize("name", ENTRIES)
def test_entries_are_the_oracles(name: str, dtype: Any, stack: Stack) -> None:
    path = stack.folder / "out.safetensors"
    merge(stack.paths, name, weights=WEIGHTS, output=Output(dense=True, dtype=dtype), path=path)
    bound = 5e-5 if name == "consensus" else 2e-6
    if dtype == "f32":
        check(stack, path, TARGETED[name], dtype, bound)
        return
    # A delta that one adapter has for itself is a pair of factors, each of them rounded.
    alone = next(key for key in stack.deltas[0] if key not in stack.deltas[1])
    del stack.deltas[0][alone]
    tensors, strings = read_safetensors(path)
    check(
        stack,
        write_safetensors(path, {k: v for k, v in tensors.items() if alone not in k}, strings),
        TARGETED[name],
        dtype,
        bound,
    )


@pytest.mark.parametrize("case", MODIFIED)
def test_entries_of_modified_methods_are_the_oracles(case: str, stack: Stack) -> None:
    what, path = MODIFIED[case], stack.folder / "out.safetensors"
    merge(
        stack.paths, what.method, weights=WEIGHTS, sparsify=what.sparsify, refine=what.refine,
        output=F32, path=path,
    )  # fmt: skip
    check(stack, path, what.oracle, "f32", 1e-5)


def test_names_shapes_and_types_of_the_file(stack: Stack) -> None:
    path = stack.folder / "out.safetensors"
    wish = Output(dense=True, dtype="bf16")
    merged = merge(stack.paths, "ties", weights=WEIGHTS, output=wish, path=path)
    tensors, strings = read_safetensors(path)
    stems = {name: f"lora_{name.replace('.', '_')}" for name in MODULES}
    pair_of = {f"{stems[ALONE]}.{role}" for role in ("lora_up.weight", "lora_down.weight", "alpha")}
    assert tensors.keys() == pair_of | {f"{s}.diff" for n, s in stems.items() if n != ALONE}
    for name, shape in MODULES.items():
        if name != ALONE:
            assert tensors[f"{stems[name]}.diff"][:2] == ("BF16", shape)
    rows = {row.target.removeprefix("model."): row for row in merged.log}
    for name, stem in stems.items():
        row, shape = rows[stem], MODULES[name]
        assert row.dense == (name != ALONE)
        assert row.rank == (min(shape[0], int(np.prod(shape[1:]))) if row.dense else 2)
        assert row.cut < 1e-6 if name == ALONE else row.cut == 0
    assert strings["ss_network_module"] == "lycoris.kohya"
    assert (strings["ss_network_dim"], strings["ss_network_alpha"]) == ("2", "2")
    assert '"dense": true' in strings["loramix"]
    assert merged.plan.alpha == 2


def test_a_file_without_factors_has_no_alpha(stack: Stack) -> None:
    path = stack.folder / "out.safetensors"
    merged = merge(stack.paths[1:], "ties", output=F32, path=path)
    tensors, strings = read_safetensors(path)
    assert all(name.endswith(".diff") for name in tensors)
    assert merged.plan.alpha is None
    assert (strings["ss_network_dim"], strings["ss_network_alpha"]) == ("Dynamic", "Dynamic")


def test_sums_and_joint_bases_are_factors_as_ever(stack: Stack) -> None:
    for method in ("linear", "slerp", "tsv", "core(ties)"):
        found = []
        for dense in (False, True):
            wish = Output(dense=dense, dtype="f32")
            merged = merge(stack.paths, method, weights=WEIGHTS, output=wish)
            source = merged.adapter.source
            found.append({name: bytes(t.data) for name, t in source.tensors.items()})
            assert not any(row.dense for row in merged.log)
            assert source.metadata["ss_network_module"] == "networks.lora"
        assert found[0] == found[1]


@pytest.mark.parametrize("name", ENTRIES)
def test_shares_equal_the_dense_truth(name: str, stack: Stack) -> None:
    merged = merge(stack.paths, name, weights=WEIGHTS, output=F32)
    written = delta_of(merged.adapter)
    for row in merged.log:
        key = row.target.removeprefix("model.")
        terms = {i: WEIGHTS[i] * d[key] for i, d in enumerate(stack.deltas) if key in d}
        assert [share.owner for share in row.shares] == list(terms)
        for share, term in zip(row.shares, terms.values(), strict=True):
            energy, along = float(np.sum(term**2)), float(np.sum(term * written[key]))
            size = float(np.linalg.norm(written[key]))
            others = sum(float(np.sum(term * other)) for other in terms.values()) - energy
            assert share.retention == pytest.approx(along / energy, abs=1e-5 * size / energy**0.5)
            assert share.cosine == pytest.approx(along / (energy**0.5 * size), abs=1e-5)
            assert share.interference == pytest.approx(others / energy, abs=5e-5)


@pytest.mark.parametrize("name", ENTRIES)
def test_bytes_do_not_depend_on_threads(name: str, stack: Stack) -> None:
    found = set()
    for threads in (1, 2, 7):
        path = stack.folder / f"merged-{threads}.safetensors"
        merge(
            stack.paths, name, weights=WEIGHTS, path=path, threads=threads,
            output=Output(dense=True),
        )  # fmt: skip
        found.add(path.read_bytes())
    assert len(found) == 1


@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16"])
def test_what_is_read_back_is_what_was_written(dtype: Any, stack: Stack) -> None:
    path, again = stack.folder / "dense.safetensors", stack.folder / "again.safetensors"
    merge(stack.paths, "ties", output=Output(dense=True, dtype=dtype), path=path)
    facts = inspect(path)
    assert facts.kinds == {"dense conv 1x1": 1, "dense conv 3x3": 1, "dense linear": 1, "linear": 1}
    assert facts.dtypes == {dtype.upper(): 5}
    assert facts.parameters == sum(t.size for t in delta_of(path).values()) - 40 * 20 + 2 * 60
    assert facts.ranks == {2: 1, 10: 1, 12: 1, 16: 1}
    assert (facts.scales, facts.notes) == ((1.0, 1.0), ())
    written = delta_of(path)
    wish = Output(dtype="f32")
    merged = merge([path, stack.paths[0]], "linear", weights=[0.5, -2.0], output=wish, path=again)
    for key, got in delta_of(again).items():
        assert relative(got, 0.5 * written[key] - 2.0 * stack.deltas[0][key]) < 2e-6
    assert all(row.members == 2 for row in merged.log)


def test_dense_differences_are_merged_by_entries_and_cut(stack: Stack) -> None:
    paths = [stack.folder / f"dense-{i}.safetensors" for i in range(2)]
    for path, sources in zip(paths, (stack.paths[:2], stack.paths[1:]), strict=True):
        merge(sources, "ties", output=F32, path=path)
    deltas = [delta_of(path) for path in paths]
    merged = merge(paths, "ties:density=0.4", weights=[1.0, -0.5], output=F32)
    found = delta_of(merged.adapter)
    for key in deltas[1]:
        expected = ties([d[key] for d in deltas], [1.0, -0.5], density=0.4)
        assert relative(found[key], expected) < 2e-6
    small = resize(paths[1], rank=3, dtype="f32")
    for row in small.log:
        full = deltas[1][row.target.removeprefix("model.")]
        values = np.linalg.svd(full, compute_uv=False)
        best = float(np.linalg.norm(values[3:]) / np.linalg.norm(values))
        assert (row.rank, row.dense) == (3, False)
        assert row.cut == pytest.approx(best, rel=1e-3)


def test_what_does_not_fit_names_the_target(tmp_path: Path) -> None:
    stack = Stack(tmp_path, "kohya")
    for seed in range(2):
        stack.add(scaled(pairs(seed), 256.0))
    path = tmp_path / "out.safetensors"
    before = sorted(tmp_path.iterdir())
    for backend in ("rust", "torch:cpu"):
        with pytest.raises(OutputError, match=r"^model\.lora_unet_blocks_\S+: .*F16; .*bf16"):
            merge(
                stack.paths, "average", sparsify="dare", output=Output(dense=True, dtype="f16"),
                path=path, backend=backend, weights=[1e3, 1e3],
            )  # fmt: skip
        assert sorted(tmp_path.iterdir()) == before


def test_what_is_not_a_number_is_named(tmp_path: Path) -> None:
    shape = (6, 5)
    members = {f"unet.m{i}": pair(np.random.default_rng(i), shape, 2) for i in range(2)}
    good = write_adapter(tmp_path / "good.safetensors", members, "kohya")
    dense = {f"lora_unet_m{i}.diff": ("F16", shape, encode("F16", np.ones(30))) for i in range(2)}
    dense["lora_unet_m1.diff"] = ("F16", shape, encode("F16", [*np.ones(29), np.nan]))
    bad = write_safetensors(tmp_path / "bad.safetensors", dense)
    for method in ("ties", "linear", "tsv"):
        for wish in (Output(dense=True), Output()):
            with pytest.raises(FormatError, match=r"bad.safetensors: lora_unet_m1\.diff holds NaN"):
                merge([good, bad], method, output=wish)


@pytest.mark.parametrize("dialect", ["diffusers", "peft", "plain"])
@pytest.mark.parametrize("method", ["ties", "linear"])
def test_other_dialects_have_none(dialect: str, method: str, stack: Stack) -> None:
    with pytest.raises(ParamError, match=f"clients of {dialect} .*--dialect kohya"):
        merge(stack.paths, method, output=Output(dense=True, dialect=dialect))


def test_nothing_is_left_out_of_a_dense_difference() -> None:
    for rule in ({"rank": 4}, {"energy": 0.9}, {"max_error": 0.1}):
        with pytest.raises(ParamError, match="dense leaves nothing out"):
            Output(dense=True, **rule)  # type: ignore[arg-type]


def test_a_file_that_is_not_what_was_meant_is_refused(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = MemoryWriter.add

    def damaged(self: Any, tensors: Any) -> None:
        for name, dtype, shape, data in tensors:
            moved = np.roll(data, 4 * 10) if name.endswith("proj_in.diff") else data  # one row
            add(self, [(name, dtype, shape, moved)])

    monkeypatch.setattr(MemoryWriter, "add", damaged)
    with pytest.raises(OutputError, match="blocks_1_proj_in: what was written differs"):
        merge(stack.paths, "ties", output=F32)
