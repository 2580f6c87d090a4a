"""A delta of a file, and how it becomes factors once its weight is known."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from loramix.errors import FormatError, ShapeError
from loramix.formats.dialects import Stem, lookup
from loramix.formats.families import Draft, Place
from loramix.formats.layout import Hit, Layout
from loramix.tensors import Shape, Tensor
from loramix.types import BIAS, MODULATION, Factors, Target, Weights

_SUFFIXES = {"weight": "", "norm": "", "bias": BIAS, "modulation": MODULATION}


@dataclass(frozen=True, slots=True)
class Delta:
    """One delta of a file, under the name it has there."""

    stem: Stem
    draft: Draft

    @property
    def size(self) -> tuple[int | None, int | None]:
        """Rows and columns, as far as its tensors tell."""
        return self.draft.rows, self.draft.cols

    @property
    def suffix(self) -> str:
        """What the key of its target has behind that of the module."""
        return _SUFFIXES[self.draft.part]

    @property
    def turned(self) -> "Delta":
        """The other reading of its tensors, if there is one."""
        return Delta(self.stem, self.draft.other()) if self.draft.other is not None else self

    def find(self, layout: Layout | None) -> tuple["Delta", Hit | None]:
        """Where it belongs in a module table, and the reading of its tensors that fits there."""
        hit = lookup(self.stem, layout, self.size) if layout else None
        if layout and hit is None and self.draft.other is not None:
            turned = self.turned
            hit = lookup(self.stem, layout, turned.size)
            return (turned, hit) if hit is not None else (self, None)
        return self, hit

    def at(
        self,
        key: str,
        shape: Shape | None,
        base: Weights | None,
        where: str,
        *,
        parts: Sequence[str] = (),
        swapped: bool = False,
    ) -> tuple[Target, Factors] | None:
        """Target and factors; None if it changes something that the base model does not have.

        Parameters
        ----------
        key : of the target.
        shape : of the module's weight; None if no table says.
        base : weights of the base model, for a delta that is relative to them.
        where : the file, for messages.
        parts : keys of the parts of a fused weight, in the order of its rows.
        swapped : whether the halves of the rows are exchanged in the file.

        Raises
        ------
        FormatError : a weight that the base does not have.
        ShapeError : a delta that does not fit its weight.
        """
        weight = self._weight(key, parts, base, where)
        if weight is None and self.draft.base == "optional":
            return None
        if weight is not None and swapped:
            weight = weight.with_halves_swapped()
        target = Target(key, self._shape(shape, weight, where))
        turned = self.draft.transposed and len(target.shape) == 2
        factors = self.draft.make(Place(key, target.shape, weight, turned))
        if swapped:
            factors = replace(factors, up=factors.up.with_halves_swapped())
        return target, factors

    def _weight(
        self, key: str, parts: Sequence[str], base: Weights | None, where: str
    ) -> Tensor | None:
        """The base weight that it is relative to, in the order of its target."""
        if base is None or self.draft.base == "no":
            return None
        # Part by part: they need not be all of the weight that the key names.
        found = [one for part in parts if (one := base.weight(part)) is not None]
        alike = len({one.dtype for one in found}) == 1
        if len(parts) > 1 and len(found) == len(parts) and alike:
            weight: Tensor | None = Tensor.joined(found)
        else:
            weight = base.weight(key)
        if weight is None and self.draft.base == "needed":
            message = (
                f"{where}: {self.stem.text} is relative to the base weight {key}, which the base "
                f"model {base.name} does not have: is it the one that the file was trained on?"
            )
            raise FormatError(message)
        return weight

    def _shape(self, known: Shape | None, weight: Tensor | None, where: str) -> Shape:
        """Shape of the target: of the table, of the base weight, or of the delta itself."""
        draft = self.draft
        if draft.part in ("bias", "modulation"):
            assert draft.shape is not None  # they are differences as they are
            return draft.shape
        if weight is not None:
            turned = draft.transposed and len(weight.shape) == 2
            there = weight.shape[::-1] if turned else weight.shape
            if known is not None and there != known:
                message = (
                    f"{where}: the base weight of {self.stem.text} has shape {list(there)}, but "
                    f"the model has {list(known)} there"
                )
                raise ShapeError(message)
            known = there
        shape = known if known is not None else draft.shape
        assert shape is not None  # whoever does not know it needs a base
        if not self._fits(shape):
            message = (
                f"{where}: {self.stem.text} is a weight of shape {list(shape)}, but the tensors "
                f"there are of {draft.rows or 'any'} rows and {draft.cols or 'any'} columns"
            )
            raise ShapeError(message)
        return shape

    def _fits(self, shape: Shape) -> bool:
        draft = self.draft
        if (draft.part == "norm") != (len(shape) == 1):
            return False
        return draft.rows in (None, shape[0]) and draft.cols in (None, math.prod(shape[1:]))
