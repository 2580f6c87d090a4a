"""Sizes of pictures that a model can draw, as its folder says before weights are read."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from loramix.errors import ParamError


def refuse_size(kind: type, folder: Path, call: Mapping[str, Any]) -> None:
    """Refuse sizes that a pipeline refuses once it is open, or would quietly make smaller.

    Parameters
    ----------
    kind : class of the pipeline.
    folder : of the model; what it does not say is left to the pipeline.
    call : arguments of the pipeline.

    Raises
    ------
    ParamError : a width or a height that is no multiple of what the model draws.
    """
    rule = next((_RULES[one.__name__] for one in kind.__mro__ if one.__name__ in _RULES), None)
    step = rule(folder) if rule is not None else None
    if step is None:
        return
    for name in ("width", "height"):
        size = call.get(name, 0)
        if size % step:
            low = size // step * step
            near = " or ".join(str(one) for one in (low, low + step) if one)
            message = f"--{name} {size}: {kind.__name__} draws multiples of {step}: try {near}"
            raise ParamError(message)


def _config(folder: Path, component: str) -> Mapping[str, Any]:
    """The configuration of a component; nothing where it cannot be read."""
    try:
        found = json.loads((folder / component / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}  # diffusers says what is wrong with it
    return found if isinstance(found, dict) else {}


def _eight(folder: Path) -> int | None:  # noqa: ARG001 - as the other rules
    """Pixels of a latent, whatever the VAE is."""
    return 8


def _halvings(folder: Path, key: str, *, less: int) -> int | None:
    """Pixels of a latent, from a list in the VAE's configuration with so many entries too many."""
    stages = _config(folder, "vae").get(key)
    return 2 ** (len(stages) - less) if isinstance(stages, list) and len(stages) >= less else None


def _patches(folder: Path) -> int | None:
    """Pixels of a patch of the transformer."""
    pixels = _halvings(folder, "block_out_channels", less=1)
    patch = _config(folder, "transformer").get("patch_size")
    return pixels * patch if pixels and isinstance(patch, int) and patch > 0 else None


def _tokens(key: str, *, less: int) -> Callable[[Path], int | None]:
    """Pixels of a token of 2 x 2 latents."""

    def rule(folder: Path) -> int | None:
        pixels = _halvings(folder, key, less=less)
        return 2 * pixels if pixels else None

    return rule


_RULES: Mapping[str, Callable[[Path], int | None]] = {
    "StableDiffusionPipeline": _eight,
    "StableDiffusionXLPipeline": _eight,
    "StableDiffusion3Pipeline": _patches,
    "FluxPipeline": _tokens("block_out_channels", less=1),
    "QwenImagePipeline": _tokens("temperal_downsample", less=0),
}
"""Those that make a picture of a prompt."""
