"""What trainers wrote: true of the output or not there, and never a reason to fail."""

import json
from pathlib import Path

import pytest
from cli.program import SIZES, write_safetensors
from formats.builders import kohya
from helpers import pairs, read_safetensors, write_adapter
from hypothesis import given
from hypothesis import strategies as st

from loramix import Output, load, merge, resize
from loramix.formats.layout import load_layout
from loramix.formats.trained import carried, own
from loramix.inspecting import inspect

import numpy as np  # isort: skip

BASE = {
    "ss_base_model_version": "sd_v1", "ss_v2": "False", "ss_clip_skip": "2",
    "ss_sd_model_name": "base.safetensors", "ss_resolution": "(512, 512)",
    "modelspec.prediction_type": "epsilon", "modelspec.encoder_layer": "2",
}  # fmt: skip
FALSE = {
    "sshs_model_hash": "1" * 64, "sshs_legacy_hash": "12345678", "modelspec.hash_sha256": "0x1",
    "ss_network_dim": "77", "ss_network_alpha": "78", "ss_network_module": "networks.stale",
    "ss_network_args": '{"conv_dim": 79}', "lora_adapter_metadata": '{"unet.r": 80}',
    "format": "np",
}  # fmt: skip
TRAINING = {
    "ss_output_name": "{0}-v1", "modelspec.title": "My {0}", "modelspec.author": "{0} & co",
    "modelspec.license": "{0}-1.0", "modelspec.date": "2023-0{1}", "ss_learning_rate": "0.{1}",
    "ss_num_train_images": "{1}", "modelspec.thumbnail": "data:{0}", "software": '{{"n": "{0}"}}',
    "modelspec.description": "what {0} is", "ss_seed": "{1}",
}  # fmt: skip


def strings(name: str, number: int) -> dict[str, str]:
    own = {key: text.format(name, number) for key, text in TRAINING.items()}
    return {**BASE, **FALSE, **own}


def sources(folder: Path, *metadata: dict[str, str], sizes: tuple[int, ...] = ()) -> list[Path]:
    """Kohya files for SD 1.5 with these strings."""
    found = []
    for index, one in enumerate(metadata):
        rank = sizes[index] if sizes else 2
        rng = np.random.default_rng(index)
        tensors = {}
        for stem, (rows, cols) in SIZES.items():
            tensors[f"{stem}.alpha"] = np.array(rank, dtype=np.float32)
            up, down = rng.standard_normal((rows, rank)), rng.standard_normal((rank, cols))
            tensors[f"{stem}.lora_up.weight"] = up.astype(np.float32)
            tensors[f"{stem}.lora_down.weight"] = down.astype(np.float32)
        path = folder / f"file{index}.safetensors"
        write_safetensors(path, tensors, one)
        found.append(path)
    return found


def header(path: Path) -> dict[str, str]:
    """Strings of a file, without what loramix says of itself."""
    found = read_safetensors(path)[1]
    return {key: value for key, value in found.items() if key != "loramix"}


def test_one_source_keeps_all_that_is_still_true(tmp_path: Path) -> None:
    told = strings("style", 1)
    (path,) = sources(tmp_path, told, sizes=(4,))
    out = tmp_path / "out.safetensors"
    resize(path, path=out, rank=3)
    found = header(out)
    expected = {key: value for key, value in told.items() if key not in FALSE}
    assert {key: found[key] for key in expected} == expected
    assert found.keys() - expected.keys() == {
        "format", "ss_network_dim", "ss_network_alpha", "ss_network_module",
        "modelspec.architecture", "modelspec.implementation", "modelspec.sai_model_spec",
    }  # fmt: skip
    assert (found["format"], found["ss_network_dim"], found["ss_network_alpha"]) == ("pt", "3", "3")
    assert found["ss_network_module"] == "networks.lora"
    assert "modelspec.merged_from" not in found


