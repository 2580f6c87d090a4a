"""Dialects that can be written: how a target's name becomes a stem."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from loramix.errors import FormatError, ParamError
from loramix.formats.dialects.forms import ROLES, RULES, Form, Header, Vectors, form_of
from loramix.formats.dialects.stems import (
    COMPONENTS,
    FLAT_PREFIXES,
    NETWORKS,
    PARTIAL,
    Stem,
    lookup,
)
from loramix.formats.layout import Layout, Module, flatten
from loramix.types import Target

DIALECTS: tuple[str, ...] = tuple(RULES)
_XLABS = (
    (re.compile(r"(double_blocks\.\d+)\.img_attn\.(qkv|proj)"), r"\1.processor.\2_lora1"),
    (re.compile(r"(double_blocks\.\d+)\.txt_attn\.(qkv|proj)"), r"\1.processor.\2_lora2"),
    (re.compile(rf"(single_blocks\.\d+)\.{PARTIAL}"), r"\1.processor.qkv_lora"),
    (re.compile(r"(single_blocks\.\d+)\.linear2"), r"\1.processor.proj_lora"),
)


@dataclass(frozen=True, slots=True)
class Dialect:
    """How to write the adapters of one model.

    Attributes
    ----------
    name : as users write it.
    up, down : what follows the stem, dots included.
    diff : the same of a dense difference; None if the dialect's readers know none.
    alpha : whether a scalar ``.alpha`` goes with every pair.
    fused : whether names are those of the original model, which fuses modules and may exchange
        the halves of their rows.
    partial : whether of ``linear1`` only the first members are written, under a name of their own.
    one_component : whether a file holds one part of a pipeline only.
    folder : whether the output is a folder with a config, as PEFT wants it.
    header : whose strings go into the header.
    vectors : how biases, norms and modulations are written.
    embedding : what follows the stem of an embedding's up and down side, both written transposed;
        None if the dialect's readers know none.
    form : whose names, and how they are spelled.
    prefixes : part of the pipeline to prefix; what is not there cannot be written.
    """

    name: str
    up: str
    down: str
    diff: str | None
    alpha: bool
    fused: bool
    partial: bool
    one_component: bool
    folder: bool
    header: Header
    vectors: Vectors
    embedding: tuple[str, str] | None
    form: Form = field(repr=False)
    prefixes: Mapping[str, str] = field(repr=False)

    def stem(self, target: Target, layout: Layout | None) -> str:
        """The name of a target in a file, without its role.

        Raises
        ------
        FormatError : it has none.
        """
        component, name = _parts(target, layout)
        modules = _modules(component, name, layout)
        if modules is None:
            return _unlisted(self, target, component, name)
        prefix = self.prefixes.get(component or "")
        text = _named(modules, name, self.form) if prefix is not None else None
        if prefix is None or text is None:
            what = "part of a model" if prefix is None else "module"
            message = (
                f"{target.key}: {self.name} files have no name for this {what}; write another "
                "--dialect, or leave it out with --skip"
            )
            raise FormatError(message)
        if self.form.naming == "kohya":
            return text  # prefix included
        return prefix + (flatten(text) if self.form.flat else text)


def dialect_for(name: str, layout: Layout | None) -> Dialect:
    """The dialect of this name, for the files of one model.

    Parameters
    ----------
    name : one of `DIALECTS`.
    layout : None: no table knows the model.

    Raises
    ------
    ParamError : there are no such files for the model.
    """
    form, rule = form_of(name, layout), RULES[name]
    if form is None:
        model = f"adapters of {layout.name}" if layout else "adapters of a model without a table"
        message = (
            f"dialect {name}: nobody reads {model} in it; possible are "
            f"{', '.join(writable(layout))}"
        )
        raise ParamError(message)
    up, down = ROLES[form.roles]
    return Dialect(
        name=name,
        up=up,
        down=down,
        diff=rule.dense,
        alpha=form.roles == "kohya",
        fused=form.naming != "name",
        partial=form.naming == "xlabs",
        one_component=form.encoders == "alone",
        folder=rule.folder,
        header="kohya" if form.roles == "kohya" and form.encoders == "kohya" else rule.header,
        vectors=rule.vectors,
        embedding=rule.embedding,
        form=form,
        prefixes=_prefixes(form, layout),
    )


def writable(layout: Layout | None) -> tuple[str, ...]:
    """The dialects that hold adapters of a model."""
    return tuple(name for name in DIALECTS if form_of(name, layout) is not None)


def _prefixes(form: Form, layout: Layout | None) -> dict[str, str]:
    parts = tuple(layout.prefixes) if layout else COMPONENTS
    if form.encoders == "parts":
        return {part: f"{part}." for part in parts}
    found: dict[str, str] = {}
    for part in parts:
        kohya = layout.prefixes[part] if layout else None
        if part in NETWORKS:
            found[part] = kohya or form.network if form.naming == "kohya" else form.network
        elif form.encoders == "alone":
            found[part] = form.network
        elif form.encoders == "kohya" and kohya is not None:
            found[part] = form.renumbered.get(part, kohya)
    return found


def _parts(target: Target, layout: Layout | None) -> tuple[str | None, str]:
    """Component and name of a target; None if its key has no component."""
    component, _, name = target.key.partition(".")
    known = layout is not None and component in layout.prefixes
    if known or component in COMPONENTS or name.startswith(FLAT_PREFIXES):
        return component, name
    return None, target.key


def _modules(component: str | None, name: str, layout: Layout | None) -> tuple[Module, ...] | None:
    """The module of a canonical name, or the members of a fused original one."""
    if layout is None or component is None:
        return None
    module = layout.by_key.get((component, flatten(name)))
    if module is not None:
        return (module,)
    hit = lookup(Stem(name, component, name, "plain"), layout, (None, None))
    return hit.modules if hit is not None and len(hit.modules) > 1 else None


def _named(modules: tuple[Module, ...], name: str, form: Form) -> str | None:
    """Name of one module, or of a fused weight; None if the naming has none."""
    first, single = modules[0], len(modules) == 1
    if form.naming == "xlabs":
        return _xlabs(first.original if single else name)
    if form.naming == "name":
        return first.name if single else None
    if single and first.rows is not None:
        return None  # a part of a fused weight has no name of its own there
    if form.naming == "kohya":
        return first.kohya
    return first.comfy if form.naming == "comfy" else first.original


def _xlabs(original: str) -> str | None:
    for pattern, spelled in _XLABS:
        if pattern.fullmatch(original):
            return pattern.sub(spelled, original)
    return None


def _unlisted(dialect: Dialect, target: Target, component: str | None, name: str) -> str:
    """The name of a module that is in no table: as it came, where that is a name here."""
    form = dialect.form
    if name.startswith(FLAT_PREFIXES):
        if form.flat and (form.naming == "kohya" or name.startswith(form.network)):
            return name
        message = (
            f"{target.key}: a flattened name of an unknown module; only files of its own dialect "
            "can hold it"
        )
    elif form.flat:
        message = (
            f"{target.key}: no module table knows it, so it has no flattened name; write another "
            "dialect"
        )
    elif form.encoders == "parts":
        if component is not None:
            return target.key
        message = (
            f"{target.key}: neither a module table nor its file says which part of a diffusers "
            "pipeline it belongs to; write the dialect of the input instead"
        )
    elif component is None or form.naming == "name":
        network = component is None or component in (*NETWORKS, *dialect.prefixes)
        return form.network + (name if network else target.key)
    else:
        message = (
            f"{target.key}: no module table knows it, so nobody knows what {dialect.name} files "
            "call it; write --dialect diffusers"
        )
    raise FormatError(message)
