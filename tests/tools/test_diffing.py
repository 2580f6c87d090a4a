"""Differences against dense deltas in float64, and the verdicts."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from formats.builders import diffusers, kohya
from helpers import DIALECTS, F64, DialectName, Pair, delta_of, pair, pairs, scaled, write_adapter

from loramix import Adapter, FormatError, Output, ParamError, diff, load, merge, resize, save
from loramix.cli.app import main
from loramix.formats.layout import load_layout

SMALL = {"unet.d": (9, 8), "unet.e": (3000, 7)}
"""Of a smaller size than the ranks of two adapters together."""
UNET = {"unet.a.to_q": (40, 30), "unet.b.to_k": (24, 50), "unet.c.conv": (12, 8, 3, 3)}


def write(path: Path, members: Mapping[str, Pair], **options: object) -> Path:
    return write_adapter(path, members, **options)  # type: ignore[arg-type]


def oracle(a: F64, b: F64) -> dict[str, float]:
    """All numbers of a pair, from the entries."""
    x, y = a.ravel(), b.ravel()
    ratio = float(np.linalg.lstsq(y[:, None], x, rcond=None)[0][0])
    norms = float(np.linalg.norm(x)), float(np.linalg.norm(y))
    return {
        "difference": float(np.linalg.norm(x - y)) / max(norms),
        "cosine": float(x @ y) / norms[0] / norms[1],
        "ratio": ratio,
        "apart": float(np.linalg.norm(x - ratio * y)) / norms[0],
    }


def nudged(members: Mapping[str, Pair], size: float) -> dict[str, Pair]:
    rng = np.random.default_rng(9)
    return {
        name: replace(one, up=one.up * (1 + size * rng.normal(size=one.up.shape)), dtype="F64")
        for name, one in members.items()
    }


@pytest.mark.parametrize("size", [0.5, 1e-2, 1e-4, 1e-5])
@pytest.mark.parametrize("modules", [UNET, SMALL], ids=["bases", "entries"])
def test_numbers_are_those_of_the_entries(
    tmp_path: Path, modules: Mapping[str, tuple[int, ...]], size: float
) -> None:
    one = pairs(1, 5, modules=modules)
    a = write(tmp_path / "a.safetensors", one)
    b = write(tmp_path / "b.safetensors", nudged(one, size))
    found = diff(a, b)
    dense = delta_of(a), delta_of(b)
    for row in found.targets:
        expected = oracle(dense[0][row.target], dense[1][row.target])
        assert row.pair.norms == pytest.approx(
            tuple(float(np.linalg.norm(side[row.target])) for side in dense), rel=1e-6
        )
        for name, value in expected.items():
            assert getattr(row.pair, name) == pytest.approx(value, rel=1e-3, abs=1e-7), name
    whole = [np.concatenate([side[key].ravel() for key in dense[0]]) for side in dense]
    for name, value in oracle(*whole).items():
        assert getattr(found.total, name) == pytest.approx(value, rel=1e-3, abs=1e-7), name


def test_the_most_different_come_first(tmp_path: Path) -> None:
    one = pairs(1, 5, modules=UNET)
    other = {**one, "unet.b.to_k": nudged(one, 0.3)["unet.b.to_k"]}
    found = diff(write(tmp_path / "a.safetensors", one), write(tmp_path / "b.safetensors", other))
    assert found.targets[0].target == "unet.b.to_k"
    assert [row.pair.difference for row in found.targets[1:]] == [0.0, 0.0]
    assert found.verdict == "different"
    assert "1 of 3 targets" in found.sentence


@pytest.mark.parametrize("layout", ["sd15", "flux1"])
def test_dialects_of_one_adapter_are_the_same(tmp_path: Path, layout: str) -> None:
    table = load_layout(layout)
    component = "transformer" if layout == "flux1" else "unet"
    names = ("attn.to_q", "attn.to_k", "attn.to_v", "attn1.to_q", "proj_in")
    chosen = [m for m in table.modules if m.name.endswith(names) and m.component == component][:6]
    wanted = {module.name for module in chosen}
    built = kohya(table, lambda m: m.component == component and m.name in wanted, 4, 5)
    a = built.save(tmp_path / "a.safetensors")
    for dialect in DIALECTS:
        b = tmp_path / (dialect if dialect == "peft" else f"{dialect}.safetensors")
        save(load(a, architecture=layout), b, dialect=dialect)
        found = diff(a, b, architecture=layout)
        assert (found.verdict, found.sentence) == ("same", "the same deltas"), dialect
        assert found.same
        assert ("dialect" in found.facts) == (dialect != "kohya")


def test_other_factors_of_the_same_deltas_are_the_same(tmp_path: Path) -> None:
    one = pairs(1, 5, modules=UNET, dtype="F64")
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(5, 5)))[0]
    other = {
        name: replace(p, up=p.up @ turn, down=turn.T @ p.down, dtype="F64")
        for name, p in one.items()
    }
    found = diff(write(tmp_path / "a.safetensors", one), write(tmp_path / "b.safetensors", other))
    assert found.verdict == "same"


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F8_E4M3"])
def test_rounding_to_a_type_is_no_difference(tmp_path: Path, dtype: str) -> None:
    one = pairs(1, 5, modules=UNET)
    other = {name: replace(p, dtype=dtype) for name, p in one.items()}
    paths = write(tmp_path / "a.safetensors", one), write(tmp_path / "b.safetensors", other)
    found = diff(*paths)
    assert found.verdict == "rounding"
    assert f"up to rounding to {dtype.lower()}" in found.sentence
    assert found.facts["dtypes"] == ("f32", dtype.lower())
    strict = diff(*paths, tolerance=1e-5)
    assert strict.verdict == "different"
    assert diff(*paths, tolerance=0.5).sentence.startswith("the same deltas within 0.5")


def test_a_change_larger_than_the_rounding_of_the_type_is_one(tmp_path: Path) -> None:
    one = pairs(1, 5, modules=UNET, dtype="BF16")
    a = write(tmp_path / "a.safetensors", one)
    b = write(tmp_path / "b.safetensors", nudged(one, 0.03))
    assert diff(a, b).verdict == "different"


@pytest.mark.parametrize("factor", [0.5, -2.0, 64.0])
def test_a_factor(tmp_path: Path, factor: float) -> None:
    one = pairs(1, 5, modules=UNET)
    found = diff(
        write(tmp_path / "a.safetensors", scaled(one, factor)),
        write(tmp_path / "b.safetensors", one),
    )
    assert found.verdict == "factor"
    assert not found.same
    assert found.total.ratio == pytest.approx(factor, rel=1e-6)
    assert f"the first is {factor:.4g} x the second" in found.sentence
    assert "alpha" not in found.sentence


def test_a_forgotten_alpha(tmp_path: Path) -> None:
    with_alpha = pairs(1, 8, modules=UNET, alpha=4.0)
    without = {name: replace(one, alpha=None) for name, one in with_alpha.items()}
    found = diff(
        write(tmp_path / "a.safetensors", with_alpha), write(tmp_path / "b.safetensors", without)
    )
    assert found.verdict == "factor"
    assert "0.5 x the second; their scales (alpha / rank) differ by just that" in found.sentence


def test_factors_that_differ_by_target(tmp_path: Path) -> None:
    one = pairs(1, 5, modules=UNET)
    other = {
        name: replace(p, up=p.up * factor)
        for (name, p), factor in zip(one.items(), (0.5, 1.0, 2.0), strict=True)
    }
    found = diff(write(tmp_path / "a.safetensors", other), write(tmp_path / "b.safetensors", one))
    assert found.verdict == "factors"
    assert "0.5 to 2 x the second" in found.sentence


def test_targets_that_one_lacks(tmp_path: Path) -> None:
    one = pairs(1, 5, modules=UNET)
    fewer = {name: p for name, p in one.items() if name != "unet.b.to_k"}
    paths = write(tmp_path / "a.safetensors", fewer), write(tmp_path / "b.safetensors", one)
    assert diff(*paths).only == ((), ("unet.b.to_k",))
    assert diff(*reversed(paths)).only == (("unet.b.to_k",), ())
    assert diff(*paths).verdict == "different"
    lost = float(np.linalg.norm(delta_of(paths[1])["unet.b.to_k"]))
    whole = math.sqrt(sum(float((d**2).sum()) for d in delta_of(paths[1]).values()))
    assert diff(*paths).total.difference == pytest.approx(lost / whole, rel=1e-6)


def test_a_delta_of_zero_is_as_good_as_none(tmp_path: Path) -> None:
    one = pairs(1, 5, modules=UNET)
    more = {**one, "unet.d": pair(np.random.default_rng(0), (9, 9), 2)}
    more["unet.d"] = replace(more["unet.d"], up=more["unet.d"].up * 0)
    found = diff(write(tmp_path / "a.safetensors", one), write(tmp_path / "b.safetensors", more))
    assert (found.verdict, found.only) == ("same", ((), ()))


def test_both_are_zero_somewhere(tmp_path: Path) -> None:
    one = pairs(1, 5, modules=UNET)
    one["unet.b.to_k"] = replace(one["unet.b.to_k"], up=one["unet.b.to_k"].up * 0)
    a = write(tmp_path / "a.safetensors", one)
    b = write(tmp_path / "b.safetensors", scaled(one, 2.0))
    assert diff(a, b).verdict == "factor"
    (zero,) = (row.pair for row in diff(a, b).targets if row.target == "unet.b.to_k")
    assert (zero.difference, zero.cosine, zero.ratio, zero.apart) == (0.0, None, None, 0.0)


def test_shapes_and_models_that_differ(tmp_path: Path) -> None:
    one = pairs(1, 5, modules=UNET)
    other = {**one, "unet.a.to_q": pair(np.random.default_rng(0), (40, 31), 5)}
    found = diff(write(tmp_path / "a.safetensors", one), write(tmp_path / "b.safetensors", other))
    assert found.only == (("unet.a.to_q",), ("unet.a.to_q",))

    sd15, flux = load_layout("sd15"), load_layout("flux1")
    a = diffusers(sd15, lambda m: "attn2.to_k" in m.name and "mid" in m.name, 2, 1)
    b = diffusers(flux, lambda m: m.name.startswith("single_transformer_blocks.0."), 2, 1)
    found = diff(
        load(a.save(tmp_path / "a.safetensors"), architecture="sd15"),
        load(b.save(tmp_path / "b.safetensors"), architecture="flux1"),
    )
    assert found.sentence == "for different base models: sd15 and flux1"
    assert found.total.cosine == 0.0


def test_dense_differences(tmp_path: Path) -> None:
    modules = {"unet.a": (40, 30)}
    stack = [
        write(tmp_path / f"{seed}.safetensors", pairs(seed, 5, modules=modules), dialect="kohya")
        for seed in range(2)
    ]
    factors = merge(stack, "linear")
    dense = merge(stack, "ties:density=0.8", output=Output(dense=True))
    found = diff(factors.adapter, dense.adapter)
    (a,), (b,) = (delta_of(_saved(tmp_path, one.adapter)).values() for one in (factors, dense))
    expected = oracle(a, b)
    assert found.targets[0].ranks == (10, 30)
    assert found.total.cosine == pytest.approx(expected["cosine"], rel=1e-6)
    assert found.total.difference == pytest.approx(expected["difference"], rel=1e-5)


def _saved(folder: Path, adapter: Adapter) -> Path:
    save(adapter, folder / "saved.safetensors")
    return folder / "saved.safetensors"


def test_a_resized_file_differs_by_its_error(tmp_path: Path) -> None:
    a = write(tmp_path / "a.safetensors", pairs(1, 8, modules=UNET))
    small = resize(a, total_error=0.3)
    found = diff(a, small.adapter)
    assert 0 < found.total.difference <= 0.3
    assert found.facts["ranks"][0] == "8 (3)"


def test_strings_that_differ(tmp_path: Path) -> None:
    one = pairs(1, 5, modules=UNET)
    a = write(tmp_path / "a.safetensors", one, metadata={"same": "1", "title": "x", "gone": "y"})
    b = write(tmp_path / "b.safetensors", one, metadata={"same": "1", "title": "z"})
    assert dict(diff(a, b).metadata) == {"gone": ("y", None), "title": ("x", "z")}


def test_refusals(tmp_path: Path) -> None:
    one = pairs(1, 5, modules=UNET)
    a = write(tmp_path / "a.safetensors", one)
    with pytest.raises(ParamError, match="tolerance = -1"):
        diff(a, a, tolerance=-1)


@pytest.mark.parametrize("key", ["unet.a.to_q", "unet.d"])
def test_nan_is_refused_by_name(tmp_path: Path, key: str) -> None:
    one = pairs(1, 5, modules=UNET | SMALL)
    bad = {**one, key: replace(one[key], up=one[key].up * math.nan)}
    paths = write(tmp_path / "a.safetensors", one), write(tmp_path / "b.safetensors", bad)
    with pytest.raises(FormatError, match=rf"{key}.lora_B.weight holds NaN"):
        diff(*paths)


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("COLUMNS", "80")

    def call(*args: object) -> tuple[int, str, str]:
        code = main([str(arg) for arg in args])
        found = capsys.readouterr()
        return code, found.out, found.err

    return call


def test_the_command(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # paths are never broken: what is wide is not a long path
    one = pairs(1, 5, modules=UNET)
    a = write(Path("a.safetensors"), one, metadata={"title": "x\x1b[31m" + "y" * 80})
    b = write(Path("b.safetensors"), scaled(one, 2.0))
    code, out, err = run("diff", a, a)
    assert (code, err) == (0, "")
    assert "the same deltas" in out
    code, out, _ = run("diff", a, b)
    assert code == 1
    assert "the first is 0.5 x the second" in out
    assert "unet.a.to_q" in out
    assert "\x1b" not in out
    assert all(len(line) <= 80 for line in out.splitlines())
    code, out, _ = run("diff", a, b, "--json")
    assert code == 1
    found = json.loads(out)
    assert (found["verdict"], found["same"]) == ("factor", False)
    assert run("diff", a, b, "--tolerance", "1")[0] == 0


def test_trouble_is_not_a_difference(tmp_path: Path, run: Run) -> None:
    a = write(tmp_path / "a.safetensors", pairs(1, 5, modules=UNET))
    code, out, err = run("diff", a, tmp_path / "missing.safetensors")
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert run("diff", a, a, "--tolerance", "3")[0] == 2
    assert run("diff", a)[0] == 2


@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_dialect_of_an_unknown_model(tmp_path: Path, dialect: DialectName) -> None:
    one = pairs(1, 5, modules=UNET)
    config = {"r": 5, "lora_alpha": 5} if dialect == "peft" else None
    paths = [write(tmp_path / f"{i}", one, dialect=dialect, config=config) for i in range(2)]
    assert diff(*paths).verdict == "same"


def test_configs_field_by_field(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A config is a table: what differs is shown, and not where its text is cut."""
    usual = {
        "peft_type": "LORA", "base_model_name_or_path": "some/very/long/name/of/a/model",
        "r": 2, "lora_alpha": 4, "target_modules": ["y", "x"], "rank_pattern": {"x": 2, "z": 3},
    }  # fmt: skip
    other = {
        **usual, "lora_alpha": 6, "target_modules": ["x", "w"], "rank_pattern": {"x": 3},
        "use_rslora": False, "bias": "none",
    }  # fmt: skip
    folders = [tmp_path / name for name in "abc"]
    for folder, config in zip(
        folders, (usual, other, {**usual, "target_modules": ["x", "y"]}), strict=True
    ):
        write_adapter(folder, pairs(1, 2, modules={"unet.x": (9, 7)}), "peft", config=config)
    found = diff(folders[0], folders[1])
    assert found.fields == {
        "adapter_config.json": {
            "bias": (None, "none"), "lora_alpha": ("4", "6"), "rank_pattern.x": ("2", "3"),
            "rank_pattern.z": ("3", None), "target_modules": ("y", "w"),
            "use_rslora": (None, "false"),
        }
    }  # fmt: skip
    json.dumps(found.as_dict())
    assert main(["diff", str(folders[0]), str(folders[1])]) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "fields adapter_config.json: bias (- / none), lora_alpha (4 / 6), rank_pattern.x" in said
    assert "metadata" not in said
    again = diff(folders[0], folders[2])
    assert again.same
    order = "the same in another order"
    assert again.fields == {"adapter_config.json": {"target_modules": (order, order)}}


@pytest.mark.parametrize("text", ["[1]", "{", "3", "[" * 99999])
def test_strings_that_are_no_tables_are_strings(text: str, tmp_path: Path) -> None:
    one = pairs(1, 2, modules={"unet.x": (9, 7)})
    a = write_adapter(tmp_path / "a.safetensors", one, metadata={"s": '{"x": 1}'})
    b = write_adapter(tmp_path / "b.safetensors", one, metadata={"s": text})
    found = diff(a, b)
    assert (found.fields, dict(found.metadata)) == ({}, {"s": ('{"x": 1}', text)})
