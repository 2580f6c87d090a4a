"""Commands that decide: analyze, plan, compat; merges from recipes and plans."""

import json
import shlex
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from cli.program import Outcome, write_safetensors

Run = Callable[..., Outcome]
pytestmark = pytest.mark.usefixtures("folder")
OUT = ("-o", "out.safetensors")


def test_the_default_policy_says_what_it_chose(run: Run) -> None:
    done = run("merge", "a.safetensors:0.8", "b.safetensors", *OUT)
    assert (done.code, done.err) == (0, "")
    lines = dict(line.split(maxsplit=1) for line in done.out.splitlines() if line)
    assert lines["method"] == "auto"
    assert lines["chosen"] == "4 linear"
    found = run("merge", "a.safetensors", "b.safetensors", *OUT, "-m", "published:floor=1")
    assert "published, floor 1.0" in found.out


def test_analyze(run: Run) -> None:
    done = run("analyze", "a.safetensors:0.8", "b.safetensors", "-o", "found.json")
    assert (done.code, done.err) == (0, "")
    assert max(map(len, done.out.splitlines())) <= 80
    assert "AB" in done.out
    stored = json.loads(Path("found.json").read_text())
    assert len(stored["groups"]) == 4
    told = run("analyze", "a.safetensors", "b.safetensors", "--exact", "--json")
    found = json.loads(told.out)
    assert [one["name"] for one in found["adapters"]] == ["a", "b"]
    assert len(found["groups"]) == 4


def test_an_analysis_is_used_again(run: Run) -> None:
    assert run("analyze", "a.safetensors", "b.safetensors", "-o", "found.json").code == 0
    given = ("--analysis", "found.json")
    one = run("merge", "a.safetensors", "b.safetensors", *given, "-o", "one.safetensors")
    assert (one.code, one.err) == (0, "")
    assert run("merge", "a.safetensors", "b.safetensors", "-o", "two.safetensors").code == 0
    assert Path("one.safetensors").read_bytes() == Path("two.safetensors").read_bytes()
    other = run("merge", "b.safetensors", "a.safetensors", *given, *OUT)
    assert other.code == 1
    assert other.err.startswith("error: found.json: ")
    assert not Path("out.safetensors").exists()


@pytest.mark.parametrize("name", ["plan.toml", "plan.json"])
def test_a_plan_is_carried_out(run: Run, name: str) -> None:
    done = run("plan", "a.safetensors:0.8", "b.safetensors:1:0.5", "-o", name, "--rank", "3")
    assert (done.code, done.err) == (0, "")
    assert max(map(len, done.out.splitlines())) <= 80
    assert f"loramix merge --plan {name}" in done.out
    assert not Path("out.safetensors").exists()
    assert run("merge", "--plan", name, "-o", "one.safetensors").code == 0
    direct = ("a.safetensors:0.8", "b.safetensors:1:0.5", "--rank", "3")
    assert run("merge", *direct, "-o", "two.safetensors").code == 0
    assert Path("one.safetensors").read_bytes() == Path("two.safetensors").read_bytes()


def test_a_plan_as_json(run: Run) -> None:
    found = json.loads(run("plan", "a.safetensors", "b.safetensors", "--json").out)
    assert [one["regime"] for one in found["group"]] == ["independent"] * 4
    assert all(one["why"] and one["numbers"] for one in found["group"])


RECIPE = """
method = "ties:density=0.5"
[[adapter]]
path = "a.safetensors"
weight = 0.8
[[adapter]]
path = "b.safetensors"
[[rule]]
target = "text_encoder*"
weight = 0
[output]
rank = 4
"""


def test_a_recipe_is_followed(run: Run) -> None:
    Path("stack.toml").write_text(RECIPE)
    assert run("plan", "--recipe", "stack.toml", "-o", "plan.toml").code == 0
    rows = tomllib.loads(Path("plan.toml").read_text())["group"]
    assert [row["weights"] for row in rows] == [[0.0, 0.0], *[[0.8, 1.0]] * 3]
    done = run("merge", "--recipe", "stack.toml", *OUT)
    assert (done.code, done.err) == (0, "")
    assert "ties, density 0.5" in done.out


