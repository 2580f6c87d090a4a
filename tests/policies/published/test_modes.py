"""Modes, key filters, sides, notes: what is decided for whom."""

from dataclasses import replace

import pytest
from policies.builders import adapter, shown, single, stack

from loramix.errors import ParamError
from loramix.methods import describe
from loramix.policies import POLICIES, Policy, Verdict, policy_of
from loramix.policies.published import Published

ALIGNED = shown(0.9, 0.0, 0.9, key="unet.a.0.x")
OPPOSED = shown(-0.5, 0.02, 0.2, key="unet.a.1.x")
TEXT = shown(0.9, 0.0, 0.9, key="text_encoder.a.0.x")
ALONE = single(key="unet.conv_in")
GROUPS = [ALIGNED, OPPOSED, TEXT, ALONE]


def regimes(verdict: Verdict) -> list[str]:
    return [decision.regime for decision in verdict.decisions]


def test_every_group_has_its_own_decision_or_all_have_one() -> None:
    own = Published(mode="per_group").decide(stack(GROUPS))
    assert regimes(own) == ["consensus", "weighted_average", "consensus", "weighted_sum"]
    sums = Published(mode="additive").decide(stack(GROUPS))
    assert regimes(sums) == ["weighted_sum"] * 4


@pytest.mark.parametrize(
    ("groups", "regime", "method"),
    [
        ([ALIGNED, TEXT, ALONE], "consensus", "consensus"),
        ([ALIGNED, OPPOSED, ALONE], "slerp", "slerp"),
        ([OPPOSED, ALONE], "weighted_average", "average"),
        ([shown(-0.5, 0.3), ALONE], "ties", "ties-published"),
    ],
)
def test_global_executes_what_it_reports(groups: list, regime: str, method: str) -> None:
    verdict = Published(mode="global").decide(stack(groups))
    assert regimes(verdict) == [*[regime] * (len(groups) - 1), "weighted_sum"]
    made = [describe(decision.method)["name"] for decision in verdict.decisions]
    assert made == [*[method] * (len(groups) - 1), "linear"]
    for decision in verdict.decisions[:-1]:
        assert decision.why.startswith("For the whole stack: ")
        assert decision.numbers["global_contributors"] == 2
    assert "global_cosine" not in verdict.decisions[-1].numbers


@pytest.mark.parametrize(
    ("filters", "left", "active"),
    [
        (("all", "all"), [2, 2, 2, 1], [2, 2, 2, 1]),
        (("shared_only", "all"), [2, 2, 2, 0], [2, 2, 2, 0]),
        (("unique_only", "all"), [1, 1, 1, 1], [1, 1, 1, 1]),
        (("unique_only", "unique_only"), [0, 0, 0, 1], [0, 0, 0, 1]),
        (("all", "unique_only"), [1, 1, 1, 1], [1, 1, 1, 1]),
        (("shared_only", "shared_only"), [2, 2, 2, 0], [2, 2, 2, 0]),
    ],
)
def test_key_filters_count_before_they_filter(
    filters: tuple[str, ...], left: list[int], active: list[int]
) -> None:
    verdict = Published(key_filters=filters).decide(stack(GROUPS))  # type: ignore[arg-type]
    got = [decision.numbers["contributors"] for decision in verdict.decisions]
    assert got == left
    assert [sum(w != 0 for w in one.weights) for one in verdict.decisions] == active
    assert [decision.numbers["members"] for decision in verdict.decisions] == [2, 2, 2, 1]
    dropped = left.count(0)
    assert (f"{dropped} of 4 groups are left out" in " ".join(verdict.notes)) == (dropped > 0)


def test_filtered_members_take_no_part_in_energies_and_ranks() -> None:
    # Mean ranks (900 + 454) / 2 and (900 + 8) / 2: of full rank, and not.
    groups = [shown(1.0, overlap=1.0, key="unet.a.0.x", rank=900), single(key="unet.b", owner=1)]
    free = Published().decide(stack(groups))
    held = Published(key_filters=("all", "unique_only")).decide(stack(groups))
    assert free.strengths["model"].norm == pytest.approx(5**0.5)
    assert held.strengths["model"].norm == pytest.approx(2**0.5)
    assert held.strengths["model"].scale == 0.85
    assert [any("full rank" in note for note in one.notes) for one in (free, held)] == [True, False]
    assert held.decisions[0].weights == (1.0, 0.0)


def test_one_active_adapter_takes_no_notice_of_filters() -> None:
    # A flaw of the publication's implementation, kept.
    filters = ("shared_only", "shared_only")
    verdict = Published(key_filters=filters).decide(stack(GROUPS, [0.7, 0.0]))
    assert [decision.weights[0] for decision in verdict.decisions] == [0.7] * 4


