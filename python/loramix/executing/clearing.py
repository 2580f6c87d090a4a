"""Members of groups that joint bases are made of, without the rounding noise of dense differences.

A difference of rank 16 that is stored entry by entry in bf16 has full rank, and joint bases would
take its noise for directions; see `loramix.rounding`.
"""

from dataclasses import replace

import numpy as np

from loramix.formats.values import decoded
from loramix.planning.steps import Part, Step
from loramix.rounding import BITS, significant
from loramix.tensors import F32, Tensor
from loramix.types import Factors, Target


def cleared(step: Step) -> Step:
    """A step of the kind ``joint`` whose methods see no noise of dense differences in short types.

    Members that go around a method, and parts that are sums, stay as they are.

    Notes
    -----
    Cost: a singular value decomposition per dense difference in the types of `BITS`, which is less
    than what its directions would cost in the joint bases; afterwards there are fewer of them.
    """
    return replace(step, parts=tuple(map(_cleared, step.parts)))


def _cleared(part: Part) -> Part:
    members = part.group.members
    dense = any(one.identity is not None and one.sides[0].dtype in BITS for one in members)
    if part.place == "anywhere" or not dense:
        return part
    seen = part.site.seen(range(len(members)))
    target = part.group.target
    own = [_clear(one, target) if i in seen else one for i, one in enumerate(members)]
    return replace(part, group=replace(part.group, members=tuple(own)))


def _clear(member: Factors, target: Target) -> Factors:
    if member.identity is None or member.sides[0].dtype not in BITS:
        return member
    (side,) = member.sides
    delta = decoded(side).reshape(target.rows, target.cols)
    found = significant(delta.astype(np.float64), side.dtype)
    if found is None:
        return member
    up, down = map(_tensor, found)
    return replace(member, up=up, down=down, identity=None)


def _tensor(matrix: F32) -> Tensor:
    data = np.ascontiguousarray(matrix).reshape(-1).view(np.uint8)
    return Tensor("F32", matrix.shape, data.data)