def test_block_weights_on_the_command_line(run: Run) -> None:
    blocks = ",".join(["1"] * 7 + ["0.5"] + ["1"] * 9)
    done = run("plan", f"a.safetensors:0.8:lbw={blocks}", "--json", "-m", "linear")
    rows = json.loads(done.out)["group"]
    assert [row["weights"] for row in rows] == [[0.8], *[[0.4]] * 3]
    short = run("plan", "a.safetensors:lbw=1,0,1")
    assert (short.code, short.err) == (
        2,
        "error: a.safetensors: blocks: 3 numbers; sd15 takes 17 or 26\n",
    )


def test_the_command_of_a_plan_works_as_it_is(run: Run) -> None:
    """A PEFT adapter is a folder: the command that is shown, and stored, names one."""
    strange = {"encoder.q.lora_A.weight": (2, 8), "encoder.q.lora_B.weight": (8, 2)}
    tensors = {f"base_model.model.{k}": np.ones(v, np.float32) for k, v in strange.items()}
    write_safetensors(Path("peft.safetensors"), tensors, {})
    for source, place in (("peft.safetensors", "OUT"), ("a.safetensors", "OUT.safetensors")):
        shown = " ".join(run("plan", source, "-o", "my plan.toml").out.split())
        stored = Path("my plan.toml").read_text(encoding="utf-8")
        command = ("merge", "--plan", "my plan.toml", "-o", place)
        assert shlex.join(("loramix", *command)) in shown
        assert f"-o {place}\n" in stored
        assert run(*command).code == 0


@pytest.mark.parametrize("command", ["plan", "analyze"])
def test_block_weights_that_reach_nothing_are_refused(run: Run, command: str) -> None:
    """12 numbers are for SDXL; the adapter's model is unknown, and has no such blocks."""
    strange = {"encoder.q.lora_A.weight": (2, 8), "encoder.q.lora_B.weight": (8, 2)}
    tensors = {name: np.ones(shape, np.float32) for name, shape in strange.items()}
    write_safetensors(Path("llm.safetensors"), tensors, {})
    done = run(command, "llm.safetensors:lbw=1,1,1,1,1,1,1,1,0.5,0,0,0")
    assert (done.code, done.out) == (2, "")
    assert "12 numbers for the blocks of sdxl, and none of the adapter's 1 targets" in done.err


@pytest.mark.parametrize("command", ["analyze", "plan"])
def test_places_that_cannot_be_written(run: Run, command: str) -> None:
    Path("there").mkdir()
    for place, message in (("there", "is a folder"), ("nowhere/x", "does not exist; create it")):
        done = run(command, "a.safetensors", "b.safetensors", "-o", place)
        assert done.code == 1
        assert done.err.startswith("error: ")
        assert message in done.err


def test_a_plan_is_no_recipe(run: Run) -> None:
    assert run("plan", "a.safetensors", "-o", "plan.toml").code == 0
    done = run("merge", "--recipe", "plan.toml", *OUT)
    assert (done.code, done.err) == (2, "error: plan.toml is a plan: give it as --plan\n")


def test_compat(run: Run) -> None:
    done = run("compat", "a.safetensors", "b.safetensors", "noted.safetensors")
    assert (done.code, done.err) == (0, "")
    assert max(map(len, done.out.splitlines())) <= 80
    found = json.loads(run("compat", "a.safetensors", "b.safetensors", "--json").out)
    assert [pair["kind"] for pair in found["pairs"]] == ["independent"]


