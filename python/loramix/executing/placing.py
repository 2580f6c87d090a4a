"""Where an output goes: a file, or a PEFT folder, that appears whole or not at all."""

import contextlib
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from loramix.checkpoints.finding import find
from loramix.errors import OutputError
from loramix.formats.dialects import Dialect, writable
from loramix.formats.layout import load_layout
from loramix.formats.scales import CONFIG
from loramix.groups import common_architecture
from loramix.io.disk import umask
from loramix.io.writing import SafetensorsWriter
from loramix.types import Adapter

TENSORS = "adapter_model.safetensors"


class Place:
    """The output of one run; use as a context manager.

    A new folder is built beside its place and renamed; in an existing one the two files are
    renamed one right after the other.  Leaving without `commit` removes what was begun.

    Attributes
    ----------
    path : what the user named.
    name : of the adapter that will be there.
    """

    def __init__(self, path: Path, dialect: Dialect, header_bytes: int) -> None:
        self.path = path
        self.name = path.name.removesuffix(".safetensors")
        self._hidden: Path | None = None
        self._folder = dialect.folder
        if dialect.folder and not path.exists():
            if not path.parent.is_dir():
                message = f"{path}: the folder {path.parent} does not exist; create it first"
                raise OutputError(message)
            self._hidden = Path(
                tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
            )
        inside = self._hidden or path
        try:
            self.writer = SafetensorsWriter(
                inside / TENSORS if dialect.folder else path, header_bytes
            )
        except OSError:
            self._discard()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.writer.close()
        self._discard()

    @property
    def tensors(self) -> Path:
        """Where the file of tensors will be."""
        return self.path / TENSORS if self._folder else self.path

    def commit(self, config: str | None) -> None:
        """Let the finished output appear."""
        if not self._folder or config is None:
            self.writer.commit()
            return
        text = (self._hidden or self.path) / f".{CONFIG}.part"
        try:
            text.write_text(config, encoding="utf-8")
            self.writer.commit()
            text.replace(text.with_name(CONFIG))
        finally:
            text.unlink(missing_ok=True)
        if self._hidden is not None:
            self._hidden.chmod(0o777 & ~umask())  # mkdtemp made it private
            self._hidden.replace(self.path)
            self._hidden = None

    def _discard(self) -> None:
        if self._hidden is not None:
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(self._hidden)


def check(path: Path, adapters: Sequence[Adapter], dialect: Dialect) -> None:
    """Refuse outputs that would surprise.

    Raises
    ------
    OutputError : the output is an input, or a folder where a file is written or the reverse.
    """
    if dialect.folder and (path.suffix == ".safetensors" or path.is_file()):
        message = (
            f"{path}: a PEFT adapter is a folder ({TENSORS} and {CONFIG}); name a folder with -o, "
            f"or write --dialect {_of_files(adapters)}"
        )
        raise OutputError(message)
    if not dialect.folder and path.is_dir():
        message = f"{path} is a folder; name a file in it, such as {path / 'merged.safetensors'}"
        raise OutputError(message)
    for adapter in adapters:
        source = adapter.source.path
        inputs = [source] if source is not None else []
        if path.exists() and any(_same(path, one) for one in (*inputs, *_models(adapter))):
            message = f"{path} is also an input; write to another place"
            raise OutputError(message)


def _of_files(adapters: Sequence[Adapter]) -> str:
    """A dialect that keeps dotted names and is a file, for this model."""
    architecture = common_architecture(adapters)
    possible = writable(load_layout(architecture)) if architecture else ()
    return "diffusers" if "diffusers" in possible else "plain"


def _models(adapter: Adapter) -> list[Path]:
    """Files of the base model that an adapter was read with, used or not."""
    base = adapter.reading.base
    if base is None or base.path is None:
        return []
    return [part.path for part in find(base.path).parts]


def _same(path: Path, source: Path) -> bool:
    return path.samefile(source) or (path.is_dir() and path.samefile(source.parent))