@pytest.mark.parametrize(
    ("modes", "filters", "sides"),
    [
        ((), (), [(), (), (), ()]),
        (("all", "all"), (), [(), (), (), ()]),
        (("all", "low"), (), [("all", "low")] * 3 + [()]),
        (("high", "low"), (), [("high", "low")] * 3 + [()]),
        (("high", "low"), ("all", "unique_only"), [(), (), (), ()]),
    ],
)
def test_sides_are_taken_where_two_contribute(
    modes: tuple[str, ...], filters: tuple[str, ...], sides: list[tuple[str, ...]]
) -> None:
    policy = Published(conflict_modes=modes, key_filters=filters)  # type: ignore[arg-type]
    verdict = policy.decide(stack(GROUPS))
    assert [decision.sides for decision in verdict.decisions] == sides
    assert any("whole deltas" in note for note in verdict.notes) == any(map(bool, sides))


def test_a_member_of_weight_0_has_no_side() -> None:
    three = stack([shown(0.1, owners=(0, 2)), ALIGNED], [1.0, 0.0, 1.0])
    verdict = Published(conflict_modes=("low", "high", "high")).decide(three)
    assert [decision.sides for decision in verdict.decisions] == [("low", "high"), ()]


def test_notes_name_opposed_pairs_by_the_signs_of_the_weights() -> None:
    groups = [shown(-0.11), shown(-0.09, key="text_encoder.a.0.x")]
    aligned = [shown(0.11), shown(0.11, key="unet.a.3.x")]
    assert Published().decide(stack(groups)).notes == ()
    text = "a0 and a1 oppose each other (cosine -0.11 < -0.1)"
    assert Published().decide(stack(groups[:1])).notes == (text,)
    assert Published().decide(stack(aligned)).notes == ()
    assert Published().decide(stack(aligned, [1.0, -2.0])).notes == (text,)


def test_notes_name_mixed_architectures_and_the_first_decides() -> None:
    named = [adapter("x"), adapter("y", "flux1"), adapter("z", "sdxl")]
    groups = [shown(-0.5, 0.3, magnitudes=[0.07] * 63 + [1.0])]
    mixed = Published().decide(stack(groups, [1.0, 1.0, 1.0], adapters=named))
    flux = Published(preset="dit").decide(stack(groups, [1.0, 1.0, 1.0]))
    assert mixed.notes[0] == "adapters of different architectures: unknown, flux1, sdxl"
    assert mixed.decisions == flux.decisions
    assert mixed.decisions[0].numbers["density"] == 0.95


def test_policies_are_named_and_parametrised_by_text() -> None:
    assert POLICIES["published"] is Published
    assert policy_of("published") == Published()
    text = "published:preset=dit,strategy_set=basic,mode=global,override=slerp,smoothing=0.5"
    text += ",smooth_slerp_gate=yes,auto_strength=false,floor=0.3,key_filters=all+shared_only"
    assert policy_of(f"{text},conflict_modes=low+high") == Published(
        preset="dit",
        strategy_set="basic",
        mode="global",
        override="slerp",
        smoothing=0.5,
        smooth_slerp_gate=True,
        auto_strength=False,
        floor=0.3,
        key_filters=("all", "shared_only"),
        conflict_modes=("low", "high"),
    )
    assert policy_of("published:floor=none,override=none") == Published()
    policy: Policy = Published()
    assert policy_of(policy) is policy


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("publish", "did you mean published"),
        ("", "known are"),
        ("published:mod=global", "did you mean mode"),
        ("published:mode=global,mode=global", "twice"),
        ("published:mode=globl", "per_group, global, additive"),
        ("published:preset=flux", "auto, sd_unet, dit, llm"),
        ("published:override=linear", "none, weighted_sum"),
        ("published:strategy_set=1", "full, no_slerp, basic"),
        ("published:smoothing=1.1", r"\[0, 1\]"),
        ("published:smoothing=nan", r"\[0, 1\]"),
        ("published:smoothing=none", r"\[0, 1\]"),
        ("published:floor=-1", "or none"),
        ("published:floor=low", "or none"),
        ("published:auto_strength=maybe", "true, false"),
        ("published:key_filters=shared", "shared_only"),
        ("published:conflict_modes=all+low_conflict", "all, low, high"),
    ],
)
def test_bad_texts_are_refused_with_what_is_allowed(text: str, words: str) -> None:
    with pytest.raises(ParamError, match=words):
        policy_of(text)


@pytest.mark.parametrize(
    "options",
    [
        {"key_filters": "all"},
        {"key_filters": ["all"]},
        {"conflict_modes": (None,)},
        {"smooth_slerp_gate": 1},
        {"auto_strength": None},
        {"smoothing": True},
        {"smoothing": "0.5"},
        {"mode": None},
        {"override": ["ties"]},
    ],
)
def test_bad_values_are_refused(options: dict) -> None:
    with pytest.raises(ParamError, match=f"published: {next(iter(options))} = "):
        Published(**options)


def test_words_are_needed_for_every_adapter() -> None:
    for options in ({"key_filters": ("all",)}, {"conflict_modes": ("all",) * 3}):
        with pytest.raises(ParamError, match=r"entries for 2 adapters"):
            Published(**options).decide(stack(GROUPS))


def test_inner_products_alone_are_not_enough() -> None:
    bare = [replace(ALIGNED, pairs=()), replace(ALIGNED, deltas=())]
    for one in bare:
        with pytest.raises(ParamError, match=r"no statistics of unet\.a\.0\.x"):
            Published().decide(stack([one]))
