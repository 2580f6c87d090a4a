"""Every rule finds the file that is broken its way, and none finds anything in a sound one."""

import json
import math
import pickle
import shlex
import struct
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers import Raw, encode
from tools import patients
from tools.patients import BLOCK, RANK, STEMS, Tensors, dotted, factor, number, sound

from loramix import Finding, ParamError, doctor, load
from loramix.cli.app import main
from loramix.diagnosing.rules import RULES
from loramix.diagnosing.subject import Subject, subject_of
from loramix.errors import LoramixError
from loramix.io.safetensors import SafetensorsFile
from loramix.types import Reading

Q, K, V, FF, TEXT = STEMS


def found(path: Path) -> dict[str, Finding]:
    """Findings by their rule."""
    diagnosis = doctor(path)
    rules = {one.rule: one for one in diagnosis.findings}
    assert len(rules) == len(diagnosis.findings), "one finding for each rule"
    return rules


def test_a_sound_file_has_no_findings(tmp_path: Path) -> None:
    path = patients.write(tmp_path, sound())
    diagnosis = doctor(path)
    assert diagnosis.findings == ()
    assert diagnosis.healthy
    assert (diagnosis.format, diagnosis.architecture, diagnosis.dialect) == (
        "safetensors", "sd15", "kohya",
    )  # fmt: skip
    assert diagnosis.size == path.stat().st_size
    assert diagnosis.tensors == 15


def test_a_sound_file_of_another_dialect_has_none_either(tmp_path: Path) -> None:
    old = {
        name.replace(".lora_A.", "_lora.down.").replace(".lora_B.", "_lora.up.")
        .replace(".to_", ".processor.to_"): raw
        for name, raw in dotted().items() if ".attn" in name
    }  # fmt: skip
    assert doctor(patients.write(tmp_path, old, {})).findings == ()


# --- tensors: one broken file for each rule -----------------------------------------------------

Break = Callable[[Tensors], None]


def magnitudes(tensors: Tensors) -> None:
    tensors[f"{K}.dora_scale"] = factor((1280, 1))


def half_pair(tensors: Tensors) -> None:
    del tensors[f"{K}.lora_up.weight"]


def strange(tensors: Tensors) -> None:
    tensors["optimizer.state.0"] = factor((3, 3))


def shapes_that_do_not_fit(tensors: Tensors) -> None:
    tensors[f"{K}.lora_up.weight"] = factor((1280, RANK + 1))


def textual_inversion(tensors: Tensors) -> None:
    tensors["bundle_emb.token.string_to_param.*"] = factor((2, 768))


def malformed_alpha(tensors: Tensors) -> None:
    tensors[f"{V}.alpha"] = factor((3,))


def same_module_twice(tensors: Tensors) -> None:
    path = patients.PATHS[Q]
    tensors[f"unet.{path}.lora_A.weight"] = factor((RANK, 1280), 98)
    tensors[f"unet.{path}.lora_B.weight"] = factor((1280, RANK), 99)


def same_tensors_twice(tensors: Tensors) -> None:
    path = patients.PATHS[Q]
    tensors[f"unet.{path}.lora_down.weight"] = tensors[f"{Q}.lora_down.weight"]
    tensors[f"unet.{path}.lora_up.weight"] = tensors[f"{Q}.lora_up.weight"]
    tensors[f"unet.{path}.alpha"] = tensors[f"{Q}.alpha"]


def not_a_number(tensors: Tensors) -> None:
    values = np.full((RANK, 768), 0.5)
    values[2, 7] = math.nan
    tensors[f"{V}.lora_down.weight"] = ("F16", (RANK, 768), encode("F16", values))


def infinite(tensors: Tensors) -> None:
    values = np.full((1280, RANK), 0.5)
    values[0, 0] = -math.inf
    tensors[f"{V}.lora_up.weight"] = ("BF16", (1280, RANK), encode("BF16", values))
    tensors[f"{V}.lora_down.weight"] = factor((RANK, 768), dtype="BF16")


def untrained(tensors: Tensors) -> None:
    for name, (dtype, shape, data) in list(tensors.items()):
        if "lora_up" in name:
            tensors[name] = (dtype, shape, bytes(len(data)))


def transposed(tensors: Tensors) -> None:
    tensors[f"{Q}.lora_down.weight"] = factor((1280, RANK))
    tensors[f"{Q}.lora_up.weight"] = factor((RANK, 1280))


