"""Stacks, runs and what is written of them."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from loramix_testbed.matrix.ablations import WEIGHTED
from loramix_testbed.matrix.cells import full, quick
from loramix_testbed.matrix.methods import METHODS, PAIRED
from loramix_testbed.matrix.running import Cell, Record, run
from loramix_testbed.matrix.stacks import Stack, alone, mixed, others
from loramix_testbed.places import QUALITY, RECORD
from loramix_testbed.report.limits import BY_THE_JUDGE, limits, standings
from loramix_testbed.report.overall import overall, overall_table
from loramix_testbed.report.quality import quality
from loramix_testbed.report.summary import ahead, rows
from loramix_testbed.report.writing import write
from loramix_testbed.world.adapters import SPECS

_TINY = Stack("ampersand+ember", "mixed", "held-out", ("ampersand", "ember"), (("&", "ember"),), 2)


@pytest.mark.parametrize("half", ["calibration", "held-out"])
def test_stacks_stay_in_their_half_and_have_all_sizes(half: str) -> None:
    found = [*alone(half), *mixed(half), *others(half)]  # type: ignore[arg-type]
    assert len({(stack.kind, stack.name) for stack in found}) == len(found)
    for stack in found:
        assert {SPECS[name].half for name in stack.adapters} == {half}
        assert len(set(stack.asked)) == len(stack.asked) <= 16
    sizes = {len(stack.adapters) for stack in found if stack.kind == "mixed"}
    assert sizes == {2, 3, 5, 8}


def test_the_quick_matrix_has_every_method_and_size() -> None:
    cells = [cell for cell in quick() if cell.stack.kind == "mixed"]
    pictures: Counter[tuple[str, int]] = Counter()
    for cell in cells:
        size = len(cell.stack.adapters)
        pictures[cell.method, size] += len(cell.stack.asked) * cell.stack.seeds
    sizes = [(name, size) for name in METHODS for size in (2, 3, 5, 8)]
    assert set(pictures) == {*sizes, *((name, 2) for name in PAIRED)}
    assert min(pictures.values()) >= 64


def test_the_full_matrix_holds_the_quick_one() -> None:
    whole = {cell.key for cell in full()}
    assert len(whole) == len(full())
    assert {cell.key for cell in quick()} < whole
    few = {s.name for s in mixed("held-out")} - {cell.stack.name for cell in quick()}
    assert few
    for name in few:
        assert {f"held-out/mixed/{name}/{method}" for method in METHODS} < whole


@pytest.mark.parametrize("name", ["no adapter", "sum", "auto", "loratorio"])
def test_a_cell_is_measured_once_and_alike(name: str, tmp_path: Path) -> None:
    cell = Cell(_TINY, name, METHODS[name])
    first, second = Record(tmp_path / "a.json"), Record(tmp_path / "b.json")
    run([cell], first)
    run([cell], second)
    facts = [
        {k: v for k, v in r.cells[cell.key].items() if k != "seconds"} for r in (first, second)
    ]
    assert facts[0] == facts[1]
    before = first.path.read_bytes()
    run([cell], first)
    assert first.path.read_bytes() == before
    assert Record(first.path).cells == first.cells


def test_the_pipeline_is_what_it_was_after_every_method(tmp_path: Path) -> None:
    record = Record(tmp_path / "a.json")
    run([Cell(_TINY, "no adapter", METHODS["no adapter"])], record)
    for name in ("auto", "switch", "composite"):
        run([Cell(_TINY, name, METHODS[name])], Record(tmp_path / f"{name}.json"))
    again = Record(tmp_path / "again.json")
    run([Cell(_TINY, "no adapter", METHODS["no adapter"])], again)
    key = "held-out/mixed/ampersand+ember/no adapter"
    assert again.cells[key]["prompts"] == record.cells[key]["prompts"]


def test_a_report_is_written_from_a_record_alone(tmp_path: Path) -> None:
    record = Record(tmp_path / "a.json")
    run([Cell(_TINY, name, METHODS[name]) for name in ("sum", "auto", "truth")], record)
    write(record.path, tmp_path / "out", tmp_path / "QUALITY.md")
    page = (tmp_path / "out" / "page.html").read_text("utf-8")
    assert page.count("data:image/png;base64,") == 3
    assert "mixed, 2 adapters" in (tmp_path / "QUALITY.md").read_text("utf-8")


def test_a_method_is_not_ahead_of_itself() -> None:
    cells = list(Record(RECORD).cells.values())
    gap = ahead(cells, "held-out", "mixed", 2, ("auto", "auto"))
    assert (gap.mean, gap.low, gap.high) == (0, 0, 0)


def test_one_number_for_every_method_that_has_all_sizes() -> None:
    def cell(method: str, size: int, right: list[int]) -> dict[str, Any]:
        prompts = [{"content": right, "style_right": [1] * len(right)}]
        facts = {"half": "held-out", "kind": "mixed", "stack": "s", "cost": size}
        return {**facts, "method": method, "size": size, "prompts": prompts}

    cells = [cell("sum", 2, [1, 1, 1, 1]), cell("sum", 3, [0, 0]), cell("auto", 2, [1, 1])]
    (row,) = overall(cells)
    assert (row.method, row.both.mean, row.cost) == ("sum", 0.5, 2.5)
    assert overall_table([]) == ""


def _pair(method: str, stack: str, right: float) -> dict[str, Any]:
    """A cell of pairs: two prompts with that share of 20 pictures right."""
    hits = [int(at < round(20 * right)) for at in range(20)]
    prompts = [{"content": hits, "style_right": [1] * 20}] * 2
    facts = {"half": "held-out", "kind": "mixed", "size": 2, "stack": stack}
    return {**facts, "method": method, "prompts": prompts}


def test_changes_of_auto_are_counted_by_whom_they_are_surely_ahead_of() -> None:
    share = {"auto": 0.5, "auto:balance=1": 1.0, "sum": 0.5, "1/N": 0.0, "ties": 0.5}
    cells = [_pair(name, stack, right) for name, right in share.items() for stack in "ab"]
    found = standings(cells, 2)
    assert list(found) == ["auto:balance=1", "auto", "sum"]  # the best first; rivals are no rows
    assert found["auto"].behind == ("1/N",)
    assert found["auto"].level == ("sum", "ties")
    assert found["auto:balance=1"].behind == ("sum", "1/N", "ties")
    assert found["auto:balance=1"].gap.mean == 0.5
    text = limits(cells, (2, 3))
    assert "| auto:balance=1 | 1.00 | **+0.50 [" in text
    assert "`auto` is ahead of 1/N, and not of sum; ties." in text
    assert "ahead of all rivals: auto:balance=1." in text
    assert "3 adapters" not in text


def test_the_judge_chooses_weights_for_every_stack() -> None:
    first, second, *others = ("sum", *WEIGHTED)
    share = {("auto", "a"): 0.5, ("auto", "b"): 0.5, (first, "a"): 0.8, (second, "b"): 0.6}
    share |= {(first, "b"): 0.2, (second, "a"): 0.1}
    share |= {(name, stack): 0.3 for name in others for stack in "ab"}
    cells = [_pair(name, stack, right) for (name, stack), right in share.items()]
    assert standings(cells, 2)[BY_THE_JUDGE].both == pytest.approx((0.8 + 0.6) / 2)
    last = others[-1]
    lacking = [cell for cell in cells if (cell["method"], cell["stack"]) != (last, "b")]
    assert not {BY_THE_JUDGE, last} & standings(lacking, 2).keys()


def test_quality_is_what_the_record_says() -> None:
    cells = list(Record(RECORD).cells.values())
    assert QUALITY.read_text("utf-8") == quality(cells, RECORD.parent)


def test_the_default_strength_is_the_best_of_the_calibration_half() -> None:
    """The choice is data: who changes the default measures again."""
    found = json.loads((RECORD.parent / "calibration.json").read_text("utf-8"))
    tried = {name: row["mean"] for name, row in found.items() if "auto:strength" in name}
    assert len(tried) >= 3
    assert found["auto"]["mean"] > max(tried.values())


def test_scores_are_of_what_the_record_knows(tmp_path: Path) -> None:
    record = Record(tmp_path / "a.json")
    run([Cell(_TINY, name, METHODS[name]) for name in ("sum", "1/N")], record)
    for name, kept in (("sum", 1), ("1/N", 0.5)):
        cell = record.cells[f"held-out/mixed/ampersand+ember/{name}"]
        assert cell["kept"] == pytest.approx([kept, kept], abs=0.02)
        assert cell["cost"] == 2


def test_adapters_alone_do_what_they_are_for() -> None:
    (row,) = [r for r in rows(Record(RECORD).cells.values(), "held-out") if r.kind == "alone"]
    assert row.both.mean > 0.9
