"""What the first user of the tools stumbled over: commands, hints and figures that were not so."""

import json
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers import Raw, encode, pairs, write_adapter
from tools import patients
from tools.patients import STEMS, Tensors, factor, number, sound

from loramix import FormatError, ParamError, doctor, extract, inspect, load, merge, plan, resize
from loramix.cli.app import main
from loramix.report import inspection, planned, text
from loramix.report.model import report_of

Q = STEMS[0]
BASE = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1."


def model(folder: Path, name: str, *, seed: int) -> Path:
    """A model of three weights: those of one attention, the queries by seed."""
    tensors: dict[str, Raw] = {
        f"{BASE}to_{one}.weight": factor((320, 320), seed if one == "q" else 0) for one in "qkv"
    }
    return patients.write(folder, tensors, {}, name)


# --- the doctor's commands can be run ------------------------------------------------------------


def _without_up(tensors: Tensors) -> None:
    del tensors[f"{Q}.lora_up.weight"]


def _empty(tensors: Tensors) -> None:
    for side, shape in (("up", (1280, 0)), ("down", (0, 1280))):
        tensors[f"{Q}.lora_{side}.weight"] = ("F16", shape, b"")


def _alphas_differ(tensors: Tensors) -> None:
    tensors[f"{Q}.alpha"] = number(1.0)


