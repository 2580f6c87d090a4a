"""Every mode and guidance against a loop by hand around diffusers, with the oracles.

The loop runs the real UNet with adapters set by diffusers' own calls, and guides and steps by
itself; the composed pipeline must end at the same latents.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from compose import oracles
from compose.bench import PRIORS, STEPS, WEIGHTS, Array, Bench, Names, Predict, Rule, close
from compose.pipelines import GUIDANCE, KINDS, random, sd
from safetensors.numpy import load_file, save_file

import loramix
from loramix import ParamError
from loramix.compose import (
    GUIDANCE as GUIDANCES,
)
from loramix.compose import (
    MODES,
    AutoLora,
    Cfg,
    Cm,
    Composite,
    Guidance,
    KLora,
    Loratorio,
    Merge,
    Mode,
    MultLfg,
    Recentred,
    Saving,
    Switch,
    WComposite,
    WSwitch,
    importance_of,
)
from loramix.compose.modes.base import Moment, Seen
from loramix.spelling import named, spelled

pytestmark = pytest.mark.filterwarnings(
    "ignore::FutureWarning", "ignore::DeprecationWarning", "ignore:Already found a `peft_config`"
)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    from diffusers.utils import logging

    logging.set_verbosity_error()
    return Bench(tmp_path)


def alone(predict: Predict, names: Sequence[int] = (0, 1, 2)) -> tuple[Array, Array]:
    """Both sides of each adapter in a pass of its own."""
    both = [predict((i,)) for i in names]
    return np.stack([u for u, _ in both]), np.stack([c for _, c in both])


def loratorio(tau: float, how: str, lambda_: float, scale: str = "none", k: int = 3) -> Rule:
    edges = (3, 3)

    def rule(_: int, predict: Predict) -> tuple[Array, Array]:
        base_u, base_c = predict(())
        u, c = alone(predict)
        likeness = oracles.similarity(base_c, c, edges)
        prior = np.array(PRIORS)
        values = likeness if scale == "none" else oracles.standardise(likeness, scale)
        found = np.zeros_like(likeness)
        for b in range(len(base_c)):
            far = [1 - likeness[i, b].mean() for i in range(3)]
            kept = oracles.chosen(far, k, [False] * 3, 0.0)
            own = [p if keep else 0.0 for p, keep in zip(prior, kept, strict=True)]
            found[:, b : b + 1] = oracles.softmin(values[:, b : b + 1], tau, own)
        pixels = getattr(oracles, how)(found, (8, 8), edges)
        centre = lambda_ * base_u + (1 - lambda_) * oracles.aggregate(u, pixels)
        return centre, oracles.aggregate(c, pixels)

    return rule


def weighted(weights: Callable[[int], Sequence[float]]) -> Rule:
    def rule(step: int, predict: Predict) -> tuple[Array, Array]:
        table = np.asarray(weights(step))
        return tuple(np.tensordot(table, side, 1) for side in alone(predict))  # type: ignore[return-value]

    return rule


def together(names: Callable[[int], Names]) -> Rule:
    return lambda step, predict: predict(names(step))


CASES: Mapping[str, tuple[Mode, Guidance | None, Sequence[float] | None, Rule]] = {
    "loratorio": (
        Loratorio(tau=0.05, patch=3), None, PRIORS, loratorio(0.05, "nearest", 0.5),
    ),
    "loratorio-bilinear": (
        Loratorio(tau=0.02, patch=3, how="bilinear"), Recentred(0.2), PRIORS,
        loratorio(0.02, "bilinear", 0.2),
    ),
    "loratorio-scaled": (
        Loratorio(tau=1.0, patch=3, scale="image"), Cfg(), PRIORS,
        loratorio(1.0, "nearest", 0.0, "image"),
    ),
    "loratorio-chosen": (
        Loratorio(tau=0.05, patch=3, k=2), Cfg(), PRIORS, loratorio(0.05, "nearest", 0.0, k=2),
    ),
    "composite": (Composite(), None, PRIORS, weighted(lambda _: np.array(PRIORS) / 3.5)),
    "w-composite": (
        WComposite(importance=(2.0, 0.0, 1.0)), None, None, weighted(lambda _: (2 / 3, 0, 1 / 3)),
    ),
    "switch": (Switch(every=1), None, None, together(lambda step: (step % 3,))),
    "switch-slow": (Switch(every=2), None, (1, 0, 1), together(lambda step: ((0, 2)[step // 2],))),
    "w-switch": (
        WSwitch(every=1, importance=(1.0, 0.0, 2.0)), None, None,
        together(lambda step: ((2,), (0,), (2,), (2,))[step]),
    ),
    "merge": (Merge("linear"), None, None, together(lambda _: (0, 1, 2))),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_modes_are_the_loop_by_hand(name: str, bench: Bench) -> None:
    mode, guidance, priors, rule = CASES[name]
    meant = bench.by_hand(rule)
    assert close(bench.composed(mode=mode, guidance=guidance, priors=priors), meant)


def test_autolora_is_the_difference_of_two_guided_predictions(bench: Bench) -> None:
    def rule(_: int, predict: Predict) -> tuple[Array, Array]:
        (base_u, base_c), (u, c) = predict(()), predict((0, 1, 2))
        base = base_u + GUIDANCE * (base_c - base_u)
        moved = base + 1.5 * (u + GUIDANCE * (c - u) - base)
        return moved, moved

    meant = bench.by_hand(rule)
    assert close(bench.composed(mode="merge:method=linear", guidance=AutoLora(1.5)), meant)
    assert bench.last.runs[0].forwards == STEPS * 2 * 2
    assert close(
        bench.composed(mode="merge:method=linear", guidance="autolora:gamma=1"),
        bench.composed(mode="merge:method=linear"),
    )


def test_dominance_moves_through_adapters_of_falling_frequency(bench: Bench) -> None:
    scores = np.zeros((3, 2))

    def rule(step: int, predict: Predict) -> tuple[Array, Array]:
        _, base = predict(())
        u, c = alone(predict)
        if step < 2:
            for i in range(3):
                scores[i] += [oracles.high_share(c[i, b] - base[b], 0.25) for b in range(2)]
        # Shares of the run 0, 1/4, 1/2, 3/4: every second step, then every third.
        turns = (0, 0, 0, 1)[step]
        dominant = np.argsort(-scores, axis=0, kind="stable")[turns]
        weights = np.full((3, 2), 3 / (2.5 + 2) / 3)
        weights[dominant, (0, 1)] *= 2.5
        assert weights.sum(axis=0) == pytest.approx(1)
        return tuple(np.einsum("ib,ibchw->bchw", weights, one) for one in (u, c))  # type: ignore[return-value]

    meant = bench.by_hand(rule)
    assert close(bench.composed(mode=Cm(measure=2)), meant)
    per_step = [step.forwards for step in bench.last.runs[0].steps]
    assert per_step == [8, 8, 6, 6]


@pytest.mark.parametrize("score", ["change", "base"])
def test_bands_are_shared_by_what_changes_in_them(score: str, bench: Bench) -> None:
    before: list[Array] = []

    def rule(_: int, predict: Predict) -> tuple[Array, Array]:
        base = predict(())[1]
        u, c = alone(predict)
        others = np.stack([base] * 3) if score == "base" else (before[-1] if before else None)
        before.append(c)
        if others is None:
            return u.mean(axis=0), c.mean(axis=0)
        found = np.zeros_like(u[0]), np.zeros_like(c[0])
        for b in range(2):
            moved = np.stack([_bands(c[i, b] - others[i, b]) for i in range(3)])
            norms = np.sqrt((moved**2).sum(axis=(2, 3, 4)))  # adapter, band
            norms = norms / norms.mean(axis=0)
            for band in range(4):
                own = norms[:, band]
                kept = oracles.chosen(list(own), 2, [False] * 3, 0.0)
                raised = np.where(kept, np.exp(own / 0.3), 0)
                for side, stack in zip(found, (u, c), strict=True):
                    parts = np.stack([_bands(stack[i, b])[band] for i in range(3)])
                    mixed = np.zeros((4, *parts.shape[1:]))
                    mixed[band] = np.tensordot(raised / raised.sum(), parts, 1)
                    side[b] += _image(mixed)
        return found

    meant = bench.by_hand(rule)
    mode = MultLfg(levels=1, k=2, score=score, tau=0.3)  # type: ignore[arg-type]
    assert close(bench.composed(mode=mode), meant)
    assert bench.last.runs[0].forwards == STEPS * 2 * (4 if score == "base" else 3)


@pytest.mark.parametrize("size", [(8, 8), (7, 10)])
def test_sizes_of_bands_are_those_of_the_wavelets(size: tuple[int, int]) -> None:
    from loramix.compose.functional import haar

    members = tuple(np.random.default_rng(i).normal(size=(1, 2, *size)) for i in range(2))
    mode = MultLfg(levels=3, score="base", tau=0.5)
    moment = Moment(0, 4, (1.0, 1.0))
    ran = tuple(one for one in mode.passes(moment, None) if one.active)
    blend, _ = mode.weigh(moment, Seen(ran, members, np.zeros((1, 2, *size))), None)
    counts = [part[0, 0].size for part in haar(members[0], 3).parts]
    meant = sum(w * c / sum(counts) for w, c in zip(blend.weights, counts, strict=True))
    assert len(blend.weights) == 10
    assert np.allclose(blend.table, meant)


def _bands(image: Array) -> Array:
    """(bands, channels, height / 2, width / 2)."""
    return np.stack([np.stack(oracles.haar(one)) for one in image], axis=1)


def _image(bands: Array) -> Array:
    """By the transposed matrix, which is the inverse for even sizes."""
    size = 2 * bands.shape[-1]
    matrix = oracles.haar_matrix(size)
    whole = np.concatenate(
        [np.concatenate(list(bands[:2]), axis=-1), np.concatenate(list(bands[2:]), axis=-1)],
        axis=-2,
    )
    return np.stack([matrix.T @ one @ matrix for one in whole])


def test_k_lora_is_a_file_with_the_larger_adapter_of_every_layer(
    bench: Bench, tmp_path: Path
) -> None:
    tensors = [load_file(file) for file in bench.files[:2]]
    stems = sorted({key.partition(".lora_")[0] for key in tensors[0]})
    only = stems[3]  # one layer that the style does not have
    for side in ("A", "B"):
        del tensors[1][f"{only}.lora_{side}.weight"]
    save_file(tensors[1], bench.files[1])
    bench.pipe.unload_lora_weights()
    deltas = {
        stem: [
            w * t[f"{stem}.lora_B.weight"].astype(float) @ t[f"{stem}.lora_A.weight"]
            if f"{stem}.lora_A.weight" in t
            else None
            for w, t in zip(WEIGHTS, tensors, strict=False)
        ]
        for stem in stems
    }
    sums = [sum(np.abs(d[i]).sum() for s, d in deltas.items() if s != only) for i in (0, 1)]
    meant = bench.latents
    chosen = []
    for step in range(STEPS):
        own = {}
        for stem, (subject, style) in deltas.items():
            largest = [
                0.0 if d is None else np.sort(np.abs(d).ravel())[-4:].sum()
                for d in (subject, style)
            ]
            factor = sums[0] / sums[1] * (1.5 * step / STEPS + 0.5)
            winner = int(style is not None and largest[1] * factor > largest[0])
            chosen.append(winner)
            for side, weight in (("A", 1.0), ("B", WEIGHTS[winner])):
                key = f"{stem}.lora_{side}.weight"
                own[key] = (tensors[winner][key] * weight).astype(np.float32)
        save_file(own, tmp_path / f"step{step}.safetensors")
    assert 0.1 < np.mean(chosen) < 0.9

    pipe = bench.pipe
    pipe.scheduler.set_timesteps(STEPS)
    for step, t in enumerate(pipe.scheduler.timesteps):
        pipe.load_lora_weights(str(tmp_path / f"step{step}.safetensors"), adapter_name="one")
        with torch.inference_mode():
            u, c = (
                pipe.unet(meant, t, bench.arguments[f"{s}prompt_embeds"], return_dict=False)[0]
                for s in ("negative_", "")
            )
        meant = pipe.scheduler.step(u + GUIDANCE * (c - u), t, meant, return_dict=False)[0]
        pipe.unload_lora_weights()
    bench.load()
    assert close(bench.composed(2, mode=KLora()), meant.double().numpy())
    assert bench.last.runs[0].forwards == STEPS * 2
    share = np.mean(chosen[-len(stems) :])
    assert bench.last.runs[0].steps[-1].weights[1, 0] == pytest.approx(share)
    with pytest.raises(ParamError, match=r"3 adapters .*: give two, the subject first"):
        bench.composed(3, mode="k-lora")


FORWARDS = {
    "loratorio": 4, "composite": 3, "switch": 1, "merge": 1, "w-switch": 1, "w-composite": 3,
    "multlfg": 3,
}  # fmt: skip


@pytest.mark.parametrize("name", FORWARDS)
@pytest.mark.parametrize("guided", [True, False])
def test_what_a_mode_costs(name: str, guided: bool, bench: Bench) -> None:
    scale = GUIDANCE if guided else 1.0
    composition = loramix.compose(bench.pipe, ["a0", "a1", "a2"], mode=name)
    with composition as pipe:
        KINDS["sd"].run(pipe, guidance_scale=scale)
    (run,) = composition.runs
    assert {step.forwards for step in run.steps} == {FORWARDS[name] * (2 if guided else 1)}


@pytest.mark.parametrize("level", ["none", "adapter"])
@pytest.mark.parametrize("scope", ["image", "patch"])
def test_a_frozen_choice_is_all_that_is_run(level: Any, scope: Any, bench: Bench) -> None:
    mode = Loratorio(patch=4, k=1, freeze=2, level=level, scope=scope)
    bench.composed(mode=mode, guidance="cfg")
    steps = bench.last.runs[0].steps
    chosen = [step.chosen for step in steps]
    assert all(((step.weights > 0).sum(axis=0) == 1).all() for step in steps)
    assert np.array_equal(chosen[2], chosen[1])
    assert np.array_equal(chosen[3], chosen[1])
    run = 1 + int(chosen[1].any(axis=1).sum())
    assert [step.forwards for step in steps] == [8, 8, 2 * run, 2 * run]


def test_levels_keep_a_loud_adapter_from_winning_everywhere(bench: Bench) -> None:
    shares = {}
    for level in ("none", "adapter"):
        mode = Loratorio(tau=0.3, patch=4, level=level)  # type: ignore[arg-type]
        bench.composed(mode=mode, weights=(3.0, 0.3, 0.3), guidance="cfg")
        shares[level] = np.mean([step.weights[0].mean() for step in bench.last.runs[0].steps])
    assert shares["none"] > 0.6
    assert shares["adapter"] < 0.5


def test_hysteresis_keeps_a_choice(bench: Bench) -> None:
    def choices(hysteresis: float) -> list[Any]:
        mode = Loratorio(patch=4, k=1, scope="patch", hysteresis=hysteresis)
        bench.composed(mode=mode, guidance="cfg")
        return [step.weights.argmax(axis=0).tolist() for step in bench.last.runs[0].steps]

    free, kept = choices(0.0), choices(1e6)
    assert free[0] == kept[0]
    assert any(one != free[0] for one in free)
    assert all(one == kept[0] for one in kept)


def test_importance_is_the_share_of_trigger_words() -> None:
    prompt = "A Cat in a red hat, red shoes"
    assert importance_of(prompt, ["cat", "red, hat", "dog"]) == (0.25, 0.75, 0.0)
    assert importance_of(prompt, ["red", "red"]) == (1.0, 1.0)
    with pytest.raises(ParamError, match="none of the trigger words"):
        importance_of(prompt, ["dog"])


def test_names_and_parameters_are_read_from_texts() -> None:
    pipe = sd()

    def mode(text: str) -> Any:
        return loramix.compose(pipe, [], mode=text)._mode

    assert mode("loratorio:tau=0.1,patch=8,scale=none,k=2") == Loratorio(tau=0.1, patch=8, k=2)
    assert set(MODES) == {*FORWARDS, "cm", "k-lora"}
    for name, kind in {**MODES, **GUIDANCES}.items():
        assert kind.name == name
        assert kind() == kind()
    guidance = loramix.compose(pipe, [], guidance="recentred:lambda=0.3")._guidance
    assert guidance == Recentred(0.3)


@pytest.mark.parametrize(
    "one",
    [
        *(kind() for kind in (*MODES.values(), *GUIDANCES.values())),
        Loratorio(tau=np.inf, patch=(1, 2, 3), k=2, scope="patch"),
        WSwitch(importance=(0.5, 2.0)), Merge("ties"), Recentred(0.3), Saving(),
        Saving(every=3, skip=0.05, window=(0.25, 1.0)),
    ],
)  # fmt: skip
def test_what_is_spelled_can_be_read(one: Any) -> None:
    text = spelled(one)
    assert text.partition(":")[0] == one.name
    assert named("mode", text, {**MODES, **GUIDANCES, "saving": Saving}) == one
    if one == Loratorio():
        assert text == (
            "loratorio:tau=1.0,patch=4,how=nearest,scale=none,level=none,k=none,scope=image,"
            "hysteresis=0.0,freeze=none"
        )


@pytest.mark.parametrize(
    ("mode", "message"),
    [
        ("loratorios", r"mode 'loratorios' \(did you mean loratorio\?\); known are lora"),
        ("loratorio:taw=1", r"no parameter 'taw' \(did you mean tau\?\)"),
        ("loratorio:tau=0", r"loratorio: tau = 0.0: allowed is a number in \(0, inf\]"),
        ("loratorio:tau=x", r"loratorio: tau = x: allowed is a number"),
        ("loratorio:tau=1,tau=2", "tau is given twice"),
        ("loratorio:patch=0", "patch = 0: allowed is a whole number of at least 1"),
        ("loratorio:how=cubic", "how = 'cubic': allowed is nearest, bilinear"),
        ("loratorio:scale=z", "scale = 'z'"),
        ("loratorio:level=z", "level = 'z'"),
        ("loratorio:scope=z", "scope = 'z'"),
        ("loratorio:k=0", "k = 0"),
        ("loratorio:freeze=2", "give k"),
        ("switch:every=1.5", "switch: every = 1.5: allowed is a whole number"),
        ("w-switch:every=0", "w-switch: every = 0"),
        ("cm:cut=2", r"cm: cut = 2.0: allowed is a number in \[0, 0.7072\]"),
        ("cm:measure=0", "cm: measure = 0"),
        ("multlfg:score=z", "multlfg: score = 'z': allowed is change, base"),
        ("multlfg:levels=0", "multlfg: levels = 0"),
        ("k-lora:alpha=-1", "k-lora: alpha = -1"),
    ],
)
def test_modes_out_of_range_are_refused(mode: str, message: str) -> None:
    with pytest.raises(ParamError, match=message):
        loramix.compose(object.__new__(type("FluxPipeline", (), {})), [], mode=mode)


def test_numbers_in_tuples_are_checked_too() -> None:
    with pytest.raises(ParamError, match="importance = -1"):
        WComposite(importance=(-1.0,))
    with pytest.raises(ParamError, match="at least one must be above 0"):
        WSwitch(importance=(0.0, 0.0))
    for kind in (WSwitch, WComposite):
        assert kind(importance=np.array([1.0, 2.0])) == kind(importance=(1.0, 2.0))
        for bad in (2, "12", ("a",)):
            with pytest.raises(ParamError, match=r"importance = .*a number"):
                kind(importance=bad)
    for edge in (2.5, None, "4", (4, 2.5)):
        with pytest.raises(ParamError, match=r"loratorio: patch = .*allowed is a whole number"):
            Loratorio(patch=edge)  # type: ignore[arg-type]
    with pytest.raises(ParamError, match=r"tau = 0.1.*; this is a Tensor: give its .item\(\)"):
        Loratorio(tau=torch.tensor(0.1))
    with pytest.raises(ParamError, match="merge: method = 3: give a text such as ties"):
        Merge(3)  # type: ignore[arg-type]
    with pytest.raises(ParamError, match="gamma = -1"):
        AutoLora(-1)
    with pytest.raises(ParamError, match="lambda = 2"):
        Recentred(2)


@pytest.mark.parametrize(
    "mode",
    [
        Loratorio(tau=0.1, patch=3), Loratorio(tau=0.1, patch=3, how="bilinear"),
        Loratorio(tau=1e-9, patch=3), Loratorio(patch=3, k=1), Composite(),
        WComposite(importance=(2.0, 1.0, 0.0)),
    ],
)  # fmt: skip
def test_the_account_has_the_weights_inside_the_masks(mode: Mode, bench: Bench) -> None:
    """A mask of one corner, half a mask, a mask of nothing: the base has what is left."""
    corner, half = np.zeros((8, 8)), np.full((8, 8), 0.5)
    corner[:4, :2] = 1
    half[:4, :4] = 0
    saving = Saving(every=2) if mode.settled is None else None
    masks = [corner, half, np.zeros((2, 2))]
    bench.composed(mode=mode, masks=masks, guidance="cfg", saving=saving)
    edge = 3 if isinstance(mode, Loratorio) else 4
    rims = [slice(i, i + edge) for i in range(0, 8, edge)]
    (run,) = bench.last.runs

    def means(pixels: Array) -> Array:
        return np.array([[pixels[r, c].mean() for c in rims] for r in rims])

    for step in run.steps:
        assert step.weights.shape == (3, 2, len(rims), len(rims))
        assert np.allclose(step.weights[0], means(corner), atol=1e-6)
        assert np.allclose(step.weights[1], means(half), atol=1e-6)
        assert (step.weights[2] == 0).all()
        assert np.allclose(step.base, 1 - means(corner) - means(half), atol=1e-6)
        assert step.chosen.tolist() == [[True] * 2, [True] * 2, [False] * 2]
    facts: Any = run.as_dict()
    shares = [means(one).mean() for one in (corner, half, 1 - corner - half)]
    assert facts["base"]["weight"] == pytest.approx(shares[2], abs=1e-6)
    assert [one["weight"] for one in facts["adapters"]] == pytest.approx([*shares[:2], 0], abs=1e-6)
    assert facts["adapters"][2]["steps"] == []


def test_where_all_masks_are_empty_the_base_has_all(bench: Bench) -> None:
    for mode in ("loratorio", "composite"):
        bench.composed(2, mode=mode, masks=[np.zeros((2, 2))] * 2)
        (run,) = bench.last.runs
        assert (run.map == 0).all()
        assert all((step.base == 1).all() and not step.chosen.any() for step in run.steps)
        assert all((step.entropy == 0).all() for step in run.steps)
        facts: Any = run.as_dict()
        assert [one["steps"] for one in facts["adapters"]] == [[], []]
    bench.composed(2, mode="loratorio")
    assert all((step.base == 0).all() for step in bench.last.runs[0].steps)


def test_overlapping_masks_share_as_the_oracle_says(bench: Bench) -> None:
    rng = np.random.default_rng(3)
    masks = rng.uniform(size=(3, 8, 8))
    bench.composed(mode=Loratorio(tau=0.1, patch=1), guidance="cfg")
    free = bench.last.runs[0].steps[0].weights
    bench.composed(mode=Loratorio(tau=0.1, patch=1), masks=list(masks), guidance="cfg")
    got = bench.last.runs[0].steps[0]
    assert np.allclose(got.weights, oracles.restrict(free.astype(float), masks), atol=1e-5)
    assert np.allclose(got.base, 1 - masks.max(axis=0), atol=1e-5)


ALONE = (
    ("loratorio:tau=0.05", ""), ("loratorio:tau=0.02", "every=2,skip=0.35"),
    ("loratorio:k=2,scope=patch", ""), ("loratorio:k=2,freeze=1,scale=image,tau=0.5", ""),
    ("loratorio:level=adapter,scale=patch,tau=0.5", ""),
    ("loratorio:k=1,freeze=1,level=adapter", "every=2"), ("loratorio", "window=0.3+0.7"),
    ("composite", "window=0.3+0.7"), ("switch:every=1", ""), ("merge:method=linear", ""),
    ("w-switch:every=1", ""), ("w-composite", ""), ("cm:measure=2", ""),
    ("cm:measure=2", "every=3,skip=0.3"), ("multlfg:k=1", ""), ("multlfg:score=base,k=2", ""),
    ("multlfg:tau=0.1", "every=2,skip=0.33,window=0.2+1.0"), ("k-lora", ""),
)  # fmt: skip


@pytest.mark.parametrize(("mode", "saving"), ALONE)
def test_a_picture_of_a_batch_is_the_picture_alone(mode: str, saving: str, bench: Bench) -> None:
    names = ["a0", "a1", "a2"][: 2 if mode == "k-lora" else 3]
    latents = torch.cat((random(60, 2, 4, 8, 8), 3 * random(61, 1, 4, 8, 8)))
    texts = random(62, 3, 5, 12), 2 * random(63, 3, 5, 12)

    def drawn(which: slice) -> tuple[Array, Any]:
        composition = loramix.compose(bench.pipe, names, mode=mode, saving=saving)
        with composition as pipe:
            found = KINDS["sd"].run(
                pipe, latents=latents[which], num_inference_steps=STEPS,
                prompt_embeds=texts[0][which], negative_prompt_embeds=texts[1][which],
            )  # fmt: skip
        return found.double().numpy(), composition.runs[0]

    both, run = drawn(slice(None))
    for i in range(len(latents)):
        own, alone = drawn(slice(i, i + 1))
        assert np.abs(both[i] - own[0]).max() < 1e-4 * np.abs(own).max()
        for a, b in zip(run.steps, alone.steps, strict=True):
            assert np.allclose(a.weights[:, i], b.weights[:, 0], atol=1e-4)
            assert a.forwards >= b.forwards


def test_notes_name_the_steps_that_were_not_recentred(bench: Bench) -> None:
    def off(pipe: Any, step: int, _: Any, kept: dict[str, Any]) -> dict[str, Any]:
        if step in stop:
            kept["prompt_embeds"] = kept["prompt_embeds"].chunk(2)[-1]
            pipe._guidance_scale = 0.0
        return kept

    def notes(**how: Any) -> tuple[str, ...]:
        composition = loramix.compose(bench.pipe, ["a0", "a1"], **how)
        with composition as pipe:
            KINDS["sd"].run(
                pipe, num_inference_steps=STEPS, callback_on_step_end=off,
                callback_on_step_end_tensor_inputs=["prompt_embeds"],
            )  # fmt: skip
        return composition.runs[0].notes

    stop = (0,)
    (note,) = notes(mode="loratorio:tau=0.01")
    assert note.startswith("no unconditional prediction was asked for in steps 1-3 (")
    assert note.endswith("they were not re-centred")
    stop = (2,)
    (note,) = notes(mode="loratorio:tau=0.01", saving="window=0.5+1.0")
    assert note.startswith("no unconditional prediction was asked for in step 3 (")
    assert notes(mode="loratorio:tau=0.01", saving="window=0.0+0.5") == ()
    assert notes(mode="loratorio:tau=0.01", guidance="cfg") == ()
    stop = ()
    assert notes(mode="loratorio:tau=0.01") == ()


NEAR = r"weights differ by [\d.]+ % from those of mode composite, which needs fewer forwards"


def even(bench: Bench, mode: str, **how: Any) -> list[str]:
    """Notes of two runs about weights that are nearly the priors."""
    composition = loramix.compose(bench.pipe, ["a0", "a1"], mode=mode, **how)
    with composition as pipe:
        for _ in range(2):
            KINDS["sd"].run(pipe, num_inference_steps=STEPS)
    first, second = ([n for n in run.notes if "composite" in n] for run in composition.runs)
    assert first == second
    return first


def test_weights_that_are_nearly_those_of_composite_are_noted_once(bench: Bench) -> None:
    (note,) = even(bench, "loratorio:patch=4")
    assert re.match(NEAR, note)
    named_ = re.search(r"try (loratorio:scale=image) or (loratorio:tau=[\d.e-]+)$", note)
    assert named_
    for mode in named_.groups():  # what it says helps
        assert even(bench, mode) == []
    (note,) = even(bench, "loratorio:patch=4,scale=image,tau=50")
    assert "scale=image" not in note
    assert even(bench, "loratorio:tau=inf") == []
    assert even(bench, "loratorio", priors=(1.0, 0.0)) == []
    assert len(even(bench, "loratorio:patch=4", priors=(1.0, 5.0))) == 1
    assert len(even(bench, "loratorio:patch=4", saving="window=0.5+1.0,every=2")) == 1
    assert even(bench, "loratorio:patch=4,k=1") == []
    half = np.kron([[1, 0], [1, 0]], np.ones((4, 4)))
    assert len(even(bench, "loratorio:patch=4", masks=[half, 1 - half])) == 1
    (note,) = even(bench, "multlfg:tau=100")
    assert re.search(r"use it, or try multlfg:tau=[\d.e-]+$", note)
    for mode in ("multlfg", "multlfg:tau=inf", "composite", "cm", "switch", "merge"):
        assert even(bench, mode) == []


def test_adapters_that_predict_the_same_have_nothing_to_weigh(bench: Bench) -> None:
    bench.pipe.load_lora_weights(str(bench.files[0]), adapter_name="copy")
    composition = loramix.compose(bench.pipe, ["a0", "copy"])
    with composition as pipe:
        KINDS["sd"].run(pipe)
    (note,) = composition.runs[0].notes
    assert note == "all weights are those of mode composite: the adapters predict the same"


@pytest.mark.parametrize("scale", ["none", "image", "patch"])
@pytest.mark.parametrize("scope", ["image", "patch"])
def test_choices_that_stay_do_not_meet_those_of_other_pictures(scale: Any, scope: Any) -> None:
    rng = np.random.default_rng(4)
    base = rng.normal(size=(2, 4, 8, 8))
    loud = np.array([[3, 2, 1, 1], [1, 1, 2, 3]]).T[..., None, None, None]  # who, in which image
    mode = Loratorio(tau=0.3, patch=4, k=2, freeze=1, scale=scale, scope=scope, level="adapter")

    def tables(images: slice) -> list[Array]:
        memory: object = None
        found, own = [], np.random.default_rng(5)
        for step in range(3):
            members = base + loud * own.normal(size=(4, *base.shape))
            moment = Moment(step, 3, (1.0,) * 4)
            passes = mode.passes(moment, memory)
            ran = [one for one in passes if one.active]
            stack = tuple(members[one.active[0]][images] for one in ran)
            blend, memory = mode.weigh(moment, Seen(tuple(ran), stack, base[images]), memory)
            found.append(blend.table)
        return found

    both = tables(slice(None))
    for i in range(2):
        for one, alone in zip(both, tables(slice(i, i + 1)), strict=True):
            assert np.allclose(one[:, [i]], alone, atol=1e-12)
