"""A base model written anew: files like those of another one, whole or not at all."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from loramix.checkpoints.checkpoint import Checkpoint, Shard
from loramix.errors import OutputError
from loramix.io.disk import umask
from loramix.io.writing import SafetensorsWriter, header_room

_WEIGHTS = frozenset(
    (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".msgpack", ".h5", ".onnx", ".gguf")
)  # fmt: skip


class ModelPlace:
    """Where a model is written; use as a context manager.

    Its files get their names when all of them are there.  Leaving without `commit` removes what
    was begun.

    Parameters
    ----------
    path : file, or folder where the model is more than one file.
    model : which it is like.

    Raises
    ------
    OutputError : a place where it cannot be, or that would surprise.
    """

    def __init__(self, path: Path, model: Checkpoint) -> None:
        self.path = path
        self._model = model
        self._folder = model.root.is_dir()
        _check(path, model)
        self._writers: list[SafetensorsWriter] = []
        self._hidden: Path | None = None
        if self._folder:
            self._hidden = Path(
                tempfile.mkdtemp(
                    prefix=f".{path.name}.", suffix=".part", dir=path.absolute().parent
                )
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for writer in self._writers:
            writer.close()
        if self._hidden is not None:
            shutil.rmtree(self._hidden, ignore_errors=True)

    def writer(self, shard: Shard, metadata: dict[str, str]) -> SafetensorsWriter:
        """For a file that changes.

        Parameters
        ----------
        metadata : as long as what it will have.
        """
        entries = [(name, len(tensor.shape)) for name, tensor in shard.file.tensors.items()]
        place = self.path
        if self._hidden is not None:
            place = self._hidden / shard.path.relative_to(self._model.root)
            place.parent.mkdir(parents=True, exist_ok=True)
        writer = SafetensorsWriter(place, header_room(entries, metadata))
        self._writers.append(writer)
        return writer

    def commit(self) -> list[str]:
        """Let the model appear, with everything else that is in its folder, unchanged.

        Returns
        -------
        Weights that are left behind, since they would still be the old ones.
        """
        for writer in self._writers:
            writer.commit()
        if self._hidden is None:
            return []
        left = []
        for file in files_of(self._model.root):
            name = file.relative_to(self._model.root)
            if self._is_stale(file):
                left.append(str(name))
            elif not (self._hidden / name).exists():
                (self._hidden / name).parent.mkdir(parents=True, exist_ok=True)
                _copy(file, self._hidden / name)
        self._hidden.chmod(0o777 & ~umask())  # mkdtemp made it private
        if self.path.is_dir():
            self.path.rmdir()  # which is empty
        self._hidden.replace(self.path)
        self._hidden = None
        return left

    def _is_stale(self, file: Path) -> bool:
        """Weights in another form beside those that were read."""
        read = {shard.path for shard in self._model.shards}
        beside = file.parent in {path.parent for path in read}
        return file not in read and beside and file.suffix in _WEIGHTS


def _check(path: Path, model: Checkpoint) -> None:
    folder = model.root.is_dir()
    kind = "a folder" if folder else "one file"
    if not path.absolute().parent.is_dir():
        message = f"{path}: the folder {path.parent} does not exist; create it first"
        raise OutputError(message)
    if folder and (path.is_file() or path.suffix == ".safetensors"):
        message = f"{path}: {model.path} is {kind}, and so is what is made of it; name a folder"
        raise OutputError(message)
    if not folder and path.is_dir():
        message = f"{path} is a folder, and {model.path} {kind}; name a file in it"
        raise OutputError(message)
    root, place = model.root.resolve(), path.absolute().resolve()
    if place == root or (folder and root in place.parents):
        message = f"{path} is the base, or inside it; write to another place"
        raise OutputError(message)
    if folder and path.is_dir() and any(path.iterdir()):
        message = f"{path} is a folder with something in it; name a new one"
        raise OutputError(message)


def files_of(root: Path) -> Iterator[Path]:
    """Everything in a folder but what is hidden; links count as what they point to."""
    for one in sorted(root.iterdir()):
        if one.name.startswith("."):
            continue
        if one.is_dir():
            yield from files_of(one)
        else:
            yield one


def _copy(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)
    with target.open("rb") as file:
        os.fsync(file.fileno())
