"""Compose several LoRA adapters into one: exact, fast, verified.

>>> import loramix
>>> merged = loramix.merge(["a.safetensors", "b.safetensors"], "linear", weights=[0.8, 1.0],
...                        path="ab.safetensors")  # doctest: +SKIP
"""

import logging

from loramix._core import VERSION as __version__
from loramix.adapters import load
from loramix.errors import FormatError, LoramixError, OutputError, ParamError, ShapeError
from loramix.executing import Merged
from loramix.inspecting import Inspection, inspect
from loramix.kernels import expand
from loramix.memory import combine
from loramix.merging import merge, resize, save
from loramix.methods import METHODS, Method
from loramix.planning import Output
from loramix.types import Adapter, Factors, Target

__all__ = [
    "METHODS",
    "Adapter",
    "Factors",
    "FormatError",
    "Inspection",
    "LoramixError",
    "Merged",
    "Method",
    "Output",
    "OutputError",
    "ParamError",
    "ShapeError",
    "Target",
    "__version__",
    "combine",
    "expand",
    "inspect",
    "load",
    "merge",
    "resize",
    "save",
]

logging.getLogger(__name__).addHandler(logging.NullHandler())
