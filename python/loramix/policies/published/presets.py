"""Constants of the publication: one preset for each kind of base model."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, TypeAlias

PresetName: TypeAlias = Literal["sd_unet", "dit", "llm"]


@dataclass(frozen=True, slots=True)
class Preset:
    """Thresholds of the decisions; the defaults are what all presets have alike.

    Attributes
    ----------
    noise : magnitudes up to this share of the largest are noise, for the density.
    least_density, most_density : what a density is clamped to.
    ideal_density : what sparsification should keep; no decision of the policy reads it.
    cap : most that is suggested as a strength.
    floor : least scale of a branch whose adapters are orthogonal.
    consensus_cosine, consensus_conflict : consensus above the one and below the other.
    orthogonal_cosine, orthogonal_conflict : a mean below both, the cosine without its sign.
    ties_conflict : ties above it.
    total_ratio : ratio of norms above which ties elects by the sum, and not by heads.
    alignment : largest mean cosine of a branch, without its sign, at which `floor` holds.
    full_rank : mean rank from which a stack counts as one of full rank.
    full_rank_slerp : whether such a stack may be interpolated on the sphere.
    full_rank_sum : whether its orthogonal groups are summed, and not averaged.
    full_rank_floor : its `floor`.
    """

    noise: float
    least_density: float
    most_density: float
    ideal_density: float
    cap: float
    floor: float
    consensus_cosine: float = 0.5
    consensus_conflict: float = 0.15
    orthogonal_cosine: float = 0.25
    orthogonal_conflict: float = 0.60
    ties_conflict: float = 0.25
    total_ratio: float = 2.0
    alignment: float = 0.1
    full_rank: float = 512.0
    full_rank_slerp: bool = False
    full_rank_sum: bool = True
    full_rank_floor: float = 1.0


PRESETS: Mapping[PresetName, Preset] = MappingProxyType({
    "sd_unet": Preset(0.10, 0.1, 0.9, ideal_density=0.7, cap=3.0, floor=0.85),
    "dit": Preset(0.05, 0.4, 0.95, ideal_density=0.8, cap=5.0, floor=0.85),
    "llm": Preset(0.15, 0.1, 0.8, ideal_density=0.5, cap=3.0, floor=0.90),
})  # fmt: skip

_ARCHITECTURES: Mapping[str, PresetName] = MappingProxyType({
    "sd15": "sd_unet",
    "sdxl": "sd_unet",
    "flux1": "dit",
    "wan": "dit",
    "ltx": "dit",
    "zimage": "dit",
    "acestep": "dit",
    "qwen_image": "llm",
})  # fmt: skip
_VIDEO = frozenset({"wan", "ltx"})
_VIDEO_FLOOR = 1.0


def preset_for(architecture: str | None) -> PresetName:
    """Preset of a base model; that of the UNets where the model is not known."""
    return _ARCHITECTURES.get(architecture or "", "sd_unet")


def floor_for(preset: Preset, architecture: str | None, *, full_rank: bool) -> float:
    """Least scale of an orthogonal branch: of stacks of full rank, of video models, of the rest."""
    if full_rank:
        return preset.full_rank_floor
    return _VIDEO_FLOOR if architecture in _VIDEO else preset.floor
