"""What the tensors of a base model are called in its files, and which targets they hold.

A stored name is a prefix that says which component it belongs to, a module, and a role.  Modules
are looked up in the tables of known models, whole, under their canonical and their original
names; those of unknown models are known by the name that they have.
"""

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from loramix.errors import FormatError
from loramix.formats.dialects import COMPONENTS, NETWORKS, split_stem
from loramix.formats.layout import Hit, Layout, flatten, load_layout
from loramix.tensors import Tensor

Role: TypeAlias = Literal["weight", "bias"]

_ENCODERS = tuple(name for name in COMPONENTS if name not in NETWORKS)
# Prefix, components that it may mean; none: no adapter changes what is there.
_PREFIXES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("model.diffusion_model.", NETWORKS),
    ("diffusion_model.", NETWORKS),
    ("conditioner.embedders.0.transformer.", ("text_encoder",)),
    ("conditioner.embedders.1.model.", ("text_encoder_2",)),
    ("cond_stage_model.transformer.", ("text_encoder",)),
    ("cond_stage_model.model.", ("text_encoder",)),
    ("text_encoders.clip_l.transformer.", ("text_encoder",)),
    ("text_encoders.clip_g.transformer.", ("text_encoder_2",)),
    ("text_encoders.t5xxl.transformer.", ("text_encoder_3", "text_encoder_2")),
    *((f"{name}.", (name,)) for name in COMPONENTS),
    ("first_stage_model.", ()),
    ("model_ema.", ()),
    ("vae.", ()),
)
_ENCODER = re.compile(r"text_encoders\.[^.]+\.transformer\.")
_ROLES: tuple[tuple[str, str, Role], ...] = (
    (".weight", "", "weight"),
    (".bias", "", "bias"),
    (".in_proj_weight", ".in_proj", "weight"),  # of torch.nn.MultiheadAttention
    (".in_proj_bias", ".in_proj", "bias"),
)
ACCEPT = 0.8
"""Share of the weights that must be in a table before we believe it."""
COMPLETE = 0.95
"""Share of a table's network that must be there, where a file holds much else."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where the files hold a target.

    Attributes
    ----------
    name : of the stored tensor, as in `Checkpoint.tensors`.
    rows : half-open rows of it; None: all.
    swapped : whether the halves of these rows are exchanged against the target.
    """

    name: str
    rows: tuple[int, int] | None = None
    swapped: bool = False


@dataclass(frozen=True, slots=True)
class Stored:
    """A stored name, taken apart.

    Attributes
    ----------
    name : as in `Checkpoint.tensors`.
    components : that it may belong to, likeliest first; None if its prefix does not say.
    path : module, without prefix and role.
    role : None for what is neither a weight nor a bias.
    """

    name: str
    components: tuple[str, ...] | None
    path: str
    role: Role | None

    @classmethod
    def of(cls, name: str, component: str | None) -> "Stored":
        """Take a name apart.

        Parameters
        ----------
        component : of the pipeline whose file it is in, and then the first part of the name.
        """
        if component is not None:
            known = (component,) if component in COMPONENTS else ()
            return cls(name, known, *_module(name.removeprefix(f"{component}.")))
        rest = name.replace("_orig_mod.", "")  # torch.compile leaves it anywhere
        match = _ENCODER.match(rest)
        for prefix, components in _PREFIXES:
            if rest.startswith(prefix):
                return cls(name, components, *_module(rest.removeprefix(prefix)))
        if match:
            return cls(name, _ENCODERS, *_module(rest[match.end() :]))
        return cls(name, None, *_module(rest))

    @property
    def spellings(self) -> Iterator[tuple[str | None, str]]:
        """Component and flattened module under which a table may have it, likeliest first."""
        if self.components == ():
            return
        flat, short = flatten(self.path), f"text_model_{flatten(self.path)}"
        for component in (None,) if self.components is None else self.components:
            yield component, flat
            if component not in NETWORKS:  # a level that transformers 5 has no more
                yield component, short
        whole = flatten(_module(self.name)[0])
        if whole != flat:  # a bare name may begin as a prefix does
            yield None, whole

    @property
    def key(self) -> str:
        """Key of the target, of a model that no table knows."""
        component = self.components[-1] if self.components else None
        if set(self.components or ()) & set(NETWORKS):
            component = "transformer" if len(self.components or ()) > 1 else component
        return self.path if component is None else f"{component}.{self.path}"

    @property
    def aliases(self) -> tuple[str, ...]:
        """Keys that an adapter of an unknown model may have for it."""
        whole = _module(self.name)[0]
        if self.components == ():
            return (whole,)
        components = self.components or NETWORKS
        networks = NETWORKS if set(components) & set(NETWORKS) else ()
        own = (f"{name}.{self.path}" for name in dict.fromkeys((*components, *networks)))
        return tuple(dict.fromkeys((whole, self.path, *own)))


