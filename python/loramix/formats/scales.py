"""Where the scale of a pair comes from: tensors first, then header metadata, then PEFT's config.

Order of FORMATS: a ``.scale`` tensor is the scale itself; ``.alpha`` over the rank; the fields of
a LoRA config (``lora_adapter_metadata`` in the header, or ``adapter_config.json``); otherwise 1.
"""

import json
import math
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field

from loramix.errors import FormatError
from loramix.types import Tensor

CONFIG = "adapter_config.json"

_INTEGERS = {"I64": "<q", "I32": "<i", "I16": "<h", "I8": "<b", "U8": "<B"}
_FLOATS = {"F64": "<d", "F32": "<f", "F16": "<e"}


@dataclass(frozen=True, slots=True)
class LoraConfig:
    r"""The fields of PEFT's ``LoraConfig`` that decide the scale.

    Attributes
    ----------
    alpha : ``lora_alpha``.
    alpha_pattern : module name pattern to alpha; a pattern matches as ``(.*\.)?(pattern)$``.
    rslora : divide by the root of the rank.
    """

    alpha: float
    alpha_pattern: Mapping[re.Pattern[str], float] = field(default_factory=dict)
    rslora: bool = False

    def scale(self, module: str, rank: int) -> float:
        """Alpha of a module over its rank (or the root of it)."""
        matches = (a for pattern, a in self.alpha_pattern.items() if pattern.fullmatch(module))
        return next(matches, self.alpha) / (math.sqrt(rank) if self.rslora else rank)


def scalar(tensor: Tensor, where: str) -> float:
    """The number in a one-element tensor of any float or integer type.

    Raises
    ------
    FormatError : more than one element, another type, NaN or infinity.
    """
    code = _FLOATS.get(tensor.dtype) or _INTEGERS.get(tensor.dtype)
    if math.prod(tensor.shape) != 1 or (code is None and tensor.dtype != "BF16"):
        message = (
            f"{where}: shape {list(tensor.shape)} of {tensor.dtype}, but it must be one number "
            "(F64, F32, F16, BF16 or an integer)"
        )
        raise FormatError(message)
    data = bytes(tensor.data)
    value = float(struct.unpack(code, data)[0] if code else struct.unpack("<f", b"\0\0" + data)[0])
    if not math.isfinite(value):
        message = f"{where}: {value}, but it must be finite; `loramix inspect` shows the others"
        raise FormatError(message)
    return value


def configs(metadata: Mapping[str, str], where: str) -> dict[str, LoraConfig]:
    """Configs that go with a file, by component ("" if they are for all of it).

    Parameters
    ----------
    metadata : strings of the header, with the text of ``adapter_config.json`` under that name.

    Raises
    ------
    FormatError : not a plain LoRA config.
    """
    found: dict[str, LoraConfig] = {}
    text = metadata.get("lora_adapter_metadata")
    if text is not None:
        parts: dict[str, dict[str, object]] = {}
        for name, value in _object(text, f"{where}: lora_adapter_metadata in the header").items():
            component, dot, rest = name.partition(".")
            known = dot and component.startswith(("unet", "transformer", "text_encoder"))
            parts.setdefault(component if known else "", {})[rest if known else name] = value
        found |= {part: _config(values, where) for part, values in parts.items()}
    text = metadata.get(CONFIG)
    if text is not None:
        fields = _object(text, f"{where}: {CONFIG}")
        _refuse_other_kinds(fields, f"{where}: {CONFIG}")
        found[""] = _config(fields, f"{where}: {CONFIG}")
    return found


def _refuse_other_kinds(fields: Mapping[str, object], where: str) -> None:
    kind = fields.get("peft_type", "LORA")
    if kind != "LORA":
        message = f"{where}: peft_type {kind!r}; loramix reads LORA"
        raise FormatError(message)
    if fields.get("use_dora"):
        message = f"{where}: use_dora; a DoRA cannot be merged without its base weights"
        raise FormatError(message)


def _object(text: str, where: str) -> dict[str, object]:
    try:
        fields = json.loads(text)
    except json.JSONDecodeError as error:
        message = f"{where}: not JSON ({error})"
        raise FormatError(message) from error
    if not isinstance(fields, dict):
        message = f"{where}: a JSON {type(fields).__name__}, but it must be an object"
        raise FormatError(message)
    return fields


def _config(fields: Mapping[str, object], where: str) -> LoraConfig:
    rank = _number(fields.get("r", 8), f"{where}: r")
    alpha = _number(fields.get("lora_alpha", rank), f"{where}: lora_alpha")
    patterns = fields.get("alpha_pattern") or {}
    if not isinstance(patterns, dict):
        message = f"{where}: alpha_pattern must map module names to numbers"
        raise FormatError(message)
    compiled = {
        _pattern(name, where): _number(value, f"{where}: alpha_pattern[{name!r}]")
        for name, value in patterns.items()
    }
    return LoraConfig(alpha, compiled, bool(fields.get("use_rslora", False)))


def _pattern(name: str, where: str) -> re.Pattern[str]:
    try:
        return re.compile(rf"(?:.*\.)?(?:{name})")
    except re.error as error:
        message = f"{where}: alpha_pattern[{name!r}] is not a regular expression ({error})"
        raise FormatError(message) from error


def _number(value: object, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        message = f"{where}: {value!r}, but it must be a finite number"
        raise FormatError(message)
    return float(value)
