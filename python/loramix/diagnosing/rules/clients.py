"""Names that common clients do not load, most of them without a word.

What each client accepts is as of the second half of 2026: ComfyUI, diffusers 0.38 to 0.42, Kohya's
sd-scripts.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from loramix.diagnosing.findings import Finding, Severity, convert
from loramix.diagnosing.subject import Module, Subject

_KOHYA_SD = ("lora_te_", "lora_te1_", "lora_te2_", "lora_unet_")
_DIFFUSERS = "--dialect diffusers"
_MUSUBI_Z = re.compile(r"lora_unet_(layers|noise_refiner|context_refiner)_\d+_attention_to_")
_FLUX_TOP = re.compile(r"lora_unet_(img_in|txt_in|time_in|vector_in|guidance_in|final_layer)_?")
_NOT_IN_COMFY = ("wan", "lumina2", "hunyuan_video")
_INFIX = re.compile(r"\.lora_[AB]\.(?!weight$|bias$)[^.]+\.weight$")


def peft_unet(subject: Subject) -> Iterator[Finding]:
    """U-Net keys as PEFT saves them, or without any prefix: diffusers loads nothing, silently."""
    some = [m for m in subject.modules if m.stem.dialect in ("peft", "plain")]
    if subject.is_unet and some:
        what = (
            "diffusers does not look for keys without 'unet.' in front: it loads nothing, silently"
        )
        yield _of("client-peft-unet", "warning", some, what, _to(subject, _DIFFUSERS))


def foreign_beside_kohya(subject: Subject) -> Iterator[Finding]:
    """Keys that are not Kohya's in a Kohya file for Stable Diffusion."""
    ours = [name for name in subject.tensors if name.startswith(_KOHYA_SD)]
    others = [name for name in subject.tensors if not name.startswith(_KOHYA_SD)]
    if subject.is_unet and ours and others:
        what = (
            f"{len(others)} keys that are not Kohya's stand beside {len(ours)} that are: diffusers "
            "then loads nothing at all, silently"
        )
        mend = _to(subject, _DIFFUSERS)
        yield Finding("client-foreign", "warning", others[0], what, mend, len(others))


def alphas_of_kohya(subject: Subject) -> Iterator[Finding]:
    """Alphas that differ in a Kohya file for Stable Diffusion."""
    some = [m for m in subject.modules if m.stem.dialect == "kohya" and m.alpha is not None]
    values = sorted({module.alpha for module in some if module.alpha is not None})
    if subject.is_unet and len(values) > 1:
        what = (
            f"alphas differ ({values[0]:g} to {values[-1]:g}): diffusers gives attention modules "
            "the alpha of another one"
        )
        mend = f"{convert(subject)} writes one alpha for all, and the same deltas"
        yield _of("client-alphas", "warning", some, what, mend, role="alpha")


def adapter_name(subject: Subject) -> Iterator[Finding]:
    """The name of an adapter inside the keys: ``.lora_A.default.weight``."""
    some = [name for name in subject.tensors if _INFIX.search(name)]
    if some:
        what = (
            "the name of an adapter stands inside the keys: diffusers loads it with all ups zero, "
            "silently, and ComfyUI knows 'default' only"
        )
        mend = f"{convert(subject)} writes keys without it"
        yield Finding("client-adapter-name", "warning", some[0], what, mend, len(some))


def linear_layer(subject: Subject) -> Iterator[Finding]:
    """``lora_linear_layer`` on a U-Net."""
    some = [n for n in subject.tensors if n.startswith("unet.") and ".lora_linear_layer." in n]
    if some:
        what = "diffusers refuses 'lora_linear_layer' on a U-Net"
        mend = _to(subject, _DIFFUSERS)
        yield Finding("client-linear-layer", "warning", some[0], what, mend, len(some))


def alphas_beside_config(subject: Subject) -> Iterator[Finding]:
    """Alphas in tensors and in the header."""
    some = [m for m in subject.modules if "alpha" in m.entry.names]
    if "lora_adapter_metadata" in subject.strings and some:
        what = "alphas are in tensors and in lora_adapter_metadata: diffusers refuses the file"
        yield _of(
            "client-two-alphas", "warning", some, what, _to(subject, _DIFFUSERS), role="alpha"
        )


