"""Weights that are small numbers times scales: added to what they stand for, at those scales."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from baking.cases import WEIGHTS, base_tensors, stored, survived, two_adapters
from helpers import (
    F64,
    MODULES,
    Raw,
    Stack,
    decode,
    encode,
    read_safetensors,
    write_safetensors,
)

from loramix import FormatError, bake, extract, open_checkpoint, reproduce
from loramix.baking import requantising, stripping

LARGEST = {"I8": 127.0, "F8_E4M3": 448.0, "F8_E5M2": 57344.0}
SHAPES: dict[str, Callable[[int, int], tuple[int, ...]]] = {
    "one": lambda _rows, _cols: (),
    "one, with axes": lambda _rows, _cols: (1, 1),
    "rows": lambda rows, _cols: (rows, 1),
    "rows, flat": lambda rows, _cols: (rows,),
    "runs": lambda rows, cols: (rows, cols // 4),
    "blocks": lambda rows, cols: (-(-rows // 128), -(-cols // 128)),
}


@pytest.fixture
def stack(tmp_path: Path) -> Stack:
    return two_adapters(tmp_path)


def spread(scales: F64, rows: int, cols: int) -> F64:
    """Scales of single entries, from any of the shapes."""
    if scales.size == 1:
        return np.full((rows, cols), scales.reshape(-1)[0])
    if scales.size == rows:
        return np.repeat(scales.reshape(rows, 1), cols, axis=1)
    high, wide = (128, 128) if scales.shape[0] != rows else (1, cols // scales.shape[1])
    return np.kron(scales, np.ones((high, wide)))[:rows, :cols]


def numbers(raw: Raw) -> F64:
    dtype, shape, data = raw
    flat = np.frombuffer(data, np.int8) if dtype == "I8" else decode(dtype, data)
    return flat.reshape(shape[0], -1).astype(np.float64)


class Quantised:
    """A model whose weights are numbers times scales."""

    def __init__(self, folder: Path, dtype: str, form: str, suffix: str = "weight_scale") -> None:
        self.dtype, self.suffix = dtype, suffix
        self.tensors: dict[str, Raw] = dict(base_tensors())
        self.scales: dict[str, F64] = {}
        rng = np.random.default_rng(5)
        for name, shape in MODULES.items():
            rows, cols = shape[0], int(np.prod(shape[1:]))
            size = SHAPES[form](rows, cols)
            scales = 3 / LARGEST[dtype] * rng.uniform(0.5, 1.5, size=size)
            data = encode("F32", scales)
            own = stored(name).replace("weight", suffix)
            if suffix == "SCB":
                data = encode("F32", scales * 127)
            self.tensors[own] = ("F32", size, data)
            scales = decode("F32", data).reshape(size) / (127 if suffix == "SCB" else 1)
            self.scales[name] = spread(scales, rows, cols)
            values = rng.normal(size=(rows, cols)) / self.scales[name]
            self.tensors[stored(name)] = (dtype, shape, self.rounded(values))
        self.path = write_safetensors(folder / "base.safetensors", self.tensors)

    def rounded(self, values: F64) -> bytes:
        if self.dtype == "I8":
            return np.clip(np.rint(values), -128, 127).astype(np.int8).tobytes()
        largest = LARGEST[self.dtype]
        return encode(self.dtype, np.clip(values, -largest, largest))

    def weight(self, name: str, tensors: dict[str, Raw] | None = None) -> F64:
        return numbers((tensors or self.tensors)[stored(name)]) * self.scales[name]


def step_of(dtype: str, values: F64) -> F64:
    """Distance of the numbers of a type around values, at most."""
    if dtype == "I8":
        return np.ones_like(values)
    bits, least = (3, -6) if dtype == "F8_E4M3" else (2, -14)
    exponent = np.floor(np.log2(np.maximum(np.abs(values), 2.0**least)))
    return np.asarray(2.0 ** (exponent - bits))


@pytest.mark.parametrize("dtype", list(LARGEST))
@pytest.mark.parametrize("form", list(SHAPES))
def test_sums_are_rounded_at_their_scales(form: str, dtype: str, stack: Stack) -> None:
    base, out = Quantised(stack.folder, dtype, form), stack.folder / "out.safetensors"
    baked = bake(base.path, stack.paths, "linear", weights=[0.05, -0.04], path=out, force=True)
    new, _ = read_safetensors(out)
    rows = {row.target: row for row in baked.log}
    lost = 0
    for name, delta in stack.sum([0.05, -0.04]).items():
        weight = base.weight(name)
        meant = (weight + delta) / base.scales[name]
        got = numbers(new[stored(name)])
        largest = LARGEST[dtype]
        inside = np.abs(meant) <= largest
        lost += int((~inside).sum())
        room = step_of(dtype, meant) / 2 * (1 + 1e-4) + 1e-5 * np.abs(meant).max()
        assert np.all((np.abs(got - meant) <= room)[inside]), name
        assert np.all(np.abs(got[~inside]) >= largest)
        share, cosine = survived(weight, base.weight(name, new), delta)
        assert rows[name].dtype == dtype
        assert rows[name].survival == pytest.approx(share, abs=1e-4)
        assert rows[name].cosine == pytest.approx(cosine, abs=1e-4)
        assert rows[name].norm == pytest.approx(float(np.linalg.norm(delta)), rel=1e-5)
    assert bool(baked.notes) <= (lost > 0)
    touched = {stored(name) for name in MODULES}
    assert list(new) == list(base.tensors)
    for name, tensor in base.tensors.items():
        assert name in touched or new[name] == tensor
    assert reproduce(out, [stack.folder]).identical


@pytest.mark.parametrize("suffix", ["scale_weight", "weight_scale_inv", "SCB"])
def test_other_names_of_scales(suffix: str, stack: Stack) -> None:
    base = Quantised(stack.folder, "I8", "rows, flat", suffix)
    out = stack.folder / "out.safetensors"
    bake(base.path, stack.paths, "linear", weights=[0.01, 0.01], path=out, force=True)
    new, _ = read_safetensors(out)
    for name, delta in stack.sum([0.01, 0.01]).items():
        meant = (base.weight(name) + delta) / base.scales[name]
        gap = np.abs(numbers(new[stored(name)]) - meant)[np.abs(meant) <= 127]
        assert gap.max() <= 0.5 + 1e-4, name


def test_what_leaves_the_range_stays_at_its_end(stack: Stack) -> None:
    base, out = Quantised(stack.folder, "I8", "one"), stack.folder / "out.safetensors"
    baked = bake(base.path, stack.paths, "linear", weights=[100, 0], path=out, force=True)
    new, _ = read_safetensors(out)
    beyond = 0
    for name, delta in stack.sum([100, 0]).items():
        meant = (base.weight(name) + delta) / base.scales[name]
        assert np.array_equal(numbers(new[stored(name)])[meant > 128], [127] * (meant > 128).sum())
        beyond += int(((meant > 127.5) | (meant < -128.5)).sum())
    assert baked.notes == (
        f"{beyond} entries would be beyond the largest number of their type and scale, and are "
        "that number",
    )
    assert baked.survival < 0.5


def test_bytes_depend_on_nothing_else(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    base = Quantised(stack.folder, "I8", "blocks")
    outs = [stack.folder / f"{name}.safetensors" for name in "ab"]
    bake(base.path, stack.paths, "ties", path=outs[0], force=True, threads=1)
    monkeypatch.setattr(stripping, "STRIP_BYTES", 128)
    monkeypatch.setattr(requantising, "_ENTRIES", 1)
    bake(base.path, stack.paths, "ties", path=outs[1], force=True, threads=2)
    assert outs[0].read_bytes() == outs[1].read_bytes()


def test_a_scale_of_zero_is_a_weight_of_zero(stack: Stack) -> None:
    base = Quantised(stack.folder, "I8", "rows")
    name = stored("unet.blocks.0.attn.to_q")
    scale = name.replace("weight", "weight_scale")
    base.tensors[scale] = ("F32", base.tensors[scale][1], bytes(len(base.tensors[scale][2])))
    write_safetensors(base.path, base.tensors)
    out = stack.folder / "out.safetensors"
    baked = bake(base.path, stack.paths, path=out, force=True)
    row = next(one for one in baked.log if one.stored == name)
    assert (row.survival, row.cosine) == (0, 0)
    assert not np.any(np.frombuffer(read_safetensors(out)[0][name][2], np.int8))


def refused(base: Quantised, stack: Stack, pattern: str, *, force: bool = True) -> None:
    write_safetensors(base.path, base.tensors)
    with pytest.raises(FormatError, match=pattern):
        bake(base.path, stack.paths, path=stack.folder / "out.safetensors", force=force)
    assert not (stack.folder / "out.safetensors").exists()


HEAD = stored("unet.blocks.0.attn.to_q").removesuffix("weight")


def mark(**said: object) -> Raw:
    text = json.dumps(said).encode()
    return ("U8", (len(text),), text)


@pytest.mark.parametrize(
    ("beside", "pattern"),
    [
        ({"weight_zero_point": ("I8", (24, 1), bytes(24))}, r"zero point beside .*loramix merge"),
        ({"scale_weight": ("F32", (), bytes(4))}, r"2 scales beside it .*which counts\?"),
        ({"weight_scale": ("F32", (7,), bytes(28))}, r"weight_scale of shape \[7\] does not fit"),
        ({"weight_scale": ("I8", (), bytes(1))}, "has type I8: allowed is a type of floats"),
        ({"weight_scale": ("F32", (), np.float32("nan").tobytes())}, "holds NaN"),
        ({"comfy_quant": mark(format="nvfp4")}, "stored in the format 'nvfp4'; known are"),
        ({"comfy_quant": mark(format="int8_tensorwise", convrot=True)}, "was rotated before"),
        ({"comfy_quant": ("U8", (1,), b"[")}, "comfy_quant: not JSON"),
        ({"comfy_quant": ("U8", (2,), b"[]")}, "a JSON list, but it must be an object"),
    ],
    ids=str,
)  # fmt: skip
def test_what_is_not_known_is_refused_by_name(
    beside: dict[str, Raw], pattern: str, stack: Stack
) -> None:
    base = Quantised(stack.folder, "I8", "rows")
    base.tensors |= {HEAD + name: one for name, one in beside.items()}
    refused(base, stack, pattern)


def test_formats_that_the_header_names(stack: Stack) -> None:
    base = Quantised(stack.folder, "I8", "one")
    out = stack.folder / "out.safetensors"
    for kind, good in (("int8_tensorwise", True), ("mxfp8", False)):
        layers = {"layers": {HEAD.removesuffix("."): {"format": kind}}}
        strings = {"_quantization_metadata": json.dumps(layers)}
        write_safetensors(base.path, base.tensors, strings)
        if good:
            assert bake(base.path, stack.paths, path=out, force=True).log
            continue
        with pytest.raises(FormatError, match="the format 'mxfp8'"):
            bake(base.path, stack.paths, path=out, force=True)


def test_integers_without_a_scale_have_no_meaning(stack: Stack) -> None:
    base = Quantised(stack.folder, "I8", "one")
    refused(base, stack, r"I8: with 256 numbers .*--force does it nevertheless", force=False)
    del base.tensors[HEAD + "weight_scale"]
    for force in (False, True):
        refused(base, stack, r"to_q\.weight has type I8 and no scale beside it", force=force)


def test_models_marked_as_scaled_without_scales_are_what_they_say(stack: Stack) -> None:
    """A file of ComfyUI's scaled kind may hold weights that have none."""
    tensors = base_tensors("F8_E4M3") | {"scaled_fp8": ("F8_E4M3", (2,), bytes(2))}
    base = write_safetensors(stack.folder / "base.safetensors", tensors)
    plain = write_safetensors(stack.folder / "plain.safetensors", base_tensors("F8_E4M3"))
    outs = [stack.folder / f"{name}.safetensors" for name in "ab"]
    for path, out in zip((base, plain), outs, strict=True):
        bake(path, stack.paths, weights=WEIGHTS, path=out, force=True)
    marked, unmarked = (read_safetensors(out)[0] for out in outs)
    assert {name: marked[name] for name in unmarked} == unmarked


