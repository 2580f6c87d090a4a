"""Whatever made a file, the file says enough to make it again, byte by byte, anywhere."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from formats.builders import kohya
from helpers import pairs, write_adapter
from reproduce.moved import move, write_sources

import loramix
from loramix import METHODS, Output, Rule, merge, reproduce
from loramix.formats.layout import load_layout
from loramix.methods import method_of
from loramix.policies.base import Stack, Verdict
from loramix.policies.fixed import Fixed

Make: TypeAlias = Callable[[Path], object]
RULES = (
    Rule(target="*to_k", method=METHODS["slerp"](), rank=2),
    Rule(regex=r"unet\..*", weight={"face": 0.5, "3": -2}),
    Rule(target="*conv", space="core", method=METHODS["ties"]()),
)
GLOBS = {"*to_q": -0.5, "unet.*": 1, "*": 0.25}


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Make something, move the sources, change the folder, and make it again."""

    def run(
        paths: list[Path], make: Callable[[Path], object], name: str = "out.safetensors"
    ) -> Any:
        out = tmp_path / name
        make(out)
        folder = move(paths, tmp_path / "moved")
        other = tmp_path / "elsewhere"
        other.mkdir()
        monkeypatch.chdir(other)
        return reproduce(out, [folder])

    return run


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("auto", {}),
        ("auto:margin=0.03", {"rules": RULES}),
        ("published", {"weights": [1, -0.5, 0.3]}),
        ("published:floor=1,key_filters=all+shared_only+all", {"space": "knots"}),
        ("linear", {"auto_strength": True, "floor": 1, "weights": [1, GLOBS, 0.3]}),
        ("linear", {"output": Output(energy=1)}),
        ("slerp", {"weights": [0.1, 0.2, 0.7], "output": Output(max_error=0.3, dtype="bf16")}),
        ("ties:density=1", {"sparsify": "dare:density=0.5", "seed": 2**64 - 1}),
        ("della", {"seed": 7, "output": Output(rank=2, dtype="f16")}),
        ("core(tall)", {"refine": "refine", "skip": ["*fc1*"]}),
        ("iso-c", {"rules": RULES[1:2]}),
        ("linear", {"backend": "torch:cpu"}),
        ("auto", {"samples": 8}),
        ("auto", {"samples": None}),
        ("published", {"samples": 8, "rules": RULES}),
    ],
    ids=str,
)
def test_merges(
    method: str, options: dict[str, Any], tmp_path: Path, elsewhere: Callable[..., Any]
) -> None:
    paths = write_sources(tmp_path / "in")
    found = elsewhere(paths, lambda out: merge(paths, method, path=out, **options))
    assert found.identical, (found.comparison, found.notes)
    assert (found.notes, found.again) == ((), None)
    assert [name for name, _ in found.sources] == ["style", "face", "hat"]


@pytest.mark.parametrize("entry", ['key_filter = "unique_only"', 'conflict_mode = "low"'])
@pytest.mark.parametrize("what", ['policy = "auto"', 'method = "slerp"', 'policy = "published"'])
def test_recipes_with_filters_and_sides(
    entry: str, what: str, tmp_path: Path, elsewhere: Callable[..., Any]
) -> None:
    paths = write_sources(tmp_path / "in")
    extra = write_adapter(tmp_path / "in/more.safetensors", pairs(9, 2, modules={"unet.z": (9, 7)}))
    adapters = "".join(f'[[adapter]]\npath = "{path}"\n' for path in (*paths, extra))
    recipe = tmp_path / "stack.toml"
    recipe.write_text(f"seed = 5\n{what}\n{adapters}{entry}\nweight = -0.5\n")
    found = elsewhere([*paths, extra], lambda out: loramix.execute(loramix.follow(recipe), out))
    assert found.identical


@pytest.mark.parametrize("change", ["nothing", "a weight", "a method", "a side", "a rank"])
def test_stored_plans(change: str, tmp_path: Path, elsewhere: Callable[..., Any]) -> None:
    paths = write_sources(tmp_path / "in")
    stored = tmp_path / "plan.json"
    loramix.save_plan(loramix.plan(paths, "auto", seed=3), stored)
    tables = json.loads(stored.read_text())
    row = tables["group"][1]
    row |= {
        "nothing": {}, "a weight": {"weights": [0.1, 2, -1.5]}, "a rank": {"rank": 2},
        "a method": {"method": {"name": "dare", "density": 0.5}},
        "a side": {"sides": ["low", "all", "around"], "method": {"name": "ties"}},
    }[change]  # fmt: skip
    stored.write_text(json.dumps(tables))
    found = elsewhere(paths, lambda out: loramix.execute(loramix.load_plan(stored), out))
    assert found.identical
    record = json.loads(loramix.inspect(tmp_path / "out.safetensors").metadata["loramix"])
    assert ("recipe" in record) == (change == "nothing")
    assert ("plan" in record) == (change != "nothing")


