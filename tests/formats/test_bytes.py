"""Bytes on their way: gathered, written, hashed, compared."""

import errno
import hashlib
import mmap
from collections.abc import Sequence
from concurrent.futures import CancelledError
from pathlib import Path
from threading import Event

import numpy as np
import pytest
from helpers import pairs, read_safetensors, write_adapter

from loramix import OutputError, _core, convert, load
from loramix.digests import Hashing
from loramix.io import hashing
from loramix.io.hashing import digest_of, digest_of_bytes
from loramix.io.safetensors import SafetensorsFile
from loramix.io.writing import MemoryWriter, SafetensorsWriter

BUFFER = 1 << 18  # what the core gathers before it writes


def noise(size: int, seed: int = 0) -> bytes:
    return np.random.default_rng(seed).bytes(size)


@pytest.mark.parametrize(
    "sizes",
    [
        [0, 1],
        [4, 0, 4],
        [BUFFER],
        [BUFFER - 1, 1, 1],
        [BUFFER - 1, 2],
        [3, 2 * BUFFER + 5, 0, 7],
        [3 * BUFFER],
    ],
)
def test_pieces_of_any_size_arrive(sizes: list[int], tmp_path: Path) -> None:
    data = {f"t{i}": noise(size, i) for i, size in enumerate(sizes)}
    writer = SafetensorsWriter(tmp_path / "out.safetensors", 4096)
    writer.add((name, "U8", (len(value),), value) for name, value in data.items())
    assert [bytes(view) for view in writer.written(data)] == list(data.values())
    writer.begin("late", "U8", (BUFFER + 1,), BUFFER + 1)
    late = noise(BUFFER + 1, 99)
    writer.append(late[:10])
    writer.append(late[10:])
    writer.finish({})
    writer.commit()
    found, _ = read_safetensors(tmp_path / "out.safetensors")
    assert {name: value for name, (_, _, value) in found.items()} == {**data, "late": late}


@pytest.mark.parametrize("on_disk", [True, False])
def test_room_that_is_reserved_is_filled_in_any_order(on_disk: bool, tmp_path: Path) -> None:
    data = {name: noise(size) for name, size in (("a", 5), ("b", BUFFER + 3), ("c", 7))}
    writer = SafetensorsWriter(tmp_path / "out.safetensors", 4096) if on_disk else MemoryWriter()
    writer.reserve((name, "U8", (len(value),), len(value)) for name, value in data.items())
    writer.fill("c", [data["c"]])
    if on_disk:
        early = writer.finish({})  # what is not there yet is zero
        assert {n: bytes(t.data) for n, t in early.tensors.items()} == {
            "a": bytes(5), "b": bytes(BUFFER + 3), "c": data["c"],
        }  # fmt: skip
    writer.fill("a", [data["a"], data["b"]])
    assert [bytes(view) for view in writer.written(data)] == list(data.values())
    found = writer.finish({})
    assert {name: bytes(one.data) for name, one in found.tensors.items()} == data
    writer.commit()


