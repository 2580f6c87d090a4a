"""A pool of adapters: who is on the short list, who is in memory, who was active."""

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from compose.pipelines import KINDS, STEPS, adapter, flux, sd
from compose.test_laws import picture, same
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.numpy import load_file, save_file

import loramix
from loramix import ParamError
from loramix.adapters import loading
from loramix.compose import Composite, Loratorio, Pool, Switch
from loramix.compose.residing import Residents
from loramix.compose.words import relevances, words_of

pytestmark = pytest.mark.filterwarnings(
    "ignore::FutureWarning", "ignore::DeprecationWarning", "ignore:Already found a `peft_config`"
)

SD = KINDS["sd"]
NAMES = ("ann", "bob", "cat", "dan", "eve", "fay")


@pytest.fixture
def pipe() -> Any:
    from diffusers.utils import logging

    logging.set_verbosity_error()
    return sd(encoder=True)


def fill(pipe: Any, folder: Path, names: tuple[str, ...] = NAMES) -> list[Path]:
    folder.mkdir(exist_ok=True)
    # Smaller and smaller, so the order of strength is that of the names.
    return [
        adapter(pipe.unet, "unet", folder / f"{name}.safetensors", seed=i, scale=0.5 - 0.04 * i)
        for i, name in enumerate(names)
    ]


def resident(pipe: Any, names: set[str]) -> tuple[set[str], int]:
    """Adapters that have numbers in the denoiser, and the bytes of them."""
    found, size = set(), 0
    for layer in pipe.unet.modules():
        if isinstance(layer, BaseTunerLayer):
            for kind in layer.adapter_layer_names:
                for name, part in getattr(layer, kind).items():
                    if name in names:
                        numbers = sum(p.numel() * p.element_size() for p in part.parameters())
                        assert numbers
                        found.add(name)
                        size += numbers
    return found, size


def test_a_pool_is_its_short_list(pipe: Any, tmp_path: Path) -> None:
    files = fill(pipe, tmp_path / "pool")
    mode = Loratorio(patch=2, k=2, scope="patch")
    with loramix.compose(pipe, files[:4], mode=mode) as inside:
        meant = SD.run(inside)
    before = picture(pipe)
    for hold in (1, 2, 4, 9):
        composition = loramix.compose(pipe, Pool(tmp_path / "pool", short=4, hold=hold), mode=mode)
        with composition as inside:
            assert torch.equal(SD.run(inside), meant), hold
            assert torch.equal(SD.run(inside), meant), hold
        assert [one.name for one in composition.candidates] == list(NAMES)
        assert [one.left_out for one in composition.candidates[4:]] == [
            "the short list has 4 places"
        ] * 2
        run = composition.runs[1]
        assert run.adapters == NAMES[:4]
        # Those that are inside go first, so a step brings only the others back.
        assert run.swaps == STEPS * max(0, 4 - hold)
        assert same(picture(pipe), before)


def test_no_more_adapters_are_in_memory_than_may_be_held(pipe: Any, tmp_path: Path) -> None:
    files = fill(pipe, tmp_path / "pool")
    each = sum(value.nbytes for value in load_file(files[0]).values())
    seen: list[tuple[set[str], int]] = []
    loads: list[int] = []
    load = pipe.load_lora_weights

    def loading(*args: Any, **kwargs: Any) -> None:
        load(*args, **kwargs)
        loads.append(len(resident(pipe, set(NAMES))[0]))

    pipe.__dict__["load_lora_weights"] = loading
    pipe.unet.conv_in.register_forward_pre_hook(
        lambda _m, _a: seen.append(resident(pipe, set(NAMES)))
    )
    for batch in (1, 4):
        seen.clear()
        loads.clear()
        pool = Pool(tmp_path / "pool", short=6, hold=2)
        composition = loramix.compose(pipe, pool, mode=Loratorio(patch=2, k=2), max_batch=batch)
        with composition as inside:
            SD.run(inside)
        assert loads == [1, 2, 2, 2, 2, 2]
        assert seen
        assert all(len(names) <= 2 and size <= 2 * each for names, size in seen)
        assert set().union(*(names for names, _ in seen)) == set(NAMES)
        assert composition.runs[0].forwards == STEPS * 2 * 7


