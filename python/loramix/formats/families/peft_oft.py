"""OFT and BOFT as PEFT has them: rotations of the inputs of a weight.

Qiu et al. 2025, arXiv:2506.19847; Liu et al. 2024, arXiv:2311.06243.

OFT: the strictly upper triangles of skew matrices Q_k (one for all blocks with ``block_share``),
R = (I - Q)(I + Q)^-1, or, with ``use_cayley_neumann``, the start of the series of the inverse
of that; with ``coft`` each Q_k is first cut to the norm eps / sqrt(number of blocks).  ``W' = W
blockdiag(R)^T``, a kernel being part of the inputs.  Which of these it is only the config says.

BOFT: stages of blocks of H x H, Q = (blocks - blocks^T) / 2, R = (I - Q)(I + Q)^-1, each between
a permutation of the inputs and its inverse; ``boft_s`` multiplies the outputs.

Cost: O(n b^3) for R, ``2 rows cols b`` flops per stage; the delta W' - W is dense and relative to
this base.
"""

import math
from dataclasses import replace
from functools import partial

import numpy as np

from loramix.errors import FormatError, ShapeError
from loramix.formats.families.base import Draft, Family, Parts, Place, dense, roles
from loramix.formats.families.oft import turn
from loramix.formats.scales import CONFIG, PeftConfig
from loramix.tensors import F32, F64
from loramix.types import Factors


def _oft(parts: Parts) -> tuple[Draft, ...]:
    config = parts.config
    if config is None or config.kind != "OFT":
        message = (
            f"{parts.where('oft_R')}: only {CONFIG} says what rotation this means (OFT of PEFT); "
            "keep it beside the file"
        )
        raise FormatError(message)
    count, entries = parts.tensor("oft_R", 2).shape
    size = round((1 + math.sqrt(1 + 8 * entries)) / 2)
    if count == 0 or entries == 0 or size * (size - 1) != 2 * entries:
        message = (
            f"{parts.where('oft_R')} has shape {[count, entries]}; its second size must be "
            "b (b - 1) / 2 for blocks of b x b"
        )
        raise ShapeError(message)
    cols = None if config.fields.get("block_share") else count * size

    def factors(place: Place) -> Factors:
        width = math.prod(place.shape[1:])
        if width % size or (cols is not None and width != cols):
            raise _misfit(parts, "oft_R", place, cols or size)
        make = partial(_oft_delta, parts, config, size, place)
        found = dense(parts, "oft_R", place, make)
        return replace(found, family="oft")

    return (Draft("oft", None, cols, None, factors, base="needed"),)


def _misfit(parts: Parts, role: str, place: Place, width: int) -> ShapeError:
    return ShapeError(
        f"{parts.where(role)}: these blocks rotate {width} inputs, but {place.key} has "
        f"{math.prod(place.shape[1:])}"
    )


def _oft_delta(parts: Parts, config: PeftConfig, size: int, place: Place) -> F32:
    triangles = parts.values("oft_R").astype(np.float64)
    skew = np.zeros((len(triangles), size, size))
    skew[:, *np.triu_indices(size, 1)] = triangles
    skew -= np.swapaxes(skew, 1, 2)
    if config.fields.get("coft"):
        skew = _limited(skew, float(str(config.fields.get("eps", 6e-5))))
    turns = _series(skew, config) if config.fields.get("use_cayley_neumann", True) else turn(-skew)
    base = place.values()
    blocks = base.reshape(base.shape[0], -1, size).swapaxes(0, 1)
    found = np.matmul(blocks, np.swapaxes(turns, 1, 2).astype(np.float32))
    return np.asarray(found.swapaxes(0, 1).reshape(base.shape))


def _limited(skew: F64, eps: float) -> F64:
    norms = np.linalg.norm(skew, axis=(1, 2), keepdims=True)
    limit = eps / math.sqrt(len(skew))
    return np.where(norms <= limit, skew, limit * skew / np.where(norms > 0, norms, 1.0))


def _series(skew: F64, config: PeftConfig) -> F64:
    """``2 Q + 2 Q^2 + ... + Q^(n - 1)`` for n terms: the last counts once; 3 count as 4."""
    terms = int(str(config.fields.get("num_cayley_neumann_terms", 5)))
    if terms <= 2:
        return 2 * skew * (terms - 1)
    found, power = 2 * skew, skew
    last = max(terms, 4) - 1
    for exponent in range(2, last + 1):
        power = power @ skew
        found = found + (2 if exponent < last else 1) * power
    return found


def _boft(parts: Parts) -> tuple[Draft, ...]:
    stages, blocks, size, other = shape = parts.tensor("boft_R", 4).shape
    if size != other or 0 in shape or (stages > 1 and (size % 2 or blocks % 2 ** (stages - 1))):
        message = (
            f"{parts.where('boft_R')} has shape {list(shape)}; it must be (stages, blocks, b, b), "
            "where there are stages b even and the blocks a multiple of 2^(stages - 1)"
        )
        raise ShapeError(message)
    rows, cols = math.prod(parts.tensor("boft_s", 2).shape), blocks * size

    def factors(place: Place) -> Factors:
        if math.prod(place.shape[1:]) != cols:
            raise _misfit(parts, "boft_R", place, cols)
        if place.shape[0] != rows:
            message = (
                f"{parts.where('boft_s')} has {rows} numbers, but {place.key} has "
                f"{place.shape[0]} outputs"
            )
            raise ShapeError(message)
        make = partial(_boft_delta, parts, place)
        found = dense(parts, "boft_R", place, make)
        return replace(found, family="boft")

    return (Draft("boft", rows, cols, None, factors, base="needed"),)


def _boft_delta(parts: Parts, place: Place) -> F32:
    blocks = parts.values("boft_R").astype(np.float64)
    turns = turn(-(blocks - np.swapaxes(blocks, 2, 3)) / 2).astype(np.float32)
    stages, count, size, _ = turns.shape
    base = place.values()
    inputs = base.reshape(base.shape[0], -1).T
    added = np.zeros_like(inputs)
    for stage, own in enumerate(turns):
        order = _order(len(inputs), count // 2**stage, size // 2, butterfly=stages > 1)
        turned = np.empty_like(inputs)
        turned[order] = inputs + added
        turned = np.matmul(own, turned.reshape(count, size, -1)).reshape(inputs.shape)
        added += turned[order]
    factor = parts.values("boft_s").reshape(1, -1)
    return np.asarray((factor * added + (factor - 1) * inputs).T.reshape(base.shape))


def _order(width: int, pieces: int, half: int, *, butterfly: bool) -> np.ndarray:
    """Order of the inputs in a stage: in each piece the even runs of ``half``, then the odd."""
    order = np.arange(width)
    if not butterfly:
        return order
    runs = order.reshape(pieces, -1, half)
    return np.concatenate([runs[:, ::2], runs[:, 1::2]], axis=1).reshape(-1)


OFT = Family("oft", "OFT", roles("oft_R"), frozenset(), _oft)
BOFT = Family("boft", "BOFT", roles("boft_R boft_s"), frozenset(), _boft)
