"""Analyses, plans and compatibility as text: 80 columns, no colour, nothing that is not there."""

from collections.abc import Callable

import pytest
from report.conftest import WEIGHTS, Case

from loramix.report import compatibility, naming, text
from loramix.report.facts import Overview
from loramix.report.overview import overview


@pytest.mark.parametrize("render", [text.render_analysis, text.render_plan])
def test_every_block_has_its_line(case: Case, render: Callable[[Overview], str]) -> None:
    lines = render(case.found).splitlines()
    assert max(map(len, lines)) <= 80
    for block in case.found["blocks"]:
        shown = naming.brief(block["name"])
        ends = shown[:10], shown[-10:]
        assert any(all(end in line for end in ends) for line in lines), block["name"]


def test_numbers_of_pairs(case: Case) -> None:
    shown = text.render_analysis(case.found)
    for pair in case.found["pairs"]:
        letters = "ABC"[pair["first"]] + "ABC"[pair["second"]]
        (line,) = [x for x in shown.splitlines() if x.split()[:1] == [letters]]
        assert line.split()[1] == str(pair["groups"])
        assert float(line.split()[2]) == pytest.approx(pair["cosine"], abs=0.0051)
        assert float(line.split()[5]) == pytest.approx(pair["lost"], abs=0.0051)


def test_a_plan_shows_its_methods(case: Case) -> None:
    shown = text.render_plan(case.found)
    for one in case.found["methods"]:
        cells = [one["method"], one["letter"], str(one["groups"]), str(one["alone"])]
        assert cells in [line.split() for line in shown.splitlines()]
    assert "L*" in shown
    assert "L*" not in text.render_analysis(overview(
        case.stack.adapters, WEIGHTS, case.stack.analysis
    ))  # fmt: skip


def test_hostile_names_stay_on_their_line(case: Case) -> None:
    facts = case.found["compatibility"]
    assert facts is not None
    for shown in (text.render_plan(case.found), compatibility.render(facts)):
        assert "\x1b" not in shown
        assert "\u202e" not in shown


def test_compatibility(case: Case) -> None:
    facts = case.found["compatibility"]
    assert facts is not None
    lines = compatibility.render(facts).splitlines()
    ranks = [line.split() for line in lines if line[2:4] in ("AB", "AC", "BC")]
    assert [(row[0], float(row[1])) for row in ranks] == [
        ("ABC"[p["first"]] + "ABC"[p["second"]], pytest.approx(p["score"], abs=0.0051))
        for p in facts["pairs"]
    ]
    assert any(line.startswith("stack ") for line in lines)
