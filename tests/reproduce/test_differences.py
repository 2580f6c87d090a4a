"""What is missing is named, what differs is told, what is no record is refused."""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli.program import Outcome
from helpers import pairs as random_pairs
from helpers import read_safetensors, relative, truth, write_adapter, write_safetensors
from reproduce.moved import MODULES, write_sources

import loramix
from loramix import FormatError, LoramixError, OutputError, merge, reproduce
from loramix.methods.linear import Linear

Run = Callable[..., Outcome]


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A merged file; its sources are below ``in``."""
    out = tmp_path / "out.safetensors"
    merge(write_sources(tmp_path / "in"), "slerp", path=out)
    return out


def rewrite(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """The same tensors with another provenance."""
    tensors, metadata = read_safetensors(file)
    record = json.loads(metadata["loramix"])
    change(record)
    write_safetensors(file, tensors, {**metadata, "loramix": json.dumps(record)})


def test_no_place_is_in_the_file(made: Path, tmp_path: Path) -> None:
    text = made.read_bytes()
    assert str(tmp_path).encode() not in text
    assert b".toml" not in text
    assert b"out.safetensors" not in text


def test_missing_sources_are_named(made: Path, tmp_path: Path) -> None:
    faces = tmp_path / "in/face.safetensors"
    digest, size = hashlib.sha256(faces.read_bytes()).hexdigest(), faces.stat().st_size
    faces.unlink()
    # As large and called the same, and still another file.
    write_adapter(faces, random_pairs(77, 3, modules=MODULES))
    assert faces.stat().st_size == size
    with pytest.raises(LoramixError) as caught:
        reproduce(made, [tmp_path / "in", tmp_path / "in/style.safetensors"])
    message = str(caught.value)
    assert message.startswith("1 of 3 sources are not in ")
    assert f"face (sha256:{digest}, {size} bytes)" in message
    assert "style" not in message.partition(": ")[2]


def test_places_are_folders_and_files(made: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (tmp_path / "in/hat.safetensors").rename(other / "renamed.SAFETENSORS")
    found = reproduce(made, [tmp_path / "in", other / "renamed.SAFETENSORS"])
    assert found.identical
    with pytest.raises(FileNotFoundError):
        reproduce(made, [tmp_path / "nowhere"])
    with pytest.raises(loramix.ParamError, match="name the folders"):
        reproduce(made, [])


def test_another_config_is_another_source(tmp_path: Path) -> None:
    config = {"peft_type": "LORA", "r": 3, "lora_alpha": 6}
    modules = {"unet.x": (24, 20)}
    source = write_adapter(
        tmp_path / "in", random_pairs(0, 3, modules=modules), "peft", config=config
    )
    out = tmp_path / "out"
    merge([source], "linear", path=out)
    assert reproduce(out, [source]).identical
    (source / "adapter_config.json").write_text(json.dumps({**config, "lora_alpha": 7}))
    with pytest.raises(LoramixError, match=r"has its tensors, but not the adapter_config\.json"):
        reproduce(out, [source])


def test_a_config_beside_a_source_that_had_none_is_not_read(tmp_path: Path) -> None:
    source = write_adapter(tmp_path / "a.safetensors", random_pairs(0, 3, modules=MODULES))
    out = tmp_path / "out.safetensors"
    merge([source], "linear", weights=[0.5], path=out)
    folder = tmp_path / "in"
    folder.mkdir()
    source.rename(folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 3, "lora_alpha": 30}')
    assert reproduce(out, [folder]).identical


def test_a_tensor_file_without_its_config(tmp_path: Path) -> None:
    config = {"peft_type": "LORA", "r": 3, "lora_alpha": 6}
    modules = {"unet.x": (24, 20)}
    source = write_adapter(
        tmp_path / "in", random_pairs(0, 3, modules=modules), "peft", config=config
    )
    merge([source], "linear", path=tmp_path / "out")
    alone = (tmp_path / "out/adapter_model.safetensors").rename(tmp_path / "alone.safetensors")
    found = reproduce(alone, [source])
    assert found.identical
    assert found.notes == (
        "there is no adapter_config.json beside it: only the tensor file was compared",
    )


def test_what_cannot_be_read_is_named_if_something_is_missing(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As root everything can be read, so the refusal is played."""
    path = tmp_path / "in/hat.safetensors"
    opened = Path.open

    def refused(self: Path, *args: Any, **options: Any) -> Any:
        if self == path:
            raise PermissionError(13, "Permission denied", str(self))
        return opened(self, *args, **options)

    monkeypatch.setattr(Path, "open", refused)
    with pytest.raises(LoramixError, match=r"hat\.safetensors cannot be read \(Permission denied"):
        reproduce(made, [tmp_path / "in"])


