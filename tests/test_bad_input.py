"""Everything wrong with an input or an output: one line that helps, an exit code, nothing written.

Each case runs the real command line on a damaged file, with a previous output in place that must
stay as it was.
"""

import json
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from cli.program import SIZES, write_adapter, write_safetensors

from loramix.cli.app import main

STEM = next(iter(SIZES))
PREVIOUS = b"the previous output"


def split(path: Path) -> tuple[dict[str, dict[str, object]], bytes]:
    """Header and data of a file."""
    raw = path.read_bytes()
    (length,) = struct.unpack_from("<Q", raw)
    return json.loads(raw[8 : 8 + length]), raw[8 + length :]


def join(path: Path, header: str, data: bytes) -> None:
    """Write header text and data as they are."""
    path.write_bytes(struct.pack("<Q", len(header)) + header.encode() + data)


def change(path: Path, name: str, **fields: object) -> None:
    """Change what the header says of one tensor."""
    header, data = split(path)
    header[name] |= fields
    join(path, json.dumps(header), data)


def truncate(path: Path) -> None:
    raw = path.read_bytes()
    path.write_bytes(raw[:-1000])


def lie_about_the_header(path: Path) -> None:
    raw = path.read_bytes()
    path.write_bytes(struct.pack("<Q", 1 << 40) + raw[8:])


def overlap(path: Path) -> None:
    header, data = split(path)
    names = [n for n in header if n.endswith("lora_up.weight")]
    header[names[1]]["data_offsets"] = header[names[0]]["data_offsets"]
    join(path, json.dumps(header), data)


def duplicate(path: Path) -> None:
    header, data = split(path)
    text = json.dumps(header)
    name = f"{STEM}.alpha"
    again = f"{json.dumps(name)}: {json.dumps(header[name])}"
    join(path, text[:-1] + ", " + again + "}", data)


def poison(value: float, role: str) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        header, data = split(path)
        start, end = header[f"{STEM}.{role}"]["data_offsets"]  # type: ignore[misc]
        numbers = bytearray(data)
        middle = start + (end - start) // 8 * 4
        numbers[middle : middle + 4] = struct.pack("<f", value)
        join(path, json.dumps(header), bytes(numbers))

    return damage


def other_rank(path: Path) -> None:
    rows, cols = SIZES[STEM]
    write_safetensors(
        path,
        {
            f"{STEM}.lora_up.weight": np.ones((rows, 3), dtype=np.float32),
            f"{STEM}.lora_down.weight": np.ones((4, cols), dtype=np.float32),
        },
        {},
    )


def generic(path: Path, cols: int, key: str = "base_model.model.layer") -> None:
    write_safetensors(
        path,
        {
            f"{key}.lora_B.weight": np.ones((8, 2), dtype=np.float32),
            f"{key}.lora_A.weight": np.ones((2, cols), dtype=np.float32),
        },
        {},
    )


def integers(path: Path) -> None:
    name = f"{STEM}.lora_up.weight"
    change(path, name, dtype="I32")


def unknown_key(path: Path) -> None:
    header, data = split(path)
    header["surprise.weight"] = header.pop(f"{STEM}.alpha")
    join(path, json.dumps(header), data)


def sdxl(path: Path) -> None:
    keys = [f"lora_unet_output_blocks_0_1_transformer_blocks_{i}_attn2_to_k" for i in range(9)]
    tensors = {}
    for key in keys:
        tensors[f"{key}.lora_up.weight"] = np.ones((1280, 2), dtype=np.float32)
        tensors[f"{key}.lora_down.weight"] = np.ones((2, 2048), dtype=np.float32)
    write_safetensors(path, tensors, {})


CASES: dict[str, tuple[Callable[[Path], object], tuple[str, ...]]] = {
    "truncated": (truncate, ("1000 bytes early", "b.safetensors")),
    "header length": (lie_about_the_header, ("header", "1099511627776")),
    "overlapping offsets": (overlap, ("overlap",)),
    "duplicate key": (duplicate, ("appears twice", f"{STEM}.alpha")),
    "NaN in up": (
        poison(float("nan"), "lora_up.weight"),
        ("b.safetensors: ", "NaN", f"{STEM}.lora_up.weight"),
    ),
    "infinity in down": (poison(float("inf"), "lora_down.weight"), ("lora_down.weight", "NaN")),
    "alpha NaN": (poison(float("nan"), "alpha"), (f"{STEM}.alpha", "finite")),
    "rank mismatch": (other_rank, ("[1280, 3]", "[4, 1280]", "second size of up")),
    "integer factors": (integers, ("I32", f"{STEM}.lora_up.weight", "F32")),
    "empty file": (lambda p: p.write_bytes(b""), ("empty",)),
    "unknown tensor": (unknown_key, ("surprise.weight", "--skip")),
    "another model": (sdxl, ("sdxl", "sd15", "different base models")),
    "a web page": (lambda p: p.write_text("<html>404</html>"), ("HTML",)),
    "a folder of nothing": (lambda p: (p.unlink(), p.mkdir()), ("without .safetensors files",)),
    "no file": (lambda p: p.unlink(), ("No such file",)),
}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_adapter(tmp_path / "a.safetensors", 1)
    write_adapter(tmp_path / "b.safetensors", 2)
    (tmp_path / "out.safetensors").write_bytes(PREVIOUS)
    return tmp_path


