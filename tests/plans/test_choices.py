"""A policy's decisions are what is carried out: group by group, fused weights included."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from entries.test_fused import CORNER, corners, flux
from formats.builders import diffusers, kohya
from helpers import pairs, relative, write_adapter
from oracles import linear, ties

import loramix
from loramix import FormatError, Output, ParamError, load, merge
from loramix.methods import method_of
from loramix.policies.base import Decision, Reads, Stack, Verdict

SIZE = (12, 10)


@dataclass(frozen=True)
class ByName:
    """Methods by globs of target keys: the smallest policy there is."""

    methods: Mapping[str, str]
    gain: float = 1.0
    sides: tuple[Any, ...] = ()
    name: str = "by-name"
    reads: Reads = "products"
    seen: list[Stack] = field(default_factory=list)

    def describe(self) -> dict[str, object]:
        return {"name": self.name, **self.methods}

    def decide(self, stack: Stack) -> Verdict:
        self.seen.append(stack)
        return Verdict(
            tuple(
                Decision(
                    method_of(next(m for g, m in self.methods.items() if fnmatchcase(t.key, g))),
                    tuple(self.gain * w for w in weights),
                    "word",
                    f"because it is {t.key}",
                    {"rows": float(t.rows)},
                )
                for t, weights in ((group.target, weights) for group, weights in stack.groups)
            ),
            notes=("a note",),
            suggested=1.5,
        )


def two(tmp_path: Path) -> list[Path]:
    modules = {f"unet.{name}": SIZE for name in ("to_q", "to_k", "to_v")}
    paths = []
    for seed in (1, 2):
        own = pairs(seed, 3, modules=modules)
        paths.append(write_adapter(tmp_path / f"{seed}.safetensors", own))
    return paths


def dense(source: Any) -> dict[str, Any]:
    return {target.key[-4:]: loramix.expand(target, [f]) for target, f in source.targets.items()}


def test_every_group_has_its_method(tmp_path: Path) -> None:
    paths = two(tmp_path)
    policy = ByName({"*to_q": "ties:density=0.3", "*to_k": "slerp", "*": "linear"}, gain=0.5)
    rule = Output(rank=min(SIZE), dtype="f32")
    merged = merge(
        paths, policy, weights=[1.0, 0.5], output=rule, path=tmp_path / "out.safetensors"
    )
    got = dense(merged.adapter)
    first, second = (dense(load(path)) for path in paths)
    for name, method in (("to_q", "ties:density=0.3"), ("to_k", "slerp"), ("to_v", "linear")):
        expected = loramix.combine([first[name], second[name]], method, weights=[0.5, 0.25])
        assert relative(got[name], expected) < 1e-5, name
    assert merged.plan.notes == ("a note",)
    assert merged.plan.suggested == 1.5
    assert [choice.asked for choice in merged.plan.choices] == [(1.0, 0.5)] * 3
    chosen = {c.target.key[-4:]: c.decision.method.name for c in merged.plan.choices}
    assert chosen == {"to_q": "ties", "to_k": "slerp", "to_v": "linear"}
    # Shares are of what the user asked for, not of what the policy made of it.
    row = next(row for row in merged.log if row.target.endswith("to_v"))
    alone = float((got["to_v"] * first["to_v"]).sum() / (first["to_v"] ** 2).sum())
    assert row.shares[0].retention == pytest.approx(alone, rel=1e-4)


def test_a_policy_sees_exact_inner_products_and_weights(tmp_path: Path) -> None:
    paths = two(tmp_path)
    policy = ByName({"*": "linear"})
    merge(paths, policy, weights=[1.0, {"*to_q": -2.0}])
    (stack,) = policy.seen
    deltas = [dense(load(path)) for path in paths]
    for group, weights in stack.groups:
        name = group.target.key[-4:]
        flat = [d[name].ravel().astype(np.float64) for d in deltas]
        assert group.gram == pytest.approx(
            np.array([[a @ b for b in flat] for a in flat]), rel=1e-5
        )
        assert weights == (1.0, -2.0 if name == "to_q" else 1.0)


def test_executing_a_plan_writes_what_merge_writes(tmp_path: Path) -> None:
    paths, policy = two(tmp_path), ByName({"*to_q": "dare-ties", "*": "ortho"})
    merge(paths, policy, seed=5, path=tmp_path / "one.safetensors")
    plan = loramix.plan(paths, policy, seed=5)
    loramix.execute(plan, tmp_path / "two.safetensors")
    one, two_ = (tmp_path / f"{name}.safetensors" for name in ("one", "two"))
    assert one.read_bytes() == two_.read_bytes()


MIXED = {
    "entries": {"*to_q": "ties:density=0.3", "*to_k": "slerp", "*": "dare:density=0.9"},
    "joint": {"*to_q": "core(ties)", "*to_k": "linear", "*": "iso-c"},
    "refined": {"*to_q": "ties:density=0.3", "*to_k": "linear", "*": "ties:density=0.5"},
}


@pytest.mark.parametrize("backend", ["rust", "torch:cpu"])
@pytest.mark.parametrize("name", MIXED)
def test_parts_of_one_weight_may_have_different_methods(
    name: str, backend: str, tmp_path: Path
) -> None:
    """Written fused or apart, the parts are the same."""
    paths = [
        flux(tmp_path, f"{i}.safetensors", build, 40 * i)
        for i, build in enumerate((kohya, diffusers))
    ]
    both = {}
    for dialect in ("kohya", "diffusers"):
        rule = Output(rank=48, dtype="f32", dialect=dialect)
        merged = merge(
            paths, ByName(MIXED[name]), weights=[1.0, 0.5], output=rule, architecture="flux1",
            backend=backend, seed=3,
        )  # fmt: skip
        both[dialect] = corners(merged.adapter)
        assert merged.error < 1e-5
    for part, expected in both["diffusers"].items():
        assert relative(both["kohya"][part], expected) < 2e-3, part
    sources = [corners(load(path, architecture="flux1")) for path in paths]
    exact = {"to_k": linear} if name != "entries" else {}
    for part, oracle in exact.items():
        expected = oracle([s[part] for s in sources], [1.0, 0.5])
        assert relative(both["kohya"][part], expected) < 1e-4


def test_spaces_that_cannot_share_a_weight_are_refused(tmp_path: Path) -> None:
    paths = [flux(tmp_path, f"{i}.safetensors", kohya, 40 * i) for i in range(2)]
    policy = ByName({"*to_q": "knots(ties)", "*to_k": "ties", "*": "linear"})
    with pytest.raises(FormatError, match=r"to_k: ties .weight.*to_q: ties .knots.*--dialect diff"):
        merge(paths, policy, architecture="flux1")
    assert merge(paths, policy, architecture="flux1", output=Output(rank=8, dialect="diffusers"))


def test_modifiers_go_with_whatever_is_chosen(tmp_path: Path) -> None:
    paths = two(tmp_path)
    rule = Output(rank=min(SIZE), dtype="f32")
    policy = ByName({"*to_q": "ties:density=0.3", "*": "iso-c"})
    got = dense(merge(paths, policy, sparsify="breadcrumbs", output=rule).adapter)
    deltas = [dense(load(path)) for path in paths]
    for name, options in (("to_q", {"sparsify": "breadcrumbs"}), ("to_k", {})):
        method = "ties" if name == "to_q" else "iso-c"
        expected = loramix.combine([d[name] for d in deltas], method, **options)
        assert relative(got[name], expected) < 1e-5


def test_a_policy_sees_to_the_strength_itself(tmp_path: Path) -> None:
    with pytest.raises(ParamError, match="the policy by-name sees to the strength itself"):
        merge(two(tmp_path), ByName({"*": "linear"}), auto_strength=True)


def test_fused_oracle(tmp_path: Path) -> None:
    """The entries of the mixed weight are those of the methods, not only equal to each other."""
    paths = [flux(tmp_path, f"{i}.safetensors", kohya, 40 * i) for i in range(2)]
    kept = 30.5
    density = kept / 3072**2
    policy = ByName({"*to_q": f"ties:density={density!r}", "*": "linear"})
    merged = merge(paths, policy, architecture="flux1", output=Output(rank=48, dtype="f32"))
    sources = [corners(load(path, architecture="flux1")) for path in paths]
    got = corners(merged.adapter)
    share = kept / (CORNER[0] * CORNER[1])
    assert relative(got["to_q"], ties([s["to_q"] for s in sources], [1.0, 1.0], share)) < 1e-3
    assert relative(got["to_v"], linear([s["to_v"] for s in sources], [1.0, 1.0])) < 1e-3
