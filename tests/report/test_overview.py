"""The plain data of a report against dense float64 truth."""

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from helpers import delta_of
from report.conftest import NAMES, RECIPE, WEIGHTS, Case
from report.stacks import Planted, cosine_of, modules, picked

from loramix.analysis.statistics import Analysis
from loramix.formats.layout import LAYOUTS, load_layout
from loramix.methods import METHODS, method_of
from loramix.report import naming
from loramix.report.certificate import bins
from loramix.report.overview import overview


def test_everything_is_json(case: Case) -> None:
    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(one) for key, one in value.items()}
        return [plain(one) for one in value] if isinstance(value, list | tuple) else value

    assert json.loads(json.dumps(case.found, allow_nan=False)) == plain(case.found)


def test_adapters(case: Case) -> None:
    found = case.found["adapters"]
    assert [one["letter"] for one in found] == ["A", "B", "C"]
    assert [one["name"] for one in found] == list(NAMES)
    deltas = case.stack.deltas
    for i, one in enumerate(found):
        own = {key: WEIGHTS[i] * d for key, d in deltas[i].items()}
        energy = sum(float((d**2).sum()) for d in own.values())
        others = sum(
            WEIGHTS[j] * float((d * deltas[j][key]).sum())
            for j in range(3)
            if j != i
            for key, d in own.items()
            if key in deltas[j]
        )
        assert one["norm"] == pytest.approx(math.sqrt(energy))
        assert one["interference"] == pytest.approx(others / energy)
        assert one["targets"] == len(own)
        assert one["shared"] == len(modules()) - 1


def test_energy_before_and_after(case: Case) -> None:
    deltas, written = case.stack.deltas, delta_of(case.merged.adapter)
    plan = {one.target.key: one for one in picked(case.stack, WEIGHTS)}
    assert len(case.found["energy"]) == 6
    for one in case.found["energy"]:
        i = one["adapter"]
        text = one["branch"] == "text_encoder"
        own = {k: d for k, d in deltas[i].items() if k.startswith("text_encoder") == text}
        given = {k: WEIGHTS[i] * d for k, d in own.items()}
        size = math.sqrt(sum(float((d**2).sum()) for d in given.values()))
        planned = 0.0
        for key, delta in own.items():
            weight = plan[key].decision.weights[plan[key].owners.index(i)]
            planned += weight**2 * float((delta**2).sum())
        along = sum(float((d * written[key]).sum()) for key, d in given.items())
        assert one["given"] == pytest.approx(size)
        assert one["planned"] == pytest.approx(math.sqrt(planned))
        assert one["kept"] == pytest.approx(along / size, rel=1e-4)


def test_blocks_are_all_groups_in_order(case: Case) -> None:
    blocks = case.found["blocks"]
    names = [block["name"] for block in blocks]
    assert names == sorted(set(names), key=names.index)
    assert sum(block["groups"] for block in blocks) == len(modules()) == len(case.found["groups"])
    assert [row["block"] for row in case.found["groups"]] == sorted(
        row["block"] for row in case.found["groups"]
    )
    assert names.index("text_encoder.text_model.encoder.layers.2") == len(names) - 2
    assert names[-1].endswith("layers.10")
    for i in range(3):
        assert sum(block["energy"][i] or 0 for block in blocks) == pytest.approx(1)


def test_blocks_hold_what_was_planted(case: Case) -> None:
    """Weights of +, +, -: the third of the pair is turned, the first two are as planted."""
    deltas = case.stack.deltas
    for block in case.found["blocks"]:
        keys = [
            r["target"] for r in case.found["groups"] if naming.fine(r["target"]) == block["name"]
        ]
        assert len(keys) == block["groups"]
        if block["shared"] == 0:
            assert not block["extremes"]
            continue
        cosines = {}
        for pair in block["pairs"]:
            i, j = pair["first"], pair["second"]
            sums = np.zeros(3)
            for key in keys:
                if key in deltas[i] and key in deltas[j]:
                    a, b = WEIGHTS[i] * deltas[i][key], WEIGHTS[j] * deltas[j][key]
                    sums += [(a * b).sum(), (a * a).sum(), (b * b).sum()]
            cosines[i, j] = sums[0] / math.sqrt(sums[1] * sums[2])
            assert pair["cosine"] == pytest.approx(cosines[i, j])
        most = max(cosines, key=lambda two: abs(cosines[two]))
        extreme = block["extremes"]["cosine"]
        assert (extreme["first"], extreme["second"]) == most
        if cosine_of(block["name"]):
            assert most == (0, 1)
            assert np.sign(extreme["value"]) == np.sign(cosine_of(block["name"]))


def test_methods_and_choices(case: Case) -> None:
    assert [(m["method"], m["letter"]) for m in case.found["methods"]] == [
        ("linear", "L"), ("slerp", "S"), ("knots(ties)", "N"),
    ]  # fmt: skip
    assert sum(m["groups"] for m in case.found["methods"]) == len(modules())
    assert sum(m["alone"] for m in case.found["methods"]) == 1
    by_name = {block["name"]: block["choice"] for block in case.found["blocks"]}
    mixed = by_name["unet.down_blocks.1.attentions.0.transformer_blocks.0"]
    assert mixed == {
        "method": "linear", "letter": "L", "mixed": True, "counts": {"linear": 2, "knots(ties)": 1},
    }  # fmt: skip
    alone = by_name["unet"]
    assert alone is not None
    assert alone["counts"] == {"linear": 1}


