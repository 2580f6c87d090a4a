"""The delta of every family, entry by entry in float64, straight from the definitions.

Nothing of the package is used.  Tensors come as a file has them, by role; ``base`` is the weight
that a family is relative to, with its kernel.
"""

from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

F64: TypeAlias = npt.NDArray[np.float64]
Roles: TypeAlias = Mapping[str, F64]
Oracle: TypeAlias = Callable[[Roles, F64], F64]


def lora(t: Roles, base: F64) -> F64:
    up, down = t["up"].reshape(len(t["up"]), -1), t["down"].reshape(len(t["down"]), -1)
    return t["scale"] * np.einsum("or,ri->oi", up, down).reshape(base.shape)


def locon(t: Roles, base: F64) -> F64:
    up = t["up"].reshape(len(t["up"]), -1)
    down = t["down"].reshape(len(t["down"]), -1)
    return t["scale"] * np.einsum("oa,ab...,bi->oi...", up, t["mid"], down).reshape(base.shape)


def embedding(t: Roles, base: F64) -> F64:
    del base
    found = np.zeros((t["embedding_down"].shape[1], t["embedding_up"].shape[0]))
    for r in range(len(t["embedding_down"])):
        found += np.outer(t["embedding_down"][r], t["embedding_up"][:, r])
    return t["scale"] * found


def loha(t: Roles, base: F64) -> F64:
    if "hada_t1" in t:
        one, two = (
            np.einsum("ab...,ao,bi->oi...", t[f"hada_t{n}"], t[f"hada_w{n}_a"], t[f"hada_w{n}_b"])
            for n in "12"
        )
    else:
        one, two = (np.einsum("or,ri->oi", t[f"hada_w{n}_a"], t[f"hada_w{n}_b"]) for n in "12")
    return t["scale"] * (one * two).reshape(base.shape)