@pytest.mark.parametrize(
    "args",
    [
        ("merge", "a.safetensors", "b.safetensors", *OUT),
        ("plan", "a.safetensors", "b.safetensors"),
        ("analyze", "a.safetensors", "b.safetensors"),
        ("compat", "a.safetensors", "b.safetensors"),
    ],
)
def test_pages(run: Run, args: Sequence[str]) -> None:
    assert run(*args, "--html", "page.html").code == 0
    text = Path("page.html").read_text()
    assert text.startswith("<!doctype html>")
    assert "://" not in text.replace("http://www.w3.org", "")
    assert run(*args, "--html", "nowhere/page.html").code == 1


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("merge", *OUT), "no adapters: name files, or --recipe, or --plan"),
        (
            ("merge", "--recipe", "x", "--plan", "y", *OUT),
            "--recipe and --plan both say everything",
        ),
        (
            ("merge", "a.safetensors", "--plan", "y", *OUT),
            "y says everything: leave out adapters, or change it in the file",
        ),
        (
            ("plan", "--recipe", "y", "--max-error", "0.1"),
            "y says everything: leave out --max-error, or change it in the file",
        ),
        (
            ("merge", "a.safetensors", *OUT, "--auto-strength"),
            "auto_strength and floor go with a method; the policy auto sees to the strength itself",
        ),
        (("analyze", "a.safetensors", "--exact", "--samples", "9"), "--exact looks at everything"),
        (("plan", "a.safetensors", "--samples", "0"), "samples = 0: at least 1"),
        (("analyze", "a.safetensors", "--samples", "0"), "samples = 0: at least 1"),
        (("merge", "a.safetensors", *OUT, "-m", "autoo"), "method 'autoo' (did you mean auto?)"),
        (("merge", "a.safetensors", *OUT, "-m", "auto:margn=1"), "auto: no parameter 'margn' (did"),
    ],
)
def test_usage_errors(run: Run, args: Sequence[str], message: str) -> None:
    done = run(*args)
    assert (done.code, done.out) == (2, "")
    assert message in done.err
    assert done.err.count("\n") == 1
    assert not Path("out.safetensors").exists()


def test_a_plan_shows_every_group_and_the_weights_that_were_resolved(run: Run) -> None:
    blocks = ",".join(["1"] * 7 + ["0.5"] + ["1"] * 9)
    rule = '[[rule]]\ntarget = "*to_v"\nmethod = "average"\nrank = 3\n'
    Path("stack.toml").write_text(
        '[[adapter]]\npath = "a.safetensors"\nweight = 0.8\n'
        f'blocks = "{blocks}"\n[[adapter]]\npath = "b.safetensors"\n{rule}'
    )
    done = run("plan", "--recipe", "stack.toml")
    assert (done.code, done.err) == (0, "")
    assert max(map(len, done.out.splitlines())) <= 80
    table = done.out.partition("weights of")[2]
    assert [line.split() for line in table.splitlines()[1:3]] == [
        ["unet.mid_block.attentions.0.0", "0.4", "1"],
        ["text_encoder.text_model.encoder.layers.0", "0.8", "1"],
    ]
    assert "rule 1     1 targets, such as" in done.out
    # Few groups are shown one by one; many on request.
    keys = [line.strip() for line in done.out.splitlines() if line.strip().endswith("attn2.to_v")]
    assert len(keys) == 1
    assert "average of A 0.4, B 1 (rule, rank 3, rust, " in done.out
    assert "\n    rule 1\n" in done.out


def test_a_merge_says_how_strongly_to_apply_it_and_what_weights_became(run: Run) -> None:
    blocks = ",".join(["1"] * 7 + ["0.5"] + ["1"] * 9)
    files = (f"a.safetensors:lbw={blocks}", "b.safetensors")
    done = run("merge", *files, *OUT, "-m", "published:mode=additive")
    assert (done.code, done.err) == (0, "")
    assert "strength   apply it at " in done.out
    assert "weights of" in done.out
    found = json.loads(run("merge", *files, *OUT, "--json").out)
    assert found["suggested"] is None
    assert len(found["stack"]["pairs"]) == 1
    assert found["stack"]["certificate"]["relative"] == found["error"]["relative"]
