"""The tensor files of a base model, from what a user names.

A file; the index of a sharded one; a folder that holds either; a folder of a diffusers pipeline
with a sub-folder for each component; a model in a local cache of the Hugging Face hub, see
`loramix.finding`.  Nothing is downloaded.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from loramix.errors import FormatError
from loramix.finding import INDEX, PIPELINE, cached, snapshot

_SUFFIX = ".safetensors"
_PREFERRED = ("model", "diffusion_pytorch_model")


@dataclass(frozen=True, slots=True)
class Part:
    """One tensor file of a model.

    Attributes
    ----------
    path : the file.
    component : the sub-folder of a pipeline that it belongs to; None elsewhere.
    names : tensors that an index expects in it; None without an index.
    """

    path: Path
    component: str | None = None
    names: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """Where a model is.

    Attributes
    ----------
    root : its file, or its folder.
    parts : its tensor files, in the order of their names.
    """

    root: Path
    parts: tuple[Part, ...]

    @property
    def folder(self) -> bool:
        """Whether it is more than one file."""
        return self.root.is_dir()


def find(path: Path) -> Found:
    """The files of a model.

    Raises
    ------
    FormatError : a folder in which nothing, or too much, could be meant; an index that does not
        fit its files.
    OSError : there is nothing, or it cannot be read.
    """
    path = path if path.exists() else cached(path)
    if path.name.endswith(INDEX):
        return Found(path.parent, _indexed(path, None))
    if not path.is_dir():
        return Found(path, (Part(path),))
    root = snapshot(path)
    if not (root / PIPELINE).is_file():
        parts = _in_folder(root, None)
        if not parts:
            message = (
                f"{root}: neither {PIPELINE}, nor an index of shards, nor a {_SUFFIX} file in "
                "it; name the file, or the folder of a diffusers or transformers model"
            )
            raise FormatError(message)
        return Found(root, parts)
    folders = sorted(one for one in root.iterdir() if one.is_dir())
    parts = tuple(part for one in folders for part in _in_folder(one, one.name))
    if not parts:
        message = (
            f"{root}: a diffusers pipeline without a {_SUFFIX} file; pickled weights are not read: "
            "save the pipeline with safe_serialization=True"
        )
        raise FormatError(message)
    return Found(root, parts)


def _in_folder(folder: Path, component: str | None) -> tuple[Part, ...]:
    """The files of one model; empty if there are none."""
    indices = sorted(folder.glob(f"*{INDEX}"))
    files = sorted(folder.glob(f"*{_SUFFIX}"))
    preferred = [folder / (name + _SUFFIX) for name in _PREFERRED]
    first = [file for file in preferred if file.is_file()]
    plain = [folder / (name + INDEX) for name in _PREFERRED if (folder / (name + INDEX)).is_file()]
    if len(first) == 1:
        return (Part(first[0], component),)
    if not first and (len(plain) == 1 or len(indices) == 1):
        return _indexed((plain or indices)[0], component)
    if not first and not indices and len(files) <= 1:
        return tuple(Part(file, component) for file in files)
    names = ", ".join(file.name for file in (*indices, *files)[:4])
    message = (
        f"{folder}: {len(files)} {_SUFFIX} files and {len(indices)} indices ({names}, ...): which "
        "of them is the model? Name the file or the index itself"
    )
    raise FormatError(message)


def _indexed(index: Path, component: str | None) -> tuple[Part, ...]:
    names: dict[str, list[str]] = {}
    for name, file in _weight_map(index).items():
        names.setdefault(file, []).append(name)
    parts = []
    for file in sorted(names):
        path = index.parent / file
        if PurePosixPath(file).name != file or "\\" in file or not file.endswith(_SUFFIX):
            message = (
                f"{index}: {file!r} is no {_SUFFIX} file of this folder; the shards of a model "
                "lie beside their index"
            )
            raise FormatError(message)
        if not path.is_file():
            message = f"{index}: the shard {file} is missing; download the model again"
            raise FormatError(message)
        parts.append(Part(path, component, frozenset(names[file])))
    return tuple(parts)


def _weight_map(index: Path) -> Mapping[str, str]:
    try:
        found = json.loads(index.read_text(encoding="utf-8"))
    except ValueError as error:  # not UTF-8, or not JSON
        message = f"{index}: not JSON ({error})"
        raise FormatError(message) from error
    table = found.get("weight_map") if isinstance(found, dict) else None
    if not isinstance(table, dict) or not table or not _is_text(list(table.values())):
        message = f"{index}: an index has a weight_map from names of tensors to names of files"
        raise FormatError(message)
    return table


def _is_text(values: Sequence[object]) -> bool:
    return all(isinstance(value, str) for value in values)
