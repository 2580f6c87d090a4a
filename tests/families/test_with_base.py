"""Families that are relative to base weights, from the command line to the file and back."""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints.models import modules_of
from families.files import CASES, RELATIVE, Case, Model, deltas, file_of
from helpers import Raw, decode, encode, read_safetensors, relative, write_safetensors
from oracles_families import F64

from loramix import (
    FormatError,
    LoramixError,
    Output,
    OutputError,
    analyze,
    bake,
    doctor,
    load,
    merge,
    reproduce,
    resize,
)
from loramix.checkpoints import lending
from loramix.cli.app import main

STEM, SHAPE = "unet.x", (24, 30)
Run = Callable[..., tuple[int, str]]


def _dora() -> Case:
    rows, cols = SHAPE
    magnitudes = np.sqrt(cols) * (1 + 0.1 * np.random.default_rng(7).normal(size=(rows, 1)))
    known = RELATIVE["dora, of outputs"]
    roles = {"up": (rows, 4), "down": (4, cols), "dora_scale": (rows, 1)}
    return Case(SHAPE, roles, known.oracle, "dora", base=True, fixed={"dora_scale": magnitudes})


FAMILIES: Mapping[str, Case] = {
    "lora": Case(SHAPE, {"up": (24, 4), "down": (4, 30)}, CASES["lora"].oracle, "lora"),
    "dora": _dora(),
    "loha": Case(
        SHAPE,
        {"hada_w1_a": (24, 3), "hada_w1_b": (3, 30), "hada_w2_a": (24, 3), "hada_w2_b": (3, 30)},
        CASES["loha"].oracle, "loha", rank=3,
    ),
    "lokr": CASES["lokr, w2 factored"],
    "oft": Case(
        SHAPE, {"oft_blocks": (6, 4, 4)}, RELATIVE["oft"].oracle, "oft", alpha=None, base=True
    ),
    "ia3": Case(
        SHAPE, {"ia3_l": (24, 1)}, RELATIVE["ia3, peft"].oracle, "ia3", alpha=None, base=True
    ),
}  # fmt: skip


def write(folder: Path, name: str, case: Case | None = None) -> tuple[Path, F64, Model]:
    """A file of one family; all of them are relative to the same weight."""
    path, truth, model = file_of(folder, {STEM: case or FAMILIES[name]}, name=name)
    return path, truth[STEM], model


def write_base(folder: Path, model: Model, stem: str = STEM) -> Path:
    """The weights that file was made for."""
    weight = model.weights[stem]
    tensors: dict[str, Raw] = {
        f"{stem}.weight": ("F32", weight.shape, encode("F32", weight)),
        "logit_scale": ("F32", (), encode("F32", [4.6])),
    }
    folder.mkdir(exist_ok=True)
    return write_safetensors(folder / "model.safetensors", tensors)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*words: object) -> tuple[int, str]:
        code = main([str(word) for word in words])
        said = capsys.readouterr()
        return code, said.out + said.err

    return call


@pytest.fixture
def dora(tmp_path: Path) -> tuple[Path, F64, Path]:
    path, truth, model = write(tmp_path, "dora")
    return path, truth, write_base(tmp_path / "models", model)


def test_all_in_one_stack(run: Run, tmp_path: Path) -> None:
    weights = [1.0, 0.7, -0.5, 2.0, 0.4, -1.5]
    words, meant, model = [], np.zeros(SHAPE), None
    for name, weight in zip(FAMILIES, weights, strict=True):
        path, truth, model = write(tmp_path, name)
        words.append(f"{path}:{weight}")
        meant += weight * truth
    assert model is not None
    out, base = tmp_path / "out.safetensors", write_base(tmp_path / "models", model)
    same = ("-m", "linear", "--dtype", "f32", "-o", out)
    code, said = run("merge", *words, *same)
    assert code == 1
    assert "--base" in said
    code, said = run("merge", *words, *same, "--base", base)
    assert code == 0, said
    assert relative(deltas(load(out))[STEM], meant) < 3e-6
    told = json.loads(read_safetensors(out)[1]["loramix"])["sources"]
    assert [one["name"] for one in told if "base" in one] == ["dora", "oft", "ia3"]
    code, said = run("inspect", out)
    assert "model: blake3" in said


