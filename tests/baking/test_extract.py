"""Adapters from differences: against the dense SVD in float64, and back into the base."""

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints.models import modules_of, raw, tensors_of
from helpers import F64, Raw, decode, encode, read_safetensors, relative, write_safetensors

from loramix import FormatError, OutputError, ParamError, bake, extract, load
from loramix.formats.layout import Module

PREFIX = "model.diffusion_model."
MODULES = modules_of("sdxl", "unet", 9)
STILL = MODULES[-1]
"""The one that training left as it was."""


def matrix(one: Raw) -> F64:
    return decode(one[0], one[2]).reshape(one[1][0], -1)


def decaying(module: Module, seed: int) -> F64:
    """A difference whose singular values fall like 1/j."""
    rng = np.random.default_rng(seed)
    rows, cols = module.shape[0], int(np.prod(module.shape[1:]))
    left = np.linalg.qr(rng.normal(size=(rows, min(rows, cols, 40))))[0]
    right = np.linalg.qr(rng.normal(size=(cols, left.shape[1])))[0]
    return 0.1 * (left / np.arange(1, left.shape[1] + 1)) @ right.T


class Models:
    """A base with original names, and what training made of it, with canonical ones."""

    def __init__(self, folder: Path, dtype: str = "F32") -> None:
        self.folder = folder
        old = tensors_of(MODULES, PREFIX, original=True, dtype=dtype)
        old["first_stage_model.x.weight"] = raw((3, 3), 1)
        new: dict[str, Raw] = {}
        self.deltas: dict[str, F64] = {}
        for seed, module in enumerate(MODULES):
            name = f"{PREFIX}{module.original}"
            was = matrix(old[f"{name}.weight"])
            change = decaying(module, seed) if module is not STILL else np.zeros(was.shape)
            data = encode(dtype, was + change)
            new[f"unet.{module.name}.weight"] = (dtype, module.shape, data)
            new[f"unet.{module.name}.bias"] = old[f"{name}.bias"]
            if module is not STILL:
                self.deltas[f"unet.{module.name}"] = matrix((dtype, module.shape, data)) - was
        self.old, self.new = old, new
        self.base = write_safetensors(folder / "base.safetensors", old)
        self.tuned = write_safetensors(folder / "tuned.safetensors", new)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return Models(tmp_path_factory.mktemp("models"))


def delta_of(path: Path) -> dict[str, F64]:
    """Deltas of an adapter by canonical key, through the reader that everyone uses."""
    found = {}
    for target, factors in load(path, architecture="sdxl").targets.items():
        up, down = (
            decode(t.dtype, bytes(t.data)).reshape(t.shape[0], -1)
            for t in (factors.up, factors.down)
        )
        found[target.key] = factors.scale * up @ down
    return found


def best(delta: F64) -> F64:
    """Relative error of the best approximation of every rank."""
    values = np.linalg.svd(delta, compute_uv=False) ** 2
    return np.sqrt(np.maximum(1 - np.cumsum(values) / values.sum(), 0))


@pytest.mark.parametrize("dialect", ["kohya", "diffusers"])
def test_a_given_rank_is_nearly_the_best_there_is(
    dialect: Any, models: Models, tmp_path: Path
) -> None:
    path = tmp_path / "lora.safetensors"
    made = extract(models.tuned, models.base, rank=8, path=path, dialect=dialect, dtype="f32")
    found = delta_of(path)
    rows = {row.target: row for row in made.log}
    assert found.keys() == rows.keys() == models.deltas.keys()
    for key, delta in models.deltas.items():
        error, least = relative(found[key], delta), float(best(delta)[7])
        assert rows[key].rank == 8
        assert rows[key].norm == pytest.approx(float(np.linalg.norm(delta)), rel=1e-5)
        assert least - 1e-5 <= error <= 1.01 * least + 1e-5
        assert rows[key].cut == pytest.approx(error, rel=1e-3, abs=1e-5)
    assert "1 of 9 weights did not change" in made.plan.notes


@pytest.mark.parametrize("limit", [{"energy": 0.9}, {"max_error": 0.2}], ids=str)
def test_ranks_follow_what_may_be_left_out(limit: Any, models: Models, tmp_path: Path) -> None:
    path = tmp_path / "lora.safetensors"
    made = extract(models.tuned, models.base, path=path, dtype="f32", **limit)
    most = limit.get("max_error") or (1 - limit["energy"]) ** 0.5
    found = delta_of(path)
    for row in made.log:
        delta = models.deltas[row.target]
        assert relative(found[row.target], delta) <= most * (1 + 1e-4)
        wanted = int(np.argmax(best(delta) <= most)) + 1
        assert wanted <= row.rank <= wanted + 1


def test_back_into_the_base_gives_what_was_tuned(models: Models, tmp_path: Path) -> None:
    path, out = tmp_path / "lora.safetensors", tmp_path / "out.safetensors"
    made = extract(models.tuned, models.base, rank=4096, path=path, dtype="f32")
    assert max(row.cut for row in made.log) < 1e-5
    bake(models.base, [path], path=out)
    new, _ = read_safetensors(out)
    assert new.keys() == models.old.keys()
    for module in MODULES:
        got = matrix(new[f"{PREFIX}{module.original}.weight"])
        meant = matrix(models.new[f"unet.{module.name}.weight"])
        assert np.abs(got - meant).max() <= 2e-6 * np.abs(meant).max()


