"""Stacks with planted truth, and their statistics straight from dense deltas.

The names are those of SDXL; the shapes are small.  `statistics` follows the docstrings of the
contract on all entries, in float64; the standard errors are planted, as nothing here samples.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
from helpers import F64, Pair, write_adapter

from loramix import Adapter, load
from loramix.analysis.statistics import Analysis, DeltaStatistics, GroupStatistics, PairStatistics
from loramix.methods import Method
from loramix.methods.composite import Composite
from loramix.methods.linear import Linear
from loramix.methods.slerp import Slerp
from loramix.methods.ties import Ties
from loramix.planning.steps import Choice
from loramix.policies.base import Decision
from loramix.types import Target

ERROR = 0.004


@dataclass(frozen=True)
class Planted:
    """Adapters on disk and the dense deltas they hold, by key."""

    adapters: tuple[Adapter, ...]
    deltas: tuple[Mapping[str, F64], ...]
    analysis: Analysis


def modules(levels: int = 2) -> list[str]:
    """Names of SDXL: attention of some levels, resnets, both text encoders."""
    found = []
    for level, depth in ((1, 2), (2, 3))[:levels]:
        for block in range(depth):
            stem = f"unet.down_blocks.{level}.attentions.0.transformer_blocks.{block}"
            found += [f"{stem}.attn1.to_q", f"{stem}.attn1.to_out.0", f"{stem}.attn2.to_k"]
        found += [f"unet.down_blocks.{level}.resnets.0.conv1"]
        found += [f"unet.down_blocks.{level}.attentions.0.proj_in"]
    for block in range(3):
        stem = f"unet.mid_block.attentions.0.transformer_blocks.{block}"
        found += [f"{stem}.attn1.to_q", f"{stem}.ff.net.2"]
    for layer in (0, 2, 10):
        found.append(f"text_encoder.text_model.encoder.layers.{layer}.self_attn.q_proj")
    found.append("unet.conv_in")
    return found


def cosine_of(key: str) -> float:
    """What is planted between the first two adapters in a target."""
    if "mid_block" in key:
        return -0.6
    if "down_blocks.2" in key:
        return 0.9
    return 0.0


def factors(
    names: Sequence[str], count: int, *, seed: int = 0, rank: int = 4
) -> list[dict[str, Pair]]:
    """Factors of every adapter: the second is turned towards the first as `cosine_of` says.

    A share of rows of the first's product is taken over, so cosines are met in the mean.
    """
    rng = np.random.default_rng(seed)
    found: list[dict[str, Pair]] = [{} for _ in range(count)]
    for name in names:
        rows, cols = (24, 16) if "unet" in name else (12, 20)
        first = (rng.normal(size=(rows, rank)), rng.normal(size=(rank, cols)))
        found[0][name] = Pair(*first, (rows, cols))
        for one in found[1:]:
            up, down = rng.normal(size=(rows, rank)), rng.normal(size=(rank, cols))
            one[name] = Pair(up, down, (rows, cols))
        cosine = cosine_of(name)
        if count > 1 and cosine:
            share = math.sqrt(1 - cosine**2)
            own = found[1][name]
            up = np.hstack([cosine * first[0], share * own.up])
            found[1][name] = Pair(up, np.vstack([first[1], own.down]), (rows, cols))
    return found


def planted(
    folder: Path,
    count: int = 3,
    *,
    names: Sequence[str] = ("style", "face", "light"),
    seed: int = 0,
) -> Planted:
    """A stack on disk: the last module belongs to the first adapter alone."""
    members = factors(modules(), count, seed=seed)
    for one in members[1:]:
        del one["unet.conv_in"]
    paths = [write_adapter(folder / f"{i}.safetensors", one) for i, one in enumerate(members)]
    adapters = tuple(load(path, name=name) for path, name in zip(paths, names, strict=False))
    deltas = tuple({key: p.up @ p.down for key, p in one.items()} for one in members)
    return Planted(adapters, deltas, analysis(deltas))


def analysis(deltas: Sequence[Mapping[str, F64]]) -> Analysis:
    """Statistics of all groups."""
    keys = sorted({key for one in deltas for key in one})
    return Analysis(tuple(statistics(key, deltas) for key in keys), None, "planted")


def statistics(key: str, deltas: Sequence[Mapping[str, F64]]) -> GroupStatistics:
    """One group, all entries."""
    owners = tuple(i for i, one in enumerate(deltas) if key in one)
    members = [deltas[i][key] for i in owners]
    flat = np.stack([m.ravel() for m in members])
    return GroupStatistics(
        Target(key, members[0].shape),
        owners,
        flat @ flat.T,
        tuple(_delta(m) for m in members),
        tuple(_pair(i, j, members[i], members[j]) for i, j in combinations(range(len(members)), 2)),
    )


def _delta(delta: F64) -> DeltaStatistics:
    s2 = np.linalg.svd(delta, compute_uv=False) ** 2
    p = s2[s2 > 0] / s2.sum()
    return DeltaStatistics(
        int((s2 > 1e-12 * s2[0]).sum()),
        float(np.linalg.norm(delta)),
        float(s2.sum() / s2[0]),
        float(np.exp(-(p * np.log(p)).sum())),
        float(s2.sum() ** 2 / (s2**2).sum()),
        0.5,
        (),
    )


def _pair(i: int, j: int, a: F64, b: F64) -> PairStatistics:
    differ = a * b < 0
    smaller = np.minimum(np.abs(a), np.abs(b))
    left, right = [x @ x.T for x in (a, b)], [x.T @ x for x in (a, b)]
    chance = [_participation(a), _participation(b)]
    root = math.sqrt(chance[0] * chance[1])
    return PairStatistics(
        first=i, second=j, looked=a.size, positions=int((a * b != 0).sum()),
        conflicts=int(differ.sum()), dot=float((a * b).sum()),
        first2=float((a * a).sum()), second2=float((b * b).sum()),
        product=float(np.abs(a * b).sum()), total=float(smaller.sum()),
        conflicting=float(smaller[differ].sum()), floor_total=float(smaller.sum()),
        floor_conflicting=float(smaller[differ].sum()), excess_error=ERROR, loss_error=ERROR,
        overlap=0.0, left=_overlap(*left), right=_overlap(*right),
        left_chance=root / a.shape[0], right_chance=root / a.shape[1],
    )  # fmt: skip


def _participation(delta: F64) -> float:
    s2 = np.linalg.svd(delta, compute_uv=False) ** 2
    return float(s2.sum() ** 2 / (s2**2).sum())


def _overlap(a: F64, b: F64) -> float:
    return float((a * b).sum() / math.sqrt((a * a).sum() * (b * b).sum()))


def picked(planted: Planted, weights: Sequence[float]) -> list[Choice]:
    """A plan by hand: what `cosine_of` calls for."""
    found = []
    for group in planted.analysis.groups:
        own = tuple(weights[i] for i in group.owners)
        method: Method = Linear()
        regime = "independent"
        if len(own) == 1:
            regime = "alone"
        elif "down_blocks.2" in group.target.key:
            method, regime = Slerp(), "aligned"
            own = tuple(0.5 * w for w in own)
        elif group.target.key.endswith("attn2.to_k"):
            method, regime = Composite(Ties(), space="knots"), "conflicted"
        why = f"{method.name}: planted as {regime}"
        found.append(
            Choice(
                group.target,
                group.owners,
                tuple(weights[i] for i in group.owners),
                Decision(method, own, regime, why, {"planted": 1.0}),
            )
        )
    return found
