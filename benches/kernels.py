"""Keep what `cargo bench` measured last: medians, rates, and shares of what the machine can do.

    cargo bench --manifest-path rust/Cargo.toml
    python benches/kernels.py             # prints them
    python benches/kernels.py --record    # and writes them to benches/record/

Rows of bytes are compared with the memcpy row, rows of flops with the sgemm row, and rows of
entries with copying as many f32 numbers.
"""

import argparse
import csv
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path

from pipeline import machine

HERE = Path(__file__).parent
MEASURED = HERE.parent / "rust" / "target" / "criterion"
ORDER = ("codec", "flops", "passes", "entries")
RUN = 3600
"""Seconds that a run takes at most; rows that are older belong to benches of the past."""
UNITS = {"codec": "GB/s", "passes": "GB/s", "flops": "GFLOP/s", "entries": "M entries/s"}


def rows() -> Iterator[tuple[str, float, float]]:
    """Name, median seconds, and what is done in them (bytes, flops, entries) of the last run."""
    files = sorted(MEASURED.glob("*/**/new/benchmark.json"))
    last = max(file.stat().st_mtime for file in files)
    for file in (file for file in files if file.stat().st_mtime > last - RUN):
        about = json.loads(file.read_text())
        found = json.loads((file.parent / "estimates.json").read_text())
        (work,) = about["throughput"].values()
        yield about["full_id"], found["median"]["point_estimate"] * 1e-9, work


def table() -> str:
    """The rows as CSV, groups in order."""
    rates = {name: work / seconds for name, seconds, work in rows()}
    limits = {
        "codec": rates["codec/memcpy"],
        "passes": rates["codec/memcpy"],
        "flops": rates["flops/sgemm"],
        "entries": rates["codec/memcpy"] / 4,
    }
    text = io.StringIO()
    out = csv.writer(text, lineterminator="\n")
    out.writerow(["bench", "ms", "rate", "unit", "share"])
    group = lambda row: row[0].partition("/")[0]  # noqa: E731
    for name, seconds, work in sorted(rows(), key=lambda row: (ORDER.index(group(row)), row[0])):
        kind, rate = group((name,)), work / seconds
        scale = 1e6 if kind == "entries" else 1e9
        cells = f"{1e3 * seconds:.4g}", f"{rate / scale:.4g}", UNITS[kind]
        out.writerow([name, *cells, f"{rate / limits[kind]:.1%}"])
    return text.getvalue()


def main() -> None:
    """Print, and write if asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--note", default="", help="what else the machine did, for the head")
    given = parser.parse_args()
    here = machine()
    parts = [here["cpu"], "one thread", "criterion medians", here["date"], given.note]
    head = f"# {', '.join(filter(None, parts))}\n"
    text = head + "# share: of memcpy (bytes, entries of f32) or sgemm (flops)\n" + table()
    sys.stdout.write(text)
    if given.record:
        (HERE / "record" / f"{here['date']}-kernels-1-core.csv").write_text(text)


if __name__ == "__main__":
    main()