def test_the_one_that_was_not_used_for_longest_makes_room(tmp_path: Path) -> None:
    layers = {"one": _Layer(), "two": _Layer()}
    residents = Residents(2, tmp_path)
    for value, name in enumerate("abc"):
        residents.room()
        for layer in layers.values():
            layer.lora_A[name] = torch.nn.Linear(2, 2, bias=False)
            torch.nn.init.constant_(layer.lora_A[name].weight, value)
        residents.store(name, [layers])
    assert residents.inside == ("b", "c")
    residents.need(["b"])
    residents.need(["a"])
    assert residents.inside == ("b", "a")
    residents.need(["c", "a"])
    assert residents.inside == ("a", "c")
    assert residents.swaps == 2
    for layer in layers.values():
        assert {n: float(p.weight.detach().mean()) for n, p in layer.lora_A.items()} == {
            "a": 0, "c": 2,
        }  # fmt: skip
    with pytest.raises(ParamError, match="needs 3 adapters at once, hold = 2"):
        residents.need(["a", "b", "c"])


class _Layer:
    adapter_layer_names = ("lora_A",)

    def __init__(self) -> None:
        self.lora_A = torch.nn.ModuleDict()
        self.base = torch.nn.Linear(2, 2)

    def get_base_layer(self) -> torch.nn.Linear:
        return self.base


def test_half_precision_comes_back_as_it_went(tmp_path: Path) -> None:
    kind = KINDS["flux"]
    pipe = kind.make()
    pipe.to(torch.bfloat16)
    folder = tmp_path / "pool"
    folder.mkdir()
    files = [
        adapter(pipe.transformer, "transformer", folder / f"{i}.safetensors", seed=i, scale=0.4)
        for i in range(3)
    ]
    how: dict[str, Any] = {"mode": Loratorio(patch=2, k=1)}
    composition = loramix.compose(pipe, Pool(folder, short=3, hold=1), **how)
    with composition as inside:
        got = kind.run(inside)
    order = [one.path for one in composition.candidates]
    assert sorted(order) == files
    with loramix.compose(pipe, order, **how) as inside:
        assert torch.equal(kind.run(inside), got)


def test_who_was_active_where_and_when(pipe: Any, tmp_path: Path) -> None:
    fill(pipe, tmp_path / "pool")
    pool = Pool(tmp_path / "pool", short=3, hold=3)
    composition = loramix.compose(pipe, pool, mode=Loratorio(patch=4, k=1, freeze=1))
    with composition as inside:
        SD.run(inside)
    (run,) = composition.runs
    assert [step.forwards for step in run.steps] == [8] + [2 * (1 + len(_of(run, 0)))] * 2
    found = json.loads(json.dumps(run.as_dict()))
    active = {one["name"] for one in found["adapters"] if one["steps"]}
    assert active == _of(run, 0)
    for one in found["adapters"]:
        assert one["steps"] == ([0, 1, 2] if one["name"] in active else [])
        assert np.shape(one["map"]) == (2, 2, 2)
    assert sum(one["weight"] for one in found["adapters"]) == pytest.approx(1)
    assert json.dumps([one.as_dict() for one in composition.candidates], allow_nan=False)


def _of(run: Any, step: int) -> set[str]:
    chosen = run.steps[step].chosen.any(axis=1)
    return {name for name, is_chosen in zip(run.adapters, chosen, strict=True) if is_chosen}


