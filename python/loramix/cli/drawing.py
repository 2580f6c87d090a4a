"""A picture from a diffusers pipeline, with what its libraries say turned into one line."""

import inspect
import io
import json
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loramix.cli.sizing import refuse_size
from loramix.errors import FormatError, ModelError, OutputError, ParamError

if TYPE_CHECKING:
    from loramix.compose import Composition, Run

TYPES = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}
"""Names of element types, and torch's."""
KINDS = {".png": "PNG", ".webp": "WEBP", ".jpg": "JPEG", ".jpeg": "JPEG"}
"""Kinds of pictures by the end of their names."""


def need_diffusers(what: str) -> None:
    """Refuse where the packages are not installed that this needs.

    Raises
    ------
    ParamError : one is missing.
    """
    from importlib.util import find_spec

    missing = [name for name in ("torch", "diffusers", "peft") if find_spec(name) is None]
    if missing:
        message = f"{what} needs {', '.join(missing)}: pip install 'loramix[diffusers]'"
        raise ParamError(message)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep what libraries tell programmers from the user's terminal."""
    from diffusers.utils import logging as theirs
    from transformers.utils import logging as others

    for one in (theirs, others):
        one.set_verbosity(one.CRITICAL)
        one.disable_progress_bar()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def refuse_model(model: str, call: Mapping[str, Any]) -> None:
    """Refuse a model that cannot be drawn with, by its index: before any weights are read.

    Parameters
    ----------
    model : a folder, or a name in a local cache; what is in neither is not looked at.
    call : arguments of the pipeline.

    Raises
    ------
    ModelError : no folder of a pipeline.
    ParamError : of a kind that is not known, that does not make a picture of a prompt, or not of
        this size.
    """
    from loramix.finding import PIPELINE

    folder = _folder_of(model)
    if folder is None:
        return
    index = folder / PIPELINE
    kind = _kind_in(model, index)
    try:
        refuse_call(kind, call)
    except ParamError as error:
        message = f"{index}: {error}"
        raise ParamError(message) from None
    refuse_size(kind, folder, call)


def _folder_of(model: str) -> Path | None:
    from loramix.finding import cached

    if Path(model).exists():
        return Path(model)
    try:
        return cached(model)
    except (FormatError, FileNotFoundError):
        return None  # diffusers may fetch it, or says what is wrong


def _kind_in(model: str, index: Path) -> type:
    """The class of the pipeline that an index is of.

    Raises
    ------
    ModelError : no index, or of no class that the installed diffusers has.
    """
    import diffusers

    from loramix.compose.families import FAMILIES

    if not index.is_file():
        message = (
            f"{model}: no {index.name} there: name the folder of a diffusers pipeline, as "
            "save_pretrained writes it"
        )
        raise ModelError(message)
    try:
        found = json.loads(index.read_text(encoding="utf-8"))
    except ValueError as error:
        message = f"{index}: no JSON: {_line(error)}"
        raise ModelError(message) from error
    name = found.get("_class_name") if isinstance(found, dict) else None
    kind = getattr(diffusers, str(name), None)
    if not isinstance(kind, type):
        message = (
            f"{index}: its _class_name is {name!r}, and diffusers {diffusers.__version__} has no "
            f"such pipeline; composing knows {', '.join(FAMILIES)}"
        )
        raise ModelError(message)
    return kind


