"""Strings of the header against what is in the file.  Shapes win; strings mislead people."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping

from loramix.diagnosing.findings import Finding, convert
from loramix.diagnosing.subject import Subject

# How values of ss_base_model_version and modelspec.architecture begin -> how names of the tables
# do.  The longest beginning counts.
_MODELS: Mapping[str, str] = {
    "sd_v1": "sd15", "sd_1.5": "sd15", "stable-diffusion-v1": "sd15",
    "sd_v2": "sd2", "sd_2.1": "sd2", "stable-diffusion-v2": "sd2",
    "sdxl": "sdxl", "stable-diffusion-xl": "sdxl",
    "sd3": "sd3", "sd_3": "sd3", "stable-diffusion-3": "sd3",
    "flux1": "flux1", "flux_kontext": "flux1", "flux.1": "flux1", "flux-1": "flux1",
    "flux2": "flux2", "flux_2": "flux2", "flux.2": "flux2",
    "chroma": "chroma", "lumina2": "lumina2", "lumina-2": "lumina2",
    "z_image": "z_image", "zimage": "z_image", "z-image": "z_image",
    "qwen_image": "qwen_image", "qwen-image": "qwen_image",
    "wan": "wan", "hunyuan_video": "hunyuan_video", "hunyuan-video": "hunyuan_video",
}  # fmt: skip
_STATING = ("ss_base_model_version", "modelspec.architecture")


def stated_rank(subject: Subject) -> Iterator[Finding]:
    """``ss_network_dim`` that no module has."""
    stated = _number(subject.strings.get("ss_network_dim"))
    ranks = Counter(module.rank for module in subject.modules)
    if stated is not None and ranks and stated not in ranks:
        what = f"the header says rank {stated:g}, the tensors have {_listed(ranks)}: it was resized"
        mend = f"clients read the tensors; {convert(subject.path)} writes what is true"
        yield Finding("stated-rank", "warning", "ss_network_dim", what, mend)


def stated_alpha(subject: Subject) -> Iterator[Finding]:
    """``ss_network_alpha`` that no module has."""
    stated = _number(subject.strings.get("ss_network_alpha"))
    alphas = Counter(m.alpha for m in subject.modules if m.alpha is not None)
    # Stored in 8 digits or 3; a rounded one is the same.
    if stated is None or not alphas or any(math.isclose(stated, a, rel_tol=0.01) for a in alphas):
        return
    what = f"the header says alpha {stated:g}, the tensors have {_listed(alphas)}"
    mend = f"clients read the tensors; {convert(subject.path)} writes what is true"
    yield Finding("stated-alpha", "note", "ss_network_alpha", what, mend)


def stated_model(subject: Subject) -> Iterator[Finding]:
    """A base model that names and shapes contradict."""
    if subject.architecture is None:
        return
    for name in _STATING:
        said = subject.strings.get(name, "")
        beginning = max((b for b in _MODELS if said.lower().startswith(b)), key=len, default=None)
        if beginning is not None and not subject.architecture.startswith(_MODELS[beginning]):
            what = (
                f"the header says {said[:40]}, names and shapes are those of "
                f"{subject.architecture}: it will not work on {_MODELS[beginning]}"
            )
            mend = f"{convert(subject.path)} writes what is true"
            yield Finding("stated-model", "warning", name, what, mend)


def stale_hash(subject: Subject) -> Iterator[Finding]:
    """``sshs_model_hash`` that is not the sha256 of what follows the header."""
    said = subject.strings.get("sshs_model_hash", "").lower()
    if said and said != subject.digest():
        what = (
            "it is not the sha256 of the tensors: they were edited after training, and sites that "
            "look adapters up by this hash find another one"
        )
        mend = f"{convert(subject.path)} leaves it out"
        yield Finding("stale-hash", "note", "sshs_model_hash", what, mend)


def _number(text: str | None) -> float | None:
    """A number, where the string is one: it may be ``None`` or ``Dynamic``."""
    try:
        found = float(text or "")
    except ValueError:
        return None
    return found if math.isfinite(found) else None


def _listed(counts: Mapping[int, int] | Mapping[float, int]) -> str:
    numbers = sorted(counts)
    shown = ", ".join(f"{number:g}" for number in numbers[:4])
    return shown + (", ..." if len(numbers) > 4 else "")