def partly_untrained(tensors: Tensors) -> None:
    dtype, shape, data = tensors[f"{FF}.lora_up.weight"]
    tensors[f"{FF}.lora_up.weight"] = (dtype, shape, bytes(len(data)))


def rank_zero(tensors: Tensors) -> None:
    tensors[f"{FF}.lora_up.weight"] = ("F16", (1280, 0), b"")
    tensors[f"{FF}.lora_down.weight"] = ("F16", (0, 5120), b"")


def tiny(tensors: Tensors) -> None:
    for name, (_, shape, _data) in list(tensors.items()):
        if "lora_up" in name:
            tensors[name] = factor(shape, 5, size=2e-5)


def several_types(tensors: Tensors) -> None:
    tensors[f"{Q}.lora_up.weight"] = factor((1280, RANK), dtype="BF16")


def eight_bits(tensors: Tensors) -> None:
    tensors[f"{TEXT}.lora_up.weight"] = factor((768, RANK), dtype="F8_E4M3", size=0.5)


def no_strength(tensors: Tensors) -> None:
    tensors[f"{Q}.alpha"] = number(0.0)


def one_without_alpha(tensors: Tensors) -> None:
    del tensors[f"{Q}.alpha"]


def without_alphas(tensors: Tensors) -> None:
    for stem in STEMS:
        del tensors[f"{stem}.alpha"]


def too_strong(tensors: Tensors) -> None:
    tensors[f"{Q}.alpha"] = number(64.0)


def negative(tensors: Tensors) -> None:
    tensors[f"{Q}.alpha"] = number(-4.0)


def a_module_of_another_model(tensors: Tensors) -> None:
    tensors["lora_unet_extra_to_q.lora_down.weight"] = factor((RANK, 64))
    tensors["lora_unet_extra_to_q.lora_up.weight"] = factor((32, RANK))
    tensors["lora_unet_extra_to_q.alpha"] = number(RANK)


def foreign(tensors: Tensors) -> None:
    path = patients.PATHS[Q].replace("attentions.0", "attentions.0").replace("to_q", "to_k")
    tensors[f"unet.{path}.lora_down.weight"] = factor((RANK, 1280))
    tensors[f"unet.{path}.lora_up.weight"] = factor((1280, RANK))
    tensors[f"unet.{path}.alpha"] = number(RANK)


def several_alphas(tensors: Tensors) -> None:
    tensors[f"{Q}.alpha"] = number(2.0)


BROKEN: list[tuple[Break, str, str, str, str]] = [
    (magnitudes, "refused", "error", K, "DoRA"),
    (half_pair, "refused", "error", K, "has no partner"),
    (strange, "refused", "error", "optimizer.state.0", "is not understood"),
    (shapes_that_do_not_fit, "refused", "error", K, "must equal the first of down"),
    (textual_inversion, "refused", "error", "bundle_emb", "a textual inversion"),
    (malformed_alpha, "refused", "error", V, "it must be one number"),
    (same_module_twice, "duplicate", "error", "unet.mid_block", "by different values"),
    (same_tensors_twice, "duplicate", "warning", "unet.mid_block", "by the same values"),
    (not_a_number, "not-finite", "error", f"{V}.lora_down", "1 of 3,072 numbers are NaN"),
    (infinite, "not-finite", "error", f"{V}.lora_up", "1 of 5,120 numbers are NaN or inf"),
    (untrained, "untrained", "warning", Q, "all modules are zero"),
    (partly_untrained, "untrained", "note", FF, "1 of 5 modules are all zero"),
    (rank_zero, "rank-0", "warning", FF, "diffusers refuses a file that has one"),
    (transposed, "transposed", "warning", f"{Q}.lora_up", "1 of 5 pairs are stored transposed"),
    (tiny, "subnormal", "warning", "", "f16 has not all digits"),
    (several_types, "dtypes", "note", f"{Q}.lora_up", "several types: f16 (9), bf16 (1)"),
    (eight_bits, "dtypes", "note", f"{TEXT}.lora_up", "factors of 8 bits"),
    (no_strength, "alpha-0", "warning", f"{Q}.alpha", "alpha is 0 in 1 of 5 modules"),
    (one_without_alpha, "alpha-missing", "warning", Q, "no alpha in 1 of 5 modules"),
    (without_alphas, "alpha-missing", "note", Q, "every client takes scale 1"),
    (too_strong, "alpha-odd", "warning", f"{Q}.alpha", "a scale of 16"),
    (negative, "alpha-odd", "warning", f"{Q}.alpha", "a scale of -1"),
    (a_module_of_another_model, "unrecognised", "warning", "lora_unet_extra", "no such module"),
    (foreign, "client-foreign", "warning", "unet.mid", "loads nothing at all, silently"),
    (several_alphas, "client-alphas", "warning", f"{Q}.alpha", "alphas differ (2 to 4)"),
]