def test_words_of_the_prompt_come_first(pipe: Any, tmp_path: Path) -> None:
    files = fill(pipe, tmp_path / "pool")
    tags = json.dumps({"set": {"red hat, girl": 10, "girl": 40, "river": 5}})
    said = {
        "bob": {"modelspec.trigger_phrase": "Xyzzy style"},
        "dan": {"ss_tag_frequency": tags},
        "fay": {"ss_tag_frequency": "no json", "modelspec.title": "A river, at night"},
    }
    for file in files:
        save_file(load_file(file), file, metadata=said.get(file.stem))
    for prompt, meant in (
        ("a river in xyzzy style", ["bob", "fay", "dan"]),
        ("nobody knows this", ["ann", "bob", "cat"]),
        ("Eve!", ["eve", "ann", "bob"]),
        ("", ["ann", "bob", "cat"]),
    ):
        composition = loramix.compose(pipe, Pool(tmp_path / "pool", prompt=prompt, short=3))
        with composition:
            pass
        assert [one.name for one in composition.candidates[:3]] == meant, prompt
    words = [words_of(file.stem, loramix.load(file).metadata) for file in files]
    assert words[3] == pytest.approx({"dan": 1, "girl": 1, "red": 0.2, "hat": 0.2, "river": 0.1})
    got = relevances("river by the sea", [{"river": 1.0}, {"river": 0.5, "sea": 1.0}, {"x": 1.0}])
    assert got == pytest.approx((math.log(2.5), 0.5 * math.log(2.5) + math.log(4), 0))


def test_copies_and_what_does_nothing_have_no_place(pipe: Any, tmp_path: Path) -> None:
    ann, bob, cat, dan = fill(pipe, tmp_path / "pool", NAMES[:4])
    rng = np.random.default_rng(0)
    near = {
        key: value * (-0.9 if "lora_B" in key else 1) + 0.03 * rng.standard_normal(value.shape)
        for key, value in load_file(ann).items()
    }
    save_file({key: value.astype(np.float32) for key, value in near.items()}, cat)
    save_file({key: value * 0 for key, value in load_file(ann).items()}, dan)
    (tmp_path / "pool" / "deep").mkdir()
    (tmp_path / "pool" / "deep" / "broken.safetensors").write_bytes(b"not at all")
    (tmp_path / "pool" / "deep" / ".hidden.safetensors").write_bytes(b"not at all")
    stranger = {
        "unet.elsewhere.lora_A.weight": np.ones((2, 8), np.float32),
        "unet.elsewhere.lora_B.weight": np.ones((8, 2), np.float32),
    }
    save_file(stranger, tmp_path / "pool" / "stranger.safetensors")
    words = tmp_path / "pool" / "words.safetensors"
    adapter(pipe.text_encoder, "text_encoder", words, seed=1)
    composition = loramix.compose(pipe, Pool(tmp_path / "pool", short=8), mode=Composite())
    with composition as inside:
        SD.run(inside)
    assert composition.runs[0].adapters == ("ann", "bob")
    why = {one.name: one.left_out for one in composition.candidates}
    assert why["ann"] == why["bob"] == ""
    assert why["cat"].startswith("cosine -0.99")
    assert why["cat"].endswith("with ann")
    assert why["dan"] == "all its deltas are zero"
    assert why["broken"].startswith("it cannot be read: ")
    for name in ("stranger", "words"):
        assert why[name].startswith("it has no layer of this pipeline's denoiser; it is for ")
    assert len(why) == 7
    norms = {one.name: one.norm for one in composition.candidates}
    tensors = load_file(bob)
    square = sum(
        np.linalg.norm(up @ tensors[key.replace("lora_B", "lora_A")]) ** 2
        for key, up in tensors.items()
        if "lora_B" in key
    )
    assert norms["bob"] == pytest.approx(math.sqrt(square), rel=1e-5)


