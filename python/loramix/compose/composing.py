"""The context in which a pipeline composes."""

import errno
import math
import os
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from loramix.compose.accounts import Run
from loramix.compose.attaching import Attached, held, put_back, tuner_layers
from loramix.compose.families import family_of
from loramix.compose.functional.arrays import Array
from loramix.compose.functional.checks import check_count, check_number, check_word
from loramix.compose.guidance import GUIDANCE, Guidance
from loramix.compose.intercepting import argument_names, intercepted, progressing
from loramix.compose.modes import MODES, Mode
from loramix.compose.session import Session, Settings
from loramix.errors import FormatError, ParamError
from loramix.spelling import named
from loramix.types import StrPath

_ENCODERS = ("text_encoder", "text_encoder_2", "text_encoder_3")


class Composition:
    """A pipeline that composes adapters as long as the context lasts.

    Made by `compose`, which has the parameters.  The context gives the pipeline itself; when it
    ends, by an exception too, the pipeline's modules, adapters, scales and hooks are what they
    were.  It can be entered again, but not within itself.

    Attributes
    ----------
    runs : the account of every call of the pipeline so far.
    """

    def __init__(
        self,
        pipe: Any,  # noqa: ANN401 - diffusers'
        adapters: Sequence[StrPath],
        *,
        mode: str | Mode,
        weights: Sequence[float] | None,
        priors: Sequence[float] | None,
        masks: Sequence[Array | None] | None,
        guidance: str | Guidance | None,
        max_batch: int,
        text: Literal["all", "none"],
    ) -> None:
        self._pipe = pipe
        self._family = family_of(pipe)
        if isinstance(adapters, str | PathLike):
            message = f"adapters = {adapters}: give a list of files or names"
            raise ParamError(message)
        self._adapters = tuple(adapters)
        self._mode: Mode = named("mode", mode, MODES) if isinstance(mode, str) else mode
        chosen = self._mode.guidance if guidance is None else guidance
        if isinstance(chosen, str):
            chosen = named("guidance", chosen, GUIDANCE)
        self._guidance: Guidance = chosen
        count = len(self._adapters)
        self._weights = _numbers("weights", weights, count, low=-math.inf)
        self._priors = _numbers("priors", priors, count)
        if count and not any(self._priors):
            message = f"priors = {self._priors}: at least one must be above 0"
            raise ParamError(message)
        self._masks = self._checked_masks(masks)
        check_count("compose", "max_batch", max_batch)
        check_word("compose", "text", text, ("all", "none"))
        self._max_batch = max_batch
        self._text = text
        self._session: Session | None = None
        self._runs: tuple[Run, ...] = ()
        self._open: ExitStack | None = None

    def _checked_masks(
        self, masks: Sequence[Array | None] | None
    ) -> tuple[Array | None, ...] | None:
        if masks is None or all(one is None for one in masks):
            return None
        if len(masks) != len(self._adapters):
            message = (
                f"{len(masks)} masks for {len(self._adapters)} adapters: give one each, or None"
            )
            raise ParamError(message)
        if not self._mode.per_pixel:
            able = ", ".join(name for name, kind in MODES.items() if kind.per_pixel)
            message = f"mode {self._mode.name} has no weights for pixels; masks go with {able}"
            raise ParamError(message)
        return tuple(masks)

    @property
    def runs(self) -> tuple[Run, ...]:
        """The account of every call of the pipeline so far, in their order."""
        now = self._session.runs if self._session else ()
        return (*self._runs, *now)

    def __enter__(self) -> Any:  # noqa: ANN401 - the pipeline
        if self._open is not None:
            message = "this composition is already entered"
            raise ParamError(message)
        with ExitStack() as stack:
            stack.enter_context(put_back(self._pipe))
            denoisers = self._denoisers()
            names = self._load()
            encoders = [m for n in _ENCODERS if (m := getattr(self._pipe, n, None)) is not None]
            attached = Attached(denoisers, encoders, tuple(names))
            attached.set_weights(self._weights)
            if self._max_batch > 1:
                attached.check_rows()
            attached.encode_with(tuple(names) if self._text == "all" else ())
            self._session = self._new_session(attached, tuple(names.values()))
            for one in denoisers:
                stack.enter_context(intercepted(one, self._session))
            stack.enter_context(progressing(self._pipe, self._session))
            self._open = stack.pop_all()
        return self._pipe

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        opened, self._open = self._open, None
        self._runs, self._session = self.runs, None
        if opened is not None:
            opened.__exit__(kind, error, trace)

    def _new_session(self, attached: Attached, shown: tuple[str, ...]) -> Session:
        settings = Settings(
            self._mode, self._guidance, self._priors, self._masks, self._max_batch, shown
        )
        return Session(self._pipe, self._family, attached, settings)

    def _denoisers(self) -> list[Any]:
        found = [
            module
            for name in self._family.denoisers
            if (module := getattr(self._pipe, name, None)) is not None
        ]
        for module in found:
            if self._family.latents not in argument_names(module):
                message = (
                    f"{type(module).__name__} hides the arguments of the model, as compiled ones "
                    "do: compose with the model itself"
                )
                raise ParamError(message)
            if getattr(module, "is_cache_enabled", False):
                message = (
                    f"{type(module).__name__} has a cache between steps, which would mix adapters: "
                    "call disable_cache() on it first"
                )
                raise ParamError(message)
        return found

    def _load(self) -> dict[str, str]:
        """Load the files; names of all adapters as PEFT knows them, and as they are shown."""
        known = _loaded(self._pipe)
        names: dict[str, str] = {}
        for one in self._adapters:
            if isinstance(one, str) and one in known:
                name = shown = one
            elif isinstance(one, str) and not Path(one).exists():
                have = ", ".join(sorted(known)) or "none"
                message = (
                    f"adapter {one}: neither a file nor loaded in the pipeline; loaded: {have}"
                )
                raise ParamError(message)
            else:
                shown = Path(one).stem
                name = "".join(c if c.isalnum() else "_" for c in shown)
                while name in known or name in names:
                    name += "_"
                _load_file(self._pipe, one, name)
            if name in names:
                message = f"adapter {name} is given twice: give it once, with a prior"
                raise ParamError(message)
            names[name] = shown
        return names


