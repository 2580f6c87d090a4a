"""A recipe: all that a user says about a merge, as frozen data.

`loramix.recipes.reading` makes it from a file, `loramix.recipes.writing` makes a file of it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

from loramix.backends import BACKENDS
from loramix.errors import ParamError
from loramix.formats.layout import LAYOUTS, is_architecture
from loramix.methods import Level, Method, Space
from loramix.methods.composite import LEVELS, SPACES
from loramix.methods.linear import Linear
from loramix.planning.output import Output
from loramix.policies.base import Policy
from loramix.recipes import blocks as lbw
from loramix.recipes.choosing import composed
from loramix.recipes.rules import Rule
from loramix.recipes.strict import finite
from loramix.recipes.weights import combined
from loramix.types import Weight

KeyFilter: TypeAlias = Literal["all", "shared_only", "unique_only"]
ConflictMode: TypeAlias = Literal["all", "low", "high"]
KEY_FILTERS: tuple[KeyFilter, ...] = ("all", "shared_only", "unique_only")
CONFLICT_MODES: tuple[ConflictMode, ...] = ("all", "low", "high")


@dataclass(frozen=True, slots=True)
class Entry:
    """One adapter of a recipe.

    Attributes
    ----------
    path : file or folder.
    weight : any sign; or globs of target keys to numbers, first match wins, 1 where none matches.
    text_encoder : weight of its text encoders; None: the same.
    blocks : a block weight string or the name of a preset, see `loramix.recipes.blocks`; its
        numbers multiply the weights.
    key_filter : ``all`` of its targets, ``shared_only``: those that another adapter has as well,
        ``unique_only``: the others.
    conflict_mode : ``all`` entries, ``low``: those with the sign of the majority, ``high``: the
        others.
    rslora : whether its scale is alpha over the root of the rank, which no tensor says.
    """

    path: Path
    weight: Weight = 1.0
    text_encoder: float | None = None
    blocks: str | None = None
    key_filter: KeyFilter = "all"
    conflict_mode: ConflictMode = "all"
    rslora: bool = False

    def __post_init__(self) -> None:
        weight, encoder = self.weight, self.text_encoder
        numbers = list(weight.values()) if isinstance(weight, Mapping) else [weight]
        if any(finite(number) is None for number in numbers) or not numbers:
            message = f"weight = {weight}: allowed is a finite number of any sign, for each glob"
            raise ParamError(message)
        if encoder is not None and finite(encoder) is None:
            message = f"text_encoder = {encoder}: allowed is a finite number of any sign"
            raise ParamError(message)
        _check_word("key_filter", self.key_filter, KEY_FILTERS)
        _check_word("conflict_mode", self.conflict_mode, CONFLICT_MODES)
        combined(weight, encoder)
        if self.blocks is not None:
            lbw.check(self.blocks)

    def weights(self, architecture: str | None = None, keys: Sequence[str] | None = None) -> Weight:
        """What `loramix.merge` takes: the weights times the numbers of the blocks.

        Parameters
        ----------
        architecture : the base model of the adapter; None: what the count of the blocks says.
        keys : of the adapter's targets; None: not looked at.

        Raises
        ------
        ParamError : blocks of another architecture, or none that a target is in.
        """
        found = lbw.parse(self.blocks, architecture) if self.blocks is not None else None
        if found is not None and keys is not None:
            try:
                found.refuse_strangers(keys)
            except ParamError as error:
                message = f"{self.path}: {error}"
                raise ParamError(message) from None
        return combined(self.weight, self.text_encoder, found)


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything a user says about a merge.

    Attributes
    ----------
    adapters : at least one.
    method : for all groups that no rule gives another; or
    policy : what chooses a method for each group.  Neither: the default of whoever merges.
    sparsify, refine, space : of the method or of what the policy chooses, see
        `loramix.methods.Composite`.
    rules : what is different for some targets.
    output : rank, type, dialect.
    auto_strength, floor : energy normalisation, see `loramix.merge`.
    seed : of random draws, 0 to 2^64 - 1.
    backend : ``rust``, ``torch`` or ``torch:DEVICE``.
    architecture : base model, if names and shapes cannot tell.
    skip : globs of tensor names to leave out.
    base : model that deltas of some families are relative to, see `loramix.load`.
    """

    adapters: tuple[Entry, ...]
    method: Method | None = None
    policy: Policy | None = None
    sparsify: Method | None = None
    refine: Level = "none"
    space: Space = "weight"
    rules: tuple[Rule, ...] = ()
    output: Output = field(default_factory=Output)
    auto_strength: bool = False
    floor: float | None = None
    seed: int = 0
    backend: str = "rust"
    architecture: str | None = None
    skip: tuple[str, ...] = ()
    base: Path | None = None

    def __post_init__(self) -> None:
        if not self.adapters:
            message = "no adapters: write [[adapter]] with a path at least once"
            raise ParamError(message)
        if self.method is not None and self.policy is not None:
            message = "method and policy: a policy chooses the methods, give one of them"
            raise ParamError(message)
        _check_word("refine", self.refine, LEVELS)
        _check_word("space", self.space, SPACES)
        self._check_run()
        # Whether the modifiers go together: with any method, if it is not known yet.
        composed(self.method or Linear(), self.sparsify, self.refine, self.space)

    def _check_run(self) -> None:
        if not 0 <= self.seed < 2**64:
            message = f"seed = {self.seed}: allowed is 0 to 2^64 - 1"
            raise ParamError(message)
        if self.floor is not None and not 0 < self.floor <= 1:
            message = f"floor = {self.floor}: allowed is (0, 1]"
            raise ParamError(message)
        if self.floor is not None and not self.auto_strength:
            message = "floor is a part of auto_strength: give both or none"
            raise ParamError(message)
        name, colon, device = self.backend.partition(":")
        if name not in BACKENDS or (colon and (name == "rust" or not device)):
            message = (
                f"backend = {self.backend!r}: allowed is {', '.join(BACKENDS)}, or torch:DEVICE"
            )
            raise ParamError(message)
        if self.architecture is not None and not is_architecture(self.architecture):
            message = (
                f"architecture = {self.architecture!r}: allowed is {', '.join(LAYOUTS)}, or a file "
                "whose name ends in .layout"
            )
            raise ParamError(message)

    @property
    def chosen(self) -> Method | None:
        """The method with its modifiers; None if there is no method."""
        if self.method is None:
            return None
        return composed(self.method, self.sparsify, self.refine, self.space)


def _check_word(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        message = f"{name} = {value!r}: allowed is {', '.join(allowed)}"
        raise ParamError(message)