def test_a_dora_as_a_lora(dora: tuple[Path, F64, Path], run: Run, tmp_path: Path) -> None:
    path, truth, base = dora
    whole, small = tmp_path / "whole.safetensors", tmp_path / "small.safetensors"
    assert run("convert", path, "-o", whole, "--base", base)[0] == 0
    assert run("diff", path, whole, "--base", base)[0] == 0
    assert run("diff", path, whole)[0] == 2
    code, said = run("convert", path, "-o", small, "--base", base, "--rank", 6, "--json")
    assert code == 0
    values = np.linalg.svd(truth, compute_uv=False)
    least = float(np.sqrt((values[6:] ** 2).sum() / (values**2).sum()))
    (row,) = json.loads(said)["rows"]
    assert row["rank"] == 6
    assert row["cut"] == pytest.approx(least, rel=1e-4)
    assert relative(deltas(load(small))[STEM], truth) == pytest.approx(least, rel=1e-4)
    code, said = run("diff", path, small, "--base", base, "--json")
    assert code == 1
    assert json.loads(said)["total"]["difference"] == pytest.approx(least, rel=1e-4)
    halved = resize(path, total_error=0.5, base=base, dtype="f32")
    assert relative(deltas(halved.adapter)[STEM], truth) <= 0.5


def test_baked_into_its_own_base(dora: tuple[Path, F64, Path], run: Run, tmp_path: Path) -> None:
    path, truth, base = dora
    out = tmp_path / "new.safetensors"
    code, said = run("bake", base, f"{path}:0.5", "-m", "linear", "-o", out)
    assert code == 0, said
    (old, _), (new, strings) = read_safetensors(base), read_safetensors(out)
    was, now = (decode("F32", t[f"{STEM}.weight"][2]).reshape(SHAPE) for t in (old, new))
    assert np.abs(now - was - 0.5 * truth).max() < 2e-6
    told = json.loads(strings["loramix"])
    assert "base" in told
    assert "base" not in told["sources"][0]
    recipe = tmp_path / "r.toml"
    recipe.write_text(f'method = {{name = "linear"}}\n[[adapter]]\npath = "{path}"\nweight = 0.5\n')
    again = tmp_path / "again.safetensors"
    bake(base, path=again, recipe=recipe)
    assert read_safetensors(again)[0] == new


def test_whatever_opens_adapters_takes_a_base(
    dora: tuple[Path, F64, Path], run: Run, tmp_path: Path
) -> None:
    path, _, base = dora
    other, _, _ = write(tmp_path, "ia3")
    for words in (
        ("inspect", path), ("doctor", path), ("analyze", path, other), ("compat", path, other),
        ("plan", path, other), ("resize", path, "--rank", 2, "-o", tmp_path / "r.safetensors"),
    ):  # fmt: skip
        assert run(*words)[0] == 1, words
        code, said = run(*words, "--base", base)
        assert code == 0, (words, said)
        assert run(*words, "--base", tmp_path / "none")[0] == 1
    (found,) = [one for one in doctor(path).findings if one.severity == "error"]
    command = found.mend.split(" folds")[0].replace("MODEL.safetensors", str(base))
    command = command.replace("OUT.safetensors", str(tmp_path / "mended.safetensors"))
    assert run(*command.split()[1:])[0] == 0


def test_stored_statistics_are_of_a_base(dora: tuple[Path, F64, Path], tmp_path: Path) -> None:
    """Vectors among them, too."""
    path, truth, base = dora
    other = write_safetensors(
        tmp_path / "v.safetensors",
        {
            "lora_unet_x.lora_up.weight": ("F32", (24, 1), encode("F32", np.ones(24))),
            "lora_unet_x.lora_down.weight": ("F32", (1, 30), encode("F32", np.ones(30))),
            "lora_unet_x.diff_b": ("F32", (24,), encode("F32", np.ones(24))),
        },
    )
    stored = tmp_path / "s.json"
    analyze([other], path=stored)
    merge([other], "auto", analysis=stored)
    analyze([path], path=stored, base=base)
    merged = merge([path], "auto", analysis=stored, base=base, output=Output(dtype="f32"))
    assert relative(deltas(merged.adapter)[STEM], truth) < 3e-6
    tensors, _ = read_safetensors(base)
    twice = {**tensors, f"{STEM}.weight": ("F32", SHAPE, encode("F32", np.ones(SHAPE)))}
    another = write_safetensors(tmp_path / "another.safetensors", twice)
    with pytest.raises(FormatError, match="relative to another base model now"):
        merge([path], "auto", analysis=stored, base=another)


