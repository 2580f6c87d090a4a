"""What a user names, as adapters in the components of a pipeline.

diffusers loads files of its own dialect with plain factors, as anybody's pipeline does, so its
bits are theirs.  Whatever else loramix reads is written as such a file first (`writing`).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from loramix.adapters import loading
from loramix.compose.components import (
    components_of,
    forget,
    held,
    key_of,
    tuner_layers,
)
from loramix.compose.fitting import fit_of, shapes_of
from loramix.compose.handing import Misfit, hand_over
from loramix.compose.labels import labels_of
from loramix.compose.sound import refuse_empty, refuse_values
from loramix.compose.wording import for_composing
from loramix.compose.writing import Scribe
from loramix.errors import FormatError, ModelError, ParamError
from loramix.finding import cached, find
from loramix.types import Adapter, StrPath

_SHOWN = 3


class Loader:
    """Loads adapters into a pipeline, one after the other.

    Parameters
    ----------
    pipe : a diffusers pipeline.
    folder : where files may be written, by the caller's leave for good.
    architecture : see `loramix.load`.

    Attributes
    ----------
    names : of every adapter as PEFT knows it, and as it is shown, in their order.
    notes : what the user should know, as sentences.
    """

    def __init__(self, pipe: Any, folder: Path, architecture: str | None) -> None:  # noqa: ANN401
        self.names: dict[str, str] = {}
        self.notes: list[str] = []
        self._pipe = pipe
        self._scribe = Scribe(pipe, folder, architecture)
        self._architecture = architecture
        self._known = _loaded(pipe)
        self._files: set[Path] = set()

    def labels(self, adapters: Sequence[StrPath]) -> tuple[str, ...]:
        """A name for each, no two alike: of those that are loaded their own."""
        known = [isinstance(one, str) and one in self._known for one in adapters]
        mine = [str(one) for one, loaded in zip(adapters, known, strict=True) if loaded]
        paths = [Path(one) for one, loaded in zip(adapters, known, strict=True) if not loaded]
        files = iter(labels_of(paths, mine))
        return tuple(
            str(one) if loaded else next(files) for one, loaded in zip(adapters, known, strict=True)
        )

    def add(self, one: StrPath, label: str) -> str:
        """A file, or the name of an adapter that the pipeline has loaded.

        Parameters
        ----------
        label : how it is shown.

        Returns
        -------
        Its name as PEFT knows it.

        Raises
        ------
        ParamError : neither, or one that is given twice.
        FormatError : a file that neither loramix nor diffusers understands, or NaN or infinity in
            its weights as the pipeline has them.
        FileNotFoundError : a path that is not there.
        """
        if isinstance(one, str) and one in self._known:
            if one in self.names:
                message = f"adapter {one} is given twice: give it once"
                raise ParamError(message)
            self.names[one] = label
            refuse_values(self._pipe, one, label)
            return one
        path = self._there(one)
        if (real := path.resolve()) in self._files:
            message = f"{one} is given twice: give it once"
            raise ParamError(message)
        self._files.add(real)
        return self._file(path, label)

    def drop(self, name: str) -> None:
        """Undo `add`."""
        for part in components_of(self._pipe).values():
            forget(part, name)
        self.names.pop(name, None)

    def add_merged(
        self, several: Mapping[str, StrPath], weights: Sequence[float | None], method: str
    ) -> str:
        """What loramix makes of several adapters, as one; those that are loaded, too.

        Parameters
        ----------
        several : by how they are shown.
        weights : None: 1, or the strength of what is loaded.

        Raises
        ------
        ParamError : neither a file nor loaded.
        FormatError, ShapeError, OutputError : see `loramix.merge`.
        """
        files = [
            self._scribe.loaded(one, weight)
            if isinstance(one, str) and one in self._known
            else self._there(one)
            for one, weight in zip(several.values(), weights, strict=True)
        ]
        path = self._scribe.merged(files, weights, method)
        return self._file(path, f"{method}({', '.join(several)})")

    def _there(self, one: StrPath) -> Path:
        """A path that is there.

        Raises
        ------
        ParamError : what is neither a file nor loaded.
        FileNotFoundError : a path that is not there.
        """
        if Path(one).exists():
            return Path(one)
        try:
            return cached(one)
        except FileNotFoundError:
            if not isinstance(one, str):
                raise
        have = ", ".join(sorted(self._known)) or "none"
        message = f"adapter {one}: neither a file nor loaded in the pipeline; loaded: {have}"
        raise ParamError(message)

    def _file(self, path: Path, shown: str) -> str:
        find(path)  # what is no file of tensors, or one of several, is nothing for diffusers either
        name = self._free("".join(c if c.isalnum() else "_" for c in shown))
        meant: Adapter | None = None
        refusal: FormatError | None = None
        readable = path
        try:
            with for_composing(self._scribe.folder):
                meant = loading.load(path, architecture=self._architecture)
                readable = self._scribe.readable(meant, name)
        except ModelError:
            raise
        except FormatError as error:
            # DoRA without its base model, names of a model that no table knows: diffusers may know
            # them, and leaves out what it does not know.
            refusal = error
        try:
            hand_over(self._pipe, readable, name, told=refusal is None)
            self._refuse_nothing(name)
            refuse_empty(self._pipe, name, shown)
            refuse_values(self._pipe, name, shown)
        except FormatError as error:
            self.drop(name)
            if isinstance(error, Misfit):
                raise FormatError(self._misfit(path, meant, refusal, error)) from error
            raise
        if refusal is not None:
            self.notes.append(
                f"{shown}: loaded by diffusers alone, which leaves out what it does not know; "
                f"loramix says: {refusal}"
            )
        elif meant is not None:
            self._compare(meant, name, shown)
        self.names[name] = shown
        return name

    def _free(self, name: str) -> str:
        """A name that no adapter has, nor anything of the containers that PEFT puts it in."""
        import torch

        taken = {*self._known, *self.names, *dir(torch.nn.ModuleDict()), *dir(torch.nn.Module())}
        while name in taken:
            name += "_"
        return name

    def _refuse_nothing(self, name: str) -> None:
        """Refuse an adapter that is nowhere in the pipeline.

        Raises
        ------
        Misfit : it is not.
        """
        if name not in _loaded(self._pipe):
            message = f"diffusers found no layer of {type(self._pipe).__name__} in it"
            raise Misfit(message)

    def _misfit(
        self, path: Path, meant: Adapter | None, refusal: FormatError | None, error: FormatError
    ) -> str:
        """What a file is, what the model is, and what to try."""
        if refusal is not None:
            return f"{path}: {error}; and loramix: {str(refusal).removeprefix(f'{path}: ')}"
        fit = fit_of(meant, shapes_of(components_of(self._pipe))) if meant is not None else None
        why = fit.misfit(type(self._pipe).__name__) if fit is not None else ""
        if not why:
            return f"{path}: {error}"
        return f"{path}: {why}; compose it with a pipeline of its model, or name another adapter"

    def _compare(self, meant: Adapter, name: str, shown: str) -> None:
        """Note the targets of a file that have no layer in the pipeline."""
        found = _places(self._pipe, name)
        missing = [t.key for t in meant.targets if t.key not in found]
        if missing and len(missing) < len(meant.targets):
            more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
            listed = ", ".join(missing[:_SHOWN])
            self.notes.append(
                f"{shown}: {len(missing)} of {len(meant.targets)} targets are not in the pipeline: "
                f"{listed}{more}"
            )


def _places(pipe: Any, name: str) -> set[str]:  # noqa: ANN401 - diffusers'
    """Keys of the layers that have an adapter, canonical ones and the model's own."""
    return {
        key
        for component, part in components_of(pipe).items()
        for where, layer in tuner_layers(part).items()
        if name in held(layer)
        for key in (f"{component}.{where}", key_of(component, part, where))
    }


def _loaded(pipe: Any) -> set[str]:  # noqa: ANN401 - diffusers'
    """Names of the adapters in any component."""
    return {
        name
        for part in components_of(pipe).values()
        for layer in tuner_layers(part).values()
        for name in held(layer)
    }
