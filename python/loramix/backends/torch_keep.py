"""Which entries of the weighted deltas take part: `loramix.methods.base.Keep` on dense tensors.

Exact, and the same as in `rust/src/elementwise`: of equal magnitudes those of lower index come
first, random draws are addressed by element, and what survives is scaled by the same f32 numbers.
"""

import numpy as np
import torch

from loramix.backends import torch_draws as draws
from loramix.backends.torch_device import single, wide
from loramix.methods.base import Keep
from loramix.raw import Site
from loramix.tensors import F64

_BLOCK = 4096
"""Entries whose squares are summed on the device; the sums are added up in order on the CPU."""


def keep(values: torch.Tensor, rule: Keep, site: Site) -> torch.Tensor:
    """The entries that a rule keeps; zero elsewhere.

    Parameters
    ----------
    values : (n, rows, cols) f32, the weighted deltas; not changed.

    Returns
    -------
    The same shape; the tensor itself where everything is kept.

    Cost: a selection in every delta for the largest, a sort for an energy or ranks.
    """
    if values[0].numel() == 0 or rule.rule == "all":
        return values
    if rule.rule in ("random", "ranked"):
        return _at_random(values, rule, site)
    of = {"largest": _largest, "truncated": _truncated, "energy": _energy}[rule.rule]
    masks = [of(value.flatten(), rule) for value in values]
    return torch.where(torch.stack(masks).reshape(values.shape), values, 0.0)


def _at_random(values: torch.Tensor, rule: Keep, site: Site) -> torch.Tensor:
    dropped = torch.stack([_drop(value, rule, site, i) for i, value in enumerate(values)])
    if not rule.conflicts:
        return dropped
    conflict = (values > 0).any(0) & (values < 0).any(0)
    if int(conflict.sum()) <= site.most * conflict.numel():
        return torch.where(conflict, dropped, values)
    return dropped if rule.fallback == "everywhere" else values


def _drop(value: torch.Tensor, rule: Keep, site: Site, place: int) -> torch.Tensor:
    """The entries of one delta that survive, over the probability that they do."""
    words = draws.words(site.seed, site.key, place, value.numel(), value.device)
    draw = draws.uniform(words).reshape(value.shape)
    chances, scales = _chances(rule, value.shape[1])
    chance, scale = single(chances, value.device), single(scales, value.device)
    if rule.rule == "ranked":
        order = torch.sort(value.abs(), dim=1, descending=True, stable=True).indices
        chance = torch.empty_like(value).scatter_(1, order, chance.expand_as(value))
        scale = torch.empty_like(value).scatter_(1, order, scale.expand_as(value))
    return torch.where(draw < chance, value * scale, 0.0)


def _chances(rule: Keep, cols: int) -> tuple[F64, F64]:
    """Probabilities and what survivors are multiplied by: one for all, or by rank in the row.

    Both are rounded to f32 where the kernels round them.
    """
    if rule.rule == "random":
        return np.array([rule.density]), np.array([1.0 / rule.divisor])
    ranks = (np.arange(cols) + 0.5) / cols
    chances = (rule.density + rule.spread * (0.5 - ranks)).astype(np.float32).astype(np.float64)
    return chances, 1.0 / chances


def _largest(value: torch.Tensor, rule: Keep) -> torch.Tensor:
    n = int(value.numel())
    # A density such as 0.3 is a little less than it reads; so is its product.
    dropped, kept = (int(share * n * (1.0 + 1e-12)) for share in (rule.outliers, rule.density))
    dropped = min(dropped, n - 1)
    kept = min(max(kept, 1), n - dropped)
    size = value.abs()
    low = _first(size, dropped + kept)
    return low & ~_first(size, dropped) if dropped else low


def _truncated(value: torch.Tensor, rule: Keep) -> torch.Tensor:
    n = int(value.numel())
    return _first(value.abs(), min(max(int(rule.density * n), rule.least), n))


def _energy(value: torch.Tensor, rule: Keep) -> torch.Tensor:
    size = value.abs()
    ordered = torch.sort(size, descending=True).values
    return _first(size, _count_holding(ordered, rule.density))


def _count_holding(ordered: torch.Tensor, share: float) -> int:
    """How many of falling magnitudes hold a share of the squares of all.

    Sums of blocks on the device, sums of sums and the last block in order on the CPU.
    """
    n = int(ordered.numel())
    squares = torch.zeros(
        -(-n // _BLOCK) * _BLOCK, dtype=torch.float64, device=wide(ordered).device
    )
    squares[:n] = wide(ordered) ** 2
    sums = np.cumsum(squares.reshape(-1, _BLOCK).sum(1).cpu().numpy())
    wanted = share * sums[-1]
    if share >= 1 or wanted == 0:
        return n
    block = int(np.argmax(sums >= wanted))
    before = sums[block - 1] if block else 0.0
    inside = before + np.cumsum(squares[block * _BLOCK :][:_BLOCK].cpu().numpy())
    enough = np.flatnonzero(inside >= wanted)
    return min(block * _BLOCK + (int(enough[0]) + 1 if enough.size else _BLOCK), n)


def _first(size: torch.Tensor, count: int) -> torch.Tensor:
    """A mask of the first entries by falling magnitude, then rising index."""
    if count == 0 or count >= size.numel():
        return torch.full_like(size, count > 0, dtype=torch.bool)
    edge = torch.topk(size, count, sorted=False).values.min()
    mask = size > edge
    equal = (size == edge).nonzero().flatten()
    mask[equal[: count - int(mask.sum())]] = True
    return mask
