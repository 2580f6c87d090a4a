"""Adapters from differences: against the dense SVD in float64, and back into the base."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints.models import modules_of, raw, tensors_of
from helpers import (
    F64,
    Raw,
    decode,
    encode,
    pairs,
    read_safetensors,
    relative,
    write_adapter,
    write_safetensors,
)

from loramix import FormatError, OutputError, ParamError, bake, extract, load
from loramix.formats.layout import Module
from loramix.io.hashing import digest_of

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
    assert record["sources"][1]["digest"] == digest_of(models.base, "blake3")


def test_the_type_is_that_of_the_tuned_weights(tmp_path: Path) -> None:
    small = Models(tmp_path, "BF16")
    assert extract(small.tuned, small.base, rank=2).plan.dtype == "bf16"


def test_globs_choose_targets(models: Models) -> None:
    wanted = sorted(models.deltas)[0]
    made = extract(models.tuned, models.base, targets=[wanted])
    assert [row.target for row in made.log] == [wanted]


def test_what_no_adapter_can_hold_is_named(models: Models, tmp_path: Path) -> None:
    new = dict(models.new)
    bias = f"unet.{STILL.name}.bias"
    new[bias] = raw(STILL.shape[:1], 77, "F32")
    new["unet.some.norm.weight"] = raw((5,), 78)
    new["first_stage_model.x.weight"] = raw((3, 3), 79)
    tuned = write_safetensors(tmp_path / "t.safetensors", new)
    made = extract(tuned, models.base, rank=4, dialect="diffusers")
    told = "\n".join(made.plan.notes)
    assert "1 tensors changed that no adapter can hold" in told
    assert (
        f"1 biases and norms changed, which no client reads from diffusers files ({bias})" in told
    )
    assert "first_stage_model.x.weight" in told
    assert "1 tensors were not compared" in told
    assert "some.norm.weight" in told


def test_biases_and_norms_are_written_as_they_are(tmp_path: Path) -> None:
    """The base has names of the original code, the tuned model those of diffusers."""
    modules = modules_of("sdxl", "unet", 200)
    module = next(m for m in modules if m.name.endswith(".attn1.to_q"))
    block, original = (n.removesuffix(".attn1.to_q") for n in (module.name, module.original))
    linear = next(m for m in modules if m.name == f"{block}.attn1.to_out.0")
    shape, wide = module.shape, module.shape[:1]
    resnet = "down_blocks.0.resnets.0.norm1", "input_blocks.1.0.in_layers.0"
    names = {
        f"{block}.attn1.to_q.weight": (f"{original}.attn1.to_q.weight", shape),
        f"{linear.name}.weight": (f"{linear.original}.weight", linear.shape),
        f"{linear.name}.bias": (f"{linear.original}.bias", wide),
        f"{block}.norm1.weight": (f"{original}.norm1.weight", wide),
        f"{block}.norm1.bias": (f"{original}.norm1.bias", wide),
        f"{block}.norm2.weight": (f"{original}.norm2.weight", wide),
        f"{resnet[0]}.weight": (f"{resnet[1]}.weight", (320,)),
    }
    old, new, moved = {}, {}, {}
    for seed, (name, (other, size)) in enumerate(names.items()):
        was = raw(size, seed, "F32")
        change = 0.0 if "norm2" in name else 0.01 * (seed + 1)
        now = ("F32", size, encode("F32", decode("F32", was[2]) + change))
        old[f"{PREFIX}{other}"], new[f"unet.{name}"] = was, now
        moved[other] = decode("F32", now[2]) - decode("F32", was[2])
    base = write_safetensors(tmp_path / "base.safetensors", old)
    tuned = write_safetensors(tmp_path / "tuned.safetensors", new)
    path = tmp_path / "lora.safetensors"
    made = extract(tuned, base, path=path, rank=1, dtype="f32", architecture="sdxl")
    found, _ = read_safetensors(path)
    vectors = {
        f"{linear.original}.bias": ".diff_b", f"{original}.norm1.weight": ".w_norm",
        f"{original}.norm1.bias": ".b_norm",
    }  # fmt: skip
    held = {}
    for name, suffix in vectors.items():
        stem = "lora_unet_" + name.rpartition(".")[0].replace(".", "_")
        held[f"{stem}{suffix}"] = moved[name]
    assert {n for n in found if not n.endswith((".alpha", "weight"))} == held.keys()
    for name, meant in held.items():
        assert np.abs(decode("F32", found[name][2]) - meant).max() < 1e-8
    notes = "\n".join(made.plan.notes)
    assert (
        f"1 tensors were not compared: the base has none of their name (unet.{resnet[0]}" in notes
    )
    out = tmp_path / "out.safetensors"
    bake(base, [path], path=out, architecture="sdxl")
    baked, _ = read_safetensors(out)
    for name, (other, _) in names.items():
        meant = old[f"{PREFIX}{other}"] if name.startswith("down_blocks.0") else new[f"unet.{name}"]
        gap = decode("F32", baked[f"{PREFIX}{other}"][2]) - decode("F32", meant[2])
        assert np.abs(gap).max() < 1e-6, name


@pytest.mark.parametrize("dialect", ["kohya", "peft"])
def test_only_a_bias_differs(dialect: Any, models: Models, tmp_path: Path) -> None:
    new = {**models.new}
    for module in MODULES:
        new[f"unet.{module.name}.weight"] = models.old[f"{PREFIX}{module.original}.weight"]
    bias = f"unet.{STILL.name}.bias"
    new[bias] = raw(STILL.shape[:1], 77, "F32")
    tuned = write_safetensors(tmp_path / "t.safetensors", new)
    if dialect == "peft":
        with pytest.raises(
            FormatError, match=r"only biases and norms differ.*write --dialect kohya"
        ):
            extract(tuned, models.base, dialect=dialect)
        return
    path = tmp_path / "lora.safetensors"
    made = extract(tuned, models.base, path=path, architecture="sdxl")
    assert [(row.target, row.dense) for row in made.log] == [(bias, True)]
    assert list(read_safetensors(path)[0]) == [f"{STILL.kohya}.diff_b"]


def test_biases_of_parts_become_one_of_the_whole(tmp_path: Path) -> None:
    parts = [f"transformer_blocks.0.attn.to_{x}" for x in "qkv"]
    wide, zeros = 1536, bytes(2 * 1536 * 1536)
    old, new = {}, {}
    for seed, name in enumerate(parts):
        weight: Raw = ("BF16", (wide, wide), zeros)
        was, now = raw((wide,), seed, "F32"), raw((wide,), seed + (seed != 1) * 9, "F32")
        old |= {f"transformer.{name}.weight": weight, f"transformer.{name}.bias": was}
        new |= {f"transformer.{name}.weight": weight, f"transformer.{name}.bias": now}
    base = write_safetensors(tmp_path / "base.safetensors", old)
    tuned = write_safetensors(tmp_path / "tuned.safetensors", new)
    path = tmp_path / "lora.safetensors"
    extract(tuned, base, path=path, architecture="sd3_medium", dialect="kohya", dtype="f32")
    ((name, one),) = read_safetensors(path)[0].items()
    assert name == "lora_unet_joint_blocks_0_x_block_attn_qkv.diff_b"
    moved = [
        decode("F32", new[f"transformer.{p}.bias"][2])
        - decode("F32", old[f"transformer.{p}.bias"][2])
        for p in parts
    ]
    assert np.abs(decode("F32", one[2]) - np.concatenate(moved)).max() < 1e-7


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


def test_adapters_are_no_models(models: Models, tmp_path: Path) -> None:
    """The difference of two factors is no difference of two weights."""
    adapters = [write_adapter(tmp_path / f"{seed}.safetensors", pairs(seed, 2)) for seed in (1, 2)]
    out = tmp_path / "out.safetensors"
    pattern = r"1\.safetensors: an adapter, such as .*lora_.*where a model is wanted"
    with pytest.raises(FormatError, match=pattern):
        extract(*adapters, path=out)
    with pytest.raises(FormatError, match=pattern):
        bake(adapters[0], adapters[1:], path=out)
    with pytest.raises(FormatError, match=pattern):
        extract(models.tuned, adapters[0], path=out)
    assert not out.exists()
