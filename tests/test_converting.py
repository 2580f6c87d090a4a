"""One adapter in another dialect: bit by bit where nothing changes, measured everywhere.

The oracle of scaling is float64 arithmetic, rounded by the encoder of `helpers`.
"""

from pathlib import Path

import numpy as np
import pytest
from helpers import Pair, decode, encode, pairs, read_safetensors, write_adapter, write_safetensors

from loramix import FormatError, Merged, Output, OutputError, convert, diff, load, merge, reproduce
from loramix.cli.app import main
from loramix.executing import copying
from loramix.tensors import Tensor

CODES = {"f32": "F32", "f16": "F16", "bf16": "BF16"}
FACTORS = (0.5, 2.0, 0.25, 2.0**-6, 1 / 3, 1.7, -0.5, -1 / 3)


def adapter(folder: Path, *, dtype: str = "BF16", alpha: float | None = 2.0) -> dict[str, Pair]:
    members = pairs(1, 4, dtype=dtype, alpha=alpha)
    write_adapter(folder / "in.safetensors", members, "kohya" if alpha else "diffusers")
    return members


def tensors(path: Path) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    return read_safetensors(path)[0]


@pytest.mark.parametrize("dtype", CODES.values())
def test_the_same_dialect_is_the_same_bytes(dtype: str, tmp_path: Path) -> None:
    adapter(tmp_path, dtype=dtype)
    merged = convert(tmp_path / "in.safetensors", tmp_path / "out.safetensors")
    assert tensors(tmp_path / "out.safetensors") == tensors(tmp_path / "in.safetensors")
    assert [row.error for row in merged.log] == [0.0] * len(merged.log)


@pytest.mark.parametrize("alpha", [4.0, 2.0, 1.0, 8.0, 3.0, -2.0])
def test_the_scale_goes_into_the_up_side(alpha: float, tmp_path: Path) -> None:
    # Names of diffusers with an alpha beside them: written again, they have none.
    members = pairs(1, 4, dtype="BF16", alpha=alpha)
    source = write_adapter(tmp_path / "in.safetensors", members)
    merged = convert(source, tmp_path / "out.safetensors")
    before, after = tensors(source), tensors(tmp_path / "out.safetensors")
    assert len(after) == 2 * len(members)
    exact = np.log2(abs(alpha / 4)).is_integer()
    for stem in members:
        up = decode("BF16", before[f"{stem}.lora_B.weight"][2]) * (alpha / 4)
        assert after[f"{stem}.lora_B.weight"][2] == encode("BF16", up)
        assert after[f"{stem}.lora_A.weight"] == before[f"{stem}.lora_A.weight"]
    assert (merged.error == 0) == exact
    assert merged.error < 2.0**-8


def test_the_log_says_what_was_written(tmp_path: Path) -> None:
    adapter(tmp_path)
    merged = convert(tmp_path / "in.safetensors", tmp_path / "out.safetensors")
    assert {(row.rank, row.cut, row.members, row.dense) for row in merged.log} == {(4, 0, 1, False)}
    assert {(row.error, row.norm, row.shares) for row in merged.log} == {(0.0, None, ())}


def test_what_rounding_changed_is_measured(tmp_path: Path) -> None:
    members = pairs(1, 4, dtype="BF16", alpha=3.0)
    merged = convert(write_adapter(tmp_path / "in.safetensors", members), None)
    truth = [float(np.linalg.norm(0.75 * one.up @ one.down)) for one in members.values()]
    norms = sorted(row.norm or 0.0 for row in merged.log)
    assert norms == pytest.approx(sorted(truth), rel=1e-6)
    assert all(0 < row.error < 2.0**-8 for row in merged.log)
    (share,) = merged.shares
    assert (share.retention, share.cosine) == pytest.approx((1.0, 1.0))


@pytest.mark.parametrize("dtype", ["f32", "f16"])
def test_another_type_is_rounded_and_measured(dtype: str, tmp_path: Path) -> None:
    adapter(tmp_path)
    merged = convert(tmp_path / "in.safetensors", tmp_path / "out.safetensors", dtype=dtype)
    codes = {code for name, (code, _, _) in tensors(merged.path or tmp_path).items()
             if not name.endswith("alpha")}  # fmt: skip
    assert codes == {CODES[dtype]}
    assert merged.error < 1e-3


