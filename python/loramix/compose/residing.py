"""Adapters of a pool of which only some are in the layers at a time."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loramix.errors import ParamError


@dataclass(frozen=True, slots=True)
class _Part:
    """Where an adapter sits in a layer: a module or a parameter in a container of PEFT's."""

    layer: Any
    container: Any
    value: Any

    @property
    def device(self) -> Any:  # noqa: ANN401 - torch's
        """Where the layer is now: offloading may have moved it since."""
        return self.layer.get_base_layer().weight.device

    @property
    def parameters(self) -> tuple[Any, ...]:
        import torch

        one = self.value
        return (one,) if isinstance(one, torch.nn.Parameter) else tuple(one.parameters())


class Residents:
    """Keeps at most so many adapters in the layers of the denoisers; the others are in files.

    Parameters
    ----------
    hold : adapters at a time, at least 1.
    folder : for the files, one for each adapter, of the type that its weights have here.

    Attributes
    ----------
    swaps : how often an adapter came back from its file.

    Notes
    -----
    An adapter that is out has no entry in its layers and no memory; its scale stays.  Bits come
    back as they went.  Cost of coming back: one read, from pages that the system may have kept.
    """

    def __init__(self, hold: int, folder: Path) -> None:
        self.hold = hold
        self.swaps = 0
        self._folder = folder
        self._parts: dict[str, tuple[_Part, ...]] = {}
        self._inside: OrderedDict[str, None] = OrderedDict()

    @property
    def inside(self) -> tuple[str, ...]:
        """Those whose weights are in the layers, the one that was used last at the end."""
        return tuple(self._inside)

    def room(self) -> None:
        """Make place for one more."""
        while len(self._inside) >= self.hold:
            self._evict(next(iter(self._inside)))

    def store(self, name: str, denoisers: Sequence[Mapping[str, Any]]) -> None:
        """Note an adapter that was just loaded, and keep its weights in a file.

        Parameters
        ----------
        denoisers : layers with adapters, by name.
        """
        from safetensors.torch import save_file

        self._parts[name] = tuple(
            _Part(layer, container, container[name])
            for layers in denoisers
            for layer in layers.values()
            for kind in layer.adapter_layer_names
            if name in (container := getattr(layer, kind))
        )
        tensors = {
            str(number): parameter.detach().cpu().contiguous()
            for number, parameter in enumerate(
                one for part in self._parts[name] for one in part.parameters
            )
        }
        save_file(tensors, self._file(name))
        self._inside[name] = None

    def need(self, names: Sequence[str]) -> None:
        """Have these in the layers.

        Raises
        ------
        ParamError : they are more than may be there.
        """
        if len(names) > self.hold:
            message = (
                f"a forward needs {len(names)} adapters at once, hold = {self.hold}: hold as many, "
                "or choose a mode that runs one at a time"
            )
            raise ParamError(message)
        for name in names:
            if name in self._inside:
                self._inside.move_to_end(name)
        for name in names:
            if name not in self._inside:
                self.room()
                self._bring(name)

    def _evict(self, name: str) -> None:
        import torch

        with torch.inference_mode(mode=False):
            for part in self._parts[name]:
                del part.container[name]
                for parameter in part.parameters:
                    parameter.data = parameter.data.new_empty(0)
        del self._inside[name]

    def _bring(self, name: str) -> None:
        import torch
        from safetensors import safe_open

        # Pipelines may run in inference mode, whose tensors no parameter takes.
        with torch.inference_mode(mode=False), safe_open(self._file(name), "pt") as file:
            number = 0
            for part in self._parts[name]:
                for parameter in part.parameters:
                    parameter.data = file.get_tensor(str(number)).to(part.device)
                    number += 1
                part.container[name] = part.value
        self._inside[name] = None
        self.swaps += 1

    def _file(self, name: str) -> Path:
        return self._folder / f"{name}.weights"
