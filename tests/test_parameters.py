"""Whatever is written after a method's or a policy's name is taken, or refused in one line."""

import dataclasses

import pytest

from loramix import METHODS, LoramixError
from loramix.deciding import policy_for
from loramix.methods import method_of
from loramix.policies import Auto, Published

PARAMETERS = [
    (name, field.name.rstrip("_"))
    for name, one in {**METHODS, "auto": Auto(), "published": Published()}.items()
    for field in (dataclasses.fields(one) if dataclasses.is_dataclass(one) else ())
]
NO_VALUES = ("", "[]", "1e400", "nan")


def make(text: str) -> object:
    return policy_for(text) if text.startswith(("auto", "published")) else method_of(text)


@pytest.mark.parametrize("value", ["x", "-1", "inf", "2", "true", "none", "0", "1e-400"])
@pytest.mark.parametrize(("name", "parameter"), PARAMETERS)
def test_a_value_is_taken_or_refused_by_name(name: str, parameter: str, value: str) -> None:
    said = ""
    try:
        make(f"{name}:{parameter}={value}")
    except LoramixError as error:
        said = str(error)
    assert not said or (parameter in said and "\n" not in said)


@pytest.mark.parametrize("value", NO_VALUES)
@pytest.mark.parametrize(("name", "parameter"), PARAMETERS)
def test_what_is_never_a_value_is_refused_by_name(name: str, parameter: str, value: str) -> None:
    with pytest.raises(LoramixError, match=parameter):
        make(f"{name}:{parameter}={value}")


@pytest.mark.parametrize("name", sorted({name for name, _ in PARAMETERS}))
def test_an_unknown_parameter_is_refused_by_name(name: str) -> None:
    with pytest.raises(LoramixError, match="dnsity"):
        make(f"{name}:dnsity=0.5")