def ranks_of_diffusers(subject: Subject) -> Iterator[Finding]:
    """Ranks that differ, and no config that says which."""
    some = [m for m in subject.modules if m.stem.dialect == "diffusers"]
    ranks = {module.rank for module in some}
    stated = "lora_adapter_metadata" in subject.strings
    if len(ranks) > 1 and not stated and not any("alpha" in m.entry.names for m in some):
        what = (
            f"ranks differ ({min(ranks)} to {max(ranks)}) and the header does not say which: "
            "diffusers before the middle of 2026 scales some modules wrongly"
        )
        yield _of("client-ranks", "note", some, what, _to(subject, _DIFFUSERS) + " states them")


def families_of_kohya(subject: Subject) -> Iterator[Finding]:
    """What the Kohya path of diffusers for Stable Diffusion does not convert."""
    ends = ("lora_mid.weight", ".diff_b", ".diff")
    parts = (".hada_", ".lokr_")
    some = [
        name
        for name in subject.tensors
        if name.startswith(_KOHYA_SD) and (name.endswith(ends) or any(p in name for p in parts))
    ]
    if subject.is_unet and some:
        what = "diffusers refuses Kohya files for Stable Diffusion that have more than LoRA pairs"
        yield Finding("client-families", "note", some[0], what, _to(subject, _DIFFUSERS), len(some))


def unet_in_comfy(subject: Subject) -> Iterator[Finding]:
    """Attention of a U-Net as diffusers spells it today."""
    attention = [
        m for m in subject.modules if m.stem.component == "unet" and ".attn" in m.stem.path
    ]
    some = [m for m in attention if ".lora_A." in m.entry.names["down"]]
    if subject.is_unet and some:
        what = "ComfyUI does not load the attention of a U-Net in this spelling; diffusers does"
        yield _of("client-comfy-unet", "note", some, what, _to(subject, "--dialect kohya"))


def musubi_z_image(subject: Subject) -> Iterator[Finding]:
    """Z-Image as Musubi saves it."""
    some = [m for m in subject.modules if _MUSUBI_Z.match(m.entry.stem)]
    if some:
        what = "Z-Image keys as Musubi saves them: ComfyUI leaves the attention out"
        yield _of("client-musubi", "warning", some, what, _to(subject, "--for comfyui"))


def transformer_in_comfy(subject: Subject) -> Iterator[Finding]:
    """Models whose diffusers names ComfyUI does not know."""
    some = [
        m for m in subject.modules
        if m.stem.component == "transformer" and m.stem.dialect == "diffusers"
    ]  # fmt: skip
    if some and (subject.architecture or "").startswith(_NOT_IN_COMFY):
        what = f"ComfyUI knows no diffusers names of {subject.architecture}; diffusers does"
        yield _of("client-comfy-names", "note", some, what, _to(subject, "--for comfyui"))


def top_of_flux(subject: Subject) -> Iterator[Finding]:
    """FLUX modules outside the blocks in Kohya's spelling."""
    some = [m for m in subject.modules if _FLUX_TOP.match(m.entry.stem)]
    if some and (subject.architecture or "").startswith(("flux", "chroma")):
        what = "modules outside the blocks, which diffusers drops silently from Kohya files"
        yield _of("client-flux-top", "note", some, what, _to(subject, _DIFFUSERS))


def _to(subject: Subject, options: str) -> str:
    return convert(subject, options)


def _of(
    rule: str,
    severity: Severity,
    modules: Sequence[Module],
    what: str,
    mend: str,
    *,
    role: str = "down",
) -> Finding:
    """A finding about modules, the first of which is named by a tensor."""
    names: Iterable[tuple[str, str]] = modules[0].entry.names.items()
    first = next((name for own, name in names if own == role), modules[0].entry.stem)
    return Finding(rule, severity, first, what, mend, len(modules))


RULES: Mapping[str, Callable[[Subject], Iterator[Finding]]] = {
    "client-peft-unet": peft_unet,
    "client-foreign": foreign_beside_kohya,
    "client-alphas": alphas_of_kohya,
    "client-adapter-name": adapter_name,
    "client-linear-layer": linear_layer,
    "client-two-alphas": alphas_beside_config,
    "client-ranks": ranks_of_diffusers,
    "client-families": families_of_kohya,
    "client-comfy-unet": unet_in_comfy,
    "client-musubi": musubi_z_image,
    "client-comfy-names": transformer_in_comfy,
    "client-flux-top": top_of_flux,
}
"""Name to rule."""