def test_what_is_kept(made: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.safetensors"
    found = reproduce(made, [tmp_path / "in"], output=again)
    assert (found.identical, found.again) == (True, again)
    assert again.read_bytes() == made.read_bytes()
    before = made.read_bytes()
    with pytest.raises(OutputError, match="is the file to compare with"):
        reproduce(made, [tmp_path / "in"], output=made)
    assert made.read_bytes() == before


def test_a_header_that_was_changed(made: Path, tmp_path: Path) -> None:
    tensors, metadata = read_safetensors(made)
    write_safetensors(made, tensors, {**metadata, "modelspec.title": "mine", "note": "x"})
    found = reproduce(made, [tmp_path / "in"])
    assert not found.identical
    assert (found.comparison.header, found.comparison.tensors) == (("modelspec.title", "note"), ())
    assert found.comparison.error is None
    write_safetensors(made, tensors, metadata)  # without the padding
    found = reproduce(made, [tmp_path / "in"])
    assert (found.identical, found.comparison.header) == (False, ("layout",))


def test_tensors_that_were_changed(made: Path, tmp_path: Path) -> None:
    """The difference of the deltas, against dense float64."""
    tensors, metadata = read_safetensors(made)
    dtype, shape, data = tensors["unet.a.to_q.lora_B.weight"]
    values = np.frombuffer(data, dtype="<f4").copy()
    values[:40] *= 1.5
    changed = {**tensors, "unet.a.to_q.lora_B.weight": (dtype, shape, values.tobytes())}
    before = _dense(tensors)
    write_safetensors(made, changed, metadata)
    found = reproduce(made, [tmp_path / "in"]).comparison
    assert found.tensors == ("unet.a.to_q.lora_B.weight",)
    assert found.worst is not None
    after = _dense(changed)
    assert found.worst[0] == "unet.a.to_q"
    gap = relative(before["unet.a.to_q"], after["unet.a.to_q"])
    assert found.worst[1] == pytest.approx(gap, rel=0.5)  # eight random vectors
    assert found.error is not None
    assert 0 < found.error < found.worst[1]


def _dense(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Deltas of a diffusers file of scale one, by key."""
    values = {
        name: np.frombuffer(data, "<f4").astype(np.float64).reshape(shape)
        for name, (_, shape, data) in tensors.items()
    }
    stems = {name.rpartition(".lora_")[0] for name in values}
    return {
        stem: values[f"{stem}.lora_B.weight"].reshape(-1, values[f"{stem}.lora_A.weight"].shape[0])
        @ values[f"{stem}.lora_A.weight"].reshape(len(values[f"{stem}.lora_A.weight"]), -1)
        for stem in stems
    }


def test_a_tensor_more(made: Path, tmp_path: Path) -> None:
    tensors, metadata = read_safetensors(made)
    extra = ("F32", (1, 2), b"\0" * 8)
    write_safetensors(made, {**tensors, "strange": extra}, metadata)
    found = reproduce(made, [tmp_path / "in"]).comparison
    assert (found.tensors, found.error, found.worst) == (("strange",), None, None)


def test_another_version_is_told(made: Path, tmp_path: Path) -> None:
    rewrite(made, lambda record: record.update(version="0.0.1", news={"a": 1}))
    found = reproduce(made, [tmp_path / "in"])
    assert found.version == "0.0.1"
    assert (found.comparison.header, found.comparison.tensors) == (("loramix",), ())
    assert "made by loramix 0.0.1, this is" in found.notes[0]


def test_another_decision_is_told(made: Path, tmp_path: Path) -> None:
    rewrite(made, lambda record: record.update(decisions="0" * 32))
    found = reproduce(made, [tmp_path / "in"])
    assert found.notes == ("what is done with some groups is not what was done then",)


class Unnamed(Linear):
    """A method of somebody else."""

    name = "mine"


def test_a_method_without_a_name_is_refused_with_the_reason(tmp_path: Path) -> None:
    paths = write_sources(tmp_path / "in")
    out = tmp_path / "out.safetensors"
    merge(paths, Unnamed(), path=out)
    with pytest.raises(FormatError, match="was not of loramix"):
        reproduce(out, [tmp_path / "in"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"recipe": "["}, "not TOML"),
        ({"recipe": "[[adapter]]\npath = '1'\n"}, "3 sources, but its recipe has 1"),
        ({"recipe": 3}, "recipe = 3: allowed is a text"),
        ({"sources": [{"name": "a"}]}, "sources 1: there is no digest"),
        ({"sources": 3}, "sources"),
        ({"sources": [{"name": "a", "digest": "x", "weight": [1]}]}, "weight"),
        ({"plan": 3}, "plan = 3: allowed is a table"),
        ({"seed": "x"}, "seed"),
        ({"backend": "abacus"}, "a backend that is not here: backend = 'abacus'"),
        ({"sources": [{"name": "a", "digest": "x", "architecture": "sd99"}]}, "'sd99'|\"sd99\""),
    ],
)
def test_broken_records(change: dict[str, Any], message: str, made: Path, tmp_path: Path) -> None:
    rewrite(made, lambda record: record.update(change))
    with pytest.raises(FormatError, match=message):
        reproduce(made, [tmp_path / "in"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"groups": [0]}, "decisions for 1 groups, but the sources have 4"),
        ({"groups": [0, 0, 0, 99]}, "places below"),
        ({"groups": [0, 0, 0, -1]}, "a list of places"),
        ({"groups": [0, 0, 0, True]}, "a list of places"),
        ({"rows": [{"method": "linear", "weights": [1]}]}, "3 numbers"),
        ({"rows": [{"method": "linear", "weights": [1, 1, 1], "sides": ["low"]}]}, "one of all"),
        ({"rows": [{"method": "linear", "weights": [1, 1, 1], "rank": 0}]}, "at least 1"),
        ({"rows": [{"method": "none", "weights": [1, 1, 1]}]}, "none"),
        ({"rows": 3}, "rows"),
        ({"more": 3}, "unknown key 'more'"),
    ],
)
def test_broken_decisions(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    paths = write_sources(tmp_path / "in")
    out = tmp_path / "out.safetensors"
    merge(paths, "auto", samples=7, path=out)
    rewrite(out, lambda record: record["plan"].update(change))
    with pytest.raises(FormatError, match=message):
        reproduce(out, [tmp_path / "in"])


@pytest.mark.parametrize("text", ["", "no json", "[1]", "3", "{}", "[" * 99999])
def test_no_records(text: str, made: Path, tmp_path: Path) -> None:
    tensors, metadata = read_safetensors(made)
    write_safetensors(made, tensors, {**metadata, "loramix": text})
    with pytest.raises(FormatError, match="loramix"):
        reproduce(made, [tmp_path / "in"])
    write_safetensors(made, tensors, {})
    with pytest.raises(FormatError, match="made by something else"):
        reproduce(made, [tmp_path / "in"])


def test_the_oracle_of_the_differences_reads_what_is_there(made: Path) -> None:
    members = random_pairs(0, 3, modules=MODULES)
    assert set(_dense(read_safetensors(made)[0])) == set(truth(members))
