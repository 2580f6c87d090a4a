"""Files that diffusers reads: of adapters in other dialects, of several in one, of loaded ones."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from loramix.compose.components import components_of, held, key_of, pair_of, tuner_layers
from loramix.compose.wording import for_composing
from loramix.converting import convert
from loramix.formats.scales import CONFIG
from loramix.merging import merge
from loramix.planning.output import Output
from loramix.tensors import Dtype
from loramix.types import Adapter

_DIALECT = "diffusers"


class Scribe:
    """Writes adapters for a pipeline.

    Parameters
    ----------
    pipe : a diffusers pipeline.
    folder : where files may be written, by the caller's leave for good.
    architecture : see `loramix.load`.

    Attributes
    ----------
    folder : see above.
    """

    def __init__(self, pipe: Any, folder: Path, architecture: str | None) -> None:  # noqa: ANN401
        self.folder = folder
        self._pipe = pipe
        self._architecture = architecture

    def readable(self, adapter: Adapter, name: str) -> Path:
        """A file of an adapter that diffusers reads: its own, or one in the folder."""
        own = adapter.source.path
        if own is not None and _is_plain(adapter):
            return own
        path = self.folder / f"{name}.safetensors"
        convert(adapter, path, dialect=_DIALECT, dtype=self._dtype)
        return path

    def merged(self, files: Sequence[Path], weights: Sequence[float | None], method: str) -> Path:
        """What loramix makes of several files, as one.

        Parameters
        ----------
        weights : None: 1.

        Raises
        ------
        FormatError, ShapeError, OutputError : see `loramix.merge`.
        """
        path = self.folder / "merged.safetensors"
        output = Output(dialect=_DIALECT, dtype=self._dtype)
        with for_composing(self.folder):
            merge(
                files, method, weights=[1.0 if one is None else one for one in weights],
                output=output, path=path, architecture=self._architecture,
            )  # fmt: skip
        return path

    def loaded(self, name: str, weight: float | None) -> Path:
        """A loaded adapter as a file: at weight 1, or at its strength where no weight is given.

        Raises
        ------
        ParamError : one that is no plain LoRA in some layer.
        """
        from safetensors.torch import save_file

        tensors = {}
        for component, part in components_of(self._pipe).items():
            for where, layer in tuner_layers(part).items():
                if name in held(layer):
                    up, down = pair_of(layer, name, where, None if weight is None else 1.0)
                    key = key_of(component, part, where)
                    tensors[f"{key}.lora_B.weight"] = up
                    tensors[f"{key}.lora_A.weight"] = down
        path = self.folder / f"{len(list(self.folder.iterdir()))}-loaded.safetensors"
        save_file(tensors, path)
        return path

    @property
    def _dtype(self) -> Dtype | None:
        """What is multiplied into factors is not rounded to less than the pipeline's type."""
        return "f32" if str(self._pipe.dtype) == "torch.float32" else None


def _is_plain(adapter: Adapter) -> bool:
    """Whether diffusers reads the file as it is: its dialect, nothing but pairs of factors."""
    weights = adapter.targets.items()
    return (
        adapter.dialect == _DIALECT
        and CONFIG not in adapter.metadata
        and all(factors.family == "lora" and not target.is_vector for target, factors in weights)
    )
