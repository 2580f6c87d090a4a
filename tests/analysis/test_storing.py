"""An analysis of files: made, written, read back, refused."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import MODULES, pairs, write_adapter

import loramix
from loramix import FormatError, OutputError, ParamError
from loramix.analysis import storing
from loramix.analysis.statistics import Analysis

Edit = Callable[[dict[str, Any]], object]


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    modules = [MODULES, MODULES, dict(list(MODULES.items())[:2])]
    return [
        write_adapter(tmp_path / f"{i}.safetensors", pairs(i, 2 + i, modules=own))
        for i, own in enumerate(modules)
    ]


def equal(one: Analysis, other: Analysis) -> bool:
    same = one.samples == other.samples and one.key == other.key
    groups = zip(one.groups, other.groups, strict=True)
    return same and all(a == b and np.array_equal(a.gram, b.gram) for a, b in groups)


def origin(paths: list[Path], samples: int | None = 8) -> storing.Origin:
    return storing.origin_of([loramix.load(path) for path in paths], samples)


@pytest.mark.parametrize("exact", [False, True])
def test_what_is_written_is_read_back(paths: list[Path], tmp_path: Path, exact: bool) -> None:
    target = tmp_path / "analysis.json"
    seen: list[tuple[int, int]] = []
    found = loramix.analyze(
        paths, samples=8, exact=exact, path=target, progress=lambda *x: seen.append(x)
    )
    assert [group.target.key for group in found.groups] == sorted(MODULES)
    assert [len(g.pairs) for g in found.analysis.groups] == [3, 3, 1, 1]
    assert seen[-1] == (4, 4)
    samples = None if exact else 8
    assert found.analysis.samples == samples
    text = target.read_text()
    back = storing.from_json(text, target.name, origin(paths, samples))
    assert equal(found.analysis, back)
    assert back.key == origin(paths, samples).key
    assert storing.read_origin(text, target.name) == origin(paths, samples)
    assert list(tmp_path.glob(".*")) == []


def test_an_analysis_that_is_not_written_is_the_same(paths: list[Path], tmp_path: Path) -> None:
    written = loramix.analyze(paths, path=tmp_path / "x.json")
    assert equal(replace(written.analysis, key=""), loramix.analyze(paths).analysis)
    loaded = [loramix.load(path) for path in paths]
    assert equal(loramix.analyze(loaded, threads=1).analysis, loramix.analyze(paths).analysis)


def test_a_file_may_be_renamed(paths: list[Path], tmp_path: Path) -> None:
    before = origin(paths)
    assert before.key == origin([paths[0].rename(tmp_path / "other.safetensors"), *paths[1:]]).key


def changed(paths: list[Path], what: str) -> storing.Origin:
    """The origin of the same files after something changed."""
    old = origin(paths)
    first, *others = old.inputs
    match what:
        case "content":
            data = bytearray(paths[1].read_bytes())
            data[-1] ^= 1
            paths[1].write_bytes(data)
            new = origin(paths)
        case "order":
            new = origin(paths[::-1])
        case "count":
            new = origin(paths[:2])
        case "skip":
            last = loramix.load(paths[2], skip=["*blocks.0.ff*"])
            new = storing.origin_of([*map(loramix.load, paths[:2]), last], 8)
        case "samples":
            new = origin(paths, None)
        case "version":
            new = replace(old, version="9.9")
        case "statistics":
            new = replace(old, statistics=99)
        case _:
            value = True if what == "rslora" else "another"
            new = replace(old, inputs=(replace(first, **{what: value}), *others))
    return new


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("content", r"adapter 2 \(1\): its content is not that of 1"),
        ("order", "same adapters in another order"),
        ("count", "made of 3 adapters, given are 2"),
        ("skip", r"adapter 3 \(2\): it was read without 0 tensors, now without 2"),
        ("samples", "made from 8 samples, wanted are all entries"),
        ("version", "made by loramix .*, this is 9.9"),
        ("statistics", "made by statistics version 1, this is 99"),
        ("architecture", r"adapter 1 \(0\): it was read as one for None, now for another"),
        ("base", r"adapter 1 \(0\): it is relative to another base model now"),
        ("rslora", r"adapter 1 \(0\): it was read without --rslora"),
        ("config", r"adapter 1 \(0\): its adapter_config.json is another one"),
    ],
)
def test_whatever_differs_is_named(
    paths: list[Path], tmp_path: Path, what: str, words: str
) -> None:
    target = tmp_path / "analysis.json"
    loramix.analyze(paths, samples=8, path=target)
    expected = changed(paths, what)
    assert expected.key != storing.read_origin(target.read_text(), "x").key
    with pytest.raises(FormatError, match=f"analysis.json: .*{words}.*; make it again"):
        storing.from_json(target.read_text(), target.name, expected)


def test_scales_of_a_peft_folder_count(tmp_path: Path) -> None:
    config = {"r": 2, "lora_alpha": 4}
    folder = tmp_path / "peft"
    write_adapter(folder, pairs(0, 2), "peft", config=config)
    before = origin([folder])
    (folder / "adapter_config.json").write_text(json.dumps({**config, "lora_alpha": 8}))
    assert origin([folder]).key != before.key


def _drop(name: str) -> Edit:
    return lambda plain: plain["groups"][0].pop(name)


def _put(*path: Any, value: object) -> Edit:
    def edit(plain: Any) -> None:
        for step in path[:-1]:
            plain = plain[step]
        plain[path[-1]] = value

    return edit


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (_put("format", value="other"), "not an analysis of loramix"),
        (_put("key", value="0" * 64), "it was edited"),
        (_put("key", value=1), "key is missing or of the wrong type"),
        (_put("groups", value={}), "groups is missing or of the wrong type"),
        (_put("origin", "extra", value=1), "origin of the analysis cannot be read"),
        (_put("origin", value={}), "origin of the analysis cannot be read"),
        (_drop("gram"), "group 0 has not exactly the fields"),
        (_put("groups", 0, value=[]), "group 0 has not exactly the fields"),
        (_put("groups", 0, "target", value=3), "target that is no text"),
        (_put("groups", 0, "shape", value=[]), "has the shape"),
        (_put("groups", 0, "shape", value=[4, 2.5]), "shape holds something else than whole"),
        (_put("groups", 0, "owners", value=[0, 1, 7]), "owners .* in a stack of 3 adapters"),
        (_put("groups", 0, "owners", value=[0, 1]), "gram is no list of 4 numbers"),
        (_put("groups", 0, "gram", 2, value="x"), "gram holds something else than finite"),
        (_put("groups", 0, "gram", 2, value=True), "gram holds something else than finite"),
        (_put("groups", 0, "deltas", value=[]), "deltas is no list of 3"),
        (_put("groups", 0, "deltas", 1, value=[1]), "delta 1 has not 7 parts"),
        (_put("groups", 0, "deltas", 1, 6, value=[1.0]), "delta 1 is no list of 64 numbers"),
        (_put("groups", 0, "pairs", value=[]), "pairs is no list of 3"),
        (_put("groups", 0, "pairs", 0, 1, value=2), r"pair \(0, 1\) is of members 0 and 2"),
        (_put("groups", 0, "pairs", 0, 2, value=-1), r"pair \(0, 1\) holds something else"),
        (_put("groups", 0, "pairs", 0, value=[0, 1]), r"pair \(0, 1\) has not 20 parts"),
        (_put("groups", 0, "pairs", 0, 9, value=None), r"pair \(0, 1\) holds something else"),
    ],
)
def test_other_contents_are_refused(
    paths: list[Path], tmp_path: Path, edit: Edit, words: str
) -> None:
    target = tmp_path / "analysis.json"
    loramix.analyze(paths, samples=8, path=target)
    plain = json.loads(target.read_text())
    edit(plain)
    with pytest.raises(FormatError, match=f"analysis.json: .*{words}"):
        storing.from_json(json.dumps(plain), target.name, origin(paths))


@pytest.mark.parametrize("text", ["", "{", "[]", '"loramix"', '{"format":"loramix analysis"}'])
def test_other_texts_are_refused(paths: list[Path], text: str) -> None:
    with pytest.raises(FormatError, match=r"^analysis\.json: "):
        storing.from_json(text, "analysis.json", origin(paths))


def test_infinities_are_no_numbers(paths: list[Path], tmp_path: Path) -> None:
    target = tmp_path / "analysis.json"
    loramix.analyze(paths, samples=8, path=target)
    plain = json.loads(target.read_text())
    plain["groups"][0]["gram"][0] = float("inf")
    with pytest.raises(FormatError, match="gram holds something else than finite numbers"):
        storing.from_json(json.dumps(plain), target.name, origin(paths))


def test_bad_arguments(paths: list[Path], tmp_path: Path) -> None:
    with pytest.raises(ParamError, match="no adapters"):
        loramix.analyze([])
    with pytest.raises(ParamError, match="samples = 0: at least 1"):
        loramix.analyze(paths, samples=0)
    with pytest.raises(ParamError, match="threads = 0: allowed is 1 to 1024"):
        loramix.analyze(paths, threads=0)
    with pytest.raises(ParamError, match="is given twice"):
        loramix.analyze([paths[0], paths[0]])
    with pytest.raises(OutputError, match="is a folder"):
        loramix.analyze(paths, path=tmp_path)
    with pytest.raises(OutputError, match="is also an input"):
        loramix.analyze(paths, path=paths[0])
    with pytest.raises(OutputError, match="does not exist; create it first"):
        loramix.analyze(paths, path=tmp_path / "nowhere" / "analysis.json")
