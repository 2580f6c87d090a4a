"""The short list of a pool, loaded into a pipeline of which it fills no more than its place."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from loramix.compose.components import ENCODERS, components_of, forget, held, tuner_layers
from loramix.compose.fitting import shapes_of
from loramix.compose.loading import Loader
from loramix.compose.modes.base import Moment, Weigher
from loramix.compose.pool import Candidate, Pool, short_list
from loramix.compose.residing import Residents
from loramix.errors import LoramixError, ParamError

_SHOWN = 3
_MANY = 1_000_000
"""Steps of a run whose first and last are as near to its ends as any."""


def fill(
    pool: Pool,
    pipe: Any,  # noqa: ANN401 - diffusers'
    loader: Loader,
    denoisers: Sequence[Any],
    folder: Path,
    architecture: str | None,
) -> tuple[tuple[Candidate, ...], Residents]:
    """Load the short list, never more of it at a time than may be held; text encoders get none.

    Files that cannot take part leave their place to others, and a note.

    Raises
    ------
    ParamError : see `short_list`.
    """
    parts = components_of(pipe)
    residents = Residents(pool.hold, folder)

    def enter(one: Candidate) -> str:
        residents.room()
        try:
            name = loader.add(one.path, one.name)
        except LoramixError as error:
            return f"it cannot be loaded: {error}"
        for component in ENCODERS:
            if component in parts:
                forget(parts[component], name)
        layers = [tuner_layers(part) for part in denoisers]
        if not any(name in held(layer) for one in layers for layer in one.values()):
            loader.drop(name)
            return "diffusers found no layer of this pipeline's denoiser in it"
        residents.store(name, layers)
        return ""

    shapes = shapes_of({name: part for name, part in parts.items() if name not in ENCODERS})
    found = short_list(pool, shapes, enter, architecture)
    loader.notes.extend(unfit(found))
    return found, residents


def unfit(candidates: Sequence[Candidate]) -> Iterator[str]:
    """A note about the files that cannot take part, whatever the prompt is."""
    bad = [one for one in candidates if not one.fits]
    if bad:
        why = "; ".join(f"{one.name}: {one.left_out}" for one in bad[:_SHOWN])
        more = f"; and {len(bad) - _SHOWN} more" if len(bad) > _SHOWN else ""
        yield f"{len(bad)} of {len(candidates)} files of the pool cannot take part: {why}{more}"


def refuse_crowds(mode: Weigher, name: str, count: int, hold: int) -> None:
    """Refuse modes that run more adapters in one forward than may be held.

    Parameters
    ----------
    mode : with what saves work around it.
    name : of the mode, for the message.

    Raises
    ------
    ParamError : such a mode.
    """
    moments = [Moment(step, _MANY, (1.0,) * count) for step in (0, _MANY // 2, _MANY - 1)]
    most = max(len(one.active) for moment in moments for one in mode.passes(moment, None))
    if most > hold:
        message = (
            f"mode {name} runs {most} adapters in one forward, hold = {hold}: hold as many, or "
            "choose a mode that runs one at a time, without a window"
        )
        raise ParamError(message)
