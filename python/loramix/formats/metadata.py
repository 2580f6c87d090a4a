"""Strings that a written file carries, so that its readers are content."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from loramix.formats.dialects import NETWORKS, Dialect
from loramix.types import Target

# Architecture -> ss_base_model_version, modelspec.architecture, ss_network_module, ss_v2.
_KOHYA = {
    "sd15": ("sd_v1", "stable-diffusion-v1/lora", "networks.lora", "False"),
    "sdxl": ("sdxl_base_v1-0", "stable-diffusion-xl-v1-base/lora", "networks.lora", "False"),
    "flux1": ("flux1", "flux-1-dev/lora", "networks.lora_flux", "False"),
}
# Fields of a source that describe its training or its tensors, not the merged result.
_KEPT = ("ss_base_model_version", "ss_v2", "ss_sd_model_name", "ss_resolution")
_KEPT_PREFIXES = ("modelspec.architecture", "modelspec.prediction_type", "modelspec.resolution")
Ranks = Sequence[tuple[Target, str, int]]


def header(
    dialect: Dialect,
    architecture: str | None,
    sources: Sequence[Mapping[str, str]],
    provenance: Mapping[str, object],
    ranks: Ranks,
    alpha: float | None,
    *,
    dense: bool = False,
    bias: bool = False,
) -> dict[str, str]:
    """Header metadata of the output: provenance, and what the dialect's clients look for.

    Parameters
    ----------
    sources : metadata of the inputs; what all that state it agree on is kept.
    ranks : (target, stem, rank) of all factors written.
    alpha : stored with them.
    dense : whether there are dense differences, too: LyCORIS has a network module for both.
    bias : whether pairs have biases.
    """
    found = {"format": "pt", "loramix": json.dumps(provenance, sort_keys=True)}
    if dialect.header == "kohya":
        found |= _agreed(sources)
        base, spec, module, v2 = _KOHYA.get(architecture or "", ("", "", "networks.lora", ""))
        known = {
            "ss_base_model_version": base, "modelspec.architecture": spec, "ss_v2": v2,
        }  # fmt: skip
        found |= {name: value for name, value in known.items() if value and name not in found}
        sizes = {rank for _, _, rank in ranks}
        found["ss_network_module"] = "lycoris.kohya" if dense else module
        found["ss_network_dim"] = str(sizes.pop()) if len(sizes) == 1 else "Dynamic"
        found["ss_network_alpha"] = "Dynamic" if alpha is None else f"{alpha:g}"
    if dialect.header == "diffusers" and len({rank for _, _, rank in ranks}) > 1:
        configs = _lora_configs(ranks, bias=bias)
        found["lora_adapter_metadata"] = json.dumps(configs, sort_keys=True)
    return found


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


def _agreed(sources: Sequence[Mapping[str, str]]) -> dict[str, str]:
    names = {name for source in sources for name in source}
    found = {}
    for name in sorted(names):
        if name in _KEPT or name.startswith(_KEPT_PREFIXES):
            values = {source[name] for source in sources if name in source}
            if len(values) == 1:
                found[name] = values.pop()
    return found


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
