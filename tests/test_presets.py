"""TIES by other tools' conventions: the presets against what those tools were recorded to do.

The files are made by ``scripts/make_goldens.py``, which runs the tools.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from oracles_upstream import published_ties

from loramix import combine
from loramix.methods.ties import Ties

FOLDER = Path(__file__).parent / "data" / "goldens"
RECORDS = {name: json.loads((FOLDER / f"{name}.json").read_text()) for name in ("peft", "mergekit")}
ROUND = 1e-6


def ties_cases(tool: str) -> list[dict[str, Any]]:
    """Those of two or more adapters that all have a weight: see `ties_upstream`."""
    cases = [case for case in RECORDS[tool]["cases"] if case["method"] == "ties"]
    one = [case for case in cases if not isinstance(case["parameters"].get("density"), list)]
    return [case for case in one if len(case["weights"]) > 1 and all(case["weights"])]


def stack_of(tool: str, case: dict[str, Any]) -> list[Any]:
    deltas = RECORDS[tool]["stacks"][case["stack"]][: len(case["weights"])]
    return [np.array(delta, dtype=np.float32) for delta in deltas]


def assert_equal(got: Any, expected: Any) -> None:
    wanted = np.array(expected)
    assert np.abs(got - wanted).max() <= ROUND * np.abs(wanted).max()


@pytest.mark.parametrize("case", ties_cases("peft"))
def test_peft(case: dict[str, Any]) -> None:
    how = case["parameters"]
    method = Ties.peft(how["density"], how["majority_sign_method"])
    assert_equal(combine(stack_of("peft", case), method, weights=case["weights"]), case["output"])


@pytest.mark.parametrize("case", ties_cases("mergekit"))
def test_mergekit(case: dict[str, Any]) -> None:
    how = case["parameters"]
    method = Ties.mergekit(how.get("density", 1.0), normalize=how.get("normalize", True))
    got = combine(stack_of("mergekit", case), method, weights=case["weights"])
    assert_equal(how.get("lambda", 1.0) * got, case["output"])


@pytest.mark.parametrize("vote", ["frequency", "total"])
@pytest.mark.parametrize("weights", [[1.0, 0.5], [0.7, -1.2], [1.0, 0.5, -0.75]])
def test_published(vote: Any, weights: list[float]) -> None:
    deltas = stack_of("peft", {"stack": "draws", "weights": weights})
    got = combine(deltas, Ties.published(0.6, vote), weights=weights)
    assert_equal(got, published_ties([d.astype(float) for d in deltas], weights, 0.6, vote))


def test_there_is_something_to_compare() -> None:
    assert len(ties_cases("peft")) > 3
    assert len(ties_cases("mergekit")) > 3
