"""What a user should know before the first step, as sentences."""

from collections.abc import Iterator, Sequence

from loramix.compose.components import SECOND
from loramix.compose.modes.base import Mode


def bounds(shown: str, acting: Sequence[bool], *, texts: bool) -> Iterator[str]:
    """What an adapter does not do.

    Parameters
    ----------
    shown : its name.
    acting : for every denoiser, whether the adapter has a layer in it.
    texts : whether text encoders have adapters.
    """
    if not any(acting):
        does = "it takes part in no forward and has no weight" if texts else "it does nothing here"
        yield f"{shown}: for text encoders only: {does}"
    elif not all(acting):
        here, other = ("transformer", SECOND) if acting[0] else (SECOND, "transformer")
        yield (
            f"{shown}: for {here} only: where {other} runs, it takes part in no forward (see "
            "'Two models' in docs/COMPOSE.md)"
        )


def unread(mode: Mode, priors: Sequence[float]) -> Iterator[str]:
    """That priors make no difference, where they do not."""
    other = mode.in_place_of_priors
    if other is not None and len({prior for prior in priors if prior > 0}) > 1:
        use = "give weights" if other == "weights" else f"mode {other} does"
        yield f"mode {mode.name} does not weigh by priors: {use}"
