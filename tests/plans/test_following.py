"""Recipes are followed: weights, rules, filters, policies, all of it from a file."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import pairs, relative, write_adapter

import loramix
from loramix import LoramixError, Output, Recipe, execute, follow, load, merge
from loramix.recipes.reading import parse

MODULES = {"unet.a.to_q": (24, 20), "unet.a.to_k": (24, 20), "text_encoder.b.fc1": (16, 12)}
RANK = 24  # exact, for any method on these


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for seed, name in enumerate(("style", "face")):
        write_adapter(tmp_path / f"{name}.safetensors", pairs(seed, 3, modules=MODULES))
    own = {name: MODULES[name] for name in ("unet.a.to_q",)}
    write_adapter(tmp_path / "hat.safetensors", pairs(7, 3, modules=own))
    return tmp_path


def dense(source: Any) -> dict[str, Any]:
    adapter = load(source) if isinstance(source, Path) else source
    return {t.key: loramix.expand(t, [f]) for t, f in adapter.targets.items()}


def told(folder: Path, text: str) -> dict[str, Any]:
    (folder / "recipe.toml").write_text(text)
    return dense(execute(follow(folder / "recipe.toml")).adapter)


TWO = """
[[adapter]]
path = "style.safetensors"
weight = 0.8
[[adapter]]
path = "face.safetensors"
weight = { "*to_q" = -0.5, "*" = 0.6 }
[output]
rank = 24
dtype = "f32"
"""


def test_a_method_with_weights(folder: Path) -> None:
    got = told(folder, 'method = "ties:density=0.4"\n' + TWO)
    first, second = (dense(folder / f"{name}.safetensors") for name in ("style", "face"))
    for key, delta in got.items():
        weight = -0.5 if key.endswith("to_q") else 0.6
        own = [first[key], second[key]]
        expected = loramix.combine(own, "ties:density=0.4", weights=[0.8, weight])
        assert relative(delta, expected) < 1e-5


def test_the_first_rule_of_each_property_wins(folder: Path) -> None:
    rules = """
