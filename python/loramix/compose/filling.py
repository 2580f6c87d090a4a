"""The short list of a pool, loaded into a pipeline of which it fills no more than its place."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from loramix.compose.components import ENCODERS, components_of, held, tuner_layers
from loramix.compose.loading import Loader
from loramix.compose.modes import Mode, Moment
from loramix.compose.pool import Candidate, Pool, short_list
from loramix.compose.residing import Residents
from loramix.errors import ParamError


def fill(
    pool: Pool,
    pipe: Any,  # noqa: ANN401 - diffusers'
    loader: Loader,
    denoisers: Sequence[Any],
    folder: Path,
    architecture: str | None,
) -> tuple[tuple[Candidate, ...], Residents]:
    """Load the short list, never more of it at a time than may be held; text encoders get none.

    Raises
    ------
    ParamError, FormatError : see `short_list` and `Loader`.
    """
    parts = components_of(pipe)
    found = short_list(pool, _shapes(parts), architecture)
    residents = Residents(pool.hold, folder)
    for one in found:
        if one.left_out:
            continue
        residents.room()
        name = loader.add(one.path)
        for component in ENCODERS:
            if component in parts:
                _delete(parts[component], name)
        residents.store(name, [tuner_layers(part) for part in denoisers])
    return found, residents


def refuse_crowds(mode: Mode, count: int, hold: int) -> None:
    """Refuse modes that run more adapters in one forward than may be held.

    Raises
    ------
    ParamError : such a mode.
    """
    moments = [Moment(step, 100, (1.0,) * count) for step in (0, 50, 99)]
    most = max(len(one.active) for moment in moments for one in mode.passes(moment, None))
    if most > hold:
        message = (
            f"mode {mode.name} runs {most} adapters in one forward, hold = {hold}: hold as many, "
            "or choose a mode (and a window) that runs one at a time"
        )
        raise ParamError(message)


def _shapes(parts: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Shapes of the weights of the denoisers by canonical key."""
    return {
        f"{component}.{name.removesuffix('.base_layer')}": tuple(layer.weight.shape)
        for component, part in parts.items()
        if component not in ENCODERS
        for name, layer in part.named_modules()
        if getattr(layer, "weight", None) is not None
    }


def _delete(part: Any, name: str) -> None:  # noqa: ANN401 - torch's
    """Take an adapter out of the layers of a component."""
    for layer in tuner_layers(part).values():
        if name in held(layer):
            layer._active_adapter = []  # PEFT would choose another one, aloud
            layer.delete_adapter(name)