def lokr(t: Roles, base: F64) -> F64:
    one = t["lokr_w1"] if "lokr_w1" in t else np.einsum("ar,rc->ac", t["lokr_w1_a"], t["lokr_w1_b"])
    if "lokr_w2" in t:
        two = t["lokr_w2"]
    elif "lokr_t2" in t:
        two = np.einsum("xy...,xb,yd->bd...", t["lokr_t2"], t["lokr_w2_a"], t["lokr_w2_b"])
    else:
        two = np.einsum("br,rd->bd", t["lokr_w2_a"], t["lokr_w2_b"])
    two = two.reshape(len(two), -1)
    rows, cols = len(one) * len(two), one.shape[1] * two.shape[1]
    found = np.empty((rows, cols))
    for row in range(rows):
        for col in range(cols):
            first = one[row // len(two), col // two.shape[1]]
            found[row, col] = first * two[row % len(two), col % two.shape[1]]
    return t["scale"] * found.reshape(base.shape)


def full(t: Roles, base: F64) -> F64:
    return t["diff"].reshape(base.shape)


def dora(inner: Oracle) -> Oracle:
    """On top of another family; the axis of ``dora_scale`` is where it has more than one number."""

    def found(t: Roles, base: F64) -> F64:
        whole = base + inner(t, base)
        name = "dora_scale" if "dora_scale" in t else "magnitude"
        magnitude, epsilon = t[name], 2.0**-23 if name == "dora_scale" else 0.0
        on_input = name == "dora_scale" and magnitude.shape[0] == 1
        result = np.empty_like(whole)
        for index, m in enumerate(magnitude.ravel()):
            place = (slice(None), index) if on_input else (index,)
            result[place] = m / (np.sqrt((whole[place] ** 2).sum()) + epsilon) * whole[place]
        return result - base

    return found


def ia3_lycoris(t: Roles, base: F64) -> F64:
    numbers = t["weight"].ravel()
    letters = "oi...,i->oi..." if t["on_input"] else "oi...,o->oi..."
    return np.einsum(letters, base, numbers)


def ia3_peft(t: Roles, base: F64) -> F64:
    numbers = t["ia3_l"].ravel() - 1
    letters = "oi...,i->oi..." if t["ia3_l"].shape[0] == 1 else "oi...,o->oi..."
    return np.einsum(letters, base, numbers)


def _cayley(skew: F64) -> F64:
    one = np.eye(len(skew))
    return (one + skew) @ np.linalg.inv(one - skew)


def _lycoris_skews(blocks: F64, constraint: float) -> F64:
    skews = blocks - np.swapaxes(blocks, -1, -2)
    limit, norm = constraint * blocks.shape[-3] * blocks.shape[-1], np.sqrt((skews**2).sum())
    return skews * limit / (norm + 1e-8) if 0 < limit < norm else skews


def oft(t: Roles, base: F64) -> F64:
    """A block diagonal matrix, transposed, on the rows; lists of blocks one after the other."""
    lists = [t[name] for name in sorted(t) if name.startswith("oft_blocks")]
    turns = [
        _cayley(skew) for blocks in lists for skew in _lycoris_skews(blocks, t.get("alpha", 0.0))
    ]
    rotation = np.zeros((len(base), len(base)))
    start = 0
    for turn in turns:
        rotation[start : start + len(turn), start : start + len(turn)] = turn
        start += len(turn)
    result = np.einsum("po,p...->o...", rotation, base)
    if "rescale" in t:
        result = result * t["rescale"].reshape(-1, *(1,) * (base.ndim - 1))
    return result - base


def boft(t: Roles, base: F64) -> F64:
    """Stage i: rows a half-block of 2^i b/2 apart are neighbours, blocks of b rows are turned."""
    skews = _lycoris_skews(t["oft_blocks"], t.get("alpha", 0.0))
    stages, _, size, _ = skews.shape
    rotation = np.eye(len(base))
    for stage in range(stages):
        half = 2**stage * size // 2
        order = [
            start + side * half + step
            for start in range(0, len(base), 2 * half)
            for step in range(half)
            for side in (0, 1)
        ]
        blocks = np.zeros_like(rotation)
        for index, skew in enumerate(skews[stage]):
            rows = order[index * size : (index + 1) * size]
            blocks[np.ix_(rows, rows)] = _cayley(skew)
        rotation = blocks @ rotation
    result = np.einsum("op,p...->o...", rotation, base)
    if "rescale" in t:
        result = result * t["rescale"].reshape(-1, *(1,) * (base.ndim - 1))
    return result - base


def oft_peft(t: Roles, base: F64) -> F64:
    """``W' = W R^T``; the config stands among the roles: terms, coft eps, shared blocks."""
    flat = base.reshape(len(base), -1)
    size = round((1 + np.sqrt(1 + 8 * t["oft_R"].shape[1])) / 2)
    count = flat.shape[1] // size
    rotation = np.zeros((flat.shape[1], flat.shape[1]))
    for index in range(count):
        entries = t["oft_R"][0 if t.get("block_share") else index]
        skew, at = np.zeros((size, size)), 0
        for row in range(size):
            for col in range(row + 1, size):
                skew[row, col], skew[col, row] = entries[at], -entries[at]
                at += 1
        if "coft" in t:
            limit, norm = t["coft"] / np.sqrt(len(t["oft_R"])), np.sqrt((skew**2).sum())
            skew = skew * limit / norm if norm > limit else skew
        place = slice(index * size, (index + 1) * size)
        rotation[place, place] = _neumann(skew, t["terms"]) if "terms" in t else _cayley(-skew)
    return (flat @ rotation.T).reshape(base.shape) - base


def _neumann(skew: F64, terms: float) -> F64:
    power = [np.linalg.matrix_power(skew, n) for n in range(max(int(terms), 4))]
    if terms == 2:
        return power[0] + 2 * power[1]
    return power[0] + 2 * sum(power[1:-1]) + power[-1]


def boft_peft(t: Roles, base: F64) -> F64:
    flat = base.reshape(len(base), -1)
    stages, count, size, _ = t["boft_R"].shape
    width, half = flat.shape[1], size // 2
    result = flat.T
    for stage in range(stages):
        piece = width // (count // 2**stage)
        order = list(range(width))
        if stages > 1:
            order = []
            for start in range(0, width, piece):
                runs = [list(range(s, s + half)) for s in range(start, start + piece, half)]
                order += [i for run in runs[::2] + runs[1::2] for i in run]
        mixing = np.zeros((width, width))
        for index, blocks in enumerate(t["boft_R"][stage]):
            place = slice(index * size, (index + 1) * size)
            mixing[place, place] = _cayley(-(blocks - blocks.T) / 2)
        move = np.eye(width)[order]
        result = move @ mixing @ move.T @ result
    return (result.T * t["boft_s"].reshape(-1, 1)).reshape(base.shape) - base


def glora(t: Roles, base: F64) -> F64:
    a1, a2, b1 = (t[name].reshape(t[name].shape[:2]) for name in ("a1", "a2", "b1"))
    b2 = t["b2"]
    if "bm" in t:
        b2 = np.einsum("xy...,yi->xi...", t["bm"], b2.reshape(b2.shape[:2]))
    added = np.einsum("or,ri...->oi...", b1, b2).reshape(base.shape)
    return t["scale"] * (added + np.einsum("oj...,jr,ri->oi...", base, a1, a2))


def glora_first(t: Roles, base: F64) -> F64:
    """The first version: 1 and 2 exchanged."""
    return glora({**t, "a1": t["a2"], "a2": t["a1"], "b1": t["b2"], "b2": t["b1"]}, base)