def test_the_base_is_no_place_for_an_output(dora: tuple[Path, F64, Path], tmp_path: Path) -> None:
    path, _, base = dora
    plain, _, _ = write(tmp_path, "lora")
    for source in (path, plain):
        with pytest.raises(OutputError, match="also an input"):
            merge([source], "linear", base=base, path=base)


def test_recipes_plans_and_what_is_made_again(
    dora: tuple[Path, F64, Path], run: Run, tmp_path: Path
) -> None:
    path, _, base = dora
    plain, _, _ = write(tmp_path, "lora")
    one, two, three = (tmp_path / f"{n}.safetensors" for n in ("one", "two", "three"))
    merged = merge([path, plain], "slerp", base=base, path=one)
    recipe, plan = tmp_path / "r.toml", tmp_path / "p.toml"
    assert f'base = "{base}"' in merged.plan.recipe
    recipe.write_text(merged.plan.recipe)
    assert run("merge", "--recipe", recipe, "-o", two)[0] == 0
    assert two.read_bytes() == one.read_bytes()
    assert run("plan", "--recipe", recipe, "-o", plan)[0] == 0
    assert run("merge", "--plan", plan, "-o", three)[0] == 0
    assert three.read_bytes() == one.read_bytes()
    assert run("reproduce", one, "--sources", tmp_path)[0] == 0
    away = tmp_path / "away"
    away.mkdir()
    shutil.move(base, away / "b.bin")
    sources = ["--sources", path, "--sources", plain]
    code, said = run("reproduce", one, *sources)
    assert code == 1
    assert "base model model (blake3:" in said
    assert run("reproduce", one, *sources, "--base", away / "b.bin")[0] == 0
    tensors, _ = read_safetensors(away / "b.bin")
    name = f"{STEM}.weight"
    other = {**tensors, name: ("F32", SHAPE, encode("F32", np.ones(SHAPE)))}
    write_safetensors(base, other)
    with pytest.raises(LoramixError, match="say where it is with --base"):
        reproduce(one, [path, plain], base=base)
    code, said = run("merge", "--plan", plan, "-o", three)
    assert code in (1, 2)
    assert "is not the base model that the plan was made for" in said


def test_a_base_in_several_files_is_found_again(tmp_path: Path) -> None:
    path, _, model = write(tmp_path, "dora")
    folder = tmp_path / "in" / "deep"
    folder.mkdir(parents=True)
    weight = model.weights[STEM]
    files = {
        "b-00001-of-00002.safetensors": {f"{STEM}.weight": ("F32", SHAPE, encode("F32", weight))},
        "b-00002-of-00002.safetensors": {"y.weight": ("F32", (2, 2), encode("F32", np.ones(4)))},
    }
    homes = {}
    for file, tensors in files.items():
        write_safetensors(folder / file, tensors)
        homes |= dict.fromkeys(tensors, file)
    index = folder / "b.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": homes}))
    out = tmp_path / "out.safetensors"
    merge([path], "linear", base=folder, path=out)
    assert reproduce(out, [path, tmp_path / "in"]).identical


def test_nothing_is_opened_that_nobody_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Path] = []
    real = lending.open_checkpoint

    def counted(path: Path) -> Any:
        opened.append(path)
        return real(path)

    monkeypatch.setattr(lending, "open_checkpoint", counted)
    plain, _, model = write(tmp_path, "lora")
    base, out = write_base(tmp_path / "models", model), tmp_path / "out.safetensors"
    merged = merge([plain], "linear", base=base, path=out)
    assert opened == []
    assert merged.plan.adapters[0].base is None
    assert "base" not in json.loads(read_safetensors(out)[1]["loramix"])["sources"][0]
    needy = [write(tmp_path, name)[0] for name in ("dora", "ia3", "oft")]
    merge([plain, *needy], "linear", base=base)
    assert opened == [base]
    with pytest.raises(FileNotFoundError):
        merge([plain], "linear", base=tmp_path / "none.safetensors")