@pytest.mark.parametrize("dialect", ["diffusers", "peft"])
def test_other_dialects_have_no_words_of_kohya_networks(dialect: str, tmp_path: Path) -> None:
    told = strings("style", 1)
    files = [
        write_adapter(
            tmp_path / f"{i}.safetensors", pairs(i, 2, modules={"unet.x": (24, 20)}), metadata=told
        )
        for i in range(2)
    ]
    out = tmp_path / f"out-{dialect}"
    merge(files[:1], "linear", path=out, output=Output(dialect=dialect))
    tensors = out / "adapter_model.safetensors" if dialect == "peft" else out
    found = header(tensors)
    expected = {key: value for key, value in told.items() if key not in FALSE}
    assert found == {**expected, "format": "pt"}
    out = tmp_path / f"both-{dialect}"
    merge(files, "linear", path=out, output=Output(dialect=dialect))
    found = header(out / "adapter_model.safetensors" if dialect == "peft" else out)
    kept = {**BASE, "format": "pt", "modelspec.license": "style-1.0"}
    title = {
        "modelspec.title": "My style + My style",
        "modelspec.merged_from": "My style, My style",
    }
    assert found == (kept if dialect == "peft" else {**kept, **title})


def test_several_keep_what_describes_the_base(tmp_path: Path) -> None:
    first, second = strings("style", 1), strings("face", 2)
    second["ss_clip_skip"] = "1"
    files = sources(tmp_path, first, second)
    out = tmp_path / "out.safetensors"
    merge(files, "linear", path=out)
    found = header(out)
    assert {key: found.get(key) for key in BASE} == {**BASE, "ss_clip_skip": None}
    assert found["modelspec.title"] == "My style + My face"
    assert found["modelspec.merged_from"] == "My style, My face"
    assert found["modelspec.architecture"] == "stable-diffusion-v1/lora"
    assert found["modelspec.implementation"] == "diffusers"
    assert found["ss_network_dim"] == "4"
    told = set(TRAINING) - {"modelspec.title"}
    assert not found.keys() & (told | FALSE.keys() - {
        "format", "ss_network_dim", "ss_network_alpha", "ss_network_module",
    })  # fmt: skip
    record = inspect(out).provenance
    assert isinstance(record["sources"], list)
    assert [one["trained"] for one in record["sources"]] == [
        {"title": f"My {n}", "author": f"{n} & co", "license": f"{n}-1.0"}
        for n in ("style", "face")
    ]


def test_the_same_inputs_give_the_same_strings(tmp_path: Path) -> None:
    files = sources(tmp_path, strings("style", 1), strings("face", 2))
    texts = []
    for name in ("one", "two"):
        merge(files, "linear", path=tmp_path / name)
        texts.append((tmp_path / name).read_bytes())
    assert texts[0] == texts[1]
    assert b"date" not in texts[0]


def test_a_licence_is_that_of_all_or_of_nobody() -> None:
    said, silent = {"modelspec.license": "MIT"}, {"ss_v2": "False"}
    assert carried([said, said], None) == said
    assert carried([said, silent], None) == silent
    assert carried([said, {"modelspec.license": "GPL"}], None) == {}


def test_tags_are_added_and_words_are_united() -> None:
    tables = [{"10_a": {"cat": 3, "dog": 1}}, {"10_a": {"cat": 4}, "5_b": {"hat": 2}}]
    folders = [
        {"10_a": {"n_repeats": 10, "img_count": 3}},
        {"10_a": {"n_repeats": 9, "img_count": 4}, "5_b": {"n_repeats": 5, "img_count": 1}},
    ]
    words = ['["sks", "cat"]', '["cat", "hat"]']
    found = carried(
        [
            {
                "ss_tag_frequency": json.dumps(table), "ss_dataset_dirs": json.dumps(folder),
                "ss_trigger_words": word, "modelspec.tags": tags,
                "modelspec.trigger_phrase": phrase,
            }
            for table, folder, word, tags, phrase in zip(
                tables, folders, words, ("art, ink", "ink,pen"), ("in sks, style", "in sks, style"),
                strict=True,
            )
        ],
        None,
    )  # fmt: skip
    assert json.loads(found["ss_tag_frequency"]) == {
        "10_a": {"cat": 7, "dog": 1}, "5_b": {"hat": 2},
    }  # fmt: skip
    assert json.loads(found["ss_dataset_dirs"]) == {
        "10_a": {"img_count": 7}, "5_b": {"n_repeats": 5, "img_count": 1},
    }  # fmt: skip
    assert json.loads(found["ss_trigger_words"]) == ["sks", "cat", "hat"]
    assert found["modelspec.tags"] == "art, ink, pen"
    assert found["modelspec.trigger_phrase"] == "in sks, style"