def open_pipeline(model: str, dtype: str | None, device: str | None, *, fetch: bool) -> Any:  # noqa: ANN401
    """Open the model.

    Raises
    ------
    ModelError : it is not there, or no pipeline.
    ParamError : a type or a device that is not there.
    """
    import torch
    from diffusers import DiffusionPipeline

    if dtype is not None and dtype not in TYPES:
        message = f"--dtype {dtype}: allowed is {', '.join(TYPES)}"
        raise ParamError(message)
    where = _device(device)
    kind = getattr(torch, TYPES[dtype or ("f32" if where.type == "cpu" else "bf16")])
    path = Path(model)
    try:
        opened: Any = DiffusionPipeline.from_pretrained  # untyped
        pipe = opened(model, torch_dtype=kind, local_files_only=not fetch)
    except (OSError, ValueError, TypeError, AttributeError, KeyError) as error:
        message = f"{model}: diffusers cannot open it: {_line(error)}"
        if not fetch and not path.exists():
            message = (
                f"{model}: no such folder, and no such model in the local cache of the hub; "
                "--fetch lets diffusers download it"
            )
        raise ModelError(message) from error
    return pipe.to(where)


def type_of(pipe: Any) -> str:  # noqa: ANN401 - diffusers'
    """The element type of a pipeline, as ``--dtype`` has it."""
    theirs = str(pipe.dtype).removeprefix("torch.")
    return next((name for name, one in TYPES.items() if one == theirs), theirs)


def _device(name: str | None) -> Any:  # noqa: ANN401 - torch's
    """Where to run.

    Raises
    ------
    ParamError : no such device.
    """
    import torch

    if name is None:
        found = [one for one in ("cuda", "mps") if getattr(torch, one).is_available()]
        return torch.device((*found, "cpu")[0])
    try:
        where = torch.device(name)
        torch.empty(1, device=where)
    except (RuntimeError, AssertionError) as error:
        message = f"--device {name}: {_line(error)}"
        raise ParamError(message) from None
    return where


def refuse_call(kind: type, call: Mapping[str, Any]) -> None:
    """Refuse pipelines that do not make a picture of a prompt, and options that they lack.

    Raises
    ------
    ParamError : what it is, and what to do.
    """
    from loramix.compose.families import family_of_class

    name = kind.__name__
    family_of_class(kind)
    known = inspect.signature(kind.__call__).parameters
    for argument, what in (("num_frames", "makes videos"), ("image", "begins with a picture")):
        if argument in known:
            message = f"{name} {what}: use loramix.compose from Python, see docs/COMPOSE.md"
            raise ParamError(message)
    for one in call:
        if one not in known:
            message = f"{name} has no {one}: leave --{one.replace('_', '-')} out"
            raise ParamError(message)


def drawn(composition: "Composition", call: Mapping[str, Any], seed: int, *, hidden: bool) -> Any:  # noqa: ANN401
    """The picture.

    Raises
    ------
    ParamError : the pipeline refuses what it is asked for.
    """
    import torch

    with composition as pipe:
        pipe.set_progress_bar_config(disable=hidden or not sys.stderr.isatty())
        generator = torch.Generator().manual_seed(seed)
        try:
            return pipe(**call, generator=generator).images[0]
        except ValueError as error:
            message = f"{type(pipe).__name__}: {_line(error)}"
            raise ParamError(message) from error


def write(
    places: tuple[Path, Path, Path],
    picture: Any,  # noqa: ANN401 - Pillow's
    run: "Run",
    facts: Mapping[str, object],
) -> None:
    """Write all three, none before all are made.

    Raises
    ------
    OutputError, OSError : one cannot be written.
    """
    from loramix.compose.picturing import picture_of
    from loramix.io.text import write_bytes

    data = (
        _encoded(picture, KINDS[places[0].suffix.lower()]),
        _encoded(picture_of(run), "PNG"),
        (json.dumps(facts, indent=2, allow_nan=False) + "\n").encode(),
    )
    for place, content in zip(places, data, strict=True):
        write_bytes(place, content)


def _encoded(picture: Any, kind: str) -> bytes:  # noqa: ANN401 - Pillow's
    buffer = io.BytesIO()
    try:
        picture.save(buffer, kind)
    except (KeyError, OSError) as error:
        message = f"Pillow cannot write {kind} here: {error}; choose .png"
        raise OutputError(message) from error
    return buffer.getvalue()


def _line(error: BaseException) -> str:
    """The first line of what a library says."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