def test_what_cannot_be_written_says_why(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as found:
        _core.write_at(tmp_path / "none", 0, [b"x"])
    assert found.value.errno == errno.ENOENT


@pytest.mark.parametrize("extra", [-1, 0, 1])
def test_digests_go_over_pieces(
    extra: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hashing, "_PIECE_BYTES", 2 * mmap.ALLOCATIONGRANULARITY)
    path = tmp_path / "file"
    data = noise(6 * mmap.ALLOCATIONGRANULARITY + extra)
    for content in (data, b""):
        path.write_bytes(content)
        assert digest_of(path, "sha256") == f"sha256:{hashlib.sha256(content).hexdigest()}"
        assert digest_of(path, "blake3") == digest_of_bytes(content, "blake3")


@pytest.mark.parametrize(
    ("size", "digest"),
    [
        (0, "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"),
        (1024, "42214739f095a406f3fc83deb889744ac00df831c10daa55189b5d121c855af7"),
        (1025, "d00278ae47eb27b34faecf67b4fe263f82d5412916c1ffd97c8cb7fb814b8444"),
        (31744, "62b6960e1a44bcc1eb1a611a8d6235b6b4b78f32e7abc4fb4c6cdcce94895c47"),
    ],
)
def test_blake3_is_that_of_its_specification(size: int, digest: str) -> None:
    """Test vectors of its authors: bytes that count from 0 to 250, again and again."""
    data = (bytes(range(251)) * (size // 251 + 1))[:size]
    assert digest_of_bytes(data, "blake3") == f"blake3:{digest}"
    hasher = _core.Blake3()
    for start in range(0, size, 100):
        hasher.update(data[start : start + 100])
    assert hasher.hexdigest() == digest


def test_a_digest_that_nobody_wants_stops(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(noise(100))
    stop = Event()
    stop.set()
    with pytest.raises(CancelledError):
        digest_of(path, "sha256", stop)


def test_digests_begun_early_are_those_of_the_files(tmp_path: Path) -> None:
    paths = [
        write_adapter(tmp_path / f"{i}.safetensors", pairs(i, 4), "kohya").resolve()
        for i in range(2)
    ]
    stack = [load(path) for path in paths]
    with Hashing() as made:
        made.begin(paths[1])
        found = made.of(stack).result()
    assert [one.file for one in found] == [
        f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}" for path in paths
    ]


def test_the_first_tensor_that_is_not_what_was_meant_is_told() -> None:
    one = bytes(byte & 0x3F for byte in noise(1000))  # finite numbers
    other = bytearray(one)
    other[-1] ^= 1
    nan = np.array([1.0] * 99 + [np.nan], "<f4").tobytes()

    def first(*pairs: tuple[bytes | bytearray, bytes | bytearray]) -> tuple[int, bool] | None:
        return _core.first_wrong([("F8_E5M2", *pair) for pair in pairs])

    assert first() is None
    assert first((b"", b""), (one, one)) is None
    assert first((one, one), (one, other), (one, b"")) == (1, True)
    assert first((one, one[:-1])) == (0, True)
    assert _core.first_wrong([("F32", nan, nan)]) == (0, False)
    assert _core.first_wrong([("F32", nan[:-4], nan[:-4]), ("F32", nan, nan[:-4])]) == (1, False)


def test_the_first_tensor_that_is_not_finite_is_told() -> None:
    fine, bad = (np.array([1.0] * 999 + [last], "<f4").tobytes() for last in (1.0, np.inf))
    assert _core.first_not_finite([]) is None
    assert _core.first_not_finite([("F32", b""), ("F32", fine)]) is None
    assert _core.first_not_finite([("F32", fine), ("F32", bad), ("F32", bad)]) == 1
    assert _core.first_not_finite([("BF16", np.array([0x7F7F, 0xFF81], "<u2").tobytes())]) == 0


def test_bytes_that_do_not_arrive_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_adapter(tmp_path / "in.safetensors", pairs(1, 4, dtype="BF16"), "kohya")
    write = SafetensorsWriter._write

    def faulty(self: SafetensorsWriter, views: Sequence[memoryview], at: int) -> None:
        damaged = [bytearray(view) for view in views]
        if at > 0:
            damaged[0][len(damaged[0]) // 2] ^= 1
        write(self, [memoryview(one) for one in damaged], at)

    monkeypatch.setattr(SafetensorsWriter, "_write", faulty)
    with pytest.raises(OutputError, match="does not hold the bytes just written"):
        convert(source, tmp_path / "out.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["in.safetensors"]


def test_single_numbers_are_read_wherever_they_stand(tmp_path: Path) -> None:
    data = {"a": noise(4), "b": noise(4), "wide": noise(64), "c": noise(8), "empty": b""}
    writer = SafetensorsWriter(tmp_path / "out.safetensors", 4096)
    writer.add((name, "U8", (len(value),), value) for name, value in data.items())
    writer.finish({})
    writer.commit()
    found = SafetensorsFile(tmp_path / "out.safetensors")
    assert {name: bytes(one.data) for name, one in found.tensors.items()} == data