def test_types_of_the_models_may_differ(models: Models, tmp_path: Path) -> None:
    """What only rounding changed did not change."""
    new = dict(models.new)
    name = f"unet.{STILL.name}.weight"
    new[name] = ("BF16", STILL.shape, encode("BF16", matrix(new[name])))
    tuned = write_safetensors(tmp_path / "t.safetensors", new)
    made = extract(tuned, models.base, rank=4)
    assert {row.target for row in made.log} == models.deltas.keys()


def test_defaults(models: Models) -> None:
    made = extract(models.tuned, models.base)
    assert (made.plan.dialect.name, made.plan.dtype, made.plan.alpha) == ("kohya", "f32", 32)
    assert {row.rank for row in made.log} <= set(range(1, 33))
    record = json.loads(made.adapter.source.metadata["loramix"])
    assert record["method"] == {"name": "extract"}
    assert [one["weight"] for one in record["sources"]] == [1, -1]
    assert record["sources"][1]["sha256"] == sha256(models.base.read_bytes()).hexdigest()


def test_the_type_is_that_of_the_tuned_weights(tmp_path: Path) -> None:
    small = Models(tmp_path, "BF16")
    assert extract(small.tuned, small.base, rank=2).plan.dtype == "bf16"


def test_globs_choose_targets(models: Models) -> None:
    wanted = sorted(models.deltas)[0]
    made = extract(models.tuned, models.base, targets=[wanted])
    assert [row.target for row in made.log] == [wanted]


def test_what_factors_cannot_hold_is_named(models: Models, tmp_path: Path) -> None:
    new = dict(models.new)
    bias = f"unet.{MODULES[0].name}.bias"
    new[bias] = raw(MODULES[0].shape[:1], 77, "F32")
    new["unet.some.norm.weight"] = raw((5,), 78)
    new["first_stage_model.x.weight"] = raw((3, 3), 79)
    made = extract(write_safetensors(tmp_path / "t.safetensors", new), models.base, rank=4)
    told = "\n".join(made.plan.notes)
    assert "2 tensors changed that an adapter of factors cannot hold" in told
    assert bias in told
    assert "first_stage_model.x.weight" in told
    assert "1 tensors were not compared" in told
    assert "some.norm.weight" in told


def test_unknown_models_go_by_their_names(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    names = {"model.embed_tokens": (9, 8), "model.layers.0.q_proj": (8, 8), "lm_head": (9, 8)}
    old = {f"{n}.weight": ("F32", s, encode("F32", rng.normal(size=s))) for n, s in names.items()}
    new = {n: (d, s, encode("F32", decode(d, b) + 0.1)) for n, (d, s, b) in old.items()}
    base = write_safetensors(tmp_path / "b.safetensors", old)
    tuned = write_safetensors(tmp_path / "t.safetensors", new)
    made = extract(tuned, base, rank=1, path=tmp_path / "lora", dtype="f32")
    assert made.plan.dialect.name == "peft"
    assert sorted(row.target for row in made.log) == ["lm_head", "model.layers.0.q_proj"]
    assert max(row.cut for row in made.log) < 1e-3  # 0.1 everywhere has rank one
    assert any("model.embed_tokens.weight" in note for note in made.plan.notes)
    out = tmp_path / "out.safetensors"
    bake(base, [tmp_path / "lora"], path=out)
    for name, tensor in read_safetensors(out)[0].items():
        meant = old[name] if "embed" in name else new[name]
        assert np.abs(matrix(tensor) - matrix(meant)).max() <= 1e-5


def test_refusals(models: Models, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="none of 9 weights differs"):
        extract(models.base, models.base)
    other = {"x.weight": raw((4, 4), 1)}
    strange = write_safetensors(tmp_path / "x.safetensors", other)
    with pytest.raises(FormatError, match="needs two of one architecture"):
        extract(strange, models.base)
    bad = dict(models.new)
    name = f"unet.{MODULES[0].name}.weight"
    bad[name] = ("F32", MODULES[0].shape, np.float32("nan").tobytes() + bad[name][2][4:])
    damaged = write_safetensors(tmp_path / "bad.safetensors", bad)
    out = tmp_path / "lora.safetensors"
    with pytest.raises(FormatError, match=f"{name.removesuffix('.weight')}.*NaN"):
        extract(damaged, models.base, rank=2, path=out)
    assert not out.exists()
    with pytest.raises(OutputError, match="also an input"):
        extract(models.tuned, models.base, path=models.base)
    with pytest.raises(ParamError, match="threads"):
        extract(models.tuned, models.base, threads=0)
    with pytest.raises(ParamError, match="two ways"):
        extract(models.tuned, models.base, energy=0.9, max_error=0.1)


def test_bytes_do_not_depend_on_threads(models: Models, tmp_path: Path) -> None:
    found = set()
    for threads in (1, 2, 7):
        path = tmp_path / f"{threads}.safetensors"
        extract(models.tuned, models.base, rank=4, path=path, threads=threads)
        found.add(path.read_bytes())
    assert len(found) == 1