def test_weights_are_what_they_stand_for(stack: Stack) -> None:
    """Whoever asks a model for a weight gets it multiplied out."""
    base = Quantised(stack.folder, "I8", "rows")
    model = open_checkpoint(base.path)
    for name in MODULES:
        key = stored(name).removeprefix("model.").removesuffix(".weight")
        found: Any = model.weight(name) or model.weight(key)
        assert found is not None
        assert found.dtype == "F32"
        assert found.shape == MODULES[name]
        got = decode("F32", bytes(found.data)).reshape(MODULES[name][0], -1)
        assert np.allclose(got, base.weight(name), rtol=1e-6, atol=0)


def test_differences_are_of_what_weights_stand_for(stack: Stack) -> None:
    base = Quantised(stack.folder, "I8", "rows")
    tensors = dict(base.tensors)
    deltas = stack.sum([0.3, 0.1])
    for name, delta in deltas.items():
        values = encode("F32", base.weight(name) + delta)
        tensors[stored(name)] = ("F32", MODULES[name], values)
        del tensors[stored(name).replace("weight", "weight_scale")]
    tuned = write_safetensors(stack.folder / "tuned.safetensors", tensors)
    made = extract(tuned, base.path, rank=24, path=stack.folder / "x.safetensors", dtype="f32")
    assert {row.target for row in made.log} == {n.replace("unet.", "transformer.") for n in deltas}
    for row in made.log:
        name = row.target.replace("transformer.", "unet.")
        assert row.norm == pytest.approx(float(np.linalg.norm(deltas[name])), rel=1e-4)
    assert not any("weight_scale" in note for note in made.plan.notes)
