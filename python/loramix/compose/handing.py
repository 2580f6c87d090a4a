"""A file handed over to diffusers, which has its own names, noises and errors."""

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from loramix.compose.components import SECOND
from loramix.errors import FormatError

_NO_KEYS = "No LoRA keys associated to"
"""What diffusers says of components that a file has nothing for: text encoders, as a rule."""
_LEFT_OUT = "Loading adapter weights from state_dict led to"
"""What it says of targets that it has no layer for."""
_LOGS = ("loaders.peft", "loaders.lora_base", "loaders.lora_pipeline", "utils.peft_utils")
"""Where it says so."""


class Misfit(FormatError):
    """A file that diffusers does not understand, or not for this pipeline."""


def hand_over(
    pipe: Any,  # noqa: ANN401 - diffusers'
    readable: Path,
    name: str,
    *,
    told: bool,
) -> None:
    """Have diffusers load a file.

    Parameters
    ----------
    readable : the file itself, or its conversion.
    told : whether the user is told what of it is not in the pipeline.

    Raises
    ------
    Misfit : it does not understand it.
    """
    from safetensors import SafetensorError

    silent = [_NO_KEYS, f"Loading {name} was unsuccessful", *[_LEFT_OUT] * told]
    try:
        with warnings.catch_warnings(), _unsaid(tuple(silent)):
            # PEFT warns of a second adapter in a model: that is what is wanted here.
            warnings.filterwarnings("ignore", "Already found a `peft_config`", UserWarning)
            for tensors, how in _halves(pipe, readable):
                pipe.load_lora_weights(tensors, adapter_name=name, **how)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        said = " ".join(map(str.strip, str(error).strip().splitlines()[:2])) or type(error).__name__
        message = f"diffusers cannot load it into {type(pipe).__name__}: {said.rstrip('.')}"
        raise Misfit(message) from error


@contextmanager
def _unsaid(beginnings: tuple[str, ...]) -> Iterator[None]:
    """Keep messages of diffusers that begin so out of its log: what is said here replaces them."""

    def wanted(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith(beginnings)

    logs = [logging.getLogger(f"diffusers.{name}") for name in _LOGS]
    for one in logs:
        one.addFilter(wanted)
    try:
        yield
    finally:
        for one in logs:
            one.removeFilter(wanted)


def _halves(pipe: Any, file: Path) -> Iterator[tuple[Any, Mapping[str, bool]]]:  # noqa: ANN401
    """What diffusers is given of a file, and told of it: two parts of one that is for two models.

    diffusers does not look for the second model's tensors by itself.
    """
    from safetensors.torch import load_file

    second = f"{SECOND}."
    if getattr(pipe, SECOND, None) is None or not file.is_file() or not _has(file, second):
        yield str(file), {}
        return
    tensors = load_file(file)
    first = {key: value for key, value in tensors.items() if not key.startswith(second)}
    if first:
        yield first, {}
    rest = {
        f"transformer.{key.removeprefix(second)}": value
        for key, value in tensors.items()
        if key.startswith(second)
    }
    yield rest, {"load_into_transformer_2": True}


def _has(file: Path, prefix: str) -> bool:
    """Whether a file has a tensor whose name begins so."""
    from safetensors import safe_open

    with safe_open(file, "pt") as opened:
        return any(key.startswith(prefix) for key in opened.keys())  # noqa: SIM118 - no mapping
