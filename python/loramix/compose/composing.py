"""The context in which a pipeline composes."""

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any, Literal, TypeAlias

from loramix.compose.accounts import Run
from loramix.compose.attaching import Attached
from loramix.compose.components import ENCODERS
from loramix.compose.families import family_of
from loramix.compose.filling import fill, refuse_crowds
from loramix.compose.functional.arrays import Array
from loramix.compose.functional.checks import check_count, check_word
from loramix.compose.guidance import GUIDANCE, Guidance
from loramix.compose.intercepting import denoisers_of, intercepted, progressing
from loramix.compose.loading import Loader
from loramix.compose.modes import MODES, Merge, Mode
from loramix.compose.modes.base import Tempered
from loramix.compose.noting import bounds, unread
from loramix.compose.pool import Candidate, Pool
from loramix.compose.residing import Residents
from loramix.compose.restoring import put_back
from loramix.compose.saving import Saving
from loramix.compose.session import Session, Settings
from loramix.compose.wishes import (
    Each,
    adapters_of,
    masks_for,
    numbers,
    refuse_with_pool,
    rule_of,
    saving_of,
)
from loramix.deciding import policy_for
from loramix.errors import ParamError
from loramix.types import StrPath

Text: TypeAlias = Literal["all", "none"]


class Composition:
    """A pipeline that composes adapters as long as the context lasts.

    Made by `compose`, which has the parameters.  The context gives the pipeline itself; when it
    ends, by an exception too, the pipeline's modules, adapters, scales and hooks are what they
    were.  It can be entered again, but not within itself or another
    one of the same denoiser.

    Attributes
    ----------
    mode, guidance, saving : what is used, with all parameters.
    runs : the account of every call of the pipeline so far.
    candidates : of a pool, when it was entered: the short list, best first, and all others with
        the reason.  Empty for a list of adapters.
    """

    def __init__(
        self,
        pipe: Any,  # noqa: ANN401 - diffusers'
        adapters: Each[StrPath] | Pool,
        *,
        mode: str | Mode | type[Mode],
        weights: Each[float] | None,
        priors: Each[float] | None,
        masks: Each[Array | None] | None,
        guidance: str | Guidance | type[Guidance] | None,
        saving: str | Saving | None,
        max_batch: int,
        text: Text | None,
        architecture: str | None,
    ) -> None:
        self._pipe = pipe
        self._family = family_of(pipe)
        self._pool = adapters if isinstance(adapters, Pool) else None
        self._adapters, self._names = adapters_of(adapters)
        self._mode: Mode = rule_of("mode", mode, MODES)
        if isinstance(self._mode, Merge):
            policy_for(self._mode.method)  # says what is known
        chosen = self._mode.guidance if guidance is None else guidance
        self._guidance: Guidance = rule_of("guidance", chosen, GUIDANCE)
        self._saving = saving_of(saving)
        self._weigher = self._saving.around(self._mode)
        if self._pool is not None:
            refuse_with_pool(self._mode, weights=weights, priors=priors, masks=masks, text=text)
        count = len(self._adapters)
        given = numbers("weights", weights, count, self._names, low=-math.inf)
        self._weights: tuple[float | None, ...] = given or (None,) * count
        self._priors = numbers("priors", priors, count, self._names) or (1.0,) * count
        if count and not any(self._priors):
            message = f"priors = {self._priors}: at least one must be above 0"
            raise ParamError(message)
        self._masks = masks_for(self._mode, masks, count, self._names)
        check_count("compose", "max_batch", max_batch)
        self._max_batch = max_batch
        self._text: Text = text or ("all" if self._pool is None else "none")
        check_word("compose", "text", self._text, ("all", "none"))
        self._architecture = architecture
        self._session: Session | None = None
        self._runs: tuple[Run, ...] = ()
        self._open: ExitStack | None = None
        self.candidates: tuple[Candidate, ...] = ()

    @property
    def mode(self) -> Mode:
        """That is used, with all its parameters."""
        return self._mode

    @property
    def guidance(self) -> Guidance:
        """That is used: the user's, or what goes with the mode."""
        return self._guidance

    @property
    def saving(self) -> Saving:
        """That is used, with all its parameters."""
        return self._saving

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
            folder = Path(stack.enter_context(TemporaryDirectory(prefix="loramix-")))
            denoisers = denoisers_of(self._pipe, self._family)
            stack.enter_context(put_back(self._pipe))
            loader = Loader(self._pipe, folder, self._architecture)
            attached, priors = self._attach(loader, denoisers, folder)
            stack.callback(attached.unfuse)
            if self._max_batch > 1:
                attached.check_rows()
            priors = self._take(attached, priors, loader)
            settings = Settings(
                self._weigher, self._guidance, priors, self._masks, self._max_batch,
                tuple(loader.names.values()), (*loader.notes, *unread(self._mode, self._priors)),
                self._sharper,
            )  # fmt: skip
            self._session = Session(self._pipe, self._family, attached, settings)
            for one in denoisers:
                stack.enter_context(intercepted(one, self._pipe, self._session))
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

    def _attach(
        self, loader: Loader, denoisers: Sequence[Any], folder: Path
    ) -> tuple[Attached, tuple[float, ...]]:
        """Load the adapters: at their weights, with their priors."""
        residents: Residents | None = None
        weights: Sequence[float | None]
        labels = self._names or loader.labels(self._adapters)
        if self._pool is not None:
            self.candidates, residents = fill(
                self._pool, self._pipe, loader, denoisers, folder, self._architecture
            )
            refuse_crowds(self._weigher, self._mode.name, len(loader.names), self._pool.hold)
            weights = (self._pool.weight,) * len(loader.names)
            priors = (1.0,) * len(weights)
        elif isinstance(self._mode, Merge) and self._mode.method != "linear" and self._several:
            files = {labels[i]: self._adapters[i] for i in self._several}
            merged = [self._weights[i] for i in self._several]
            loader.add_merged(files, merged, self._mode.method)
            weights = priors = (1.0,)
        else:
            for one, label in zip(self._adapters, labels, strict=True):
                loader.add(one, label)
            weights, priors = self._weights, self._priors
        encoders = [m for n in ENCODERS if (m := getattr(self._pipe, n, None)) is not None]
        attached = Attached(denoisers, encoders, tuple(loader.names), residents)
        attached.set_weights(weights)
        return attached, priors

    def _take(
        self, attached: Attached, priors: tuple[float, ...], loader: Loader
    ) -> tuple[float, ...]:
        """Who takes part in forwards, and who in texts; what only does one of both is noted."""
        texts = self._text == "all"
        wanted = [name for name, prior in zip(attached.names, priors, strict=True) if prior > 0]
        attached.encode_with(wanted if texts else ())
        for name in wanted:
            loader.notes.extend(bounds(loader.names[name], attached.acting(name), texts=texts))
        return attached.take(priors)

    @property
    def _sharper(self) -> Callable[[float], str | None] | None:
        """What to try where weights turn out to be nearly the priors."""
        return self._mode.sharper if isinstance(self._mode, Tempered) else None

    @property
    def _several(self) -> tuple[int, ...]:
        """The adapters with a prior, where there are two or more."""
        taking = tuple(i for i, prior in enumerate(self._priors) if prior > 0)
        return taking if len(taking) > 1 else ()


