"""Strings that a written file carries, so that its readers are content."""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from loramix.formats import hints, trained
from loramix.formats.dialects import NETWORKS, Dialect
from loramix.types import Target

Ranks = Sequence[tuple[Target, str, int]]
_SPEC_VERSION = "1.0.1"


def header(
    dialect: Dialect,
    architecture: str | None,
    sources: Sequence[Mapping[str, str]],
    provenance: Mapping[str, object],
    ranks: Ranks,
    alpha: float | None,
    *,
    names: Sequence[str] = (),
    dense: bool = False,
    bias: bool = False,
) -> dict[str, str]:
    """Header metadata of the output: provenance, and what the dialect's clients look for.

    The same inputs give the same strings: there is no date.

    Parameters
    ----------
    sources : metadata of the inputs; see `loramix.formats.trained` for what is kept of it.
    ranks : (target, stem, rank) of all factors written.
    alpha : stored with them.
    names : of the inputs, for titles where they have none.
    dense : whether there are dense differences, too: LyCORIS has a network module for both.
    bias : whether pairs have biases.
    """
    found = trained.carried(sources, architecture)
    found |= {"format": "pt", trained.KEY: json.dumps(provenance, sort_keys=True)}
    known = hints.names_of(architecture)
    if dialect.header == "kohya":
        told = {hints.BASE: known.base, "ss_v2": known.v2}
        found = {key: value for key, value in told.items() if value} | found
        module = "lycoris.kohya" if dense else known.module
        found |= {hints.MODULE: module, **_network(ranks, alpha)}
    if not dialect.folder:
        found = _described(dialect, known, sources, names) | found
    if dialect.header == "diffusers" and len({rank for _, _, rank in ranks}) > 1:
        configs = _lora_configs(ranks, bias=bias)
        found["lora_adapter_metadata"] = json.dumps(configs, sort_keys=True)
    return found


def _described(
    dialect: Dialect,
    known: hints.Names,
    sources: Sequence[Mapping[str, str]],
    names: Sequence[str],
) -> dict[str, str]:
    """What the specification of models wants to be said, where nobody said it."""
    code = "diffusers" if dialect.header == "diffusers" else known.code
    found = {}
    if known.spec:
        found = {"modelspec.sai_model_spec": _SPEC_VERSION, hints.SPEC: f"{known.spec}/lora"}
        found |= {"modelspec.implementation": code} if code else {}
    if len(sources) > 1:
        # Names of files need not be Unicode; strings of a header must be.
        readable = [name.encode(errors="replace").decode() for name in names]
        titles = [trained.title_of(*one) for one in zip(sources, readable, strict=True)]
        found["modelspec.title"] = " + ".join(titles)
        found["modelspec.merged_from"] = ", ".join(titles)
    return found


def _network(ranks: Ranks, alpha: float | None) -> dict[str, str]:
    """Rank and alpha as sd-scripts notes them: those of larger kernels apart."""
    kernels = {rank for target, _, rank in ranks if math.prod(target.shape[2:]) > 1}
    others = {rank for target, _, rank in ranks if math.prod(target.shape[2:]) == 1}
    said = "Dynamic" if alpha is None else f"{alpha:g}"
    found = {"ss_network_dim": _one(others or kernels), "ss_network_alpha": said}
    if kernels:
        args = {"conv_alpha": said, "conv_dim": _one(kernels)}
        found["ss_network_args"] = json.dumps(args)
    return found


def _one(ranks: set[int]) -> str:
    return str(min(ranks)) if len(ranks) == 1 else "Dynamic"


def peft_config(source: str | None, ranks: Ranks, *, bias: bool = False) -> str:
    """An ``adapter_config.json`` under which every scale is one.

    Parameters
    ----------
    source : text of an input's config, whose other fields are kept.
    bias : whether pairs have biases.
    """
    fields: dict[str, Any] = json.loads(source) if source else {}
    modules = {stem.removeprefix("base_model.model."): rank for _, stem, rank in ranks}
    kept = ("base_model_name_or_path", "task_type", "auto_mapping", "revision", "fan_in_fan_out")
    config = {name: fields[name] for name in kept if name in fields}
    config = {"base_model_name_or_path": None, "task_type": None, **config}
    config |= {"peft_type": "LORA", "bias": "none", "inference_mode": True, "use_rslora": False}
    if bias:
        config["lora_bias"] = True
    return json.dumps({**config, **_patterns(modules)}, indent=2, sort_keys=True) + "\n"


def _lora_configs(ranks: Ranks, *, bias: bool) -> dict[str, object]:
    """Fields of a LoraConfig per component, each with the component in front."""
    components: dict[str, dict[str, int]] = {}
    for _, stem, rank in ranks:
        component, _, module = stem.partition(".")
        # transformers 5 has no level "text_model" any more, diffusers takes it off the keys.
        if component.startswith("text_encoder"):
            module = module.removeprefix("text_model.")
        components.setdefault(component, {})[module] = rank
    more: dict[str, object] = {"lora_bias": True} if bias else {}
    return {
        f"{component}.{field}": value
        for component, modules in components.items()
        for field, value in {**_patterns(modules, anchored=component in NETWORKS), **more}.items()
    }


def _patterns(modules: Mapping[str, int], *, anchored: bool = True) -> dict[str, object]:
    """Ranks by module; not anchored, a name also matches the end of a longer one."""
    counts = Counter(modules.values())
    usual = max(counts, key=lambda rank: (counts[rank], rank))
    mark = "^" if anchored else ""
    odd = {f"{mark}{module}": rank for module, rank in sorted(modules.items()) if rank != usual}
    return {
        "r": usual,
        "lora_alpha": usual,
        "rank_pattern": odd,
        "alpha_pattern": odd,
        "target_modules": sorted(modules),
    }
