"""Compose several LoRA adapters into one: exact, fast, verified.

>>> import loramix
>>> merged = loramix.merge(["a.safetensors", "b.safetensors"], "linear", weights=[0.8, 1.0],
...                        path="ab.safetensors")  # doctest: +SKIP
"""

import logging
from importlib import import_module
from typing import TYPE_CHECKING

from loramix._core import VERSION as __version__

if TYPE_CHECKING:
    from loramix import compose, kernels
    from loramix.adapters.loading import load
    from loramix.analyzing import Analyzed, analyze
    from loramix.baking.running import bake
    from loramix.baking.writing import Baked
    from loramix.checkpoints import Checkpoint, open_checkpoint
    from loramix.converting import convert
    from loramix.diagnosing.examining import doctor
    from loramix.diagnosing.findings import Diagnosis, Finding
    from loramix.diffing.comparing import Difference, diff
    from loramix.errors import (
        FormatError,
        LoramixError,
        ModelError,
        OutputError,
        ParamError,
        ShapeError,
    )
    from loramix.executing.running import Merged
    from loramix.extracting.running import extract
    from loramix.inspecting import Inspection, ModelInspection, inspect, inspect_model
    from loramix.kernels import expand
    from loramix.memory import combine
    from loramix.merging import execute, follow, merge, plan, resize, save
    from loramix.methods import METHODS, Method
    from loramix.planning.output import Output
    from loramix.planning.steps import Plan
    from loramix.plans.reading import load_plan
    from loramix.plans.writing import save_plan
    from loramix.policies import POLICIES, Policy
    from loramix.recipes.reading import read_recipe
    from loramix.recipes.recipe import Recipe
    from loramix.recipes.rules import Rule
    from loramix.reproducing.running import Reproduction, reproduce
    from loramix.types import Adapter, Factors, Target

# Loaded when first asked for: the command line's help must not wait for NumPy.
_HOMES = {
    "Adapter": "types",
    "Analyzed": "analyzing",
    "Baked": "baking.writing",
    "Checkpoint": "checkpoints",
    "Diagnosis": "diagnosing.findings",
    "Difference": "diffing.comparing",
    "Factors": "types",
    "Finding": "diagnosing.findings",
    "FormatError": "errors",
    "Inspection": "inspecting",
    "LoramixError": "errors",
    "METHODS": "methods",
    "Merged": "executing.running",
    "ModelError": "errors",
    "ModelInspection": "inspecting",
    "Method": "methods",
    "Output": "planning.output",
    "OutputError": "errors",
    "POLICIES": "policies",
    "ParamError": "errors",
    "Plan": "planning.steps",
    "Policy": "policies",
    "Recipe": "recipes.recipe",
    "Reproduction": "reproducing.running",
    "Rule": "recipes.rules",
    "ShapeError": "errors",
    "Target": "types",
    "analyze": "analyzing",
    "bake": "baking.running",
    "combine": "memory",
    "convert": "converting",
    "diff": "diffing.comparing",
    "doctor": "diagnosing.examining",
    "execute": "merging",
    "expand": "kernels",
    "extract": "extracting.running",
    "follow": "merging",
    "inspect": "inspecting",
    "inspect_model": "inspecting",
    "load": "adapters.loading",
    "load_plan": "plans.reading",
    "merge": "merging",
    "open_checkpoint": "checkpoints",
    "plan": "merging",
    "read_recipe": "recipes.reading",
    "reproduce": "reproducing.running",
    "resize": "merging",
    "save": "merging",
    "save_plan": "plans.writing",
}
_ROOMS = frozenset({"compose", "kernels"})  # public as a whole

__all__ = [
    "METHODS",
    "POLICIES",
    "Adapter",
    "Analyzed",
    "Baked",
    "Checkpoint",
    "Diagnosis",
    "Difference",
    "Factors",
    "Finding",
    "FormatError",
    "Inspection",
    "LoramixError",
    "Merged",
    "Method",
    "ModelError",
    "ModelInspection",
    "Output",
    "OutputError",
    "ParamError",
    "Plan",
    "Policy",
    "Recipe",
    "Reproduction",
    "Rule",
    "ShapeError",
    "Target",
    "__version__",
    "analyze",
    "bake",
    "combine",
    "compose",
    "convert",
    "diff",
    "doctor",
    "execute",
    "expand",
    "extract",
    "follow",
    "inspect",
    "inspect_model",
    "kernels",
    "load",
    "load_plan",
    "merge",
    "open_checkpoint",
    "plan",
    "read_recipe",
    "reproduce",
    "resize",
    "save",
    "save_plan",
]

logging.getLogger(__name__).addHandler(logging.NullHandler())


def __getattr__(name: str) -> object:
    if name in _ROOMS:
        return import_module(f"{__name__}.{name}")  # which makes it an attribute
    if name not in _HOMES:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    found = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
