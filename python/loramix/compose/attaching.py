"""Adapters in the components of a pipeline: weighed, switched, watched.

Adapters are switched by what PEFT keeps in its layers, not through its calls: these go over all
parameters to change what needs a gradient, which in a large model takes as long as a small step.
"""

from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from loramix.compose.components import held, tuner_layers
from loramix.compose.functional.arrays import Array
from loramix.compose.modes.base import Pass
from loramix.compose.residing import Residents
from loramix.compose.watching import watch
from loramix.errors import ParamError


class Attached:
    """The adapters of a composition in the components of a pipeline.

    Parameters
    ----------
    denoisers : components that predict.
    encoders : components that encode text.
    names : adapters as PEFT knows them.
    residents : who of them is in the denoisers; None: all.

    Attributes
    ----------
    taking : numbers of the adapters that take part in forwards; all, before `take`.
    """

    def __init__(
        self,
        denoisers: Sequence[Any],
        encoders: Sequence[Any],
        names: Sequence[str],
        residents: Residents | None = None,
    ) -> None:
        self.names = tuple(names)
        self._residents = residents
        self._watched = [watch(one) for one in (*denoisers, *encoders)]
        self._scaling: dict[Any, dict[str, float]] = {}
        self._denoisers = [tuner_layers(one) for one in denoisers]
        self._own = {
            layer: held(layer) & set(names) for one in self._denoisers for layer in one.values()
        }
        self._encoders = [tuner_layers(one) for one in encoders]
        self._acting = {
            one: {name for layer in layers.values() for name in self._own[layer]}
            for one, layers in zip(denoisers, self._denoisers, strict=True)
        }
        self.taking = tuple(range(len(self.names)))

    def take(self, priors: Sequence[float]) -> tuple[float, ...]:
        """Leave out what has no prior, or no layer in any denoiser: see `taking`.

        Returns
        -------
        The priors, 0 for what is left out.
        """
        acting = set().union(*self._acting.values())
        taken = self._only(acting, priors)
        self.taking = tuple(i for i, prior in enumerate(taken) if prior > 0)
        return taken

    def priors_in(self, denoiser: Any, priors: Sequence[float]) -> tuple[float, ...]:  # noqa: ANN401
        """The priors, 0 for adapters that have no layer in a denoiser."""
        return self._only(self._acting[denoiser], priors)

    def acting(self, name: str) -> tuple[bool, ...]:
        """For every denoiser, whether an adapter has a layer in it."""
        return tuple(name in names for names in self._acting.values())

    def _only(self, names: Container[str], priors: Sequence[float]) -> tuple[float, ...]:
        return tuple(
            prior if name in names else 0.0 for name, prior in zip(self.names, priors, strict=True)
        )

    def set_weights(self, weights: Sequence[float | None]) -> None:
        """Scale every adapter, everywhere; refuse those that are part of the base.

        Parameters
        ----------
        weights : None: the strength that an adapter has in every layer.

        Raises
        ------
        ParamError : adapters that are fused into the weights.
        """
        for layer in self._all():
            if layer.merged_adapters:
                message = (
                    f"adapters {', '.join(layer.merged_adapters)} are fused into the model: call "
                    "pipe.unfuse_lora() first"
                )
                raise ParamError(message)
            layer._disable_adapters = False
            for name, weight in zip(self.names, weights, strict=True):
                if weight is not None and name in held(layer):
                    layer.set_scale(name, weight)
            self._scaling[layer] = {n: layer.scaling[n] for n in self.names if n in layer.scaling}

    def check(self) -> None:
        """Refuse to go on where somebody else has changed the adapters since the last forward.

        Microseconds per layer: looks at attributes only.

        Raises
        ------
        ParamError : what was done to them, and what to do.
        """
        change = next((text for one in self._watched if (text := one.change())), None)
        for layers in self._denoisers:
            for where, layer in () if change else layers.items():
                meant, now = self._scaling[layer], layer.scaling
                if meant != now and any(now.get(name) != meant[name] for name in meant):
                    change = f"{where}: the strength of an adapter is another one (set_adapters())"
                    break
        if change:
            message = (
                f"adapters of the pipeline were changed inside the composition: {change}; leave "
                "it, and compose again with the adapters and weights wanted"
            )
            raise ParamError(message)

    def settle(self) -> None:
        """Put the strengths back that a global scale of the pipeline left: rounded, or all 1."""
        for layer, scaling in self._scaling.items():
            layer.scaling.update(scaling)

    def unfuse(self) -> None:
        """Take out of the weights what was fused into them since; rounds as PEFT does.

        Raises
        ------
        ParamError : an adapter that was fused, and then deleted.
        """
        lost = set()
        for layer in self._all():
            lost |= set(layer.merged_adapters) - held(layer)
            if layer.merged_adapters:
                layer.unmerge()
        if lost:
            message = (
                f"{', '.join(sorted(lost))}: fused into the model inside the composition, and then "
                "deleted: the weights cannot be put back; open the pipeline anew"
            )
            raise ParamError(message)

    @property
    def swaps(self) -> int:
        """How often an adapter came back into the denoisers."""
        return self._residents.swaps if self._residents else 0

    @property
    def room(self) -> int | None:
        """How many can be in the denoisers at once; None: all."""
        return self._residents.hold if self._residents else None

    def is_near(self, wanted: Pass) -> bool:
        """Whether the adapters of a pass are in the denoisers."""
        residents = self._residents
        return residents is None or all(self.names[i] in residents.inside for i in wanted.active)

    def _bring(self, names: Sequence[str]) -> None:
        if self._residents is not None:
            self._residents.need(list(dict.fromkeys(names)))

    def encode_with(self, names: Sequence[str]) -> None:
        """Make adapters active in the text encoders, all at once."""
        for layers in self._encoders:
            for layer in layers.values():
                layer._active_adapter = list(names)

    def switch(self, wanted: Pass) -> None:
        """Make the adapters of a pass active in the denoisers."""
        active = [self.names[i] for i in wanted.active]
        self._bring(active)
        special = {
            name: [self.names[i] for i in which] for name, which in (wanted.layers or {}).items()
        }
        self.settle()
        for layers in self._denoisers:
            for name, layer in layers.items():
                layer._active_adapter = special.get(name, active)

    def check_rows(self) -> None:
        """Refuse layers in which rows of a batch cannot have adapters of their own.

        Raises
        ------
        ParamError : another kind of adapter than LoRA, or DoRA and its like.
        """
        from peft.tuners.lora import LoraLayer

        for layers in self._denoisers:
            for where, layer in layers.items():
                names = self._own[layer]
                variants = names & set(getattr(layer, "lora_variant", {}))
                if names and (variants or not isinstance(layer, LoraLayer)):
                    message = (
                        f"{where}: rows of a batch cannot have adapters of their own in "
                        f"{type(layer).__name__} with {', '.join(sorted(variants or names))}; use "
                        "max_batch=1"
                    )
                    raise ParamError(message)

    @contextmanager
    def each_row(self, rows: Sequence[str | None]) -> Iterator[None]:
        """Give every row of a batch an adapter of its own.

        Parameters
        ----------
        rows : adapter of each row, or None.
        """
        given = [name or "__base__" for name in rows]  # PEFT's word
        self._bring([name for name in rows if name])

        def give(_: Any, args: Any, kwargs: Any) -> Any:  # noqa: ANN401 - torch's hook
            # Some layers see several vectors of a row one after the other, as rows of their own.
            times = len(args[0]) // len(given)
            return args, {**kwargs, "adapter_names": [n for n in given for _ in range(times)]}

        hooks = []
        self.settle()
        try:
            for layer, names in self._own.items():
                layer._active_adapter = [n for n in self.names if n in names]  # for global scales
                if names:
                    hooks.append(layer.register_forward_pre_hook(give, with_kwargs=True))
            yield
        finally:
            for hook in hooks:
                hook.remove()

    @property
    def layers(self) -> tuple[str, ...]:
        """Layers of the denoisers with one of the adapters, by name."""
        return tuple(
            dict.fromkeys(
                name
                for layers in self._denoisers
                for name, layer in layers.items()
                if self._own[layer]
            )
        )

    def delta(self, layer: str, adapter: int) -> Array | None:
        """See `modes.base.Model`; of the first denoiser in which the adapter has the layer."""
        name = self.names[adapter]
        one = self._layer(layer, name)
        self._bring([name])
        return None if one is None else one.get_delta_weight(name).detach()

    def rank(self, layer: str, adapter: int) -> int:
        """See `modes.base.Model`."""
        one = self._layer(layer, self.names[adapter])
        return 0 if one is None else int(one.r.get(self.names[adapter], 0))

    def _layer(self, where: str, name: str) -> Any | None:  # noqa: ANN401 - PEFT's
        found = (layers[where] for layers in self._denoisers if where in layers)
        return next((one for one in found if name in self._own[one]), None)

    def _all(self) -> Iterator[Any]:
        for layers in (*self._denoisers, *self._encoders):
            yield from layers.values()
