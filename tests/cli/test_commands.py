"""Every command does what its help says, in text and in JSON."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from cli.program import Outcome

import loramix

Run = Callable[..., Outcome]
pytestmark = pytest.mark.usefixtures("folder")

REPORT = {
    "version", "inputs", "method", "chosen", "policy_notes", "suggested", "auto_strength",
    "output", "groups", "error", "adapters", "seconds", "rows", "stack",
}  # fmt: skip
INPUT = {
    "name", "path", "size", "weight", "architecture", "candidates", "match", "dialect", "targets",
    "ranks", "dtypes", "skipped", "notes",
}  # fmt: skip
OUTPUT = {
    "path", "file", "size", "dialect", "dtype", "architecture", "targets", "ranks", "dense",
    "cut",
}  # fmt: skip


def test_merge_text(run: Run) -> None:
    done = run("merge", "a.safetensors:0.8", "b.safetensors:1.0:-0.5", "-o", "ab.safetensors")
    assert (done.code, done.err) == (0, "")
    assert max(map(len, done.out.splitlines())) <= 80
    assert done.out.isascii()
    words = done.out.split()
    for word in ("a", "b", "0.8", "1:-0.5", "sd15", "kohya", "auto", "ab.safetensors"):
        assert word in words
    assert "4: 4 in 2" in done.out
    assert loramix.inspect("ab.safetensors").ranks == {6: 4}


def test_merge_json(run: Run) -> None:
    done = run(
        "merge", "a.safetensors:0.8", "b.safetensors:1:0.5", "-o", "ab.safetensors", "--json",
        "--auto-strength", "--floor", "0.9", "--method", "average", "--rank", "3",
    )  # fmt: skip
    assert (done.code, done.err) == (0, "")
    report = json.loads(done.out)
    assert set(report) == REPORT
    assert [set(one) for one in report["inputs"]] == [INPUT, INPUT]
    assert [one["weight"] for one in report["inputs"]] == [0.8, {"text_encoder*": 0.5, "*": 1}]
    assert set(report["output"]) == OUTPUT
    assert report["output"]["size"] == Path("ab.safetensors").stat().st_size
    assert report["output"]["ranks"] == [3, 3]
    assert report["output"]["cut"] == {"rank": 3, "energy": None, "max_error": None}
    assert report["groups"] == {"targets": 4, "shared_by": {"2": 4}}
    assert set(report["auto_strength"]) == {"model", "text_encoder"}
    assert report["method"]["name"] == "average"
    assert len(report["rows"]) == 4
    assert set(report["rows"][0]) >= {"target", "members", "rank", "norm", "cut", "error"}
    assert report["error"]["worst"] == max(row["error"] for row in report["rows"])
    assert 0 < report["error"]["relative"] <= report["error"]["worst"]


@pytest.mark.parametrize("method", ["linear", "core(ties)", "tsv", "dare"])
def test_merge_json_says_what_became_of_every_adapter(run: Run, method: str) -> None:
    done = run(
        "merge", "a.safetensors:0.8", "b.safetensors:-0.5", "-o", "ab.safetensors", "--json",
        "--method", method,
    )  # fmt: skip
    assert (done.code, done.err) == (0, "")
    report = json.loads(done.out)
    merged = loramix.merge(["a.safetensors", "b.safetensors"], method, weights=[0.8, -0.5])
    rows = {row.target: row.shares for row in merged.log}
    found = [(report["adapters"], merged.shares)]
    found += [(row["adapters"], rows[row["target"]]) for row in report["rows"]]
    for told, shares in found:
        assert [one["adapter"] for one in told] == ["a", "b"]
        for one, share in zip(told, shares, strict=True):
            assert one["retention"] == pytest.approx(share.retention, rel=1e-9)
            assert one["cosine"] == pytest.approx(share.cosine, rel=1e-9)
            assert one["interference"] == pytest.approx(share.interference, rel=1e-9, abs=1e-12)


def test_merge_into_other_dialects(run: Run) -> None:
    more = ("--dialect", "diffusers", "--dtype", "bf16", "--threads", "1")
    assert run("merge", "a.safetensors", "-o", "d.safetensors", *more).code == 0
    found = loramix.inspect("d.safetensors")
    assert (found.dialect, found.dtypes) == ("diffusers", {"BF16": 8})


def test_dense(run: Run) -> None:
    args = ("merge", "a.safetensors", "b.safetensors", "--method", "ties", "--dense", "-o")
    done = run(*args, "t.safetensors")
    assert (done.code, done.err) == (0, "")
    assert max(map(len, done.out.splitlines())) <= 80
    words = " ".join(done.out.split())
    facts = loramix.inspect("t.safetensors")
    assert "4 dense, 4 targets" in words
    assert " rank " not in words.partition("wrote")[2]
    assert set(facts.ranks) == {row["rank"] for row in json.loads(
        run(*args, "j.safetensors", "--json").out
    )["rows"]}  # fmt: skip
    report = json.loads(run(*args, "t.safetensors", "--json").out)
    assert (report["output"]["ranks"], report["output"]["dense"]) == (None, 4)
    assert report["output"]["size"] == Path("t.safetensors").stat().st_size
    assert all(row["dense"] and row["cut"] == 0 for row in report["rows"])
    assert "dense" in run("inspect", "t.safetensors").out
    assert run("resize", "t.safetensors", "-o", "r.safetensors", "--rank", "2").code == 0


def test_skip_and_architecture(run: Run) -> None:
    options = ("--skip", "lora_te_*", "--architecture", "sd15")
    done = run("merge", "a.safetensors", "-o", "s.safetensors", *options)
    assert done.code == 0
    assert "3 tensors left out by --skip" in done.out
    assert loramix.inspect("s.safetensors").modules == {"unet": 3}


def test_notes_are_shown_and_strict_refuses_them(run: Run) -> None:
    lax = run("merge", "noted.safetensors", "-o", "n.safetensors")
    assert lax.code == 0
    assert "neither alpha nor config" in " ".join(lax.out.split())
    strict = run("merge", "a.safetensors", "noted.safetensors", "-o", "m.safetensors", "--strict")
    assert strict.code == 1
    assert strict.err.startswith("error: noted.safetensors: ")
    assert not Path("m.safetensors").exists()
    assert run("merge", "a.safetensors", "-o", "m.safetensors", "--strict").code == 0


def test_resize(run: Run) -> None:
    done = run("resize", "a.safetensors", "-o", "r.safetensors", "--rank", "2", "--json")
    assert done.code == 0
    report = json.loads(done.out)
    assert report["output"]["ranks"] == [2, 2]
    assert report["error"]["relative"] > 0.1
    assert run("resize", "a.safetensors", "-o", "e.safetensors", "--energy", "0.5").code == 0
    assert run("resize", "a.safetensors", "-o", "x.safetensors", "--max-error", "0.9").code == 0


def test_inspect(run: Run) -> None:
    done = run("inspect", "a.safetensors", "noted.safetensors")
    assert done.code == 0
    assert done.out.count("adapter  ") == 2
    for word in ("sd15", "unet", "text_encoder", "linear", "kohya", "ss_network_dim", "note"):
        assert word in done.out
    data = json.loads(run("inspect", "a.safetensors", "--json").out)
    assert data[0]["architecture"] == "sd15"
    assert data[0]["modules"] == {"text_encoder": 1, "unet": 3}


def test_inspect_shows_provenance(run: Run) -> None:
    run("merge", "a.safetensors:0.8", "b.safetensors", "-o", "ab.safetensors")
    assert (
        f"loramix {loramix.__version__}: auto of 0.8 a, 1 b" in run("inspect", "ab.safetensors").out
    )


def test_inspect_goes_on_after_a_bad_file(run: Run) -> None:
    Path("bad.safetensors").write_bytes(b"no")
    done = run("inspect", "bad.safetensors", "a.safetensors", "--json")
    assert done.code == 1
    assert [one["name"] for one in json.loads(done.out)] == ["a"]
    assert done.err.startswith("error: bad.safetensors: ")
    assert done.err.count("\n") == 1


def test_methods(run: Run) -> None:
    out = run("methods").out
    assert all(any(line.startswith(name) for line in out.splitlines()) for name in loramix.METHODS)


def test_version_and_help(run: Run) -> None:
    assert run("--version").out == f"loramix {loramix.__version__}\n"
    assert run().code == run("--help").code == run("merge", "-h").code == 0


@pytest.mark.parametrize("columns", ["60", "80", "120"])
def test_long_names_fit(run: Run, columns: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    name = "a-rather-long-name-of-an-adapter-that-nobody-wants-to-read-twice-v10.safetensors"
    Path("a.safetensors").rename(name)
    table = run("merge", f"{name}:1:2", "-o", "o.safetensors").out.partition("\n\n")[0]
    assert max(map(len, table.splitlines())) <= max(int(columns), 80)
    assert "-v10  " in table


@pytest.mark.parametrize("options", [(), ("--architecture", "sd15")])
def test_a_text_encoder_weight_never_goes_astray(run: Run, options: tuple[str, ...]) -> None:
    few = ("--skip", "*_attn2_*", "-o", "o.safetensors", "--json")  # no longer clearly SD 1.5
    done = run("merge", "a.safetensors:1:0", *few, *options)
    rows = {row["target"].partition(".")[0]: row for row in json.loads(done.out)["rows"]}
    assert rows.pop("text_encoder")["norm"] == 0
    assert [row["norm"] > 0 for row in rows.values()] == [True]