def test_a_base_of_another_model_is_refused(tmp_path: Path) -> None:
    path, _, model = write(tmp_path, "dora")
    base = write_base(tmp_path / "models", Model({"unet.y": model.weights[STEM]}), "unet.y")
    with pytest.raises(FormatError, match=r"unet\.x, which the base model.* does not have"):
        load(path, base=base)


def test_the_names_of_the_base_may_be_others(tmp_path: Path) -> None:
    """Few weights fit several models, and their names are those of the original code."""
    module = next(m for m in modules_of("sd15", "unet", 200) if m.name != m.original)
    shape = module.shape
    rows, cols = shape[0], int(np.prod(shape[1:]))
    stem = f"lora_unet_{module.name.replace('.', '_')}"
    kernel = shape[2:]
    known = RELATIVE["dora, of outputs"]
    ones = (1,) * len(kernel)
    roles = {"up": (rows, 4, *ones), "down": (4, *shape[1:]), "dora_scale": (rows, 1, *ones)}
    sizes = {"dora_scale": np.sqrt(cols) * np.ones((rows, 1, *ones))}
    case = Case(shape, roles, known.oracle, "dora", base=True, fixed=sizes)
    path, truth, model = file_of(tmp_path, {stem: case})
    name = f"model.diffusion_model.{module.original}.weight"
    tensors: dict[str, Raw] = {name: ("F32", shape, encode("F32", model.weights[stem]))}
    base = write_safetensors(tmp_path / "base.safetensors", tensors)
    adapter = load(path, base=base, architecture="sd15")
    assert adapter.base is not None
    assert adapter.base.architecture == "sd15"
    (found,) = deltas(adapter).values()
    assert relative(found, truth[stem]) < 2e-6


def test_rslora_is_kept(run: Run, tmp_path: Path) -> None:
    path, truth, _ = write(tmp_path, "lora")
    out = tmp_path / "out.safetensors"
    assert run("merge", path, "--rslora", "-m", "linear", "--dtype", "f32", "-o", out)[0] == 0
    assert relative(deltas(load(out))[STEM], 2.0 * truth) < 1e-6  # rank 4: over 2 instead of 4
    assert reproduce(out, [path]).identical
    recipe = merge([path], "linear", rslora=True).plan.recipe
    (tmp_path / "r.toml").write_text(recipe)
    again = tmp_path / "again.safetensors"
    assert run("merge", "--recipe", tmp_path / "r.toml", "-o", again)[0] == 0
    assert relative(deltas(load(again))[STEM], 2.0 * truth) < 1e-6


@pytest.mark.filterwarnings("ignore")
def test_a_dora_that_peft_loads(tmp_path: Path) -> None:
    """A file of PEFT's own, opened by PeftModel, changes the weights by our folded deltas."""
    torch = pytest.importorskip("torch")
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)

    def fresh() -> Any:
        torch.manual_seed(1)
        return torch.nn.Sequential(torch.nn.Linear(20, 16), torch.nn.Conv2d(4, 6, 3))

    model = fresh()
    old = {name: value.detach().clone() for name, value in model.state_dict().items()}
    config = peft.LoraConfig(r=4, lora_alpha=6, use_dora=True, target_modules=["0", "1"])
    wrapped = peft.get_peft_model(model, config)
    for name, value in wrapped.named_parameters():
        if value.requires_grad:
            near = "magnitude" in name
            spread = 0.1 * torch.randn_like(value)
            value.data = value.data * (1 + spread) if near else 3 * spread
    wrapped.save_pretrained(tmp_path / "dora")
    loaded = peft.PeftModel.from_pretrained(fresh(), tmp_path / "dora").merge_and_unload()
    raws: dict[str, Raw] = {
        name: ("F32", tuple(value.shape), value.numpy().tobytes()) for name, value in old.items()
    }
    base = write_safetensors(tmp_path / "base.safetensors", raws)
    adapter = load(tmp_path / "dora", base=base)
    assert adapter.families == {"dora": 2}
    for key, found in deltas(adapter).items():
        moved = (loaded.state_dict()[f"{key}.weight"] - old[f"{key}.weight"]).double().numpy()
        assert relative(found, moved.reshape(moved.shape[0], -1)) < 2e-5