@pytest.mark.parametrize("break_it", [_without_up, _empty, _alphas_differ])
def test_a_command_that_mends_does_so(
    break_it: Callable[[Tensors], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tensors = sound()
    break_it(tensors)
    path = patients.write(tmp_path, tensors)
    (found,) = [one for one in doctor(path).findings if "loramix convert" in one.mend]
    command = found.mend[found.mend.index("loramix convert") :]
    words = shlex.split(command)[1:]
    end = words.index("OUT.safetensors") + 1
    assert main(words[:end]) == 0
    assert doctor("OUT.safetensors").healthy


# --- refusals that name what is wrong ------------------------------------------------------------


def test_one_name_for_two_shapes_is_refused(tmp_path: Path) -> None:
    first = patients.write(tmp_path, sound(), name="first.safetensors")
    tensors = sound()
    tensors[f"{Q}.lora_up.weight"] = factor((1272, patients.RANK))
    second = patients.write(tmp_path, tensors, name="second.safetensors")
    message = rf"{Q}.*would be two weights: .*\[1272, 1280\] in second.*\[1280, 1280\] in first"
    with pytest.raises(FormatError, match=message):
        merge([first, second], path=tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


def test_a_model_is_told_from_an_adapter(tmp_path: Path) -> None:
    path = model(tmp_path, "base.safetensors", seed=1)
    with pytest.raises(FormatError, match=r"the weights of a model.*loramix bake"):
        load(path)
    (found,) = doctor(path).findings
    assert (found.severity, found.count) == ("error", 3)
    assert found.mend.endswith(f"loramix bake {path} A.safetensors -o OUT.safetensors")


def test_the_scales_of_norms_are_a_model_too(tmp_path: Path) -> None:
    norm = {"double_blocks.0.img_attn.norm.query_norm.scale": factor((128,))}
    alone = patients.write(tmp_path, norm, {}, "alone.safetensors")
    with pytest.raises(FormatError, match="weight of a norm saved whole"):
        load(alone)
    weight = {"double_blocks.0.img_attn.qkv.weight": factor((48, 16))}
    with pytest.raises(FormatError, match="no adapter, but the weights of a model"):
        load(patients.write(tmp_path, norm | weight, {}, "model.safetensors"))


def test_a_wrong_architecture_is_a_wrong_option(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = patients.write(tmp_path, sound())
    for command in ("inspect", "doctor"):
        assert main([command, str(path), "--architecture", "sd16"]) == 2
        assert "architecture 'sd16'; known are" in capsys.readouterr().err
    with pytest.raises(ParamError, match="sd16"):
        load(path, architecture="sd16")


# --- figures and lines ---------------------------------------------------------------------------


def test_ranks_of_a_budget_are_counted(tmp_path: Path) -> None:
    modules = {f"unet.blocks.{i}.attn.to_q": (24 + 8 * i, 20 + 4 * i) for i in range(12)}
    source = write_adapter(tmp_path / "in.safetensors", pairs(7, 8, modules=modules))
    merged = resize(source, total_error=0.5, path=tmp_path / "out.safetensors")
    assert len(merged.plan.rules) > 4
    (said,) = planned.resolved(merged.plan)
    ranks = [row.rank for row in merged.log]
    expected = ", ".join(f"{rank} ({ranks.count(rank)})" for rank in sorted(set(ranks)))
    assert " ".join(said.split()) == f"ranks {expected} targets"
    shown = " ".join(text.render(report_of(merged, seconds=0.0)).split())
    cut = np.sqrt(
        sum((r.cut * r.norm) ** 2 for r in merged.log) / sum(r.norm**2 for r in merged.log)
    )
    assert f"what was cut off is {100 * cut:.3g} %, exactly" in shown


def test_the_doctor_knows_the_alphas_of_a_resized_file(tmp_path: Path) -> None:
    tensors = sound()
    tensors[f"{Q}.lora_down.weight"] = factor((16, 1280))
    tensors[f"{Q}.lora_up.weight"] = factor((1280, 16))
    for name in [name for name in tensors if name.endswith(".alpha")]:
        tensors[name] = number(48.0)
    foreign = patients.write(tmp_path, tensors)
    assert "alpha-odd" in {one.rule for one in doctor(foreign).findings}
    resize(foreign, rank=2, path=tmp_path / "own.safetensors")
    assert "alpha-odd" not in {one.rule for one in doctor(tmp_path / "own.safetensors").findings}


def test_what_was_extracted_is_said_to_be_reproducible(tmp_path: Path) -> None:
    tuned = model(tmp_path, "tuned.safetensors", seed=1)
    base = model(tmp_path, "base.safetensors", seed=2)
    path = tmp_path / "lora.safetensors"
    extract(tuned, base, path=path, rank=2, architecture="sd15")
    shown = inspection.render(inspect(path).as_dict())
    assert "extract of tuned - base" in shown
    assert f"reproduce {path} --sources DIR" in " ".join(shown.split())
    assert "decisions for" not in shown


@pytest.mark.parametrize(
    ("rslora", "said"), [(True, "(alpha / sqrt(rank))"), (False, "(alpha / rank)")]
)
def test_the_scale_says_what_it_is_made_of(rslora: bool, said: str, tmp_path: Path) -> None:
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "use_rslora": rslora}
    write_adapter(tmp_path / "llm", pairs(1, 4), "peft", config=config)
    shown = inspection.render(inspect(tmp_path / "llm").as_dict())
    assert f"scale         {4 if rslora else 2} {said}" in shown
    assert json.loads((tmp_path / "llm" / "adapter_config.json").read_text()) == config


def test_the_two_experts_of_wan_are_two_models(tmp_path: Path) -> None:
    stem = "lora_unet_blocks_{}_{}_attn_q"
    tensors: dict[str, Raw] = {}
    for stem_ in (stem.format(i, kind) for i in (0, 39) for kind in ("self", "cross")):
        tensors[f"{stem_}.lora_down.weight"] = factor((2, 5120))
        tensors[f"{stem_}.lora_up.weight"] = factor((5120, 2))
        tensors[f"{stem_}.alpha"] = ("F32", (), encode("F32", np.array([2.0])))
    paths = [
        patients.write(tmp_path, tensors, {}, f"{name}.safetensors")
        for name in ("style_high_noise", "style_LowNoise", "highnoisey")
    ]
    notes = plan(paths[:2]).notes
    assert any("two models" in note and "merge them apart" in note for note in notes)
    assert not any("two models" in note for note in plan(paths[1:]).notes)