@pytest.mark.parametrize(("change", "rule", "severity", "where", "what"), BROKEN)
def test_broken_tensors(
    tmp_path: Path, change: Break, rule: str, severity: str, where: str, what: str
) -> None:
    tensors = sound()
    change(tensors)
    findings = found(patients.write(tmp_path, tensors))
    assert rule in findings
    assert findings[rule].severity == severity
    assert findings[rule].where.startswith(where)
    assert what in findings[rule].what
    assert findings[rule].mend


# --- names that clients do not load -------------------------------------------------------------


def linear_layers() -> Tensors:
    return {
        name.replace(".lora_A.", ".lora_linear_layer.down.")
        .replace(".lora_B.", ".lora_linear_layer.up."): raw
        for name, raw in dotted().items()
    }  # fmt: skip


def ranks_that_differ() -> Tensors:
    tensors = dotted()
    path = f"unet.{patients.PATHS[K]}"
    tensors[f"{path}.lora_A.weight"] = factor((2, 768))
    tensors[f"{path}.lora_B.weight"] = factor((1280, 2))
    return tensors


def with_alphas() -> Tensors:
    return dotted() | {f"unet.{path}.alpha": number(RANK) for path in patients.PATHS.values()}


def musubi() -> Tensors:
    stem = "lora_unet_layers_0_attention_to_q"
    return {
        f"{stem}.lora_down.weight": factor((RANK, 3840)),
        f"{stem}.lora_up.weight": factor((3840, RANK)),
        f"{stem}.alpha": number(RANK),
    }


def top_of_flux() -> Tensors:
    stems = {"double_blocks_0_img_attn_proj": (3072, 3072), "img_in": (3072, 64)}
    found: Tensors = {}
    for stem, (rows, cols) in stems.items():
        found[f"lora_unet_{stem}.lora_down.weight"] = factor((RANK, cols))
        found[f"lora_unet_{stem}.lora_up.weight"] = factor((rows, RANK))
        found[f"lora_unet_{stem}.alpha"] = number(RANK)
    return found


def with_bias() -> Tensors:
    return sound() | {f"{Q}.diff_b": factor((1280,))}


CONFIG = {"lora_adapter_metadata": json.dumps({"unet.r": 4, "unet.lora_alpha": 4})}


UNLOADED: list[tuple[Tensors, dict[str, str], str, str, str]] = [
    (dotted("base_model.model."), {}, "client-peft-unet", "warning", "--dialect diffusers"),
    (dotted(""), {}, "client-peft-unet", "warning", "--dialect diffusers"),
    (dotted(infix=".default"), {}, "client-adapter-name", "warning", "loramix convert"),
    (linear_layers(), {}, "client-linear-layer", "warning", "--dialect diffusers"),
    (with_alphas(), CONFIG, "client-two-alphas", "warning", "--dialect diffusers"),
    (ranks_that_differ(), {}, "client-ranks", "note", "--dialect diffusers"),
    (dotted(), {}, "client-comfy-unet", "note", "--dialect kohya"),
    (musubi(), {}, "client-musubi", "warning", "--for comfyui"),
    (top_of_flux(), {}, "client-flux-top", "note", "--dialect diffusers"),
    (with_bias(), {}, "client-families", "note", "--dialect diffusers"),
]


@pytest.mark.parametrize(("tensors", "strings", "rule", "severity", "option"), UNLOADED)
def test_names_that_clients_do_not_load(
    tmp_path: Path,
    tensors: Tensors,
    strings: dict[str, str],
    rule: str,
    severity: str,
    option: str,
) -> None:
    path = patients.write(tmp_path, tensors, strings)
    findings = found(path)
    assert rule in findings
    assert findings[rule].severity == severity
    assert option in findings[rule].mend
    assert str(path) in findings[rule].mend


def test_what_needs_the_base_model_names_the_option(tmp_path: Path) -> None:
    tensors = sound()
    magnitudes(tensors)
    mend = found(patients.write(tmp_path, tensors))["refused"].mend
    assert "--base MODEL.safetensors" in mend
    assert f"--skip '{K}.*'" in mend  # without its magnitude the rest would be something else


