"""What somebody else does to the adapters of a component while a composition has it."""

from dataclasses import dataclass
from typing import Any

from loramix.compose.components import tuner_layers


@dataclass(frozen=True, slots=True)
class Watched:
    """The layers of a component that have adapters, where they are, and the adapters it knows."""

    module: Any
    layers: tuple[tuple[str, Any, str, Any], ...]
    names: frozenset[str]

    def change(self) -> str | None:
        """What somebody did to them, in words; None: nothing."""
        for where, parent, name, layer in self.layers:
            if parent._modules.get(name) is not layer:
                return f"{where}: its adapters were taken out (unload_lora_weights())"
            if layer.merged_adapters:
                fused = ", ".join(layer.merged_adapters)
                return f"{where}: {fused} was fused into the weights (fuse_lora())"
            if layer._disable_adapters:
                return f"{where}: adapters were disabled (disable_lora())"
        names = _known(self.module)
        if names != self.names:
            gone, come = sorted(self.names - names), sorted(names - self.names)
            parts = [f"{', '.join(gone)} deleted"] * bool(gone)
            parts += [f"{', '.join(come)} loaded"] * bool(come)
            return f"{type(self.module).__name__}: {', '.join(parts)}"
        return None


def watch(module: Any) -> Watched:  # noqa: ANN401 - torch's
    """A component as it is now."""
    found = []
    for where, layer in tuner_layers(module).items():
        parent, _, name = where.rpartition(".")
        found.append((where, module.get_submodule(parent), name, layer))
    return Watched(module, tuple(found), _known(module))


def _known(module: Any) -> frozenset[str]:  # noqa: ANN401 - torch's
    """Names of the adapters that a component says it has."""
    return frozenset(getattr(module, "peft_config", None) or ())