@pytest.mark.parametrize("dialect", ["peft", "diffusers"])
def test_folders(dialect: str, tmp_path: Path, elsewhere: Callable[..., Any]) -> None:
    """The config decides the scales, so it belongs to what a source is."""
    folder = tmp_path / "in"
    folder.mkdir()
    modules = {"unet.x": (24, 20), "unet.y": (24, 20)}
    config = {"peft_type": "LORA", "r": 3, "lora_alpha": 6, "base_model_name_or_path": "some/base"}
    paths = [
        write_adapter(folder / f"p{i}", pairs(i, 3, modules=modules), "peft", config=config)
        for i in range(2)
    ]
    output = Output(dialect=dialect, rank=4)
    name = "out" if dialect == "peft" else "out.safetensors"
    sources = paths if dialect == "peft" else [loramix.load(p, architecture=None) for p in paths]
    if dialect == "diffusers":
        merged = merge(sources, "ties", output=Output(dialect="peft"), path=tmp_path / "mid")
        assert merged.path is not None
        paths, sources = [merged.path], [merged.path]
        output, name = Output(dialect="peft", rank=2), "again"
    found = elsewhere(paths, lambda out: merge(sources, "ties", output=output, path=out), name)
    assert found.identical
    text = tmp_path / name / "adapter_config.json"
    assert json.loads(text.read_text())["base_model_name_or_path"] == "some/base"
    text.write_text(text.read_text().replace("some/base", "other/base"))
    again = reproduce(tmp_path / name, [tmp_path / "moved"])
    assert (again.identical, again.comparison.header) == (False, ("adapter_config.json",))


@pytest.mark.parametrize("dense", [False, True])
def test_kohya_files(dense: bool, tmp_path: Path, elsewhere: Callable[..., Any]) -> None:
    """Fused weights, dense differences, and a base model that the user names."""
    name, module = ("sd15", "mid_block") if dense else ("flux1", "transformer_blocks.0.attn")
    built = [
        kohya(load_layout(name), lambda m: module in m.name and "attn" in m.name, 2, seed)
        for seed in range(2)
    ]
    paths = [one.save(tmp_path / f"{i}.safetensors") for i, one in enumerate(built)]
    options: dict[str, Any] = {"output": Output(dense=dense), "architecture": name}
    assert elsewhere(paths, lambda out: merge(paths, "ties", path=out, **options)).identical


def test_what_is_in_memory_counts_by_its_bytes(tmp_path: Path) -> None:
    paths = write_sources(tmp_path / "in")
    inner = merge(paths[:2], "linear")
    out = tmp_path / "out.safetensors"
    merge([inner.adapter, paths[2]], "ties", path=out)
    (tmp_path / "in/kept.safetensors").write_bytes(bytes(inner.adapter.source._view))  # type: ignore[attr-defined]
    assert reproduce(out, [tmp_path / "in"]).identical


def test_two_sources_that_are_alike_are_one_file(tmp_path: Path) -> None:
    paths = write_sources(tmp_path / "in")
    paths[1].write_bytes(paths[0].read_bytes())
    out = tmp_path / "out.safetensors"
    merge(paths, "slerp", path=out, weights=[1, 0.5, 0.2])
    paths[0].unlink()
    found = reproduce(out, [tmp_path / "in"])
    assert found.identical
    assert [path for _, path in found.sources[:2]] == [paths[1], paths[1]]


@dataclass(frozen=True, slots=True)
class Whim(Fixed):
    """A policy of somebody else."""

    @property
    def name(self) -> str:
        return "whim"

    def decide(self, stack: Stack) -> Verdict:
        return Fixed(method_of("ties:density=0.4")).decide(stack)


def test_a_foreign_policy_leaves_its_decisions(
    tmp_path: Path, elsewhere: Callable[..., Any]
) -> None:
    paths = write_sources(tmp_path / "in")
    found = elsewhere(
        paths, lambda out: merge(paths, Whim(method_of("linear")), path=out, samples=9)
    )
    assert found.identical


def test_analyses_of_others(tmp_path: Path, elsewhere: Callable[..., Any]) -> None:
    """Statistics of the usual samples are made again; others are in their decisions."""
    paths = write_sources(tmp_path / "in")
    stored = tmp_path / "statistics.json"
    loramix.analyze(paths, samples=5, path=stored)
    found = elsewhere(
        paths, lambda out: merge(paths, "linear", analysis=stored, auto_strength=True, path=out)
    )
    assert found.identical
