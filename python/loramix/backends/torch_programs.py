"""Programs on dense tensors: what `rust/src/elementwise/positions.rs` does, one step at a time.

Every entry takes the same f32 operations in the same order, so equal deltas give equal bits.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch

from loramix.backends.torch_device import refuse, single, wide
from loramix.backends.torch_keep import keep
from loramix.methods.base import Program, Selfish
from loramix.raw import Site
from loramix.tensors import F64

_CHUNK = 1 << 22
"""Entries of a delta that are in f64 at a time."""
_CANCELLED = 4e-6
"""Share of its terms below which a sum is what f32 products leave of nothing."""
_DEPENDENT = 1e-12
"""Relative square below which a direction of the span is rounding noise."""
_ROUNDING = 1e-12
"""Share of a square that is rounding noise of an f32 result."""


@dataclass(frozen=True, slots=True)
class _Numbers:
    """What a program multiplies with, f32 on the device, (n,) each.

    Attributes
    ----------
    ballots : what a value is multiplied by to get its ballot.
    shares : what an agreeing entry adds to the divisor.
    top : what the mean is multiplied by.
    level : what an entry that goes around the rest is multiplied by.
    mix : (n, n), or empty.
    """

    ballots: torch.Tensor
    shares: torch.Tensor
    top: torch.Tensor
    level: torch.Tensor
    mix: torch.Tensor


def _numbers(program: Program, weights: F64, site: Site, device: torch.device) -> _Numbers:
    sizes, ones = np.abs(weights), np.ones_like(weights)
    largest = sizes.max(initial=0.0)
    total = np.add.accumulate(sizes)[-1]
    level = program.selfish is not None and program.selfish.level
    ballots = {"weighted": ones, "signed": _over(ones, sizes), "plain": _over(ones, weights)}
    shares = {"mean": sizes, "importance": sizes, "signed-share": weights}
    top = {"average": _over(largest, total), "mean": largest, "importance": largest}

    def floats(values: object) -> torch.Tensor:
        return single(values, device)

    return _Numbers(
        floats(ballots[program.ballot]),
        floats(shares.get(program.reduce, ones)),
        floats(float(top.get(program.reduce, 1.0))),
        floats(_over(largest, sizes) if level else ones),
        floats(np.reshape(site.mix, (-1, len(weights)))),
    )


def _over(x: object, y: object) -> F64:
    """``x / y``, 0 where y is."""
    above, below = np.broadcast_arrays(np.asarray(x, dtype=float), np.asarray(y, dtype=float))
    result: F64 = np.divide(above, below, out=np.zeros(below.shape), where=below != 0)
    return result


def run(values: torch.Tensor, weights: F64, program: Program, site: Site) -> torch.Tensor:
    """The result of a program, but for its cleaning; see `noise` and `shrunk`.

    Parameters
    ----------
    values : (n, rows, cols) f32, the weighted deltas that the program sees; not changed.
    weights : (n,) the users'.

    Returns
    -------
    (rows, cols) f32.

    Cost: about eight passes over the deltas beside those of `keep`.
    """
    if len(values) == 0:
        return values.new_zeros(values.shape[1:])
    numbers = _numbers(program, weights, site, values.device)
    kept = keep(given(values, site), program.keep, site)
    aside = torch.zeros_like(values[0])
    if program.selfish is not None:
        kept, aside = _set_aside(kept, program.selfish, numbers.level)
    if numbers.mix.numel():
        kept = _mixed(numbers.mix, kept)
    result = _reduced(kept, program, numbers)
    if program.selfish is not None or numbers.mix.numel():
        result = result + aside
    return result if site.norm is None else _brought_to(site.norm, result)


def kept_gram(values: torch.Tensor, program: Program, site: Site) -> F64:
    """Inner products of the weighted deltas as far as they are kept, (n, n), in f64."""
    if len(values) == 0:
        return np.zeros((0, 0))
    kept = keep(given(values, site), program.keep, site)
    if program.selfish is not None:
        kept, _ = _set_aside(kept, program.selfish, kept.new_ones(len(kept)))
    return dots(kept)


def dots(values: torch.Tensor) -> F64:
    """Inner products of n matrices, (n, n) float64 on the CPU."""
    flat = values.reshape(len(values), -1)
    total = np.zeros((len(flat), len(flat)))
    for chunk in flat.split(_CHUNK, dim=1):
        part = wide(chunk)
        total += (part @ part.T).cpu().numpy()
    return total


def given(values: torch.Tensor, site: Site) -> torch.Tensor:
    """What members give of their deltas: see `Site.sides`; the tensor itself where it is all."""
    sides = site.seen(site.sides)
    if not {"low", "high"} & set(sides):
        return values
    heads, total = torch.zeros_like(values[0]), torch.zeros_like(values[0])
    for value in values:
        heads, total = heads + torch.sign(value), total + value
    draw = torch.ones_like(total) if site.published_sides else total
    winner = torch.where(heads == 0, draw, heads)
    up, down = winner > 0, winner < 0
    found = []
    for value, side in zip(values, sides, strict=True):
        agrees = ((value > 0) & up) | ((value < 0) & down)
        gives = agrees if side == "low" else ~agrees
        found.append(value if side == "all" else torch.where(gives, value, 0.0))
    return torch.stack(found)


def _set_aside(
    values: torch.Tensor, rule: Selfish, level: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """What is left of the entries, and those that belong to one member."""
    sizes = values.abs()
    factor = single(rule.lambda_, values.device)
    if rule.published:
        total = torch.zeros_like(values[0])
        for value in values:
            total = total + value
        large = sizes >= factor * (total - values).abs()
        owner = large & (large.sum(0) == 1)
    else:
        most, second = torch.zeros_like(values[0]), torch.zeros_like(values[0])
        for size in sizes:
            second = torch.where(size > most, most, torch.maximum(second, size))
            most = torch.maximum(most, size)
        owned = (most > 0) & (most >= factor * second) & (most > second)
        owner = owned & (sizes == most)
    aside = torch.zeros_like(values[0])
    for mine, value, one in zip(owner, values, level, strict=True):
        aside = torch.where(mine, value * one, aside)
    return torch.where(owner, 0.0, values), aside


def _mixed(mix: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """``mix @ values``, added up in order.

    Zero where the terms cancel but for rounding, which would have a vote.
    """
    rows = []
    share = single(_CANCELLED, values.device)
    for factors in mix:
        row, noise = torch.zeros_like(values[0]), torch.zeros_like(values[0])
        for factor, value in zip(factors, values, strict=True):
            term = factor * value
            row, noise = row + term, noise + share * term.abs()
        rows.append(torch.where(row.abs() < noise, 0.0, row))
    return torch.stack(rows)


def _reduced(values: torch.Tensor, program: Program, numbers: _Numbers) -> torch.Tensor:
    divided = program.reduce not in ("sum", "average")
    if program.vote == "none" and not divided:
        total = values[0]
        for value in values[1:]:
            total = total + value
        return total * numbers.top
    counts = _counting(values, program, numbers.ballots)
    total, share = torch.zeros_like(values[0]), torch.zeros_like(values[0])
    if program.reduce == "importance":
        unit = torch.full_like(total, torch.finfo(torch.float32).tiny)
        for value, weight in zip(values, numbers.shares, strict=True):
            unit = torch.fmax(unit, value.abs() / weight)
        for value, weight, count in zip(values, numbers.shares, counts, strict=True):
            size = value / weight / unit
            square = torch.where(count, size * size, 0.0)
            total, share = total + value * square, share + weight * square
    else:
        for value, weight, count in zip(values, numbers.shares, counts, strict=True):
            total = total + torch.where(count, value, 0.0)
            share = share + torch.where(count, weight, 0.0)
    if not divided:
        return total * numbers.top
    nothing = 1.0 if program.reduce == "signed-share" else 0.0
    return total * torch.where(share == 0, nothing, numbers.top / share)


def _counting(values: torch.Tensor, program: Program, ballots: torch.Tensor) -> list[torch.Tensor]:
    """For each member, the positions where its entry takes part in the result."""
    if program.vote == "none":
        return [value != 0 for value in values]
    votes = [value * ballot for value, ballot in zip(values, ballots, strict=True)]
    winner = _winner(votes, program.vote)
    return [
        (torch.signbit(winner) == torch.signbit(vote)) & (winner != 0) & (value != 0)
        for value, vote in zip(values, votes, strict=True)
    ]


def _winner(votes: list[torch.Tensor], rule: str) -> torch.Tensor:
    """Numbers whose signs are those that win."""
    total = torch.zeros_like(votes[0])
    for vote in votes:
        total = total + vote
    if rule.startswith("count"):
        heads = torch.zeros_like(total)
        for vote in votes:
            heads = heads + torch.sign(vote)
        draw = 0.0 if rule == "count-or-positive" else 1.0
        total = torch.where(heads == 0, total * draw, heads)
    if rule.endswith("-or-positive"):
        total = torch.where(total == 0, 1.0, total)
    return total


def norm_of(values: torch.Tensor) -> float:
    """Frobenius norm, summed in f64."""
    return math.sqrt(sum(float((wide(c) ** 2).sum()) for c in values.flatten().split(_CHUNK)))


def _brought_to(norm: float, result: torch.Tensor) -> torch.Tensor:
    """Scaled to a norm, at most to twice what it was: what nearly cancels stays small."""
    now = norm_of(result)
    gain = min(norm / now, 2.0) if now > 0 else 1.0
    return result * single(gain, result.device)


def noise(values: torch.Tensor, result: torch.Tensor) -> float:
    """Mean square per entry of the part of a result that is outside the span of the deltas.

    Parameters
    ----------
    values : (n, rows, cols) the weighted deltas.
    result : (rows, cols).

    Raises
    ------
    CoreError : ``overflow``, one of them left f32.
    """
    gram = dots(torch.cat([values, result[None]]))
    if not np.isfinite(gram).all():
        refuse("overflow", "a result too large for F32")
    own, square, along = gram[:-1, :-1], float(gram[-1, -1]), gram[:-1, -1]
    sizes = np.sqrt(np.diag(own))
    used = sizes > 0
    # Cosines, so that a small delta counts as much as a large one.
    cosines = own[np.ix_(used, used)] / np.outer(sizes[used], sizes[used])
    values_, vectors = np.linalg.eigh(cosines)
    parts = vectors.T @ (along[used] / sizes[used])
    inside = float(np.sum(parts[values_ > _DEPENDENT] ** 2 / values_[values_ > _DEPENDENT]))
    return max(square * (1 - _ROUNDING) - inside, 0.0) / max(int(result.numel()), 1)


def shrinkage(sigmas: F64, mean_square: float, rows: int, cols: int) -> F64:
    """Singular values without the noise: optimal for the Frobenius norm.

    ``sqrt((y^2 - b - 1)^2 - 4 b) / y`` where ``y >= 1 + sqrt(b)``, else 0, in units of
    ``sqrt(mean_square * max(rows, cols))``, b the ratio of the sides (Gavish and Donoho 2017,
    "Optimal shrinkage of singular values", eq. 7).
    """
    if mean_square == 0:
        return sigmas
    unit = math.sqrt(mean_square * max(rows, cols))
    ratio = min(rows, cols) / max(rows, cols)
    above = sigmas >= unit * (1 + math.sqrt(ratio))
    y = np.where(above, sigmas / unit, 1 + math.sqrt(ratio))
    inner = np.maximum((y**2 - ratio - 1) ** 2 - 4 * ratio, 0)
    if not above.any():
        return sigmas  # nothing but noise: no part of it is better than another
    return np.where(above, unit * np.sqrt(inner) / y, 0.0)


def shrunk(result: torch.Tensor, mean_square: float) -> torch.Tensor:
    """A result with its singular values shrunk, at the norm it had before; (rows, cols) f32.

    Cost: an eigenproblem in f64 of the smaller side.
    """
    norm = norm_of(result)
    if mean_square == 0 or norm == 0:
        return result
    tall = wide(result if result.shape[0] >= result.shape[1] else result.T)
    squares, vectors = torch.linalg.eigh(tall.T @ tall)
    sigmas = np.sqrt(np.maximum(squares.cpu().numpy(), 0))
    new = shrinkage(sigmas, mean_square, *result.shape)
    after = float(np.linalg.norm(new))
    factors = _over(new, sigmas) * (norm / after if after > 0 else 1.0)
    clean = (tall @ vectors * torch.from_numpy(factors).to(tall)) @ vectors.T
    clean = clean if result.shape[0] >= result.shape[1] else clean.T
    return clean.to(torch.float32).to(result.device)
