"""Plans as files: what is written is what is done, edited or not, and nothing else is believed."""

import json
import re
import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from entries.test_fused import flux
from formats.builders import kohya
from helpers import pairs, relative, write_adapter

import loramix
from loramix import LoramixError, Output, execute, load_plan, merge, plan, save_plan

MODULES = {
    "unet.a.to_q": (24, 20), "unet.a.to_k": (24, 20), "text_encoder.b.fc1": (16, 12),
}  # fmt: skip
PEFT = {"peft_type": "LORA", "r": 3, "lora_alpha": 6}


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    return [
        write_adapter(tmp_path / f"{name}.safetensors", pairs(seed, 3, modules=MODULES))
        for seed, name in enumerate(("style", "face", "hat"))
    ]


@pytest.mark.parametrize("suffix", ["toml", "json"])
@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("auto", {}),
        ("published", {}),
        ("linear", {"auto_strength": True, "floor": 0.9}),
        ("ties:density=0.3", {"sparsify": "dare:density=0.5", "seed": 11}),
        ("core(tall)", {"refine": "refine"}),
        ("iso-c", {"output": Output(rank=4, dtype="bf16", dialect="peft")}),
        ("published:mode=additive", {"sparsify": "breadcrumbs"}),
    ],
)
def test_a_stored_plan_does_the_same(
    method: str, options: dict[str, Any], suffix: str, files: list[Path], tmp_path: Path
) -> None:
    if "output" in options:  # the PEFT dialect holds one component
        files = [
            write_adapter(tmp_path / f"m{i}.safetensors", pairs(i, 3, modules={"unet.x": (24, 20)}))
            for i in range(2)
        ]
    weights = [0.8, {"*to_q": -0.5, "*": 1.0}, 0.3][: len(files)]
    made = plan(files, method, weights=weights, **options)
    stored = save_plan(made, tmp_path / f"plan.{suffix}")
    again = load_plan(stored)
    assert again.digest() == made.digest()
    assert again.strengths == made.strengths
    assert [c.asked for c in again.choices] == [c.asked for c in made.choices]
    paths = [tmp_path / name for name in ("direct", "stored")]
    for path, one in zip(paths, (made, again), strict=True):
        execute(one, path)
    assert bytes_of(paths[0]) == bytes_of(paths[1])


def bytes_of(path: Path) -> dict[str, bytes]:
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    return {file.name if path.is_dir() else "": file.read_bytes() for file in files}


def test_fused_weights_are_planned_as_they_are_merged(tmp_path: Path) -> None:
    paths = [flux(tmp_path, f"{i}.safetensors", kohya, 40 * i) for i in range(2)]
    for method, split in (("linear", False), ("auto", True)):
        made = plan(paths, method, architecture="flux1")
        assert made.split == split
        again = load_plan(save_plan(made, tmp_path / f"{method}.toml"))
        assert again.digest() == made.digest()
        assert len(again.choices) == (3 if split else 1)


def test_sources_move_with_their_plan(files: list[Path], tmp_path: Path) -> None:
    save_plan(plan(files, "linear"), tmp_path / "plan.toml")
    moved = shutil.copytree(tmp_path, tmp_path.parent / f"{tmp_path.name}-moved")
    assert load_plan(moved / "plan.toml").adapters[0].source.path == moved / "style.safetensors"


def test_a_folder_is_named_with_its_config(tmp_path: Path) -> None:
    modules = {"unet.x": (24, 20)}
    folder = write_adapter(tmp_path / "a", pairs(1, 3, modules=modules), "peft", config=PEFT)
    made = plan([folder], "linear")
    stored = save_plan(made, tmp_path / "plan.toml")
    again = load_plan(stored)
    assert again.adapters[0].targets.keys() == made.adapters[0].targets.keys()
    assert [f.scale for f in again.adapters[0].targets.values()] == [2.0]


