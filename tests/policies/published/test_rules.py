"""Table 1 and what comes after it: every rule, every constant, from both sides."""

from dataclasses import asdict

import numpy as np
import oracles_decisions as oracle
import pytest
from policies.builders import shown, single, stack

from loramix.methods import describe
from loramix.policies.published import Published
from loramix.policies.published.measures import Figures
from loramix.policies.published.presets import PRESETS, floor_for, preset_for
from loramix.policies.published.tree import Choice, Regime, StrategySet, Tree

SETS: tuple[StrategySet, ...] = ("full", "no_slerp", "basic")
MAGNITUDES = [np.linspace(0, 1, 64)]


def figures(cosine: float, effective: float, overlap: float, ratio: float = 1.0) -> Figures:
    """Those of two contributors with this effective conflict."""
    excess = effective / (0.5 + 0.5 * overlap) if overlap > 0 else effective
    return Figures(2, excess_conflict=excess, overlap=overlap, cosine=cosine, magnitude_ratio=ratio)


def choose(
    figures: Figures,
    preset: str = "sd_unet",
    strategy: StrategySet = "full",
    *,
    gate: float | None = None,
    full_rank: bool = False,
    override: Regime | None = None,
) -> Choice:
    tree = Tree(PRESETS[preset], strategy, full_rank, override)
    return tree.choose(figures, figures.cosine if gate is None else gate, MAGNITUDES)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize(
    ("rule", "inside", "outside"),
    [
        # Consensus; what just misses it is left to the mean, which a positive cosine raises.
        (("consensus", "slerp"), (0.501, 0.1, 0.5), (0.5, 0.1, 0.5)),
        (("consensus", "slerp"), (0.6, 0.149, 0.5), (0.6, 0.151, 0.5)),
        (("consensus", "slerp"), (0.6, 0.1, 0.35), (0.6, 0.1, 0.3499)),
        # The mean of orthogonal ones, by a conflict that would be ties otherwise.
        (("weighted_average", "ties"), (-0.249, 0.3, 0.2), (-0.25, 0.3, 0.2)),
        (("slerp", "ties"), (0.249, 0.3, 0.2), (0.25, 0.3, 0.2)),
        (("slerp", "ties"), (0.1, 0.599, 0.2), (0.1, 0.601, 0.2)),
        (("slerp", "ties"), (0.1, 0.3, 0.3499), (0.1, 0.3, 0.35)),
        # Ties, and the mean where no rule holds.
        (("ties", "slerp"), (0.4, 0.251, 0.5), (0.4, 0.249, 0.5)),
        (("ties", "weighted_average"), (-0.6, 0.251, 0.5), (-0.6, 0.249, 0.5)),
        (("ties", "slerp"), (0.6, 0.251, 0.5), (0.6, 0.2, 0.5)),
    ],
)
def test_every_rule_has_its_constants(
    preset: str,
    rule: tuple[str, str],
    inside: tuple[float, float, float],
    outside: tuple[float, float, float],
) -> None:
    assert choose(figures(*inside), preset).regime == rule[0]
    assert choose(figures(*outside), preset).regime == rule[1]


@pytest.mark.parametrize("full_rank", [False, True])
@pytest.mark.parametrize("strategy", SETS)
def test_the_tree_is_the_published_one(strategy: StrategySet, *, full_rank: bool) -> None:
    rng = np.random.default_rng(1)
    seen = set()
    for _ in range(2000):
        own = Figures(
            contributors=int(rng.integers(0, 4)),
            excess_conflict=float(rng.uniform(0, 0.8)) * bool(rng.integers(0, 4)),
            overlap=float(rng.uniform(0, 1)) * bool(rng.integers(0, 4)),
            cosine=float(rng.uniform(-1, 1)),
        )
        gate = float(rng.uniform(-1, 1))
        expected = oracle.regime(asdict(own), gate, own.contributors, strategy, full_rank=full_rank)
        got = choose(own, strategy=strategy, gate=gate, full_rank=full_rank).regime
        assert got == expected
        seen.add(expected)
    everything = {"weighted_sum", "weighted_average", "ties"}
    if strategy == "full":
        everything |= {"consensus"} if full_rank else {"consensus", "slerp"}
    assert seen == everything