def test_two_spellings_of_one_factor(tmp_path: Path) -> None:
    tensors = dotted()
    name = f"unet.{patients.PATHS[Q]}.lora_A.weight"
    second = name.replace("lora_A", "lora_A.default")
    tensors[second] = tensors[name]
    finding = found(patients.write(tmp_path, tensors, {}))["refused"]
    assert (finding.where, finding.severity) == (second, "error")
    assert "is a second tensor for a factor that has one" in finding.what


@pytest.mark.parametrize("infix", [".default", ".style"])
def test_an_adapter_name_in_the_keys_is_counted(tmp_path: Path, infix: str) -> None:
    finding = found(patients.write(tmp_path, dotted(infix=infix), {}))["client-adapter-name"]
    assert finding.count == 8


def test_ranks_that_the_header_states_are_fine(tmp_path: Path) -> None:
    tensors = ranks_that_differ()
    assert "client-ranks" in found(patients.write(tmp_path, tensors, {}))
    assert "client-ranks" not in found(patients.write(tmp_path, tensors, CONFIG))


def test_diffusers_names_that_comfy_does_not_know(tmp_path: Path) -> None:
    """Of models whose names it spells as their authors do."""
    stem = "transformer.layers.0.attn.to_q"
    tensors = {f"{stem}.lora_{side}.weight": factor((RANK, RANK)) for side in "AB"}
    subject = opened(patients.write(tmp_path, tensors, {}))
    assert subject.adapter is not None
    assert list(RULES["client-comfy-names"](subject)) == []
    of_lumina = replace(subject, adapter=replace(subject.adapter, architecture="lumina2"))
    (finding,) = RULES["client-comfy-names"](of_lumina)
    assert (finding.severity, finding.where) == ("note", f"{stem}.lora_A.weight")
    assert "--for comfyui" in finding.mend


def opened(path: Path) -> Subject:
    file = SafetensorsFile(path)
    return subject_of(
        file, path, {}, architecture=None, skip=(), reading=Reading(), digest=lambda: ""
    )


# --- strings ------------------------------------------------------------------------------------


CONTRADICTED = [
    ("ss_network_dim", "32", "stated-rank", "warning"),
    ("ss_network_alpha", "16", "stated-alpha", "note"),
    ("ss_base_model_version", "sdxl_base_v1-0", "stated-model", "warning"),
    ("modelspec.architecture", "flux-1-dev/lora", "stated-model", "warning"),
    ("sshs_model_hash", "0" * 64, "stale-hash", "note"),
    ("lora_adapter_metadata", "{", "refused", "error"),
]


@pytest.mark.parametrize(("string", "value", "rule", "severity"), CONTRADICTED)
def test_strings_that_contradict_the_tensors(
    tmp_path: Path, string: str, value: str, rule: str, severity: str
) -> None:
    tensors = sound()
    strings = patients.strings_of(tensors) | {string: value}
    finding = found(patients.write(tmp_path, tensors, strings))[rule]
    assert finding.severity == severity
    assert finding.where == string or rule == "refused"


@pytest.mark.parametrize(
    ("string", "value"),
    [
        ("ss_network_dim", "Dynamic"),
        ("ss_network_dim", "None"),
        ("ss_network_alpha", "4.01"),
        ("ss_base_model_version", "sd_v1_v"),
        ("ss_base_model_version", "something new"),
        ("modelspec.architecture", "Stable-Diffusion-v1/lora"),
    ],
)
def test_strings_that_say_nothing_wrong(tmp_path: Path, string: str, value: str) -> None:
    tensors = sound()
    strings = patients.strings_of(tensors) | {string: value}
    assert found(patients.write(tmp_path, tensors, strings)) == {}


def test_an_alpha_in_the_header(tmp_path: Path) -> None:
    finding = found(patients.write(tmp_path, dotted(), {"alpha": "16"}))["alpha-in-header"]
    assert (finding.where, finding.severity) == ("alpha", "warning")


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({f"unet.x.lora_{side}.weight": factor((4, 4)) for side in "AB"}, "no known"),
        ({n: raw for n, raw in dotted().items() if "to_q" in n}, "equally well"),
    ],
)
def test_models_that_cannot_be_told(tmp_path: Path, tensors: Tensors, said: str) -> None:
    finding = found(patients.write(tmp_path, tensors, {}))["unrecognised"]
    assert finding.severity == "note"
    assert said in finding.what


# --- files that are none ------------------------------------------------------------------------


def _torch_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}q\x00.")


