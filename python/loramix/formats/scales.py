"""Where the scale of a pair comes from: tensors first, then header metadata, then PEFT's config.

Order of FORMATS: a ``.scale`` tensor is the scale itself; ``.alpha`` over the rank; the fields of
a PEFT config (``lora_adapter_metadata`` in the header, or ``adapter_config.json``); otherwise 1.
"""

import json
import math
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from loramix.errors import FormatError
from loramix.formats.values import decoded
from loramix.tensors import Tensor

CONFIG = "adapter_config.json"

_NUMBERS = {
    "F64": "<d", "F32": "<f", "F16": "<e", "I64": "<q", "I32": "<i", "I16": "<h", "I8": "<b",
    "U8": "<B",
}  # fmt: skip
_FLOATS = ("BF16", "F8_E4M3", "F8_E5M2")


KINDS = ("LORA", "LOHA", "LOKR", "IA3", "OFT", "BOFT")
"""Values of ``peft_type`` that are read."""


@dataclass(frozen=True, slots=True)
class PeftConfig:
    r"""The fields of a config of PEFT that decide what the tensors mean.

    Attributes
    ----------
    kind : ``peft_type``.
    alpha : ``lora_alpha``; ``alpha`` of LoHa and LoKr.
    rank : ``r``.
    alpha_pattern, rank_pattern : module name pattern to number; a pattern matches as
        ``(.*\.)?(pattern)$``.
    rslora : divide by the root of the rank.
    fields : all of them.
    """

    kind: str
    alpha: float
    rank: float
    alpha_pattern: Mapping[re.Pattern[str], float] = field(default_factory=dict)
    rank_pattern: Mapping[re.Pattern[str], float] = field(default_factory=dict)
    rslora: bool = False
    fields: Mapping[str, object] = field(default_factory=dict)

    def scale(self, module: str, rank: int, *, rslora: bool = False) -> float:
        """Alpha of a module over its rank (or the root of it).

        Parameters
        ----------
        rank : as the shapes say; they win over the config.
        rslora : whether the user says so.
        """
        alpha = _matching(self.alpha_pattern, module, self.alpha)
        return over_rank(alpha, rank, rslora=rslora or self.rslora)

    def stated_scale(self, module: str) -> float:
        """The same by the rank of the config: full LoKr factors do not show theirs.

        Raises
        ------
        FormatError : the rank is not positive.
        """
        rank = _matching(self.rank_pattern, module, self.rank)
        if rank <= 0:
            message = f"{CONFIG}: r = {rank:g} for {module}; it must be positive"
            raise FormatError(message)
        return _matching(self.alpha_pattern, module, self.alpha) / rank


def over_rank(alpha: float, rank: int, *, rslora: bool) -> float:
    """The scale: alpha / rank, or alpha / sqrt(rank) for rs-LoRA."""
    return alpha / (math.sqrt(rank) if rslora else rank)


def _matching(patterns: Mapping[re.Pattern[str], float], module: str, default: float) -> float:
    found = (number for pattern, number in patterns.items() if pattern.fullmatch(module))
    return next(found, default)


def scalar(tensor: Tensor, where: str) -> float:
    """The number in a one-element tensor of any float or integer type.

    Raises
    ------
    FormatError : more than one element, another type, NaN or infinity.
    """
    code = _NUMBERS.get(tensor.dtype)
    if math.prod(tensor.shape) != 1 or (code is None and tensor.dtype not in _FLOATS):
        message = (
            f"{where}: shape {list(tensor.shape)} of {tensor.dtype}, but it must be one number, "
            "floating point or an integer"
        )
        raise FormatError(message)
    if code is not None:
        value = float(struct.unpack(code, tensor.data)[0])
    else:
        value = float(decoded(tensor).reshape(-1)[0])
    if not math.isfinite(value):
        message = (
            f"{where}: {value}, but it must be finite; get another copy, or leave its module out "
            "with --skip"
        )
        raise FormatError(message)
    return value


def header_alpha(metadata: Mapping[str, str]) -> tuple[str, str] | None:
    """Under which name a header states an alpha, and what: some writers do, and no client looks."""
    found = ((name, metadata.get(name)) for name in ("alpha", "lora_alpha"))
    return next(((name, text) for name, text in found if text), None)


def configs(metadata: Mapping[str, str], where: str) -> dict[str, PeftConfig]:
    """Configs that go with a file, by component ("" if they are for all of it).

    Parameters
    ----------
    metadata : strings of the header, with the text of ``adapter_config.json`` under that name.

    Raises
    ------
    FormatError : not JSON, or of a kind that is not read.
    """
    found: dict[str, PeftConfig] = {}
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
    if kind not in KINDS:
        message = f"{where}: peft_type {kind!r}; loramix reads {', '.join(KINDS)}"
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


def _config(fields: Mapping[str, object], where: str) -> PeftConfig:
    kind = str(fields.get("peft_type", "LORA"))
    rank = _number(fields.get("r", 8), f"{where}: r")
    name = "alpha" if kind in ("LOHA", "LOKR") else "lora_alpha"
    return PeftConfig(
        kind=kind,
        alpha=_number(fields.get(name, rank), f"{where}: {name}"),
        rank=rank,
        alpha_pattern=_patterns(fields, "alpha_pattern", where),
        rank_pattern=_patterns(fields, "rank_pattern", where),
        rslora=bool(fields.get("use_rslora", False)),
        fields=MappingProxyType(dict(fields)),
    )


def _patterns(fields: Mapping[str, object], name: str, where: str) -> dict[re.Pattern[str], float]:
    patterns = fields.get(name) or {}
    if not isinstance(patterns, dict):
        message = f"{where}: {name} must map module names to numbers"
        raise FormatError(message)
    return {
        _pattern(key, f"{where}: {name}[{key!r}]"): _number(value, f"{where}: {name}[{key!r}]")
        for key, value in patterns.items()
    }


def _pattern(name: str, where: str) -> re.Pattern[str]:
    try:
        return re.compile(rf"(?:.*\.)?(?:{name})")
    except re.error as error:
        message = f"{where} is not a regular expression ({error})"
        raise FormatError(message) from error


def _number(value: object, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        message = f"{where}: {value!r}, but it must be a finite number"
        raise FormatError(message)
    return float(value)