def test_bad_files_leave_their_place_to_others(pipe: Any, tmp_path: Path) -> None:
    """Of every kind of damage one, all with the best words; who is left composes as if alone."""
    folder = tmp_path / "pool"
    ann, bob, *_ = fill(pipe, folder, NAMES[:2])
    good = load_file(ann)
    first, *_, last = sorted(key for key in good if "lora_B" in key)
    (folder / "river-page.safetensors").write_bytes(b"<html>not found</html>")
    (folder / "river-cut.safetensors").write_bytes(ann.read_bytes()[:-100])
    save_file({"encoder.weight": np.ones((2, 2), np.float32)}, folder / "river-vae.safetensors")
    save_file({**good, first: good[first] * np.nan}, folder / "river-nan.safetensors")
    adapter(flux().transformer, "transformer", folder / "river-flux.safetensors", seed=1)
    other = {key: value.repeat(2, 0) if key == last else value for key, value in good.items()}
    save_file(other, folder / "river-size.safetensors")
    (folder / "river-peft").mkdir()
    (folder / "river-peft" / "adapter_config.json").write_text("{no json")
    save_file(good, folder / "river-peft" / "adapter_model.safetensors")
    (folder / "river-dir").mkdir()
    (folder / "river-dir" / "river-link.safetensors").symlink_to(folder / "river-nan.safetensors")

    mode = "loratorio:patch=2,tau=0.01"
    with loramix.compose(pipe, [ann, bob], mode=mode) as inside:
        meant = SD.run(inside)
    before = picture(pipe)
    for short in (2, 5):
        pool = Pool(folder, prompt="a river", short=short)
        composition = loramix.compose(pipe, pool, mode=mode)
        with composition as inside:
            assert torch.equal(SD.run(inside), meant)
        assert same(picture(pipe), before)
        (run,) = composition.runs
        assert run.adapters == ("ann", "bob")
        why = {one.name: one.left_out for one in composition.candidates if not one.fits}
        assert why["river-page"].startswith("it cannot be read: ")
        assert why["river-cut"].startswith("it cannot be read: ")
        assert why["river-vae"].startswith("it cannot be read: ")
        assert why["river-peft"].startswith("it cannot be read: ")
        assert f"{first} holds NaN or infinity" in why["river-nan"]
        assert f"{first} holds NaN or infinity" in why["river-link"]
        assert why["river-flux"].startswith("it has no layer of this pipeline's denoiser")
        where = last.removesuffix(".lora_B.weight")
        assert why["river-size"].startswith(f"{where} is 32 x 12 in it, and 16 x 12 in this")
        assert len(why) == 8
        (note,) = run.notes
        assert note.startswith("8 of 10 files of the pool cannot take part: river-")
        assert note.endswith("; and 5 more")
        assert json.loads(json.dumps([one.as_dict() for one in composition.candidates]))


