"""Baked models and extracted adapters are made again from what their headers say."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from baking.cases import WEIGHTS, base_tensors, two_adapters, write_base
from checkpoints.models import write_shards
from families.files import CASES, RELATIVE, file_of
from helpers import (
    MODULES,
    Stack,
    encode,
    pairs,
    read_safetensors,
    write_adapter,
    write_safetensors,
)

import loramix
from loramix import FormatError, LoramixError, OutputError, bake, extract, reproduce

BARE = {name.removeprefix("model.diffusion_model."): one for name, one in base_tensors().items()}
ONE = dict(list(MODULES.items())[:1])


@pytest.fixture
def stack(tmp_path: Path) -> Stack:
    (tmp_path / "in").mkdir()
    return two_adapters(tmp_path / "in")


@pytest.fixture
def elsewhere(tmp_path: Path) -> Callable[..., Path]:
    """Move what was read below another folder, files under other names."""

    def run(*paths: Path) -> Path:
        for index, path in enumerate(paths):
            place = tmp_path / "moved" / str(index)
            place.mkdir(parents=True)
            shutil.move(path, place / (f"x{index}.safetensors" if path.is_file() else "model"))
        return tmp_path / "moved"

    return run


def pipeline(folder: Path) -> Path:
    """The model as a pipeline, its weights in three shards, beside what nothing changes."""
    (folder / "other").mkdir(parents=True)
    (folder / "model_index.json").write_text('{"a": 1}', encoding="utf-8")
    write_shards(folder / "unet", BARE, 3)
    write_safetensors(folder / "other/model.safetensors", {"x.weight": ("F32", (2,), bytes(8))})
    return folder


@pytest.mark.parametrize("dtype", ["F32", "BF16", "F8_E4M3"])
@pytest.mark.parametrize(
    "options",
    [
        {"method": "linear"}, {"method": "auto"}, {"method": "ties", "seed": 3},
        {"method": "auto", "samples": 7}, {"method": "linear", "auto_strength": True},
    ],
    ids=str,
)  # fmt: skip
def test_baked_files(
    dtype: str, options: dict[str, Any], stack: Stack, tmp_path: Path, elsewhere: Any
) -> None:
    base, out = write_base(tmp_path, dtype), tmp_path / "out.safetensors"
    bake(base, stack.paths, weights=WEIGHTS, path=out, force=True, **options)
    found = reproduce(out, [elsewhere(base, *stack.paths)])
    assert found.identical, (found.comparison, found.notes)
    assert found.notes == ()
    assert [name for name, _ in found.sources] == ["base", *(p.stem for p in stack.paths)]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in", "moved", "out.safetensors"]


@pytest.mark.parametrize("options", [{"method": "ties"}, {"samples": 7}], ids=str)
def test_baked_folders(
    options: dict[str, Any], stack: Stack, tmp_path: Path, elsewhere: Any
) -> None:
    """With a recipe in the headers, and with the decisions of groups."""
    base, out = pipeline(tmp_path / "base"), tmp_path / "out"
    bake(base, stack.paths, weights=WEIGHTS, path=out, **options)
    places = elsewhere(base, *stack.paths)
    again = tmp_path / "again"
    found = reproduce(out, [places], output=again)
    assert (found.identical, found.again) == (True, again)
    assert (again / "unet/model.safetensors.index.json").is_file()
    (out / "model_index.json").write_text('{"a": 2}', encoding="utf-8")
    (out / "more.txt").write_text("", encoding="utf-8")
    file = next((out / "unet").glob("*00002-of*"))
    tensors, metadata = read_safetensors(file)
    name, (dtype, shape, data) = next((n, t) for n, t in tensors.items() if t[2])
    tensors[name] = (dtype, shape, bytes([data[0] ^ 1]) + data[1:])
    write_safetensors(file, tensors, {**metadata, "note": "mine"})
    compared = reproduce(out, [places]).comparison
    assert compared.files == ("model_index.json", "more.txt")
    assert compared.header == (f"unet/{file.name}: note",)
    assert compared.tensors == (f"unet/{file.name}: {name}",)


def test_a_folder_with_one_file(stack: Stack, tmp_path: Path, elsewhere: Any) -> None:
    base, out = tmp_path / "base", tmp_path / "out"
    base.mkdir()
    write_safetensors(base / "model.safetensors", BARE)
    (base / "config.json").write_text("{}", encoding="utf-8")
    bake(base, stack.paths, path=out)
    places = elsewhere(base, *stack.paths)
    assert reproduce(out, [places]).identical
    with pytest.raises(FormatError, match="name the folder"):
        reproduce(out / "model.safetensors", [places])


def test_models_baked_twice(stack: Stack, tmp_path: Path, elsewhere: Any) -> None:
    base, mid, out = (tmp_path / f"{name}.safetensors" for name in ("base", "mid", "out"))
    write_base(tmp_path)
    bake(base, stack.paths[:1], path=mid)
    bake(mid, stack.paths[1:], path=out)
    places = elsewhere(base, mid, *stack.paths)
    found = reproduce(out, [places])
    assert found.identical
    assert found.sources[0][0] == "mid"


def test_folders_of_which_the_last_run_changed_a_part(
    stack: Stack, tmp_path: Path, elsewhere: Any
) -> None:
    """The other files still say how they were made before."""
    base, mid, out = pipeline(tmp_path / "base"), tmp_path / "mid", tmp_path / "out"
    bake(base, stack.paths[:1], path=mid)
    small = write_adapter(tmp_path / "in/small.safetensors", pairs(5, 1, modules=ONE))
    bake(mid, [small], path=out)
    changed = [
        file.name
        for file in (out / "unet").glob("*.safetensors")
        if file.read_bytes() != (mid / "unet" / file.name).read_bytes()
    ]
    assert len(changed) == 1
    found = reproduce(out, [elsewhere(base, mid, small, *stack.paths)])
    assert found.identical
    assert [name for name, _ in found.sources] == ["mid", "small"]


def test_families_that_are_relative_to_the_base(tmp_path: Path, elsewhere: Any) -> None:
    case = RELATIVE["dora, of outputs"]
    path, _, model = file_of(tmp_path, {"unet.x": case})
    paths = [path, file_of(tmp_path, {"unet.x": CASES["lora"]}, seed=2, name="b")[0]]
    entries = encode("F32", model.weights["unet.x"])
    base = tmp_path / "base.safetensors"
    write_safetensors(base, {"unet.x.weight": ("F32", case.shape, entries)})
    out = tmp_path / "out.safetensors"
    bake(base, paths, "linear", path=out)
    assert reproduce(out, [elsewhere(base, *paths)]).identical


def test_the_base_is_named_by_the_user(stack: Stack, tmp_path: Path) -> None:
    base, out = write_base(tmp_path), tmp_path / "out.safetensors"
    bake(base, stack.paths, path=out)
    with pytest.raises(LoramixError, match=r"base model base \(blake3:.*is not in .*with --base"):
        reproduce(out, [tmp_path / "in"])
    assert reproduce(out, [tmp_path / "in"], base=base).identical
    wrong = write_safetensors(tmp_path / "w.safetensors", base_tensors(seed=9), {"x": "1"})
    with pytest.raises(LoramixError, match=r"w\.safetensors is not the base model base"):
        reproduce(out, [tmp_path / "in"], base=wrong)
    with pytest.raises(OutputError, match="is the file to compare with"):
        reproduce(out, [tmp_path / "in"], base=base, output=out)


def test_folders_of_several_runs_are_refused(stack: Stack, tmp_path: Path) -> None:
    base = pipeline(tmp_path / "base")
    outs = [tmp_path / "one", tmp_path / "two"]
    for out, paths in zip(outs, (stack.paths[:1], stack.paths), strict=True):
        bake(base, paths, path=out)
    file = next((outs[0] / "unet").glob("*00002-of*"))
    shutil.copy(file, outs[1] / "unet")
    with pytest.raises(FormatError, match="made by different runs"):
        reproduce(outs[1], [tmp_path])
    with pytest.raises(FormatError, match="made by something else"):
        reproduce(base, [tmp_path])


@pytest.mark.parametrize("form", ["file", "pipeline"])
@pytest.mark.parametrize(
    "options",
    [
        {"rank": 2}, {"energy": 0.9, "dtype": "f16"}, {"max_error": 0.2, "dialect": "diffusers"},
        {"rank": 3, "targets": ["*ff*", "*to_q"]}, {"rank": 2, "dialect": "peft"},
    ],
    ids=str,
)  # fmt: skip
def test_extracted_adapters(
    form: str, options: dict[str, Any], stack: Stack, tmp_path: Path, elsewhere: Any
) -> None:
    base = write_base(tmp_path) if form == "file" else pipeline(tmp_path / "base")
    tuned = tmp_path / ("tuned.safetensors" if form == "file" else "tuned")
    bake(base, stack.paths, path=tuned)
    out = tmp_path / ("lora" if options.get("dialect") == "peft" else "lora.safetensors")
    extract(tuned, base, path=out, **options)
    places = elsewhere(base, tuned)
    found = reproduce(out, [places])
    assert found.identical, (found.comparison, found.notes)
    assert [name for name, _ in found.sources] == ["tuned", "base"]
    shutil.rmtree(places / "1")
    with pytest.raises(LoramixError, match=r"model tuned \(blake3:.*is not in "):
        reproduce(out, [places])
    with pytest.raises(loramix.ParamError, match="name the folders"):
        reproduce(out, [])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"place": "../x.safetensors"}, "a path below the folder"),
        ({"place": 3}, "place = 3"),
        ({"digest": None}, "digest"),
        ({"architecture": "sd99"}, "sd99"),
    ],
)
def test_broken_records_of_bases(
    change: dict[str, Any], message: str, stack: Stack, tmp_path: Path
) -> None:
    base, out = write_base(tmp_path), tmp_path / "out.safetensors"
    bake(base, stack.paths, path=out)
    tensors, metadata = read_safetensors(out)
    record = json.loads(metadata["loramix"])
    record["base"].update(change)
    write_safetensors(out, tensors, {**metadata, "loramix": json.dumps(record)})
    with pytest.raises(FormatError, match=message):
        reproduce(out, [tmp_path])