def edited(files: list[Path], tmp_path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """A JSON plan with something changed."""
    stored = save_plan(plan(files, "linear", output=Output(dtype="f32")), tmp_path / "plan.json")
    tables = json.loads(stored.read_text())
    change(tables)
    stored.write_text(json.dumps(tables))
    return stored


def test_a_group_can_be_edited(files: list[Path], tmp_path: Path) -> None:
    def change(tables: dict[str, Any]) -> None:
        (row,) = (one for one in tables["group"] if one["target"].endswith("to_q"))
        row["method"] = {"name": "ties", "density": 0.4}
        row["weights"] = [1.0, 0.5, 0.0]
        row["rank"] = 20

    merged = execute(load_plan(edited(files, tmp_path, change)))
    adapters = [loramix.load(path) for path in files]

    def dense(adapter: Any, name: str) -> Any:
        return next(
            loramix.expand(target, [f]) for target, f in adapter.targets.items()
            if target.key.endswith(name)
        )  # fmt: skip

    first, second = (dense(one, "to_q") for one in adapters[:2])
    expected = loramix.combine([first, second], "ties:density=0.4", weights=[1.0, 0.5])
    assert relative(dense(merged.adapter, "to_q"), expected) < 1e-5
    plain = dense(merge(files, "linear", output=Output(dtype="f32")).adapter, "to_k")
    assert relative(dense(merged.adapter, "to_k"), plain) < 1e-6


def row(tables: dict[str, Any], **values: object) -> None:
    tables["group"][0].update(values)


REFUSALS: list[tuple[Callable[[dict[str, Any]], object], str]] = [
    (lambda t: t.pop("group"), r"there is no group"),
    (lambda t: t.update(plan=2), r"a plan of format 2; this version reads 1"),
    (lambda t: t.update(seeds=1), r"unknown key 'seeds' \(did you mean seed\?\)"),
    (lambda t: t["group"].append(t["group"][0]), r"group 4: text_encoder.b.fc1 is there twice"),
    (lambda t: t["group"].pop(), r"there is no group unet.a.to_q, which the adapters have"),
    (
        lambda t: row(t, target="text_encoder.b.fc2"),
        r"group text_encoder.b.fc2: no adapter has this target \(did you mean text_encoder.b.fc1",
    ),
    (lambda t: row(t, method={"name": "tis"}), r"group 1: method: method 'tis' .did you mean ties"),
    (lambda t: row(t, weights=[1.0]), r"group 1: weights = \[1.0\]: allowed is 3 numbers"),
    (lambda t: row(t, weights=[1.0, "x", 2]), r"weights = \"x\": allowed is a finite number"),
    (lambda t: row(t, members=["style"]), r"members = .*allowed is the adapters that have it"),
    (lambda t: row(t, sides=["all", "low"]), r"sides = .*one of all, around, high, low for each"),
    (lambda t: row(t, rank=0), r"group 1: rank = 0: allowed is at least 1"),
    (lambda t: row(t, weight=[1, 2, 3]), r"unknown key 'weight' \(did you mean weights\?\)"),
    (lambda t: t["output"].update(rank=0), r"output: rank = 0: allowed is an integer of at least"),
    (lambda t: t["adapter"][0].update(digest="0"), r"not the file that the plan was made for"),
    (lambda t: t["adapter"][0].pop("weight"), r"adapter 1: there is no weight"),
]


@pytest.mark.parametrize(("change", "message"), REFUSALS)
def test_refusals(
    change: Callable[[dict[str, Any]], object], message: str, files: list[Path], tmp_path: Path
) -> None:
    stored = edited(files, tmp_path, change)
    with pytest.raises(LoramixError, match=message) as caught:
        load_plan(stored)
    assert str(stored) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("plan.toml", "plan = ", "not TOML"),
        ("plan.json", "[1]", "expected an object"),
        ("plan.json", "{", "not JSON"),
        ("plan.toml", "\udc80", "not UTF-8 text"),
    ],
)
def test_what_is_no_plan(name: str, text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(LoramixError, match=re.escape(message)):
        load_plan(tmp_path / name)


def test_an_adapter_in_memory_has_no_plan_file(files: list[Path], tmp_path: Path) -> None:
    adapter = merge(files, "linear").adapter
    with pytest.raises(LoramixError, match="merged is in memory: save it first"):
        save_plan(plan([adapter], "linear"), tmp_path / "plan.toml")
    assert not (tmp_path / "plan.toml").exists()


def test_a_plan_says_what_will_be_made(files: list[Path], tmp_path: Path) -> None:
    stored = save_plan(plan(files, "ties", output=Output(rank=5)), tmp_path / "plan.toml")
    tables = tomllib.loads(stored.read_text())
    for one in tables["group"]:
        assert one["members"] == ["style", "face", "hat"]
        rows, cols = one["made"]["shape"]
        assert one["made"]["rank"] == 5
        assert one["made"]["as"] == "entries"
        assert one["made"]["bytes"] == (rows + cols) * 5 * 4 + rows * cols * 4
