"""Programs that load adapters: the safest dialect for each, and what it leaves unread.

A module that a program does not know is skipped there, often without a word; so an output for a
program is refused if it has one.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from loramix.errors import FormatError, ParamError
from loramix.formats.dialects.forms import form_of
from loramix.formats.layout import Layout, flatten
from loramix.types import Target

_SD = ("sd15", "sd21", "sdxl")
_PROJECTION = "text_encoder*.text_projection"


@dataclass(frozen=True, slots=True)
class Client:
    """A program that loads adapters.

    Attributes
    ----------
    name : as users write it.
    dialect : what it reads best; the form follows from the model.
    models : layouts it has adapters for; empty: all that the dialect has.
    unread : globs of target keys that it does not load, by model; ``*`` is every model.
    """

    name: str
    dialect: str
    models: tuple[str, ...] = ()
    unread: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def reads(self, layout: Layout | None) -> bool:
        """Whether it loads adapters of a model."""
        if layout is None or (self.models and layout.name not in self.models):
            return False
        return form_of(self.dialect, layout) is not None


CLIENTS: Mapping[str, Client] = {
    client.name: client
    for client in (
        Client("comfyui", "comfyui", unread={"*": (_PROJECTION,)}),
        Client(
            "diffusers",
            "diffusers",
            # Its pipelines load the first two text encoders, that of FLUX.1 only CLIP.  PEFT has
            # no layer for a transposed convolution, and then loads nothing of the file.
            unread={
                "*": (_PROJECTION, "text_encoder_3.*"),
                "flux1": ("text_encoder_2.*",),
                "ace_step_1_5": ("transformer.proj_out_conv",),
            },
        ),
        Client("a1111", "kohya", _SD, {"*": (_PROJECTION,)}),
        Client("peft", "peft", unread={"ace_step_1_5": ("transformer.proj_out_conv",)}),
        Client("musubi", "musubi"),
    )
}


def client_for(name: str, layout: Layout | None, usual: str) -> Client:
    """The client of this name, if it loads adapters of a model.

    Parameters
    ----------
    layout : module table of the model; None: no table knows it, and names stay what they are.
    usual : name of the dialect that keeps the names of the input.

    Raises
    ------
    ParamError : it does not.
    """
    client = CLIENTS[name]
    # PEFT's names are those of the model's own modules, whatever model it is.
    if client.reads(layout) or (layout is None and client.name == usual == "peft"):
        return client
    if layout is None:
        message = (
            f"--for {name}: no module table knows the model of these adapters, so nobody can say "
            "which names it loads; choose a --dialect, or name the model with --architecture"
        )
        raise ParamError(message)
    others = [c.name for c in CLIENTS.values() if c.reads(layout)]
    message = (
        f"--for {name}: it loads no adapters of {layout.name}; those are loaded by "
        f"{', '.join(others)}"
    )
    raise ParamError(message)


def refuse_unread(client: Client, layout: Layout, targets: Iterable[Target]) -> None:
    """Refuse an output of which a client would not load everything.

    A module is known by its name alone: some models have layers of their own size, as those that
    take a mask beside the picture.

    Raises
    ------
    FormatError : with the names of the modules.
    """
    targets = list(targets)
    globs = (*client.unread.get("*", ()), *client.unread.get(layout.name, ()))
    keys = [t.key for t in targets if any(fnmatchcase(t.key, glob) for glob in globs)]
    if keys:
        message = (
            f"{client.name} does not load {_some(keys)}; leave them out with --skip, or choose a "
            "--dialect instead of --for"
        )
        raise FormatError(message)
    odd = [t.key for t in targets if not t.is_vector and not _is_known(layout, t.key)]
    if odd:
        message = (
            f"no module of {layout.name} is called {_some(odd)}, so {client.name} has no place for "
            "it; leave such modules out with --skip, or choose a --dialect instead of --for"
        )
        raise FormatError(message)


def _is_known(layout: Layout, key: str) -> bool:
    component, _, name = key.partition(".")
    return layout.find(flatten(name), component) is not None


def _some(keys: Sequence[str]) -> str:
    more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
    return ", ".join(keys[:3]) + more