def _plain_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")


CONTAINERS: dict[str, Callable[[Path], object]] = {
    "pickle": _torch_zip,
    "pickle ": lambda path: path.write_bytes(pickle.dumps({"a": 1}, protocol=2)),
    "zip": _plain_zip,
    "archive": lambda path: path.write_bytes(b"\x1f\x8b\x08\0\0\0\0\0\0\0"),
    "gguf": lambda path: path.write_bytes(b"GGUF\x03\0\0\0" + bytes(64)),
    "html": lambda path: path.write_bytes(b"\n<!DOCTYPE html><html><body>Sign in</body></html>"),
    "git-lfs pointer": lambda path: path.write_bytes(
        b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 9\n"
    ),
    "json": lambda path: path.write_bytes(b'{"error": "Entry not found"}'),
    "empty": lambda path: path.write_bytes(b""),
    "unknown": lambda path: path.write_bytes(bytes(range(256))),
}


@pytest.mark.parametrize("kind", CONTAINERS)
@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_files_that_are_something_else(tmp_path: Path, kind: str, suffix: str) -> None:
    path = tmp_path / f"file{suffix}"
    CONTAINERS[kind](path)
    diagnosis = doctor(path)
    assert diagnosis.format == kind.strip()
    (finding,) = diagnosis.findings
    assert (finding.rule, finding.severity) == ("container", "error")
    assert finding.mend
    assert ("any code" in finding.what) == (kind.strip() == "pickle")


def test_a_safetensors_file_of_any_name_is_one(tmp_path: Path) -> None:
    assert doctor(patients.write(tmp_path, sound(), name="pytorch_lora_weights.bin")).healthy


@pytest.mark.parametrize("missing", [1, 1000, 100_000])
def test_bytes_that_are_missing(tmp_path: Path, missing: int) -> None:
    path = patients.write(tmp_path, sound())
    whole = path.read_bytes()
    path.write_bytes(whole[:-missing])
    (finding,) = doctor(path).findings
    assert (finding.rule, finding.severity) == ("truncated", "error")
    assert f"{missing:,} of {len(whole):,} bytes are missing" in finding.what
    assert finding.where in sound()


def test_a_header_that_is_cut_off(tmp_path: Path) -> None:
    path = patients.write(tmp_path, sound())
    path.write_bytes(path.read_bytes()[:300])
    (finding,) = doctor(path).findings
    assert finding.rule == "truncated"
    assert "inside the header" in finding.what


@pytest.mark.parametrize("header", [b"[1, 2]", b'{"a": 5}', b"{" * 2000, b'{"a": {}}', b"\xff{}"])
def test_headers_that_are_none(tmp_path: Path, header: bytes) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    (finding,) = doctor(path).findings
    assert finding.severity == "error"


def test_folders_and_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        doctor(tmp_path / "missing.safetensors")
    (tmp_path / "pytorch_lora_weights.bin").touch()
    (finding,) = doctor(tmp_path).findings
    assert "any code" in finding.what
    with pytest.raises(ParamError, match="architecture"):
        doctor(tmp_path, architecture="nonsense")


