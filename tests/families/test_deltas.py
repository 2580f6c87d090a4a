"""Every family means the delta of its oracle, in every element type, from one file or many."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from families.files import CASES, PEFT_OFT, RELATIVE, deltas, file_of, read
from helpers import relative
from oracles_families import F64

from loramix import formats, load
from loramix.formats import families as table
from loramix.tensors import Made

DTYPES = ("F32", "BF16", "F16", "F64", "F8_E4M3", "F8_E5M2")
ALL = {**CASES, **RELATIVE}


def check(found: Mapping[str, F64], truth: Mapping[str, F64]) -> None:
    assert found.keys() == truth.keys()
    for key, meant in truth.items():
        assert relative(found[key], meant) < 2e-6, key


def test_every_family_has_an_oracle() -> None:
    tested = {case.family.partition("(")[0] for case in (*ALL.values(), *PEFT_OFT.values())}
    assert tested == {family.name for family in table.FAMILIES} | {"dora"}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ALL)
def test_delta(name: str, dtype: str, tmp_path: Path) -> None:
    case = ALL[name]
    path, truth, model = file_of(tmp_path, {"x": case}, dtype=dtype)
    adapter = read(path, model)
    (target,) = adapter.targets
    # Without a table, a flat kernel stays flat: its sizes are not in the file.
    assert target.shape[0] == case.shape[0]
    assert target.shape == case.shape or target.cols == np.prod(case.shape[1:])
    assert adapter.families == {case.family: 1}
    assert {t.dtype for f in adapter.targets.values() for t in f.stored} == {dtype}
    check(deltas(adapter), truth)


@pytest.mark.parametrize("name", PEFT_OFT)
def test_rotations_of_peft_mean_what_the_config_says(name: str, tmp_path: Path) -> None:
    case = PEFT_OFT[name]
    path, truth, model = file_of(tmp_path, {"x": case})
    path = path.rename(tmp_path / "adapter_model.safetensors")
    config = {"peft_type": "OFT", **(case.config or {})}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    check(deltas(read(path, model)), truth)


def test_all_families_in_one_file(tmp_path: Path) -> None:
    cases = {f"blocks.{i}.x": case for i, case in enumerate(ALL.values())}
    path, truth, model = file_of(tmp_path, cases, dtype="BF16")
    adapter = read(path, model)
    check(deltas(adapter), truth)
    counts: dict[str, int] = {}
    for case in ALL.values():
        counts[case.family] = counts.get(case.family, 0) + 1
    assert adapter.families == dict(sorted(counts.items()))


def test_nothing_is_computed_before_it_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cases = {f"x{i}": case for i, case in enumerate(ALL.values())}
    path, _, model = file_of(tmp_path, cases)

    def refuse(_: Made) -> None:
        raise AssertionError

    monkeypatch.setattr(Made, "__call__", refuse)
    adapter = load(path, base=model)
    assert len(adapter.targets) == len(cases)
    made = [f for f in adapter.targets.values() if f.up.is_made or f.down.is_made]
    assert len(made) > len(cases) / 2


def test_exact_factors_have_the_rank_of_the_definition(tmp_path: Path) -> None:
    ranks = {
        "loha": 9, "loha, tucker": 4, "lokr, w2 factored": 8, "lokr, both factored": 2,
        "lokr, w1 factored": 6, "lokr, thin": 6, "lokr, conv flat": 6, "lokr, tucker": 6,
        "locon": 4, "loha, dense": 20, "lokr, both full": 24,
    }  # fmt: skip
    path, _, _ = file_of(tmp_path, {name.replace(" ", "_"): CASES[name] for name in ranks})
    found = {t.key: f for t, f in load(path).targets.items()}
    assert {name: found[name.replace(" ", "_")].rank for name in ranks} == ranks
    dense = {name for name, f in found.items() if f.identity is not None}
    assert dense == {"loha,_dense", "lokr,_both_full"}


@pytest.mark.parametrize("name", ["loha", "lokr, w2 factored", "dora, peft", "oft"])
def test_values_that_are_no_numbers_are_refused_by_name(name: str, tmp_path: Path) -> None:
    case = ALL[name]
    broken, *_ = case.roles
    fixed = {**case.fixed, broken: np.full(case.roles[broken], np.nan)}
    path, _, model = file_of(tmp_path, {"x": type(case)(**{**vars(case), "fixed": fixed})})
    (factors,) = read(path, model).targets.values()
    with pytest.raises(formats.values.FormatError, match=r"a\.safetensors: x\.\S+ holds NaN"):
        _ = factors.up.data, factors.down.data
