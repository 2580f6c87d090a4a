"""``FILE[:WEIGHT[:TE_WEIGHT]]``: what it means, and what it refuses to guess."""

import pytest

from loramix.cli.arguments import Spec, parse
from loramix.errors import ParamError

NOTHING: frozenset[str] = frozenset()


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("a.safetensors", Spec("a.safetensors")),
        ("a.safetensors:0.8", Spec("a.safetensors", 0.8)),
        ("a.safetensors:0.8:0.5", Spec("a.safetensors", 0.8, 0.5)),
        ("a.safetensors:1:0", Spec("a.safetensors", 1.0, 0.0)),
        ("a.safetensors:-0.5", Spec("a.safetensors", -0.5)),
        ("a.safetensors:+2", Spec("a.safetensors", 2.0)),
        ("a.safetensors:1e-2:-1.5E+1", Spec("a.safetensors", 0.01, -15.0)),
        ("a.safetensors:.5:2.", Spec("a.safetensors", 0.5, 2.0)),
        ("folder/x:1", Spec("folder/x", 1.0)),
        ("../a b/ü.safetensors:1", Spec("../a b/ü.safetensors", 1.0)),
        (r"C:\x\a.safetensors", Spec(r"C:\x\a.safetensors")),
        (r"C:\x\a.safetensors:0.8", Spec(r"C:\x\a.safetensors", 0.8)),
        (r"C:\x\a.safetensors:0.8:-1", Spec(r"C:\x\a.safetensors", 0.8, -1.0)),
        ("C:/x", Spec("C:/x")),
        ("C:/x:2", Spec("C:/x", 2.0)),
        ("C:/1:2", Spec("C:/1", 2.0)),
        (r"\\server\share\a:1", Spec(r"\\server\share\a", 1.0)),
        ("odd:name/a.safetensors:2", Spec("odd:name/a.safetensors", 2.0)),
    ],
)
def test_parse(text: str, spec: Spec) -> None:
    assert parse(text, NOTHING.__contains__) == spec


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("A:abc", "'abc' is not a number"),
        ("a.safetensors:0,8", "'0,8' is not a number"),
        ("a.safetensors:nan", "'nan' is not a number"),
        ("a.safetensors:inf", "'inf' is not a number"),
        ("a.safetensors:1_0", "'1_0' is not a number"),
        ("a.safetensors: 1", "' 1' is not a number"),
        ("a.safetensors:", "no number after the colon"),
        ("a.safetensors::1", "no number after the colon"),
        ("a.safetensors:1:2:3", "more than two numbers"),
        (":0.5", "no file before the colon"),
        ("", "no file before the colon"),
        (r"C:\x\a.safetensors:abc", "'abc' is not a number"),
    ],
)
def test_refuse(text: str, reason: str) -> None:
    with pytest.raises(ParamError, match=reason) as caught:
        parse(text, NOTHING.__contains__)
    assert str(caught.value).startswith(f"{text}: ")


@pytest.mark.parametrize(
    ("text", "there", "spec"),
    [
        ("a:0.5", {"a:0.5"}, Spec("a:0.5")),
        ("a:0.5", {"a:0.5", "a"}, Spec("a:0.5")),
        ("a:0.5:0.8", {"a:0.5"}, Spec("a:0.5", 0.8)),
        ("a:0.5:0.8:1", {"a:0.5"}, Spec("a:0.5", 0.8, 1.0)),
        ("a:abc", {"a:abc"}, Spec("a:abc")),
        ("a:abc:2", {"a:abc"}, Spec("a:abc", 2.0)),
        ("a:0.5", {"a"}, Spec("a", 0.5)),
    ],
)
def test_a_path_that_exists_wins(text: str, there: set[str], spec: Spec) -> None:
    assert parse(text, there.__contains__) == spec


def test_weights_as_the_library_takes_them() -> None:
    assert Spec("a", 0.8).weights(None) == 0.8
    both = Spec("a", 0.8, 0.5).weights(None)
    assert isinstance(both, dict)
    assert list(both.items()) == [("text_encoder*", 0.5), ("*", 0.8)]  # first match wins