[[rule]]
target = "*to_q"
method = "slerp"
rank = 2
[[rule]]
target = "unet*"
method = { name = "ties", density = 0.5 }
weight = { face = 2 }
"""
    got = told(folder, 'method = "linear"\n' + TWO + rules)
    first, second = (dense(folder / f"{name}.safetensors") for name in ("style", "face"))
    for key, method, weight in (
        ("unet.a.to_k", "ties:density=0.5", 1.2),
        ("text_encoder.b.fc1", "linear", 0.6),
    ):
        expected = loramix.combine([first[key], second[key]], method, weights=[0.8, weight])
        assert relative(got[key], expected) < 1e-5, key
    slerp = loramix.combine(
        [first["unet.a.to_q"], second["unet.a.to_q"]], "slerp", weights=[0.8, -1.0]
    )
    values = np.linalg.svd(slerp, compute_uv=False)
    gap = relative(got["unet.a.to_q"], slerp)
    assert gap == pytest.approx(np.sqrt((values[2:] ** 2).sum() / (values**2).sum()), rel=1e-3)
    assert np.linalg.matrix_rank(got["unet.a.to_q"], tol=1e-4) == 2


def test_rules_are_in_the_plan(folder: Path) -> None:
    rule = '[[rule]]\ntarget = "text_encoder*"\nmethod = "average"\n'
    (folder / "recipe.toml").write_text(TWO + rule)
    plan = follow(folder / "recipe.toml")
    assert plan.method["name"] == "auto"
    by_key = {choice.target.key: choice.decision for choice in plan.choices}
    assert by_key["text_encoder.b.fc1"].method.name == "average"
    assert by_key["text_encoder.b.fc1"].why == "rule 1"
    assert by_key["unet.a.to_q"].regime != "rule"


def test_rules_from_python(folder: Path) -> None:
    paths = [folder / f"{name}.safetensors" for name in ("style", "face")]
    rule = loramix.Rule(target="*to_k", weight=0.0)
    merged = merge(paths, "linear", rules=[rule], output=Output(dtype="f32"))
    got = dense(merged.adapter)
    assert float(np.abs(got["unet.a.to_k"]).max()) == 0.0
    plain = dense(merge(paths, "linear", output=Output(dtype="f32")).adapter)
    assert relative(got["unet.a.to_q"], plain["unet.a.to_q"]) == 0.0


THREE = """
[[adapter]]
path = "style.safetensors"
[[adapter]]
path = "face.safetensors"
key_filter = "{face}"
[[adapter]]
path = "hat.safetensors"
key_filter = "{hat}"
[output]
dtype = "f32"
"""


@pytest.mark.parametrize("policy", ['method = "linear"', 'policy = "published:mode=additive"'])
@pytest.mark.parametrize(
    ("face", "hat", "here"),
    [
        ("all", "all", {"unet.a.to_q": (0, 1, 2), "unet.a.to_k": (0, 1)}),
        ("shared_only", "unique_only", {"unet.a.to_q": (0, 1), "unet.a.to_k": (0, 1)}),
        ("unique_only", "shared_only", {"unet.a.to_q": (0, 2), "unet.a.to_k": (0,)}),
    ],
)
def test_key_filters(
    face: str, hat: str, here: dict[str, tuple[int, ...]], policy: str, folder: Path
) -> None:
    got = told(folder, f"{policy}\n{THREE.format(face=face, hat=hat)}")
    each = [dense(folder / f"{name}.safetensors") for name in ("style", "face", "hat")]
    for key, owners in here.items():
        expected = sum(each[owner][key] for owner in owners)
        cosine = float((got[key] * expected).sum())
        cosine /= float(np.linalg.norm(got[key]) * np.linalg.norm(expected))
        assert cosine == pytest.approx(1.0, abs=1e-6), key  # the policy scales a branch


def test_blocks_multiply_weights(tmp_path: Path) -> None:
    modules = {
        "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q": (320, 320),
        "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q": (1280, 1280),
        "text_encoder.text_model.encoder.layers.0.self_attn.q_proj": (768, 768),
    }
    path = write_adapter(tmp_path / "sd.safetensors", pairs(3, 2, modules=modules))
    numbers = ["0.5"] + ["1"] * 16
    numbers[7] = "0.25"  # MID
    text = f'method = "linear"\n[[adapter]]\npath = "{path}"\nblocks = "{",".join(numbers)}"\n'
    recipe = parse(text + '[output]\ndtype = "f32"\n')
    assert isinstance(recipe, Recipe)
    got, own = dense(execute(follow(recipe)).adapter), dense(load(path))
    for (key, delta), factor in zip(sorted(got.items()), (0.5, 1.0, 0.25), strict=True):
        assert relative(delta, factor * own[key]) < 1e-6, key


def test_weights_that_reach_no_target_are_refused(folder: Path) -> None:
    """The count of the numbers names a model; of an unknown one its blocks may match nothing."""
    numbers = ",".join(["0.5"] * 17)
    text = '[[adapter]]\npath = "hat.safetensors"\n'
    with pytest.raises(LoramixError, match=r"hat.*: blocks: 17 numbers .* of sd15, and none of"):
        told(folder, f'{text}blocks = "{numbers}"\n')
    with pytest.raises(LoramixError, match=r"weight of hat: '.to_w' matches none of its 1 target"):
        told(folder, text + 'weight = { "*to_w" = 0.5 }\n')
    told(folder, text + 'weight = { "*to_w" = 0.5, "*to_q" = 0.5 }\n')


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[[rule]]\ntarget = "*to_w"\nweight = 0\n', r"rule 1: target '.to_w' matches none of 3"),
        ('[[rule]]\ntarget = "*"\nspace = "core"\nmethod = "iso-c"\n', r"iso-c works on the fact"),
    ],
)
def test_refusals(text: str, message: str, folder: Path) -> None:
    with pytest.raises(LoramixError, match=message):
        told(folder, TWO + text)


def test_the_recipe_of_a_merge_makes_it_again(folder: Path) -> None:
    paths = [folder / f"{name}.safetensors" for name in ("style", "face")]
    rules = [loramix.Rule(target="*to_k", method=loramix.METHODS["slerp"]())]
    options: dict[str, Any] = {"weights": [0.8, {"*to_q": -1.0}], "rules": rules, "seed": 3}
    for method in ("auto:margin=0.03", "published:floor=1", "core(ties)", "dare"):
        plan = loramix.plan(paths, method, **options)
        again = follow(parse(plan.recipe, folder=folder))
        assert again.digest() == plan.digest(), method
        assert again.recipe == plan.recipe


@pytest.mark.parametrize("policy", ['policy = "published:mode=additive"', 'method = "slerp"'])
@pytest.mark.parametrize(("first", "second"), [("low", "all"), ("high", "low"), ("all", "high")])
def test_conflict_modes(first: str, second: str, policy: str, folder: Path) -> None:
    """What is left of a delta by the vote of signs is what the method gets."""
    text = f"""
{policy}
[[adapter]]
path = "style.safetensors"
conflict_mode = "{first}"
[[adapter]]
path = "face.safetensors"
weight = -0.5
conflict_mode = "{second}"
[output]
rank = 24
dtype = "f32"
"""
    got = told(folder, text)
    weights = np.array([1.0, -0.5])
    deltas = [dense(folder / f"{name}.safetensors") for name in ("style", "face")]
    for key, delta in got.items():
        own = np.stack([one[key].astype(np.float64) for one in deltas])
        signed = np.sign(weights)[:, None, None] * own
        votes = np.sign(signed).sum(axis=0)
        mass = (weights[:, None, None] * own).sum(axis=0)
        published = "published" in policy
        draw = 1.0 if published else np.sign(mass)
        winner = np.where(votes != 0, np.sign(votes), draw)
        kept = []
        for mode, one, sign in zip((first, second), own, signed, strict=True):
            agrees = sign * winner > 0
            kept.append(one if mode == "all" else np.where(agrees == (mode == "low"), one, 0.0))
        method = "linear" if published else "slerp"
        expected = loramix.combine(
            [one.astype(np.float32) for one in kept], method, weights=weights
        )
        ratio = float((delta * expected).sum() / (expected**2).sum())  # the policy's own strength
        assert published or ratio == pytest.approx(1, rel=1e-4)
        assert relative(delta, ratio * expected) < 1e-4, key


@pytest.mark.parametrize("policy", ['method = "linear"', 'policy = "auto"', 'policy = "published"'])
def test_filters_hold_where_a_rule_has_a_method(policy: str, folder: Path) -> None:
    rule = '[[rule]]\ntarget = "*to_q"\nmethod = "average"\n'
    got = told(folder, f"{policy}\n{THREE.format(face='unique_only', hat='all')}{rule}")
    first, hat = (dense(folder / f"{name}.safetensors") for name in ("style", "hat"))
    key = "unet.a.to_q"
    assert relative(got[key], (first[key] + hat[key]) / 2) < 1e-5


def test_the_recipe_names_folders_and_what_was_left_out(tmp_path: Path) -> None:
    modules = {"unet.x": (24, 20), "unet.y": (24, 20)}
    config = {"peft_type": "LORA", "r": 3, "lora_alpha": 6}
    paths = [
        write_adapter(tmp_path / name, pairs(i, 3, modules=modules), "peft", config=config)
        for i, name in enumerate(("style", "face"))
    ]
    plan = loramix.plan(paths, "ortho", skip=["*.y.*"])
    again = follow(parse(plan.recipe))
    assert [adapter.name for adapter in again.adapters] == ["style", "face"]
    assert again.digest() == plan.digest()
    assert [choice.target.key for choice in again.choices] == ["x"]
