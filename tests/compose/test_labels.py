"""Names by which reports tell adapters apart."""

from pathlib import Path

import pytest

from loramix.compose.labels import labels_of


@pytest.mark.parametrize(
    ("paths", "taken", "meant"),
    [
        (["a/style.safetensors", "b/face.v2.safetensors"], (), ["style", "face.v2"]),
        (["a/style.safetensors", "b/style.safetensors"], (), ["a/style", "b/style"]),
        (["a/x/s.safetensors", "b/x/s.safetensors", "c/s"], (), ["a/x/s", "b/x/s", "s"]),
        (["style.safetensors", "b/style.safetensors"], (), ["style.safetensors", "b/style"]),
        (["d/style.safetensors", "d/style"], (), ["style.safetensors", "style"]),
        (["style.safetensors"], ("style",), ["style.safetensors"]),
        (["style"], ("style",), ["style (2)"]),
        (["style", "style"], (), ["style", "style (2)"]),
        ([], (), []),
    ],
)
def test_no_two_are_alike_and_none_is_longer_than_it_must_be(
    paths: list[str], taken: tuple[str, ...], meant: list[str]
) -> None:
    assert list(labels_of([Path(one) for one in paths], taken)) == meant


def test_a_snapshot_of_a_cache_is_its_repository(tmp_path: Path) -> None:
    folder = tmp_path / "models--org--lora-v1.5" / "snapshots" / "0123abc"
    folder.mkdir(parents=True)
    assert labels_of([folder]) == ("lora-v1.5",)
