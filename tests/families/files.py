"""Files of every family with the delta that they mean."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import oracles_families as oracles
from helpers import InMemory, Raw, decode, encode, write_safetensors
from oracles_families import F64, Oracle

from loramix import Adapter, load
from loramix.tensors import Tensor

NAMES: Mapping[str, str] = {
    "up": "lora_up.weight", "down": "lora_down.weight", "mid": "lora_mid.weight",
    "embedding_up": "lora_embedding_B", "embedding_down": "lora_embedding_A",
    "magnitude": "lora_magnitude_vector", "a1": "a1.weight", "a2": "a2.weight",
    "b1": "b1.weight", "b2": "b2.weight", "bm": "bm.weight", "oft_R": "oft_R.weight",
}  # fmt: skip
"""Suffixes of roles that are not their own."""


@dataclass(frozen=True)
class Model(InMemory):
    """A base model in memory."""

    weights: Mapping[str, F64]

    def weight(self, key: str) -> Tensor | None:
        if key not in self.weights:
            return None
        values = self.weights[key]
        return Tensor("F32", values.shape, memoryview(encode("F32", values)))


@dataclass(frozen=True)
class Case:
    """One module of a family.

    Attributes
    ----------
    shape : of its weight.
    roles : shapes of its tensors.
    oracle : what it means.
    alpha : stored beside them; None for none.
    rank : that the scale is over.
    family : as reported.
    base : whether it needs the weight.
    fixed : tensors that are not random.
    config : of PEFT.
    given : what the oracle has to know besides.
    """

    shape: tuple[int, ...]
    roles: Mapping[str, tuple[int, ...]]
    oracle: Oracle
    family: str
    alpha: float | None = 3.0
    rank: int = 4
    base: bool = False
    fixed: Mapping[str, F64] = field(default_factory=dict)
    config: Mapping[str, object] | None = None
    given: Mapping[str, float] = field(default_factory=dict)


def file_of(
    folder: Path,
    cases: Mapping[str, Case],
    *,
    dtype: str = "F32",
    seed: int = 1,
    size: float = 0.3,
    name: str = "a",
    metadata: Mapping[str, str] | None = None,
) -> tuple[Path, dict[str, F64], Model]:
    """Write modules, and say what they mean and what they are relative to.

    Parameters
    ----------
    cases : by stem.
    size : of the random numbers.
    """
    rng = np.random.default_rng(seed)
    raws: dict[str, Raw] = {}
    truth: dict[str, F64] = {}
    weights: dict[str, F64] = {}
    for stem, case in cases.items():
        base = decode("F32", encode("F32", rng.normal(size=case.shape))).reshape(case.shape)
        weights[stem] = base
        tensors: dict[str, F64] = {}
        for role, shape in case.roles.items():
            values = case.fixed.get(role)
            values = rng.normal(size=shape, scale=size) if values is None else values
            data = encode(dtype, values)
            raws[f"{stem}.{NAMES.get(role, role)}"] = (dtype, shape, data)
            tensors[role] = decode(dtype, data).reshape(shape)
        if case.alpha is not None:
            raws[f"{stem}.alpha"] = ("F32", (), encode("F32", np.array([case.alpha])))
        scale = 1.0 if case.alpha is None else case.alpha / case.rank
        known = {**tensors, "scale": np.float64(scale), **dict(case.given)}
        truth[stem] = case.oracle(known, base).reshape(case.shape[0], -1)
    path = write_safetensors(folder / f"{name}.safetensors", raws, metadata)
    return path, truth, Model(weights)


def read(path: Path, model: Model | None = None, **options: object) -> Adapter:
    return load(path, base=model, **options)  # type: ignore[arg-type]


def deltas(adapter: Adapter) -> dict[str, F64]:
    """Dense deltas (rows, cols) by key."""
    found = {}
    for target, one in adapter.targets.items():
        up, down = (
            decode(side.dtype, bytes(side.data)).reshape(side.shape[0], -1)
            for side in (one.up, one.down)
        )
        if len(target.shape) == 1:
            down = down.reshape(-1, 1)
        found[target.key] = one.scale * up @ down
    return found


def _conv(case: Case, **changes: object) -> Case:
    return Case(**{**vars(case), **changes})  # type: ignore[arg-type]


def _hada(out: int, cols: int, r: int) -> dict[str, tuple[int, ...]]:
    return {
        f"hada_w{n}_{side}": (out, r) if side == "a" else (r, cols) for n in "12" for side in "ab"
    }


def _tucker_hada(
    out: int, wide: int, r: int, kernel: tuple[int, ...]
) -> dict[str, tuple[int, ...]]:
    sides = {f"hada_w{n}_{s}": (r, out if s == "a" else wide) for n in "12" for s in "ab"}
    return sides | {f"hada_t{n}": (r, r, *kernel) for n in "12"}


CASES: Mapping[str, Case] = {
    "lora": Case((12, 20), {"up": (12, 4), "down": (4, 20)}, oracles.lora, "lora"),
    "lora, conv": Case(
        (12, 5, 3, 3), {"up": (12, 4, 1, 1), "down": (4, 5, 3, 3)}, oracles.lora, "lora"
    ),
    "lora, conv 1-D": Case((12, 5, 3), {"up": (12, 4, 1), "down": (4, 5, 3)}, oracles.lora, "lora"),
    "lora, conv 3-D": Case(
        (6, 5, 2, 3, 3), {"up": (6, 4, 1, 1, 1), "down": (4, 5, 2, 3, 3)}, oracles.lora, "lora"
    ),
    "locon": Case(
        (12, 5, 3, 2),
        {"up": (12, 4, 1, 1), "mid": (4, 4, 3, 2), "down": (4, 5, 1, 1)},
        oracles.locon,
        "locon",
    ),
    "embedding": Case(
        (30, 8), {"embedding_down": (3, 30), "embedding_up": (8, 3)}, oracles.embedding,
        "embedding", alpha=None,
    ),
    "loha": Case((20, 24), _hada(20, 24, 3), oracles.loha, "loha", rank=3),
    "loha, dense": Case((20, 24), _hada(20, 24, 4), oracles.loha, "loha"),
    "loha, conv flat": Case((20, 6, 3, 3), _hada(20, 54, 2), oracles.loha, "loha", rank=2),
    "loha, tucker": Case(
        (20, 6, 3, 3), _tucker_hada(20, 6, 2, (3, 3)), oracles.loha, "loha", rank=2
    ),
    "loha, tucker dense": Case(
        (20, 6, 3, 3), _tucker_hada(20, 6, 5, (3, 3)), oracles.loha, "loha", rank=5
    ),
    "lokr, w2 factored": Case(
        (24, 30), {"lokr_w1": (4, 5), "lokr_w2_a": (6, 2), "lokr_w2_b": (2, 6)}, oracles.lokr,
        "lokr", rank=2,
    ),
    "lokr, both factored": Case(
        (24, 30),
        {"lokr_w1_a": (4, 1), "lokr_w1_b": (1, 5), "lokr_w2_a": (6, 2), "lokr_w2_b": (2, 6)},
        oracles.lokr, "lokr", rank=2,
    ),
    "lokr, w1 factored": Case(
        (24, 30), {"lokr_w1_a": (4, 1), "lokr_w1_b": (1, 5), "lokr_w2": (6, 6)}, oracles.lokr,
        "lokr", rank=1,
    ),
    "lokr, both full": Case(
        (24, 30), {"lokr_w1": (4, 5), "lokr_w2": (6, 6)}, oracles.lokr, "lokr", alpha=3.0, rank=3
    ),
    "lokr, thin": Case(
        (24, 30), {"lokr_w1": (2, 10), "lokr_w2": (12, 3)}, oracles.lokr, "lokr", alpha=None
    ),
    "lokr, conv": Case(
        (24, 6, 3, 3), {"lokr_w1": (4, 3), "lokr_w2": (6, 2, 3, 3)}, oracles.lokr, "lokr",
        alpha=None,
    ),
    "lokr, conv flat": Case(
        (24, 6, 3, 3), {"lokr_w1": (4, 3), "lokr_w2_a": (6, 2), "lokr_w2_b": (2, 18)},
        oracles.lokr, "lokr", rank=2,
    ),
    "lokr, tucker": Case(
        (24, 6, 3, 3),
        {"lokr_w1": (4, 3), "lokr_t2": (2, 2, 3, 3), "lokr_w2_a": (2, 6), "lokr_w2_b": (2, 2)},
        oracles.lokr, "lokr", rank=2,
    ),
    "full": Case((12, 20), {"diff": (12, 20)}, oracles.full, "full", alpha=None),
    "full, conv": Case((12, 2, 3, 3), {"diff": (12, 2, 3, 3)}, oracles.full, "full", alpha=None),
}  # fmt: skip
"""Families that say all of their delta."""


def _with_magnitude(case: Case, role: str, shape: tuple[int, ...], inner: Oracle) -> Case:
    """Magnitudes about as large as the norms, as training leaves them."""
    count = math.prod(shape)
    size = math.sqrt(math.prod(case.shape) / count)
    numbers = size * (1 + 0.1 * np.random.default_rng(count).normal(size=shape))
    name = "dora" if case.family == "lora" else f"dora({case.family})"
    return _conv(
        case, roles={**case.roles, role: shape}, fixed={role: numbers},
        oracle=oracles.dora(inner), family=name, base=True,
    )  # fmt: skip


def _dora() -> dict[str, Case]:
    lora, conv = CASES["lora"], CASES["lora, conv"]
    found = {
        "of outputs": (lora, "dora_scale", (12, 1), oracles.lora),
        "of inputs": (lora, "dora_scale", (1, 20), oracles.lora),
        "peft": (lora, "magnitude", (12,), oracles.lora),
        "conv, of outputs": (conv, "dora_scale", (12, 1, 1, 1), oracles.lora),
        "conv, of inputs": (conv, "dora_scale", (1, 5, 1, 1), oracles.lora),
        "peft, conv": (conv, "magnitude", (1, 12, 1, 1), oracles.lora),
        "loha": (CASES["loha"], "dora_scale", (20, 1), oracles.loha),
        "loha, conv": (CASES["loha, conv flat"], "dora_scale", (1, 6, 1, 1), oracles.loha),
        "lokr": (CASES["lokr, w2 factored"], "dora_scale", (24, 1), oracles.lokr),
        "lokr, dense": (CASES["lokr, thin"], "dora_scale", (1, 30), oracles.lokr),
        "locon": (CASES["locon"], "dora_scale", (12, 1, 1, 1), oracles.locon),
    }
    return {f"dora, {name}": _with_magnitude(*parts) for name, parts in found.items()}


def _needy(
    shape: tuple[int, ...], roles: dict[str, tuple[int, ...]], oracle: Oracle, family: str,
    **more: object,
) -> Case:  # fmt: skip
    return Case(shape, roles, oracle, family, **{"alpha": None, "base": True, **more})  # type: ignore[arg-type]


_NUMBER = {"on_input": ()}
RELATIVE: Mapping[str, Case] = {
    **_dora(),
    "ia3, outputs": _needy(
        (12, 20), {"weight": (12,), **_NUMBER}, oracles.ia3_lycoris, "ia3",
        fixed={"on_input": np.array(0.0)},
    ),
    "ia3, inputs": _needy(
        (12, 20), {"weight": (20,), **_NUMBER}, oracles.ia3_lycoris, "ia3",
        fixed={"on_input": np.array(1.0)},
    ),
    "ia3, conv": _needy(
        (12, 5, 3, 3), {"weight": (1, 5, 1, 1), **_NUMBER}, oracles.ia3_lycoris, "ia3",
        fixed={"on_input": np.array(1.0)},
    ),
    "ia3, peft": _needy((12, 20), {"ia3_l": (12, 1)}, oracles.ia3_peft, "ia3"),
    "ia3, peft inputs": _needy((12, 20), {"ia3_l": (1, 20)}, oracles.ia3_peft, "ia3"),
    "oft": _needy((12, 20), {"oft_blocks": (3, 4, 4)}, oracles.oft, "oft"),
    "oft, conv": _needy((12, 5, 3, 3), {"oft_blocks": (3, 4, 4)}, oracles.oft, "oft"),
    "oft, rescaled": _needy(
        (12, 20), {"oft_blocks": (3, 4, 4), "rescale": (12, 1)}, oracles.oft, "oft"
    ),
    "oft, constrained": _needy(
        (12, 20), {"oft_blocks": (3, 4, 4)}, oracles.oft, "oft", alpha=0.01,
        given={"alpha": 0.01},
    ),
    "oft, constraint not reached": _needy(
        (12, 20), {"oft_blocks": (3, 4, 4)}, oracles.oft, "oft", alpha=9.0, given={"alpha": 9.0}
    ),
    "oft, list": _needy(
        (18, 20), {"oft_blocks.0": (3, 4, 4), "oft_blocks.1": (3, 2, 2)}, oracles.oft, "oft",
        alpha=0.02, given={"alpha": 0.02},
    ),
    "boft": _needy((16, 20), {"oft_blocks": (2, 4, 4, 4)}, oracles.boft, "boft"),
    "boft, rescaled": _needy(
        (16, 3, 3, 3), {"oft_blocks": (3, 4, 4, 4), "rescale": (16, 1, 1, 1)}, oracles.boft,
        "boft", alpha=0.02, given={"alpha": 0.02},
    ),
    "boft, peft": _needy(
        (10, 16), {"boft_R": (2, 4, 4, 4), "boft_s": (10, 1)}, oracles.boft_peft, "boft"
    ),
    "boft, peft one stage": _needy(
        (10, 16), {"boft_R": (1, 4, 4, 4), "boft_s": (10, 1)}, oracles.boft_peft, "boft"
    ),
    "boft, peft conv": _needy(
        (10, 4, 2, 2), {"boft_R": (3, 4, 4, 4), "boft_s": (1, 10)}, oracles.boft_peft, "boft"
    ),
    "glora": _needy(
        (12, 20), {"a1": (20, 3), "a2": (3, 20), "b1": (12, 3), "b2": (3, 20)}, oracles.glora,
        "glora", alpha=2.0, rank=3,
    ),
    "glora, conv": _needy(
        (12, 5, 3, 3), {"a1": (5, 3, 1, 1), "a2": (3, 5, 1, 1), "b1": (12, 3, 1, 1),
                        "b2": (3, 5, 3, 3)}, oracles.glora, "glora", alpha=2.0, rank=3,
    ),
    "glora, kernel": _needy(
        (12, 5, 3, 3), {"a1": (5, 3, 1, 1), "a2": (3, 5, 1, 1), "b1": (12, 3, 1, 1),
                        "b2": (3, 5, 1, 1), "bm": (3, 3, 3, 3)}, oracles.glora, "glora",
        alpha=2.0, rank=3,
    ),
    "glora, first version": _needy(
        (12, 20), {"a1": (3, 20), "a2": (20, 3), "b1": (3, 20), "b2": (12, 3)},
        oracles.glora_first, "glora", alpha=2.0, rank=3,
    ),
}  # fmt: skip
"""Families that are relative to the base weight."""

_OFT = {"oft_R": (5, 6)}
PEFT_OFT: Mapping[str, Case] = {
    "exact": _needy(
        (12, 20), _OFT, oracles.oft_peft, "oft", config={"use_cayley_neumann": False}
    ),
    **{
        f"{terms} terms": _needy(
            (12, 20), _OFT, oracles.oft_peft, "oft", given={"terms": terms},
            config={"use_cayley_neumann": True, "num_cayley_neumann_terms": terms},
        )
        for terms in (2, 3, 4, 5, 7)
    },
    "coft": _needy(
        (12, 20), _OFT, oracles.oft_peft, "oft", given={"coft": 0.3},
        config={"use_cayley_neumann": False, "coft": True, "eps": 0.3},
    ),
    "shared": _needy(
        (12, 20), {"oft_R": (1, 6)}, oracles.oft_peft, "oft", given={"block_share": 1},
        config={"use_cayley_neumann": False, "block_share": True},
    ),
    "conv": _needy(
        (12, 5, 2, 2), _OFT, oracles.oft_peft, "oft", config={"use_cayley_neumann": False}
    ),
}  # fmt: skip
"""OFT of PEFT: what it means is in the config."""
