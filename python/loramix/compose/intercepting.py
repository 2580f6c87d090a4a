"""How a session gets between a pipeline and its denoisers, and out again."""

import functools
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType
from typing import Any, Self

from loramix.compose.families import Family
from loramix.compose.session import Session
from loramix.errors import ParamError

_NOTHING = object()
_MARK = "_loramix_session"


@contextmanager
def _replaced(owner: Any, name: str, value: object) -> Iterator[None]:  # noqa: ANN401
    """An attribute of an object, and what it was before."""
    before = owner.__dict__.get(name, _NOTHING)
    owner.__dict__[name] = value
    try:
        yield
    finally:
        if before is _NOTHING:
            owner.__dict__.pop(name, None)
        else:
            owner.__dict__[name] = before


def argument_names(denoiser: Any) -> tuple[str, ...]:  # noqa: ANN401 - torch's
    """Names of the arguments of a model, in their order."""
    return tuple(inspect.signature(type(denoiser).forward).parameters)[1:]


def is_intercepted(denoiser: Any) -> bool:  # noqa: ANN401 - torch's
    """Whether a session answers the calls of a denoiser, of this pipeline or of another one."""
    return hasattr(denoiser.forward, _MARK)


def denoisers_of(pipe: Any, family: Family) -> list[Any]:  # noqa: ANN401 - diffusers'
    """The components of a pipeline that predict.

    Raises
    ------
    ParamError : one that a session cannot stand before.
    """
    found = [m for name in family.denoisers if (m := getattr(pipe, name, None)) is not None]
    for module in found:
        kind, why = type(module).__name__, None
        if is_intercepted(module):
            why = (
                "is composing already: leave that composition first, or give one composition all "
                "adapters in its list"
            )
        elif family.latents not in argument_names(module):
            why = (
                "hides the arguments of the model, as compiled ones do: compose with the model "
                "itself"
            )
        elif getattr(module, "is_cache_enabled", False):
            why = (
                "has a cache between steps, which would mix adapters: call disable_cache() on it "
                "first"
            )
        if why is not None:
            message = f"{kind} {why}"
            raise ParamError(message)
    return found


def _caller() -> object:
    """The pipeline whose call is running, the innermost one; None: somebody calls the denoiser."""
    from diffusers import DiffusionPipeline

    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        if frame.f_code.co_name == "__call__":
            one = frame.f_locals.get("self")
            if isinstance(one, DiffusionPipeline):
                return one
        frame = frame.f_back
    return None


@contextmanager
def intercepted(denoiser: Any, pipe: Any, session: Session) -> Iterator[None]:  # noqa: ANN401
    """Every call of a denoiser goes through the session.

    Calls of another pipeline that shares it are refused with `ParamError`: which of its rows are
    unconditional, and where its runs begin, only that pipeline knows.
    """
    forward: Callable[..., Any] = denoiser.forward
    names = argument_names(denoiser)

    @functools.wraps(forward)
    def through(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - the denoiser's
        caller = _caller()
        if caller is not None and caller is not pipe:
            message = (
                f"{type(caller).__name__} calls the {type(denoiser).__name__} that "
                f"{type(pipe).__name__} composes: leave that composition, and compose the pipeline "
                "that you call"
            )
            raise ParamError(message)
        return session.call(denoiser, forward, names, args, kwargs)

    setattr(through, _MARK, session)
    with ExitStack() as stack:
        stack.enter_context(_replaced(denoiser, "forward", through))
        if hasattr(denoiser, "cache_context"):
            context = _contexts(denoiser.cache_context, session)
            stack.enter_context(_replaced(denoiser, "cache_context", context))
        yield


def _contexts(original: Callable[..., Any], session: Session) -> Callable[..., Any]:
    """The names that a pipeline gives to its calls reach the session."""

    @contextmanager
    def context(name: str, **kwargs: Any) -> Iterator[None]:  # noqa: ANN401 - the denoiser's
        with original(name, **kwargs):
            session.enter(name)
            try:
                yield
            finally:
                session.enter(None)

    return context


class _Bar:
    """A progress bar that also says how many forwards there were."""

    def __init__(self, bar: Any, session: Session) -> None:  # noqa: ANN401 - tqdm's
        self._bar = bar
        self._session = session

    def __enter__(self) -> Self:
        self._bar.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.__exit__(*error)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - tqdm's
        return getattr(self._bar, name)

    def update(self, n: float = 1) -> None:
        """A step is done."""
        self._bar.set_postfix(forwards=self._session.forwards, refresh=False)
        self._bar.update(n)


@contextmanager
def progressing(pipe: Any, session: Session) -> Iterator[None]:  # noqa: ANN401 - diffusers'
    """The start of denoising, and every step of it, are seen where progress is shown."""
    original = pipe.progress_bar

    def bar(iterable: Any = None, total: Any = None) -> Any:  # noqa: ANN401 - diffusers'
        session.begin()
        made = original(iterable, total)
        return made if iterable is not None else _Bar(made, session)

    with _replaced(pipe, "progress_bar", bar):
        yield