def test_a_file_that_only_diffusers_refuses_leaves_nothing_behind(
    pipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of loading: some of its layers are there already."""
    ann, bob = fill(pipe, tmp_path / "pool", NAMES[:2])
    load = type(pipe).load_lora_weights

    def breaks(self: Any, file: Any, **how: Any) -> None:
        load(self, file, **how)
        if str(file) == str(ann):
            message = "in the middle"
            raise RuntimeError(message)

    monkeypatch.setattr(type(pipe), "load_lora_weights", breaks)
    composition = loramix.compose(pipe, Pool(tmp_path / "pool", hold=1), mode="composite")
    with composition as inside:
        got = SD.run(inside)
        assert resident(pipe, {"ann", "bob"})[0] == {"bob"}
        assert set(pipe.unet.peft_config) == {"bob"}
    with loramix.compose(pipe, [bob], mode="composite") as inside:
        assert torch.equal(SD.run(inside), got)
    assert composition.runs[0].adapters == ("bob",)
    (left,) = [one.left_out for one in composition.candidates if not one.fits]
    assert left.startswith("it cannot be loaded: ")
    assert left.endswith("in the middle")


def test_a_part_of_another_model_that_fits_this_one_takes_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What fits several tables may be taken for different models, file by file."""
    pipe = sd()
    files = fill(pipe, tmp_path / "pool", NAMES[:2])
    load = loading.load

    def taken(path: Path, **how: Any) -> Any:
        one = load(path, **how)
        return dataclasses.replace(one, architecture="sdxl" if one.name == "bob" else "sd15")

    monkeypatch.setattr(loading, "load", taken)
    composition = loramix.compose(pipe, Pool(tmp_path / "pool"), mode="composite")
    with composition as inside:
        got = SD.run(inside)
    assert composition.runs[0].adapters == ("ann", "bob")
    with loramix.compose(pipe, files, mode="composite") as inside:
        assert torch.equal(SD.run(inside), got)


def test_of_many_only_some_have_their_weights_looked_at(pipe: Any, tmp_path: Path) -> None:
    fill(pipe, tmp_path / "pool")
    composition = loramix.compose(pipe, Pool(tmp_path / "pool", prompt="fay", short=1))
    with composition as inside:
        SD.run(inside)
    looked = [one.name for one in composition.candidates if one.norm is not None]
    assert looked == ["fay", "ann", "bob"]
    assert composition.candidates[-1].left_out == (
        "its words say less of the prompt than those of others"
    )


def test_text_encoders_have_none_of_a_pool(pipe: Any, tmp_path: Path) -> None:
    (file, *_) = fill(pipe, tmp_path / "pool", NAMES[:2])
    more = adapter(pipe.text_encoder, "text_encoder", tmp_path / "t", seed=1, scale=0.6)
    save_file({**load_file(file), **load_file(more)}, file)
    before = picture(pipe)
    with loramix.compose(pipe, Pool(tmp_path / "pool"), mode=Composite()) as inside:
        names = {
            name
            for layer in inside.text_encoder.modules()
            if isinstance(layer, BaseTunerLayer)
            for name in layer.lora_A
        }
    assert names == set()
    assert same(picture(pipe), before)


def test_what_a_pool_leaves_behind_on_an_exception(pipe: Any, tmp_path: Path) -> None:
    files = fill(pipe, tmp_path / "pool")
    pipe.load_lora_weights(str(files[0]), adapter_name="mine")
    pipe.set_adapters(["mine"], [0.4])
    SD.run(pipe)
    before = picture(pipe)

    def fails(*_: Any, **__: Any) -> Any:
        message = "in the middle"
        raise RuntimeError(message)

    with (
        pytest.raises(RuntimeError, match="in the middle"),
        loramix.compose(pipe, Pool(tmp_path / "pool", short=4, hold=1)) as inside,
    ):
        SD.run(inside, callback_on_step_end=fails)
    assert same(picture(pipe), before)


@pytest.mark.parametrize(
    ("make", "how", "message"),
    [
        (lambda p: Pool(p, hold=0), {}, "hold = 0"),
        (lambda p: Pool(p, short=0), {}, "short = 0"),
        (lambda _: Pool(3), {}, "pool: folder = 3: give the path of a folder"),
        (lambda p: Pool(p, prompt=None), {}, "pool: prompt = None: give a text"),
        (lambda p: Pool(p, alike=0), {}, "alike = 0"),
        (lambda p: Pool(p / "nowhere"), {}, "nowhere: a pool is a folder"),
        (lambda p: Pool(p / "empty"), {}, "empty: no .safetensors file in it"),
        (lambda p: Pool(p / "strange"), {}, "no adapter for this pipeline among 1: x: it cannot"),
        (Pool, {"weights": [1.0]}, "weights goes with a list of adapters"),
        (Pool, {"masks": [None]}, "masks goes with a list"),
        (Pool, {"text": "all"}, "text goes with a list"),
        (Pool, {"mode": "merge"}, "mode merge with method auto takes a list of adapters"),
        (
            lambda p: Pool(p, hold=2),
            {"mode": "merge:method=linear"},
            r"mode merge runs 6 .* hold = 2",
        ),
        (
            lambda p: Pool(p, hold=5),
            {"saving": "window=0.2+1.0"},
            r"mode loratorio runs 6 adapters in one forward, hold = 5",
        ),
        (
            lambda p: Pool(p, hold=5),
            {"mode": "switch", "saving": "window=0.0+0.999"},
            r"mode switch runs 6 adapters in one forward, hold = 5.* without a window",
        ),
    ],
)
def test_pools_that_cannot_be_are_refused(
    make: Callable[[Path], Pool], how: dict[str, Any], message: str, pipe: Any, tmp_path: Path
) -> None:
    folder = tmp_path / "pool"
    fill(pipe, folder)
    for name in ("empty", "strange"):
        (folder / name).mkdir()
    (folder / "strange" / "x.safetensors").write_bytes(b"nothing")
    with pytest.raises(ParamError, match=message), loramix.compose(pipe, make(folder), **how):
        pytest.fail("entered")


def test_modes_of_one_adapter_at_a_time_take_a_pool(pipe: Any, tmp_path: Path) -> None:
    fill(pipe, tmp_path / "pool")
    composition = loramix.compose(pipe, Pool(tmp_path / "pool", short=3, hold=1), mode=Switch(1))
    with composition as inside:
        SD.run(inside)
    (run,) = composition.runs
    assert run.forwards == 2 * STEPS
    assert [one["steps"] for one in run.as_dict()["adapters"]] == [[0], [1], [2]]