def test_a_rank_rule_is_obeyed(tmp_path: Path) -> None:
    adapter(tmp_path)
    merged = convert(tmp_path / "in.safetensors", tmp_path / "out.safetensors", rank=2)
    assert {row.rank for row in merged.log} == {2}
    assert all(0 < row.cut < 1 for row in merged.log)


def test_a_folder_of_peft_and_back(tmp_path: Path) -> None:
    members = pairs(1, 4)
    write_adapter(tmp_path / "in.safetensors", members)
    plain = merge([tmp_path / "in.safetensors"], "linear", output=Output(dialect="diffusers"))
    convert(plain.adapter, tmp_path / "peft", dialect="peft")
    merged = convert(tmp_path / "peft", None, dialect="peft")
    assert merged.error == 0
    assert merged.path is None


def test_a_wrong_copy_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter(tmp_path)
    real = copying.sides

    def broken(plan, step):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
        up, down = real(plan, step)
        return np.roll(up, 2), down

    monkeypatch.setattr(copying, "sides", broken)
    with pytest.raises(OutputError, match="differs from what was meant"):
        convert(tmp_path / "in.safetensors", tmp_path / "out.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["in.safetensors"]


def test_what_does_not_fit_the_type_is_refused_by_name(tmp_path: Path) -> None:
    members = pairs(1, 4, dtype="F16", alpha=1e9)
    write_adapter(tmp_path / "in.safetensors", members)
    with pytest.raises(OutputError, match=r"lora_B\.weight times 2\.5e\+08 is too large for F16"):
        convert(load(tmp_path / "in.safetensors"), tmp_path / "out.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["in.safetensors"]


@pytest.mark.parametrize("scale", [1.0, 0.5, 0.3])
@pytest.mark.parametrize("role", ["lora_A", "lora_B"])
@pytest.mark.parametrize("code", CODES.values())
@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_copies_hold_numbers(
    value: float, code: str, role: str, scale: float, tmp_path: Path
) -> None:
    """Nothing is computed of a copy, so nothing else would find them."""
    members = pairs(1, 4, dtype=code, alpha=4 * scale)
    found, strings = read_safetensors(write_adapter(tmp_path / "in.safetensors", members))
    name = next(key for key in found if f".{role}." in key)
    size = len(encode(code, [value]))
    kind, shape, data = found[name]
    found[name] = (kind, shape, data[:-size] + encode(code, [value]))
    write_safetensors(tmp_path / "in.safetensors", found, strings)
    with pytest.raises(FormatError, match=rf"in.safetensors: {name} holds NaN or infinity; the"):
        convert(tmp_path / "in.safetensors", tmp_path / "out.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["in.safetensors"]


def test_alpha_is_that_of_most_pairs(tmp_path: Path) -> None:
    members = pairs(1, 4, dtype="F32", alpha=2.0)
    first = next(iter(members))
    own = members[first]
    members[first] = Pair(own.up, own.down, own.shape, own.dtype, ("F32", (), 1.0))
    write_adapter(tmp_path / "in.safetensors", members, "kohya")
    merged = convert(tmp_path / "in.safetensors", tmp_path / "out.safetensors")
    found = tensors(merged.path or tmp_path)
    alphas = {decode("F32", data)[0] for name, (_, _, data) in found.items() if "alpha" in name}
    assert alphas == {2.0}
    assert merged.error == 0


def test_a_bias_beside_a_pair_stays_beside_it(tmp_path: Path) -> None:
    members = {name: one for name, one in pairs(1, 4).items() if len(one.shape) == 2}
    source = write_adapter(tmp_path / "in.safetensors", members)
    found, _ = read_safetensors(source)
    for name, one in members.items():
        bias = encode("F32", np.arange(1.0, one.shape[0] + 1))
        found[f"{name}.lora_B.bias"] = ("F32", (one.shape[0],), bias)
    write_safetensors(source, found)
    merged = convert(source, tmp_path / "out.safetensors")
    assert tensors(tmp_path / "out.safetensors") == found
    assert len(merged.log) == 2 * len(members)


def test_zero_deltas_stay_zero(tmp_path: Path) -> None:
    adapter(tmp_path, alpha=0.0)
    write_adapter(tmp_path / "zero.safetensors", pairs(1, 4, alpha=0.0), "kohya")
    merged = convert(tmp_path / "zero.safetensors", tmp_path / "out.safetensors")
    assert merged.error == 0
    assert {row.norm for row in merged.log} <= {0.0, None}


@pytest.mark.parametrize("verbatim", [True, False])
def test_merges_keep_single_pairs_if_asked(verbatim: bool, tmp_path: Path) -> None:
    members = pairs(1, 4)
    names = list(members)
    one = {name: members[name] for name in names[:3]}
    two = {name: pairs(2, 4)[name] for name in names[2:]}
    paths = [
        write_adapter(tmp_path / f"{index}.safetensors", own)
        for index, own in enumerate((one, two))
    ]
    output = Output(verbatim=verbatim)
    merged = merge(paths, "linear", output=output, path=tmp_path / "out.safetensors")
    found = tensors(tmp_path / "out.safetensors")
    before = {**tensors(paths[0]), **tensors(paths[1])}
    same = {name for name in found if found[name] == before[name]}
    alone = {n for n in before if names[2] not in n}
    assert alone <= same if verbatim else not alone <= same
    assert not any(names[2] in name for name in same)
    assert merged.error < 1e-6


# --- the arithmetic of one tensor ----------------------------------------------------------------


@pytest.mark.parametrize("code", CODES.values())
@pytest.mark.parametrize("factor", FACTORS)
def test_scaled_numbers_are_rounded_once(code: str, factor: float) -> None:
    rng = np.random.default_rng(3)
    values = decode(code, encode(code, rng.normal(size=500) * 10.0 ** rng.uniform(-3, 3, 500)))
    values[:3] = 0.0, -0.0, 1.0
    tensor = Tensor(code, (500,), memoryview(encode(code, values)))
    found = bytes(copying.scaled(tensor, factor, "x"))
    single = np.float32(factor) if abs(np.log2(abs(factor))) % 1 else factor
    assert found == encode(code, (values.astype(np.float32) * np.float32(single)).astype(float))


@pytest.mark.parametrize(
    ("code", "smallest"), [("F16", 2.0**-24), ("BF16", 2.0**-133), ("F32", 2.0**-149)]
)
def test_numbers_below_the_normal_ones_are_multiplied(code: str, smallest: float) -> None:
    values = np.array([smallest, 3 * smallest, -smallest, 0.0, 1.0])
    tensor = Tensor(code, (5,), memoryview(encode(code, values)))
    assert bytes(copying.scaled(tensor, 2.0, "x")) == encode(code, values * 2)
    assert bytes(copying.scaled(tensor, 1.0, "x")) == encode(code, values)


@pytest.mark.parametrize("code", CODES.values())
def test_empty_and_zero_tensors(code: str) -> None:
    for values in (np.zeros(0), np.zeros(4)):
        tensor = Tensor(code, values.shape, memoryview(encode(code, values)))
        for factor in FACTORS[:5]:
            assert bytes(copying.scaled(tensor, factor, "x")) == encode(code, values)


@pytest.mark.parametrize(("code", "top"), [("F16", 60000.0), ("BF16", 3e38), ("F32", 3e38)])
@pytest.mark.parametrize("factor", [2.0, 3.0])
def test_overflow_is_refused(code: str, top: float, factor: float) -> None:
    values = np.array([1.0, top])
    tensor = Tensor(code, (2,), memoryview(encode(code, values)))
    with pytest.raises(OutputError, match=f"x times {factor:g} is too large for {code}"):
        copying.scaled(tensor, factor, "x")


# --- the program ---------------------------------------------------------------------------------


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    adapter(tmp_path)
    source, out = str(tmp_path / "in.safetensors"), str(tmp_path / "out.safetensors")
    assert main(["convert", source, "-o", out, "--dialect", "kohya"]) == 0
    assert "error 0 relative to the exact result" in capsys.readouterr().out.replace("      ", " ")
    # As the doctor's commands are: nothing but a new place, and what to leave out.
    assert main(["convert", source, "-o", str(tmp_path / "anew.safetensors")]) == 0
    assert diff(source, tmp_path / "anew.safetensors").verdict == "same"


def test_the_result_is_a_merge_like_any_other(tmp_path: Path) -> None:
    adapter(tmp_path)
    merged = convert(tmp_path / "in.safetensors", tmp_path / "out.safetensors", threads=1)
    assert isinstance(merged, Merged)
    assert "verbatim = true" in merged.plan.recipe
    assert reproduce(tmp_path / "out.safetensors", [tmp_path]).identical