def refused(
    capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 1, out: str = "out.safetensors"
) -> str:
    """The one line of a refused merge; nothing may have been written."""
    before = sorted(p.name for p in Path.cwd().iterdir())
    assert main(["merge", *arguments, "-o", out]) == code
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: ")
    assert said.err.count("\n") == 1
    assert sorted(p.name for p in Path.cwd().iterdir()) == before
    assert Path("out.safetensors").read_bytes() == PREVIOUS
    return said.err


@pytest.mark.parametrize("case", CASES)
def test_damaged_input(case: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damage, words = CASES[case]
    damage(place / "b.safetensors")
    line = refused(capsys, "a.safetensors:0.8", "b.safetensors")
    assert all(word in line for word in words), line


@pytest.mark.usefixtures("place")
def test_shapes_that_differ_between_adapters(capsys: pytest.CaptureFixture[str]) -> None:
    generic(Path("c.safetensors"), 16)
    generic(Path("d.safetensors"), 24)
    line = refused(capsys, "c.safetensors", "d.safetensors", "--dialect", "diffusers")
    assert all(word in line for word in ("layer", "[8, 16]", "[8, 24]", "c", "d")), line


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize("options", [[], ["--strict"]])
def test_alpha_missing_or_zero_is_said(
    options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    write_adapter(Path("c.safetensors"), 3, alpha=False)
    Path("out.safetensors").unlink()
    code = main(["merge", "a.safetensors", "c.safetensors", "-o", "o.safetensors", *options])
    said = capsys.readouterr()
    assert code == len(options)
    assert "neither alpha nor config" in (said.err if options else said.out)
    assert Path("o.safetensors").exists() == (not options)
    poison(0.0, "alpha")(Path("a.safetensors"))
    assert main(["merge", "a.safetensors", "-o", "z.safetensors", *options]) == len(options)
    said = capsys.readouterr()
    assert "1 pairs have alpha 0" in (said.err if options else said.out)


@pytest.mark.usefixtures("place")
def test_commands_that_make_no_sense(capsys: pytest.CaptureFixture[str]) -> None:
    assert "no adapters: name files" in refused(capsys, code=2)
    assert "given twice" in refused(capsys, "a.safetensors", "./a.safetensors:0.5", code=2)
    assert "method" in refused(capsys, "a.safetensors", "--method", "magic", code=2)
    assert "energy" in refused(capsys, "a.safetensors", "--energy", "1.5", code=2)
    assert "also an input" in refused(capsys, "a.safetensors", out="a.safetensors")


def test_output_that_cannot_be_written(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(capsys, "a.safetensors", out="missing/o.safetensors")
    assert "the folder missing does not exist" in line
    assert "is a folder" in refused(capsys, "a.safetensors", out=str(place))
    line = refused(capsys, "a.safetensors", out="/proc/o.safetensors")
    assert "/proc/o.safetensors" in line
    assert "another folder" in line


def test_disk_full(place: Path) -> None:
    """A tmpfs of 64 kB, in a mount namespace of its own: the output needs more."""
    (place / "small").mkdir()
    program = "from loramix.cli.app import main; raise SystemExit(main())"
    merge = "merge a.safetensors b.safetensors -o small/o.safetensors"
    script = (
        "mount -t tmpfs -o size=64k none small && cp out.safetensors small/o.safetensors && "
        f"{{ {sys.executable} -c '{program}' {merge}; code=$?; ls -A small; "
        "cat small/o.safetensors; exit $code; }"
    )
    unshare = shutil.which("unshare")
    assert unshare, "util-linux belongs to every Linux"
    spaces = [unshare, "--map-root-user", "--mount"]
    if subprocess.run([*spaces, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this system allows no mount namespaces, so no small disk can be made")
    done = subprocess.run(
        [*spaces, "sh", "-c", script], capture_output=True, text=True, check=False, cwd=place
    )
    assert done.returncode == 1, done.stderr
    assert done.stderr.startswith("error: small/o.safetensors: cannot write: disk full")
    assert done.stderr.count("\n") == 1
    assert done.stdout == "o.safetensors\n" + PREVIOUS.decode()