def _module(rest: str) -> tuple[str, Role | None]:
    """Module and role of a name."""
    for suffix, kept, role in reversed(_ROLES):
        if rest.endswith(suffix):
            return rest.removesuffix(suffix) + kept, role
    return rest, None


@dataclass(frozen=True, slots=True)
class Held:
    """What a stored weight is in a table."""

    stored: Stored
    hit: Hit


def held(stored: Iterable[Stored], tensors: Mapping[str, Tensor], layout: Layout) -> list[Held]:
    """Stored weights that are in a table, with name and shape; norms included."""
    found = []
    for one in stored:
        shape = tensors[one.name].shape
        if one.role != "weight" or not shape:
            continue
        size = (shape[0], math.prod(shape[1:]))
        near = (layout.find(flat, component, size) for component, flat in one.spellings)
        hit = next((hit for hit in near if hit is not None), None)
        if hit is not None:
            found.append(Held(one, hit))
    return found


@dataclass(frozen=True, slots=True)
class Fit:
    """How well a table fits what is stored.

    Attributes
    ----------
    share : of the weights that are in the table, 0 to 1.
    complete : share of the table's network that is there, 0 to 1.
    """

    table: str
    share: float
    complete: float

    @property
    def accepted(self) -> bool:
        """Whether we believe it."""
        return self.share >= ACCEPT or self.complete >= COMPLETE


def fits_of(
    stored: Sequence[Stored], tensors: Mapping[str, Tensor], tables: Iterable[str]
) -> list[Fit]:
    """Tables by how well they fit, the best first.

    The largest share decides; of tables that share it, that of which most is there: a smaller
    model is often a part of a larger one.
    """
    weights = [s for s in stored if s.role == "weight" and s.components != ()]
    weights = [s for s in weights if len(tensors[s.name].shape) > 1]
    found = []
    for name in tables:
        layout = load_layout(name)
        own = held(weights, tensors, layout)
        network = sum(m.component in NETWORKS for m in layout.modules)
        there = sum(m.component in NETWORKS for one in own for m in one.hit.modules)
        found.append(Fit(name, len(own) / max(len(weights), 1), there / max(network, 1)))
    return sorted(found, key=lambda fit: (-fit.share, -fit.complete))


@dataclass(frozen=True, slots=True)
class Names:
    """From targets to places.

    Attributes
    ----------
    known : canonical keys of a table.
    others : keys by identical names, for what no table has.
    flat : the same, flattened.
    plain : the one key of every weight that has a place by its name only.
    """

    known: Mapping[str, Place] = field(repr=False)
    others: Mapping[str, str] = field(repr=False)
    flat: Mapping[str, str] = field(repr=False)
    plain: Mapping[str, str] = field(repr=False)

    def place(self, key: str) -> Place | None:
        """Where the weight of a target is."""
        if key in self.known:
            return self.known[key]
        component, _, text = key.partition(".")
        name = self.others.get(key)
        if name is None and text.startswith("lora_"):  # a flattened name of an unknown model
            stem = split_stem(text)
            components = (stem.component,) if component in COMPONENTS else NETWORKS
            names = (self.flat.get(flatten(f"{c}.{stem.path}")) for c in components)
            name = next((n for n in names if n is not None), None)
        return None if name is None else Place(name)


def names_of(
    stored: Sequence[Stored], tensors: Mapping[str, Tensor], layout: Layout | None, where: str
) -> Names:
    """Every way to name what is stored.

    Raises
    ------
    FormatError : two tensors hold one target.
    """
    known: dict[str, Place] = {}
    for one in held(stored, tensors, layout) if layout else ():
        for key, place in _places(one):
            if key in known:
                message = (
                    f"{where}: {known[key].name} and {place.name} both hold {key}; a model has "
                    "each weight once: remove one of them"
                )
                raise FormatError(message)
            known[key] = place
    others = _unique((alias, s.name) for s in stored if s.role != "bias" for alias in s.aliases)
    flat = _unique((flatten(key), name) for key, name in others.items())
    plain = {s.key: s.name for s in stored if s.role == "weight" and s.components != ()}
    return Names(known, others, flat, plain)


def _places(one: Held) -> Iterator[tuple[str, Place]]:
    modules, name = one.hit.modules, one.stored.name
    first = modules[0]
    if len(modules) == 1:
        yield f"{first.component}.{first.name}", Place(name, None, one.hit.swapped)
        return
    if len({module.original for module in modules}) == 1:
        yield f"{first.component}.{first.original}", Place(name)
    start = 0
    for module in modules:
        rows = (start, start + module.shape[0])
        yield f"{module.component}.{module.name}", Place(name, rows)
        start = rows[1]


def _unique(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Keys that only one tensor has."""
    found: dict[str, str | None] = {}
    for key, name in pairs:
        found[key] = name if found.get(key, name) == name else None
    return {key: name for key, name in found.items() if name is not None}


def bias_beside(name: str) -> str:
    """Name of the bias that goes with a stored weight."""
    head, dot, tail = name.rpartition(".")
    return head + dot + ("in_proj_bias" if tail == "in_proj_weight" else "bias")
