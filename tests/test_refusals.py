"""What to try where a kernel refuses something."""

import pytest

from loramix import _core
from loramix.errors import OutputError
from loramix.refusals import with_names
from loramix.types import Group, Target

GROUP = Group(Target("unet.x", (8, 8)), (), ())


@pytest.mark.parametrize(
    ("dtype", "advice"),
    [
        ("F16", "write a wider type with --dtype bf16 or f32"),
        ("F8_E4M3", "write a wider type with --dtype bf16 or f32"),
        ("BF16", "give smaller weights"),
        ("F32", "give smaller weights"),
    ],
)
def test_a_type_that_is_wide_already_wants_smaller_weights(dtype: str, advice: str) -> None:
    error = _core.CoreError("overflow", f"a result too large for {dtype}", 0, None, None)

    def refuse() -> None:
        raise error

    with pytest.raises(OutputError) as caught:
        with_names([GROUP], refuse)
    assert str(caught.value) == f"unet.x: a result too large for {dtype}; {advice}"