def test_a_folder_of_peft(tmp_path: Path) -> None:
    tensors = dotted("base_model.model.")
    patients.write(tmp_path, tensors, {}, "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 4, "lora_alpha": 4}')
    findings = doctor(tmp_path).findings
    assert [one.rule for one in findings] == ["client-peft-unet"]
    assert str(tmp_path) in findings[0].mend
    (tmp_path / "adapter_config.json").write_bytes(b"\xff\xfe\0")
    assert next(one.rule for one in doctor(tmp_path).findings) == "container"


# --- laws ---------------------------------------------------------------------------------------


def test_every_refusal_of_load_is_an_error(tmp_path: Path) -> None:
    tensors = sound()
    for change in (half_pair, strange, malformed_alpha):
        change(tensors)
    path = patients.write(tmp_path, tensors)
    with pytest.raises(LoramixError):
        load(path)
    errors = [one for one in doctor(path).findings if one.severity == "error"]
    assert {one.where.split(".")[0] for one in errors} == {K, V, "optimizer"}


def test_what_is_skipped_is_not_looked_at(tmp_path: Path) -> None:
    tensors = sound()
    not_a_number(tensors)
    strange(tensors)
    path = patients.write(tmp_path, tensors)
    skip = ("optimizer.*", f"{V}.*")
    assert load(path, skip=skip)
    assert doctor(path, skip=skip).healthy


@pytest.mark.parametrize(
    "change", [half_pair, strange, not_a_number, partly_untrained, no_strength]
)
def test_what_to_skip_mends_the_file(tmp_path: Path, change: Break) -> None:
    tensors = sound()
    change(tensors)
    path = patients.write(tmp_path, tensors)
    (finding,) = (one for one in doctor(path).findings if "--skip" in one.mend)
    words = finding.mend.split()
    globs = [words[i + 1].strip("'") for i, word in enumerate(words) if word == "--skip"]
    mended = doctor(path, skip=globs)
    assert finding.rule not in {one.rule for one in mended.findings}
    assert mended.tensors > 0


def as_peft(tensors: Tensors) -> Tensors:
    """The same modules as PEFT spells those of a model that no table has."""
    found: Tensors = {}
    for name, raw in tensors.items():
        stem, _, role = name.partition(".")
        place = f"base_model.model.encoder.layer.{STEMS.index(stem)}.query"
        found[f"{place}.{role.replace('lora_down', 'lora_A').replace('lora_up', 'lora_B')}"] = raw
    return found


@pytest.mark.parametrize("peft", [False, True])
@pytest.mark.parametrize("change", [half_pair, not_a_number, rank_zero, several_types])
def test_commands_work_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Break, *, peft: bool
) -> None:
    """A PEFT adapter is a folder, so the command names one."""
    tensors = sound()
    change(tensors)
    if peft:
        tensors = {k: v for k, v in as_peft(tensors).items() if not k.endswith("alpha")}
    path = patients.write(tmp_path, tensors, {}, "adapter_model.safetensors")
    if peft:
        config = '{"peft_type": "LORA", "r": 4, "lora_alpha": 4}'
        (tmp_path / "adapter_config.json").write_text(config)
    mends = [one.mend for one in doctor(tmp_path if peft else path).findings]
    (mend,) = (mend for mend in mends if "loramix convert" in mend)
    words = shlex.split(mend[mend.index("loramix convert") :])
    end = words.index("-o") + 2
    monkeypatch.chdir(tmp_path)
    assert words[end - 1] == ("OUT" if peft else "OUT.safetensors")
    assert main(words[1:end]) == 0
    assert {one.severity for one in doctor(words[end - 1]).findings} <= {"note"}


def test_a_command_for_what_is_refused_comes_second(tmp_path: Path) -> None:
    tensors = sound()
    strange(tensors)
    several_alphas(tensors)
    findings = found(patients.write(tmp_path, tensors))
    assert findings["refused"].mend.startswith("loramix convert")
    assert findings["client-alphas"].mend.startswith("once the errors are mended, loramix convert")


def test_every_rule_has_a_broken_file() -> None:
    """A rule that nothing breaks is never seen to work."""
    seen = {rule for _, rule, *_ in BROKEN} | {rule for _, _, rule, *_ in UNLOADED}
    seen |= {rule for _, _, rule, _ in CONTRADICTED}
    assert RULES.keys() - seen == {"alpha-in-header", "client-comfy-names"}  # have tests below


def test_rules_of_many_modules_count_them(tmp_path: Path) -> None:
    tensors = sound(alpha=0.0)
    findings = found(patients.write(tmp_path, tensors))
    assert findings["alpha-0"].count == len(STEMS)
    assert BLOCK in findings["alpha-0"].where


# --- the command --------------------------------------------------------------------------------


def test_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    sick: dict[str, Raw] = sound()
    not_a_number(sick)
    strange(sick)
    good = patients.write(tmp_path, sound(), name="good.safetensors")
    bad = patients.write(tmp_path, sick, name="bad\x1b[31m.safetensors")
    noted = patients.write(tmp_path, dotted(), {}, name="noted.safetensors")
    assert main(["doctor", str(good)]) == 0
    assert "nothing: the file is sound" in capsys.readouterr().out
    assert main(["doctor", str(noted)]) == 0
    assert "1 note" in capsys.readouterr().out
    assert main(["doctor", str(good), str(bad)]) == 1
    text = capsys.readouterr().out
    assert "2 errors" in text
    assert "\x1b" not in text
    assert main(["doctor", str(good), str(bad), "--json"]) == 1
    first, second = json.loads(capsys.readouterr().out)
    assert first["healthy"]
    assert second["counts"] == {"error": 2, "warning": 1, "note": 0}
    assert main(["doctor", str(good), str(tmp_path / "missing.safetensors")]) == 1
    assert capsys.readouterr().err.startswith("error: ")
