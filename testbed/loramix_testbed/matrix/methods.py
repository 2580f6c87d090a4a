"""The methods that are compared: how each puts a stack into the pipeline."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol, TypeAlias

import loramix
from loramix.compose.composing import compose
from loramix_testbed.world.adapters import SPECS
from loramix_testbed.world.pipeline import GlyphPipeline

Account: TypeAlias = Mapping[str, Any]
"""What is known of a merge without a picture; empty where nothing is merged.

``kept``: for every adapter, how much of it at weight 1 is in the result, ``<M, d> / |d|^2``;
``cosine``: with the result; ``interference``: what the others would add to it in a sum;
``norm``: of the result, in norms of the longest adapter.
"""


class Way(Protocol):
    """A way to use a stack."""

    def used(self, pipe: GlyphPipeline, adapters: Sequence[str]) -> AbstractContextManager[Account]:
        """A context in which the pipeline draws with the stack."""


@dataclass(frozen=True, slots=True)
class Nothing:
    """No adapter at all: what the prompt alone gives."""

    @contextmanager
    def used(
        self,
        pipe: GlyphPipeline,  # noqa: ARG002
        adapters: Sequence[str],  # noqa: ARG002
    ) -> Iterator[Account]:
        """Nothing is loaded."""
        yield {}


@dataclass(frozen=True, slots=True)
class Truth(Nothing):
    """True pictures: what the judge says of these is the most that can be reached."""


@dataclass(frozen=True, slots=True)
class Merged:
    """A merge, written to a file and loaded as any adapter is.

    Attributes
    ----------
    method : of `loramix.merge`.
    share : whether every weight is divided by the number of adapters.
    gain : what every weight is multiplied by.
    content, style : what the weights of these kinds are multiplied by besides, by one who knows.
    options : of `loramix.merge`.
    """

    method: Any
    share: bool = False
    gain: float = 1.0
    content: float = 1.0
    style: float = 1.0
    options: Mapping[str, Any] = field(default_factory=dict)

    def weights(self, adapters: Sequence[str]) -> list[float]:
        """One for each adapter."""
        alike = self.gain / len(adapters) if self.share else self.gain
        kinds = {"content": self.content, "style": self.style}
        return [alike * kinds.get(SPECS[name].kind, 1.0) for name in adapters]

    @contextmanager
    def used(self, pipe: GlyphPipeline, adapters: Sequence[str]) -> Iterator[Account]:
        """The merged file is the only adapter."""
        with TemporaryDirectory() as folder:
            path = Path(folder) / "merged.safetensors"
            account = self.merge(adapters, path)
            pipe.load_lora_weights(
                folder, weight_name=path.name, adapter_name="merged", prefix=None
            )
        try:
            yield account
        finally:
            pipe.unload_lora_weights()

    def merge(self, adapters: Sequence[str], path: Path | None = None) -> Account:
        """Merge, into a file if one is named."""
        weights = self.weights(adapters)
        files = [SPECS[name].path for name in adapters]
        made = loramix.merge(files, self.method, weights=weights, path=path, **self.options)
        norms = [math.sqrt(s.energy) / abs(w) for s, w in zip(made.shares, weights, strict=True)]
        rounded = partial(round, ndigits=4)
        return {
            "kept": [rounded(s.retention * w) for s, w in zip(made.shares, weights, strict=True)],
            "cosine": [rounded(share.cosine) for share in made.shares],
            "interference": [rounded(share.interference) for share in made.shares],
            "norm": rounded(math.sqrt(made.shares[0].written) / max(norms)),
        }


@dataclass(frozen=True, slots=True)
class Composed:
    """Adapters kept apart, composed while the model runs.

    Attributes
    ----------
    mode, guidance : of `loramix.compose`.
    """

    mode: Any
    guidance: Any = None

    @contextmanager
    def used(self, pipe: GlyphPipeline, adapters: Sequence[str]) -> Iterator[Account]:
        """`loramix.compose`."""
        files = [SPECS[name].path for name in adapters]
        with compose(pipe, files, mode=self.mode, guidance=self.guidance):
            yield {}


METHODS: Mapping[str, Way] = {
    "truth": Truth(),
    "no adapter": Nothing(),
    "sum": Merged("linear"),
    "1/N": Merged("linear", share=True),
    "sum, energy kept": Merged("linear", options={"auto_strength": True}),
    "average": Merged("average"),
    "slerp": Merged("slerp"),
    "karcher": Merged("karcher"),
    "ties": Merged("ties"),
    "dare": Merged("dare"),
    "knots(ties)": Merged("knots(ties)"),
    "core(ties)": Merged("core(ties)"),
    "iso-c": Merged("iso-c"),
    "published": Merged("published"),
    "auto": Merged("auto"),
    "switch": Composed("switch"),
    "composite": Composed("composite"),
    "loratorio": Composed("loratorio"),
}
"""What the quick matrix compares."""

FURTHER: Mapping[str, Way] = {
    name: Merged(name) for name in ("retain", "ortho", "elect", "tsv", "iso-cts")
}
"""Fixed merges that the full matrix compares besides, on the held-out mixed stacks."""

PAIRED: Mapping[str, Way] = {
    "merge as a mode": Composed("merge"),
    "w-switch": Composed("w-switch"),
    "w-composite": Composed("w-composite"),
    "cm": Composed("cm"),
    "multlfg": Composed("multlfg"),
    "k-lora": Composed("k-lora"),
    "composite, autolora": Composed("composite", "autolora"),
}
"""Modes that the quick matrix compares on pairs only: one of them knows no larger stacks."""