def test_no_slerp_forbids_consensus_as_well() -> None:
    aligned = figures(0.9, 0.0, 0.9)
    assert choose(aligned).regime == "consensus"
    assert choose(aligned, strategy="no_slerp").regime == "weighted_average"
    assert choose(aligned, strategy="basic").regime == "weighted_average"


def test_basic_has_no_rule_for_orthogonal_ones() -> None:
    orthogonal = figures(0.0, 0.3, 0.1)
    assert choose(orthogonal, strategy="no_slerp").regime == "weighted_average"
    assert choose(orthogonal, strategy="basic").regime == "ties"


@pytest.mark.parametrize("preset", PRESETS)
def test_ties_elect_by_the_sum_above_a_ratio_of_two(preset: str) -> None:
    below, above = (choose(figures(0.4, 0.3, 0.5, ratio), preset) for ratio in (2.0, 2.001))
    assert (below.regime, below.vote) == ("ties", "frequency")
    assert (above.regime, above.vote) == ("ties", "total")
    density = oracle.density(MAGNITUDES, [1.0], preset)
    for choice in (below, above):
        assert describe(choice.method) == {
            "name": "ties-published",
            "density": density,
            "vote": choice.vote,
        }


def test_slerp_hangs_on_the_sign_of_the_gate() -> None:
    orthogonal = figures(0.0, 0.0, 0.0)
    assert choose(orthogonal, gate=0.0).regime == "slerp"
    assert choose(orthogonal, gate=1e-9).regime == "slerp"
    assert choose(orthogonal, gate=-1e-9).regime == "weighted_average"
    assert choose(orthogonal, gate=1.0, strategy="no_slerp").regime == "weighted_average"


def test_the_gate_reads_the_raw_cosine_unless_told_otherwise() -> None:
    # Smoothing draws the first below zero, whose own cosine is positive.
    groups = [shown(0.05, key="unet.b.0.x"), shown(-0.2, key="unet.b.0.y")]
    raw = Published(smoothing=0.5).decide(stack(groups)).decisions[0]
    mixed = Published(smoothing=0.5, smooth_slerp_gate=True).decide(stack(groups)).decisions[0]
    assert raw.numbers["cosine"] == pytest.approx(0.05)
    assert raw.numbers["smoothed_cosine"] == pytest.approx(-0.0125 - 0.0125, abs=0.02)
    assert raw.numbers["smoothed_cosine"] < 0
    assert (raw.regime, mixed.regime) == ("slerp", "weighted_average")


@pytest.mark.parametrize(
    ("gate", "expected"),
    [
        (0.0, "weighted_sum"),
        (0.249, "weighted_sum"),
        (-0.249, "weighted_sum"),
        (0.25, "weighted_average"),
        (-0.25, "weighted_average"),
    ],
)
def test_full_rank_means_sums_and_no_slerp(gate: float, expected: str) -> None:
    assert choose(figures(0.0, 0.0, 0.0), gate=gate, full_rank=True).regime == expected


@pytest.mark.parametrize("preset", PRESETS)
def test_full_rank_begins_at_a_mean_rank_of_512(preset: str) -> None:
    # Means of 511, and of 1000 and (1000 + 3 * 8) / 4; the mean over all deltas would be 405.
    below = [shown(0.0, rank=511)]
    above = [shown(0.0, rank=1000)]
    above += [single(key=f"unet.b.{i}.x", owner=1, rank=8) for i in range(3)]
    exactly = [shown(0.0, rank=512)]
    policy = Published(preset=preset)
    low, high = policy.decide(stack(below)), policy.decide(stack(above))
    assert low.decisions[0].regime == "slerp"
    assert not any("full rank" in note for note in low.notes)
    assert {decision.regime for decision in high.decisions} == {"weighted_sum"}
    assert any("mean rank 628 >= 512" in note for note in high.notes)
    assert policy.decide(stack(exactly)).decisions[0].regime == "weighted_sum"
    assert high.strengths["model"].scale == 1.0  # its floor
    assert low.strengths["model"].scale == PRESETS[preset].floor


