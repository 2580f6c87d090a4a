"""The kernels for direct use: verbs on dense deltas, NumPy arrays or torch tensors.

For those who merge in code of their own and want its slow parts fast, exact and repeatable.

All of them take f64, f32, f16 and (torch) bf16 of any shape.  Contiguous CPU memory is read where
it lies, anything else is copied first; inputs are never written.  Arrays that come back are new,
of the kind, type, shape and device that came.  ``threads`` is all cores by default; no result
depends on it.  Refusals are classes of `loramix.errors`.

Verbs that look at one delta: `trim`, `dare`, `della`; at several: `gram`, `sign_conflict`,
`elect_sign`, `tall_masks`; whole methods: `ties`, `dare_ties`, `della_ties`, `consensus`, which are
short for `loramix.combine`.  `expand` multiplies out factors.
"""

from loramix.kernels.factors import expand
from loramix.kernels.methods import consensus, dare_ties, della_ties, ties
from loramix.kernels.several import elect_sign, gram, sign_conflict, tall_masks
from loramix.kernels.single import dare, della, trim

__all__ = [
    "consensus",
    "dare",
    "dare_ties",
    "della",
    "della_ties",
    "elect_sign",
    "expand",
    "gram",
    "sign_conflict",
    "tall_masks",
    "ties",
    "trim",
]