def test_result(case: Case) -> None:
    rows = {row.target: row for row in case.merged.log}
    for group in case.found["groups"]:
        assert (group["rank"], group["error"]) == (
            rows[group["target"]].rank, rows[group["target"]].error,
        )  # fmt: skip
    loss = case.found["certificate"]
    assert loss is not None
    assert loss["relative"] == case.merged.error > 0.01
    errors = sorted(row.error for row in case.merged.log)
    assert loss["exact"] + sum(one["count"] for one in loss["bins"]) == len(errors)
    assert [one["error"] for one in loss["worst"]] == errors[:-11:-1]
    for one in loss["bins"]:
        assert one["count"] == sum(one["low"] <= e < one["high"] for e in errors)
    assert [one["letter"] for one in case.found["became"]] == ["A", "B", "C"]
    assert case.found["recipe"] == RECIPE
    assert case.found["strengths"].keys() == {"model", "text_encoder"}


def test_bins() -> None:
    found = bins([1e-3, 2e-3, 4e-3, 0.05])
    assert [one["count"] for one in found] == [2, 1, 0, 1]
    assert found[0]["low"] == pytest.approx(1e-3)
    assert found[-1]["high"] == pytest.approx(0.1)
    assert bins([]) == []


def test_words(case: Case) -> None:
    verdict, warnings = case.found["verdict"], case.found["warnings"]
    assert verdict.startswith(
        "A and B are opposed in some blocks and alike in others; linear merges"
    )
    assert warnings[0] == "a note of <the> policy"
    assert any(f"{NAMES[0]} and {NAMES[1]}: differ by block" in line for line in warnings)
    assert any("the file differs from what was meant" in line for line in warnings)


def test_one_loud_adapter_is_noted(case: Case) -> None:
    stack = case.stack
    found = overview(stack.adapters, (1.0, 9.0, 1.0), stack.analysis)
    assert any("times as strong as" in line for line in found["warnings"])
    assert (found["methods"], found["became"], found["certificate"]) == ([], [], None)
    assert all(group["method"] is None and group["planned"] == [] for group in found["groups"])


def test_inner_products_only_and_nothing_at_all(case: Case) -> None:
    stack = case.stack
    groups = stack.analysis.groups
    grams = Analysis(tuple(replace(g, pairs=(), deltas=()) for g in groups))
    found = overview(stack.adapters, WEIGHTS, grams)
    assert all(pair["cosine"] is not None and pair["excess"] is None for pair in found["pairs"])
    nothing = Analysis(tuple(replace(g, gram=np.nan * g.gram, pairs=()) for g in groups))
    bare = overview(stack.adapters, WEIGHTS, nothing)
    assert bare["compatibility"] is None
    assert all(pair["cosine"] is None for pair in bare["pairs"])
    assert all(one["norm"] is None for one in bare["adapters"])
    json.dumps(bare, allow_nan=False)


def test_one_adapter(case: Case) -> None:
    stack: Planted = case.stack
    groups = tuple(
        replace(g, owners=(0,), gram=g.gram[:1, :1], pairs=()) for g in stack.analysis.groups
    )
    found = overview(stack.adapters[:1], (1.0,), Analysis(groups))
    assert (found["pairs"], found["compatibility"], found["shared"]) == ([], None, 0)
    assert found["verdict"] == f"1 adapter of {len(groups)} targets."


@pytest.mark.parametrize("name", LAYOUTS)
def test_blocks_of_known_models(name: str) -> None:
    keys = [f"{m.component}.{m.name}" for m in load_layout(name).modules]
    blocks = naming.blocks_of(keys)
    assert set(blocks) == set(keys)
    assert len(set(blocks.values())) <= naming.MOST_BLOCKS
    assert all(key.startswith(block) for key, block in blocks.items())
    sections = list(dict.fromkeys(naming.section(block) for block in blocks.values()))
    assert len(sections) < 16
    assert [s.startswith("text_encoder") for s in sections] == sorted(
        s.startswith("text_encoder") for s in sections
    )
    if name == "flux1":
        double = sections.index("transformer.transformer_blocks")
        assert double < sections.index("transformer.single_transformer_blocks")


def test_names() -> None:
    key = "unet.down_blocks.1.attentions.0.transformer_blocks.3.attn1.to_out.0"
    assert naming.coarse(key) == "unet.down_blocks.1"
    assert naming.fine(key) == "unet.down_blocks.1.attentions.0.transformer_blocks.3"
    assert naming.section(naming.fine(key)) == "unet.down_blocks.1"
    assert naming.brief(naming.fine(key)) == "unet.down_blocks.1.attentions.0.3"
    assert naming.fine("unet.mid_block.attentions.0.proj_in") == "unet.mid_block.attentions.0"
    assert naming.section("unet.mid_block.attentions.0") == "unet.mid_block"
    assert naming.section("text_encoder.encoder.layers.3") == "text_encoder.encoder.layers"
    assert naming.fine("unet.time_embedding.linear_1") == "unet.time_embedding"
    assert naming.fine("conv_in") == "conv_in"
    assert naming.letters(28)[25:] == ["Z", "AA", "AB"]
    many = naming.blocks_of(f"model.layers.{i}.parts.{k}.q" for i in range(90) for k in range(2))
    assert set(many.values()) == {f"model.layers.{i}" for i in range(90)}


def test_every_method_has_a_letter_of_its_own() -> None:
    names = [naming.method_name(method_of(name)) for name in METHODS]
    names += [naming.method_name(method_of(x)) for x in ("knots(ties)", "core(ties)")]
    names.append(naming.method_name(method_of("ties", sparsify="dare")))
    assert names[-1] == "dare + ties"
    found = naming.method_letters(names[: len("ABCDEFGHIJKLMNOPQRSTUVWXYZ")])
    assert len(set(found.values())) == len(found) == 26
    assert naming.method_letters([*names, "one", "more"])["more"] in {
        *"ABCDEFGHIJKLMNOPQRSTUVWXYZ*"
    }