@pytest.mark.parametrize("override", ["ties", "weighted_average", "weighted_sum", "consensus"])
def test_an_override_is_executed_where_adapters_meet(override: Regime) -> None:
    groups = [shown(0.9, 0.0, 0.9), shown(-0.6), single(key="unet.conv_in")]
    for mode in ("per_group", "global"):
        got = Published(mode=mode, override=override).decide(stack(groups)).decisions
        assert [one.regime for one in got] == [override, override, "weighted_sum"]
    got = Published(mode="additive", override=override).decide(stack(groups)).decisions
    assert {one.regime for one in got} == {"weighted_sum"}


def test_an_override_to_ties_has_no_density_of_its_own() -> None:
    chosen, forced = figures(0.4, 0.3, 0.5, 3.0), figures(0.9, 0.0, 0.9, 3.0)
    assert describe(choose(forced, override="ties").method) == {
        "name": "ties-published",
        "density": 0.5,
        "vote": "frequency",
    }
    assert choose(chosen, override="ties").density == choose(chosen).density != 0.5
    assert choose(chosen, override="ties").vote == "total"


def test_the_presets_are_those_of_table_2() -> None:
    for name, (noise, low, high, cap, floor) in oracle.CONSTANTS.items():
        own = PRESETS[name]
        assert (own.noise, own.least_density, own.most_density) == (noise, low, high)
        assert (own.cap, own.floor) == (cap, floor)
    assert [own.ideal_density for own in PRESETS.values()] == [0.7, 0.8, 0.5]


def test_architectures_have_their_presets_and_floors() -> None:
    expected = {"sd15": "sd_unet", "sdxl": "sd_unet", "flux1": "dit", "wan": "dit", "ltx": "dit"}
    expected |= {"zimage": "dit", "acestep": "dit", "qwen_image": "llm"}
    assert {name: preset_for(name) for name in expected} == expected
    assert preset_for(None) == preset_for("another") == "sd_unet"
    dit = PRESETS["dit"]
    floors = {name: floor_for(dit, name, full_rank=False) for name in ("wan", "ltx", "flux1")}
    assert floors == {"wan": 1.0, "ltx": 1.0, "flux1": 0.85}
    assert floor_for(dit, "flux1", full_rank=True) == 1.0


@pytest.mark.parametrize(
    ("architecture", "preset"), [("sdxl", "sd_unet"), ("flux1", "dit"), ("qwen_image", "llm")]
)
def test_auto_takes_the_preset_of_the_architecture(architecture: str, preset: str) -> None:
    magnitudes = np.linspace(0, 1, 64) ** 3  # few above the noise: no clamp of two presets alike
    groups = [shown(-0.5, 0.3, magnitudes=magnitudes.tolist())]
    auto = Published().decide(stack(groups, architecture=architecture))
    named = Published(preset=preset).decide(stack(groups))
    others = [Published(preset=p).decide(stack(groups)) for p in PRESETS if p != preset]
    assert auto.decisions == named.decisions
    assert auto.decisions[0].regime == "ties"
    assert all(other.decisions != auto.decisions for other in others)


def test_reasons_say_numbers_and_limits() -> None:
    why = Published(smoothing=0).decide(stack([shown(0.7, 0.1, 0.5)])).decisions[0].why
    assert why == (
        "Cosine 0.7, effective conflict 0.075, overlap 0.5: aligned (> 0.5, < 0.15, >= 0.35)."
    )
