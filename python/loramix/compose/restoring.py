"""The components of a pipeline as they were, whatever happens in between."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from loramix.compose.components import COMPONENTS, held, tuner_layers


@dataclass(frozen=True, slots=True)
class _Component:
    """What a component was before."""

    module: Any
    children: tuple[tuple[Any, str, Any], ...]
    layers: tuple[tuple[Any, Any, bool, dict[str, float], set[str]], ...]
    gradients: tuple[tuple[Any, bool], ...]
    attributes: Mapping[str, Any]

    def restore(self) -> None:
        """Put every module, adapter, scale and flag back where it was."""
        for parent, name, child in self.children:
            if parent._modules.get(name) is not child:
                parent._modules[name] = child
        for layer, active, disabled, scaling, names in self.layers:
            # Deleting an adapter that is active makes PEFT choose another one, aloud.
            layer._active_adapter = active
            for name in held(layer) - names:
                layer.delete_adapter(name)
            layer._active_adapter = active
            layer._disable_adapters = disabled
            layer.scaling.clear()
            layer.scaling.update(scaling)
        for parameter, wanted in self.gradients:
            parameter.requires_grad_(wanted)
        for name in ("peft_config", "_hf_peft_config_loaded"):
            if name in self.attributes:
                setattr(self.module, name, self.attributes[name])
            elif name in self.module.__dict__:
                delattr(self.module, name)


def _snapshot(module: Any) -> _Component:  # noqa: ANN401 - torch's
    layers = tuner_layers(module).values()
    kept = {n: module.__dict__[n] for n in ("_hf_peft_config_loaded",) if n in module.__dict__}
    if "peft_config" in module.__dict__:
        kept["peft_config"] = dict(module.__dict__["peft_config"])
    return _Component(
        module,
        tuple((m, name, child) for m in module.modules() for name, child in m._modules.items()),
        tuple(
            (one, one._active_adapter, one._disable_adapters, dict(one.scaling), held(one))
            for one in layers
        ),
        tuple((p, p.requires_grad) for p in module.parameters()),
        kept,
    )


@contextmanager
def put_back(pipe: Any) -> Iterator[None]:  # noqa: ANN401 - diffusers'
    """Whatever happens inside, the components of a pipeline are afterwards what they were."""
    import torch

    parts = [getattr(pipe, name, None) for name in COMPONENTS]
    before = [_snapshot(part) for part in parts if isinstance(part, torch.nn.Module)]
    try:
        yield
    finally:
        for one in before:
            one.restore()
