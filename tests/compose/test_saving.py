"""What saves work, around every mode: forwards are counted where the denoiser computes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from compose.bench import STEPS, Bench, close
from compose.pipelines import GUIDANCE, KINDS
from compose.test_laws import FULL, Case, near, rows_seen

import loramix
from loramix import ParamError
from loramix.compose import MODES, Cm, Composite, Loratorio, Saving
from loramix.compose.modes.base import Moment, Pass, Seen
from loramix.spelling import spelled

pytestmark = pytest.mark.filterwarnings(
    "ignore::FutureWarning", "ignore::DeprecationWarning", "ignore:Already found a `peft_config`"
)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    from diffusers.utils import logging

    logging.set_verbosity_error()
    return Bench(tmp_path)


INSIDE = {
    "loratorio": 4, "composite": 3, "switch": 1, "merge": 1, "w-switch": 1, "w-composite": 3,
    "cm": 4, "multlfg": 3, "k-lora": 1,
}  # fmt: skip
"""Forwards of a step in the window, for one side of the guidance; of two adapters for k-lora."""


def run(bench: Bench, name: str, scale: float = GUIDANCE, **how: Any) -> tuple[Any, list[int]]:
    """The account of a run, and the rows of every call of the denoiser, where it computes them."""
    rows: list[int] = []
    names = ["a0", "a1", "a2"][: 2 if name == "k-lora" else 3]
    counting = bench.pipe.unet.conv_out.register_forward_pre_hook(
        lambda _, args: rows.append(len(args[0]))
    )
    composition = loramix.compose(bench.pipe, names, mode=name, **how)
    with composition as pipe:
        KINDS["sd"].run(pipe, guidance_scale=scale, num_inference_steps=STEPS)
    counting.remove()
    (found,) = composition.runs
    assert sum(rows) == 2 * found.forwards  # two pictures
    return found, [step.forwards for step in found.steps]


def test_every_mode_is_here() -> None:
    assert set(INSIDE) == set(MODES)


@pytest.mark.parametrize("name", INSIDE)
@pytest.mark.parametrize("sides", [1, 2])
def test_outside_a_window_every_mode_takes_one_forward(name: str, sides: int, bench: Bench) -> None:
    scale = GUIDANCE if sides == 2 else 1.0
    inside = INSIDE[name] * sides
    for window, meant in (
        ((0.25, 0.75), [sides, inside, inside, sides]),
        ((0.0, 0.5), [inside, inside, sides, sides]),
        ((0.5, 1.0), [sides, sides, inside, inside]),
    ):
        found, forwards = run(bench, name, scale, saving=Saving(window=window))
        assert forwards == meant
        for step, count in zip(found.steps, meant, strict=True):
            if count == sides != inside:
                assert step.chosen.all()


@pytest.mark.parametrize("name", INSIDE)
def test_a_window_of_hardly_anything_is_the_plain_sum(name: str, bench: Bench) -> None:
    count = 2 if name == "k-lora" else 3
    how: dict[str, Any] = {"saving": "window=0.99+1.0", "guidance": "autolora"}
    got = bench.composed(count, mode="merge:method=linear" if name == "merge" else name, **how)
    assert np.array_equal(got, bench.composed(count, mode="merge:method=linear"))


@pytest.mark.parametrize(
    ("name", "every", "meant"),
    [
        ("loratorio", 2, [4, 3, 4, 3]), ("loratorio", 3, [4, 3, 3, 4]),
        ("cm:measure=2", 2, [4, 3, 4, 3]), ("cm:measure=1", 3, [4, 3, 3, 3]),
        ("multlfg:score=base", 3, [4, 3, 3, 4]), ("multlfg", 2, [3, 3, 3, 3]),
    ],
)  # fmt: skip
def test_between_evaluations_the_weights_stay(
    name: str, every: int, meant: list[int], bench: Bench
) -> None:
    found, forwards = run(bench, name, saving=Saving(every=every), guidance="cfg")
    assert forwards == [2 * count for count in meant]
    for step in found.steps:
        begun = found.steps[step.number - step.number % every]
        assert np.array_equal(step.weights, begun.weights)
    assert not np.array_equal(found.steps[0].weights, found.steps[every].weights)


@pytest.mark.parametrize(
    ("name", "skip"), [("loratorio:tau=0.01", 0.33), ("cm:measure=1", 0.3), ("multlfg:k=1", 1.0)]
)
def test_what_rests_is_not_run_and_leaves_its_weight(name: str, skip: float, bench: Bench) -> None:
    found, forwards = run(bench, name, saving=Saving(every=2, skip=skip), guidance="cfg")
    whole, _ = run(bench, name, saving=Saving(every=2), guidance="cfg")
    for first, between, free in zip(
        found.steps[::2], found.steps[1::2], whole.steps[1::2], strict=True
    ):
        assert forwards[between.number] == 2 * between.chosen.any(axis=1).sum()
        assert forwards[between.number] < forwards[first.number]
        assert between.weights.sum(axis=0) == pytest.approx(1, abs=1e-6)
        if first.number == 0 and name.startswith(("loratorio", "cm")):
            kept = (free.means >= skip) | (free.means == free.means.max(axis=0))
            assert np.array_equal(between.chosen, kept)
            own = free.weights * kept.reshape((*kept.shape, *(1,) * (free.weights.ndim - 2)))
            assert np.allclose(between.weights, own / own.sum(axis=0), atol=1e-6)


def test_bands_rest_only_where_they_are_light_in_all(bench: Bench) -> None:
    """An adapter that leads in a single small band carries what no other has."""
    found, forwards = run(bench, "multlfg:k=1,score=base", saving=Saving(every=2, skip=0.99))
    for first, between in zip(found.steps[::2], found.steps[1::2], strict=True):
        assert np.array_equal(between.chosen, first.chosen)
        assert forwards[between.number] == 2 * between.chosen.any(axis=1).sum()


def test_cm_measures_in_the_first_steps_of_its_window(bench: Bench) -> None:
    _, forwards = run(bench, "cm:measure=1", saving="window=0.5+1.0")
    assert forwards == [2, 2, 8, 6]


@pytest.mark.parametrize("begun", [0, 3, 4, 13])
def test_whenever_cm_begins_the_highest_frequencies_come_first(begun: int) -> None:
    rng = np.random.default_rng(2)
    base = rng.normal(size=(1, 4, 8, 8))
    rough = np.indices((8, 8)).sum(axis=0) % 2 * 2 - 1
    members = tuple(base + share * rough + (1 - share) for share in (0.2, 0.9, 0.5))
    mode, memory = Cm(measure=1), None
    ran = tuple(Pass((i,)) for i in range(3))
    dominant = []
    for step in range(begun, begun + 5):
        moment = Moment(step, 16, (1.0,) * 3)
        blend, memory = mode.weigh(moment, Seen(ran, members, base), memory)
        dominant.append(int(blend.table[:, 0].argmax()))
    moved = [
        step for step in range(begun + 1, begun + 5) if step % (3 if 6 <= step < 14 else 2) == 0
    ]
    order = (1, 2, 0)
    assert dominant == [
        order[sum(one <= step for one in moved) % 3] for step in range(begun, begun + 5)
    ]


@pytest.mark.parametrize(
    ("saving", "message"),
    [
        ("every=0", "saving: every = 0: allowed is a whole number of at least 1"),
        ("every=1.5", "saving: every = 1.5"),
        ("every=2,skip=2", r"saving: skip = 2.0: allowed is a number in \[0, 1\]"),
        ("skip=0.1", "saving: skip = 0.1: .* give every of 2 or more"),
        ("window=1", r"saving: window = \(1.0,\): allowed is 0 <= start < end"),
        ("window=0.5+0.2", r"window = \(0.5, 0.2\)"),
        ("window=a+b", r"window = \('a', 'b'\)"),
        ("evry=2", r"saving: no parameter 'evry' \(did you mean every\?\)"),
        (3, "saving = 3: give a Saving, or a text such as every=3"),
        (Saving, "saving = <class .*: give a Saving"),
    ],
)
def test_savings_that_cannot_be_are_refused(saving: Any, message: str) -> None:
    pipe = object.__new__(type("FluxPipeline", (), {}))
    with pytest.raises(ParamError, match=message):
        loramix.compose(pipe, [], saving=saving)


def test_a_window_without_a_step_is_noted(bench: Bench) -> None:
    for name in ("loratorio", "switch"):
        found, _ = run(bench, name, saving="window=0.3+0.4")
        (note,) = found.notes
        assert note.startswith("none of the 4 steps was inside the window: in all of them all")
    found, _ = run(bench, "switch", saving="window=0.3+0.6")
    assert found.notes == ()


def test_numbers_of_arrays_are_numbers() -> None:
    meant = Saving(every=2, skip=0.25, window=(0.25, 0.5))
    for window in ([0.25, 0.5], np.array([0.25, 0.5]), (torch.tensor(0.25), np.float32(0.5))):
        found = Saving(every=2, skip=torch.tensor(0.25), window=window)  # type: ignore[arg-type]
        assert found == meant
        assert spelled(found) == spelled(meant)


def test_windows_are_of_numbers() -> None:
    for bad in (
        (0.5, 0.5),
        ("0", "1"),
        None,
        (0.1, float("nan")),
        (-0.1, 1.0),
        0.5,
        (0.1, 0.2, 0.3),
    ):
        with pytest.raises(ParamError, match="saving: window = "):
            Saving(window=bad)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", [name for name, kind in MODES.items() if kind.settled])
def test_weights_that_no_prediction_makes_have_nothing_to_keep(name: str, bench: Bench) -> None:
    message = f"saving: every and skip are about weights .* with mode {name} {MODES[name].settled}"
    for saving in ("every=2", "saving:every=2,skip=0.1"):
        with pytest.raises(ParamError, match=message):
            loramix.compose(bench.pipe, ["a0"], mode=name, saving=saving)
    assert loramix.compose(bench.pipe, ["a0"], mode=name).saving == Saving()


def test_weights_are_kept_between_evaluations(bench: Bench) -> None:
    bench.composed(mode=Loratorio(patch=4), saving="every=2", guidance="cfg")
    steps = bench.last.runs[0].steps
    assert [step.forwards for step in steps] == [8, 6, 8, 6]
    assert np.array_equal(steps[0].weights, steps[1].weights)
    assert not np.array_equal(steps[1].weights, steps[2].weights)
    bench.composed(mode=Loratorio(patch=4), saving="every=2")  # the base is still re-centred to
    assert [step.forwards for step in bench.last.runs[0].steps] == [8, 8, 8, 8]


def test_light_adapters_rest_until_the_next_evaluation(bench: Bench) -> None:
    how = {"guidance": "cfg", "priors": (1.0, 1.0, 1e-3)}
    bench.composed(mode=Loratorio(patch=4), saving=Saving(every=3, skip=0.05), **how)
    steps = bench.last.runs[0].steps
    assert [step.forwards for step in steps] == [8, 4, 4, 8]
    assert steps[0].chosen.all()
    for step in steps[1:3]:
        assert step.chosen.tolist() == [[True] * 2, [True] * 2, [False] * 2]
        assert step.weights.sum(axis=0) == pytest.approx(1, abs=1e-6)


def test_masks_reach_adapters_without_weight_in_every_step(bench: Bench) -> None:
    """At this temperature one adapter has all the weight of a patch, the others exactly none."""
    left = np.zeros((8, 8))
    left[:, :3] = 1  # not at the rim of a patch
    mode = Loratorio(tau=1e-9, patch=8)
    how = {"saving": "every=2", "guidance": "cfg"}
    bench.composed(2, mode=mode, **how)
    winner = [int(i) for i in bench.last.runs[0].steps[0].weights.argmax(axis=0).ravel()]
    assert len(set(winner)) == 1
    masks: list[Any] = [1 - left, 1 - left]
    masks[1 - winner[0]] = left
    got = bench.composed(2, mode=mode, masks=masks, **how)
    meant = bench.composed(2, mode=Composite(), masks=masks)
    assert close(got, meant)
    assert [step.forwards for step in bench.last.runs[0].steps] == [6, 6, 6, 6]


def test_outside_the_window_nothing_of_the_composition_is_left(bench: Bench) -> None:
    """The default re-centring as well: two forwards, which are those of the merged sum."""
    for guidance in (None, "autolora"):
        mode, saving = Loratorio(tau=0.01, patch=4), Saving(window=(0.25, 0.75))
        bench.composed(mode=mode, guidance=guidance, saving=saving)
        (run,) = bench.last.runs
        assert [step.forwards for step in run.steps] == [2, 8, 8, 2]
        assert run.notes == ()
    late = bench.composed(mode=Loratorio(patch=4), saving="window=0.99+1.0")
    assert np.array_equal(late, bench.composed(mode="merge:method=linear"))


@pytest.mark.parametrize(
    ("kind", "guidance", "meant"),
    [
        ("flux", "recentred", [1, 3, 2]), ("ltx", "recentred", [2, 6, 6]),
        ("wan", "recentred", [2, 6, 5]), ("wan", "cfg", [2, 5, 4]),
        ("qwen", "autolora", [2, 6, 6]), ("sdxl", "cfg", [2, 6, 4]),
    ],
)  # fmt: skip
def test_work_is_saved_in_every_kind_of_pipeline(
    kind: str, guidance: str, meant: list[int], tmp_path: Path
) -> None:
    """A step outside of the window, one that evaluates weights, one that keeps them."""
    case = Case(kind, tmp_path, 2)
    seen = rows_seen(case)
    saving = Saving(every=2, window=(0.5, 1.0))
    call = {"num_inference_steps": 4}
    case.composed(case.load(), mode=FULL, guidance=guidance, saving=saving, call=call)
    (found,) = case.last.runs
    outside, evaluates, keeps = meant
    assert [one.forwards for one in found.steps] == [outside, outside, evaluates, keeps]
    assert sum(seen) == 2 * found.forwards  # two pictures


def test_adapters_in_one_batch_save_the_same_work(tmp_path: Path) -> None:
    case = Case("sd", tmp_path, 3)
    names, saving = case.load(), "every=2,skip=0.3,window=0.25+1.0"
    how = {"mode": Loratorio(tau=0.005, patch=2), "saving": saving, "guidance": "cfg"}
    call = {"num_inference_steps": 8}
    meant = case.composed(names, call=call, **how)
    forwards = case.last.runs[0].forwards
    assert near(case.composed(names, call=call, max_batch=4, **how), meant, 1e-3)
    assert case.last.runs[0].forwards == forwards < 2 * 2 + 6 * 8