def compose(
    pipe: Any,  # noqa: ANN401 - diffusers'
    adapters: Each[StrPath] | Pool,
    *,
    mode: str | Mode | type[Mode] = "loratorio",
    weights: Each[float] | None = None,
    priors: Each[float] | None = None,
    masks: Each[Array | None] | None = None,
    guidance: str | Guidance | type[Guidance] | None = None,
    saving: str | Saving | None = None,
    max_batch: int = 1,
    text: Text | None = None,
    architecture: str | None = None,
) -> Composition:
    """Compose adapters while a diffusers pipeline runs, without merging them.

    Calls of the pipeline's denoiser are answered by several forwards, of the base and of single
    adapters, whose predictions the mode puts together.  Nothing of the pipeline is copied.

    Parameters
    ----------
    pipe : a pipeline of `families.FAMILIES`.
    adapters : files or folders of any dialect and family that loramix reads, or names of adapters
        that the pipeline has loaded; or a `Pool`.  Others that it has loaded rest.  An empty list:
        the base as it is.  A mapping gives each a name of the user's, by which it is accounted for,
        and by which weights, priors and masks may be given.
    mode : an object or a class of `modes`, or a text such as ``loratorio:tau=0.1,patch=8``.
    weights : of the deltas, one per adapter, any finite number (of Python, NumPy or torch).  Unless
        given, 1 for files, and for what is loaded the strength that it has there
        (``set_adapters``), in every layer.
    priors : weights of the predictions, one per adapter, at least 0, for modes that look at them;
        0 leaves an adapter out, of text encoders too.  1 each unless given.
    masks : for each adapter where it acts, (rows, columns) in [0, 1] in any size, or None for
        everywhere.  Where no adapter acts, the base does.  For modes with weights per pixel.
    guidance : an object or a class of `guidance`, or a text such as ``recentred:lambda=0.3``;
        None: what goes with the mode.
    saving : a `Saving` or a text such as ``every=3,skip=0.05,window=0.2+0.8``: weights that stay
        for some steps, light adapters that rest meanwhile, a part of the run in which the mode
        composes.
    max_batch : how many adapters (the base counts as one) are run in one forward, each with all
        rows of the pipeline; 1: in turn, which gives the same bits as the pipeline with that
        adapter.  Where the memory of a GPU is not enough, fewer.
    text : ``all`` (default for a list): text encoders have all adapters at once, at their weights,
        so prompts are encoded once; ``none`` (a pool): they have none.  An adapter that no denoiser
        has a layer of takes part in no forward.
    architecture : see `loramix.load`, for files whose names and shapes cannot tell.

    Returns
    -------
    A context that gives the pipeline.  Its ``runs`` say who was active where and when.

    Raises
    ------
    ParamError : a pipeline that is not known, or a value out of range; when entered, an adapter
        that is not there, or a denoiser that is composing already; from a call of the pipeline,
        adapters that were changed inside the context, or another pipeline with this denoiser.
    ShapeError : a mask that is not (rows, columns).
    FormatError : when entered, a file that neither loramix nor diffusers understands, one without a
        layer of this pipeline, or one with NaN or infinity.
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
        saving=saving, max_batch=max_batch, text=text, architecture=architecture,
    )  # fmt: skip