def test_tables_that_one_source_has_pass_as_they_are() -> None:
    odd = '{"10_a": {"cat": 1e999, "x": [1]}}'
    assert carried([{"ss_tag_frequency": odd}, {}], None) == {"ss_tag_frequency": odd}
    good = {"ss_tag_frequency": '{"a": {"b": 1}}'}
    assert carried([{"ss_tag_frequency": odd}, good], None) == good
    assert carried([{"ss_tag_frequency": odd}] * 2, None) == {}


def test_a_wrong_base_model_is_not_kept(tmp_path: Path) -> None:
    wrong = {
        "ss_base_model_version": "sdxl_base_v1-0", "modelspec.architecture": "flux-1-dev/lora",
        "ss_v2": "True",
    }  # fmt: skip
    (path,) = sources(tmp_path, wrong)
    out = tmp_path / "out.safetensors"
    merge([path], "linear", path=out)
    found = header(out)
    assert found["ss_base_model_version"] == "sd_v1"
    assert found["modelspec.architecture"] == "stable-diffusion-v1/lora"
    assert found["ss_v2"] == "False"
    # What nobody knows may be right.
    assert carried([{"ss_base_model_version": "mine"}], "sd15") == {"ss_base_model_version": "mine"}


def test_kernels_have_a_rank_of_their_own(tmp_path: Path) -> None:
    layout = load_layout("sd15")
    built = kohya(layout, lambda m: m.name.startswith("mid_block"), lambda i: 2 + i % 2, 1)
    path = built.save(tmp_path / "a.safetensors")
    out = tmp_path / "out.safetensors"
    merge([path], "linear", path=out)
    targets = load(out).targets
    sizes: dict[bool, set[int]] = {True: set(), False: set()}
    for target, factors in targets.items():
        sizes[len(target.shape) == 4 and target.shape[2:] != (1, 1)].add(factors.rank)
    found = header(out)
    said = {kernel: "Dynamic" if len(r) > 1 else str(min(r)) for kernel, r in sizes.items()}
    assert found["ss_network_dim"] == said[False]
    args = json.loads(found["ss_network_args"])
    assert args == {"conv_dim": said[True], "conv_alpha": found["ss_network_alpha"]}


@pytest.mark.parametrize("path", [True, False])
def test_megabytes_of_tags_have_room(path: bool, tmp_path: Path) -> None:
    """The room for the header is reserved before anything is written."""
    tags = [
        {f"1_{owner}": {f"tag \u732b\U0001f408 {i}": i for i in range(30_000)}} for owner in "ab"
    ]
    texts = [{"ss_tag_frequency": json.dumps(one, ensure_ascii=False)} for one in tags]
    files = sources(tmp_path, *texts)
    out = tmp_path / "out.safetensors"
    merged = merge(files, "linear", path=out if path else None)
    found = merged.adapter.metadata["ss_tag_frequency"]
    assert json.loads(found) == {**tags[0], **tags[1]}
    if path:
        assert load(out).metadata["ss_tag_frequency"] == found


WORDS = st.text('ab1\u732b"\\{}[],: \n', max_size=9)
NUMBERS = st.integers() | st.floats()
TEXTS = st.one_of(
    WORDS,
    st.lists(WORDS | NUMBERS | st.none(), max_size=3).map(json.dumps),
    st.dictionaries(WORDS, st.dictionaries(WORDS, NUMBERS, max_size=2), max_size=2).map(json.dumps),
    st.sampled_from(['["\\ud800"]', '{"a": {"\\ud800": 1}}', '{"a": {"b": ' + "9" * 5000 + "}}"]),
)
KEYS = st.sampled_from([
    "ss_tag_frequency", "ss_dataset_dirs", "ss_trigger_words", "modelspec.tags",
    "modelspec.trigger_phrase", "ss_base_model_version", "modelspec.architecture",
    "modelspec.license", "modelspec.title", "strange",
])  # fmt: skip


@given(st.lists(st.dictionaries(KEYS, TEXTS), min_size=1, max_size=3))
def test_garbage_never_fails(metadata: list[dict[str, str]]) -> None:
    found = carried(metadata, "sd15")
    for value in found.values():
        value.encode()  # no halves of characters, which headers cannot hold
    for key in ("ss_tag_frequency", "ss_dataset_dirs"):
        if key in found and len(metadata) > 1 and all(key in one for one in metadata):
            silent = [one for one in metadata if not one[key].strip()]
            assert silent or isinstance(json.loads(found[key]), dict)
    for one in metadata:
        own(one)
        assert carried([one], None) == one
