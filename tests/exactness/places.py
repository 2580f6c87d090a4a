"""Types, modules and places of results."""

from pathlib import Path

from helpers import MODULES, DialectName

TEXT = {"text_encoder.layers.0.q_proj": (16, 12), "text_encoder.layers.1.fc1": (20, 16)}

BOTH = {**MODULES, **TEXT}


def place(folder: Path, dialect: DialectName, name: str = "merged") -> Path:
    """Where a result of this dialect goes."""
    return folder / (name if dialect == "peft" else f"{name}.safetensors")