def compose(
    pipe: Any,  # noqa: ANN401 - diffusers'
    adapters: Sequence[StrPath],
    *,
    mode: str | Mode = "loratorio",
    weights: Sequence[float] | None = None,
    priors: Sequence[float] | None = None,
    masks: Sequence[Array | None] | None = None,
    guidance: str | Guidance | None = None,
    max_batch: int = 1,
    text: Literal["all", "none"] = "all",
) -> Composition:
    """Compose adapters while a diffusers pipeline runs, without merging them.

    Calls of the pipeline's denoiser are answered by several forwards, of the base and of single
    adapters, whose predictions the mode puts together.  Nothing of the pipeline is copied.

    Parameters
    ----------
    pipe : a pipeline of `families.FAMILIES`.
    adapters : files, or names of adapters that the pipeline has loaded.  Others that it has loaded
        rest.  None: the base as it is.
    mode : an object of `modes`, or a text such as ``loratorio:tau=0.1,patch=8``.
    weights : of the deltas, one per adapter, any finite number; 1 each unless given.
    priors : weights of the predictions, one per adapter, at least 0, for modes that look at them;
        0 leaves an adapter out.  1 each unless given.
    masks : for each adapter where it acts, (rows, columns) in [0, 1] in any size, or None for
        everywhere.  Where no adapter acts, the base does.  For modes with weights per pixel.
    guidance : an object of `guidance`, or a text such as ``recentred:lambda=0.3``; None: what goes
        with the mode.
    max_batch : how many adapters (the base counts as one) are run in one forward, each with all
        rows of the pipeline; 1: in turn, which gives the same bits as the pipeline with that
        adapter.  Where the memory of a GPU is not enough, fewer.
    text : ``all``: text encoders have all adapters at once, at their weights, so prompts are
        encoded once; ``none``: they have none.

    Returns
    -------
    A context that gives the pipeline.  Its ``runs`` say who was active where and when.

    Raises
    ------
    ParamError : a pipeline that is not known, or a value out of range; when entered, an adapter
        that is not there.
    FormatError : when entered, a file that diffusers does not understand, or one without a layer
        of this pipeline.
    FileNotFoundError : when entered, a path that is not there.

    Examples
    --------
    >>> composition = loramix.compose(pipe, ["a.safetensors", "b.safetensors"])  # doctest: +SKIP
    >>> with composition as pipe:  # doctest: +SKIP
    ...     image = pipe("a cat in a hat").images[0]
    >>> composition.runs[0].forwards  # doctest: +SKIP
    300
    """
    return Composition(
        pipe, adapters, mode=mode, weights=weights, priors=priors, masks=masks, guidance=guidance,
        max_batch=max_batch, text=text,
    )  # fmt: skip


def _numbers(
    name: str, values: Sequence[float] | None, count: int, *, low: float = 0.0
) -> tuple[float, ...]:
    if values is None:
        return (1.0,) * count
    if len(values) != count:
        message = f"{len(values)} {name} for {count} adapters: give one each"
        raise ParamError(message)
    for value in values:
        check_number("compose", name, value, low=low)
    return tuple(values)


def _load_file(pipe: Any, path: StrPath, name: str) -> None:  # noqa: ANN401 - diffusers'
    """Have diffusers load a file.

    Raises
    ------
    FormatError : it does not understand it.
    FileNotFoundError : it is not there.
    """
    from safetensors import SafetensorError

    if not Path(path).exists():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    try:
        with warnings.catch_warnings():
            # PEFT warns of a second adapter in a model: that is what is wanted here.
            warnings.filterwarnings("ignore", "Already found a `peft_config`", UserWarning)
            pipe.load_lora_weights(str(path), adapter_name=name)
    except (ValueError, KeyError, RuntimeError, NotImplementedError, SafetensorError) as error:
        message = f"{path}: diffusers cannot load it into {type(pipe).__name__}: {error}"
        raise FormatError(message) from error


def _loaded(pipe: Any) -> set[str]:  # noqa: ANN401 - diffusers'
    """Names of the adapters in any component."""
    parts = [getattr(pipe, n, None) for n in ("unet", "transformer", "transformer_2", *_ENCODERS)]
    return {
        name
        for part in parts
        if part is not None
        for layer in tuner_layers(part).values()
        for name in held(layer)
    }
