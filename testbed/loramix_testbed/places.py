"""Where the testbed keeps its files."""

from pathlib import Path

ASSETS = Path(__file__).parent / "assets"
"""What is committed: masks, base model, adapters, judge."""

ROOT = Path(__file__).parents[2]
"""The repository."""

RECORD = ROOT / "testbed" / "record" / "quality.json"
"""Measured cells that docs/QUALITY.md is written from."""

CALIBRATION = RECORD.with_name("calibration.json")
"""What `auto`'s candidates reach on the calibration half."""

QUALITY = ROOT / "docs" / "QUALITY.md"
