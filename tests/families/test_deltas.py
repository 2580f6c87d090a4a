"""Every family means the delta of its oracle, in every element type, from one file or many."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from families.files import CASES, RELATIVE, deltas, file_of, read
from helpers import relative

DTYPES = ("F32", "BF16", "F16", "F64", "F8_E4M3", "F8_E5M2")
ALL = {**CASES, **RELATIVE}


def check(adapter_deltas: Mapping[str, np.ndarray], truth: Mapping[str, np.ndarray]) -> None:
    assert adapter_deltas.keys() == truth.keys()
    for key, meant in truth.items():
        assert relative(adapter_deltas[key], meant) < 2e-6, key


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ALL)
def test_delta(name: str, dtype: str, tmp_path: Path) -> None:
    case = ALL[name]
    path, truth, model = file_of(tmp_path, {"x": case}, dtype=dtype)
    adapter = read(path, model)
    (target,) = adapter.targets
    assert target.shape == case.shape or np.prod(target.shape) == np.prod(case.shape)
    assert adapter.families == {case.family: 1}
    check(deltas(adapter), truth)
