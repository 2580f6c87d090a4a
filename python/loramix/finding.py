"""Where the tensors and the config of an adapter are, from what a user names."""

from pathlib import Path

from loramix.errors import FormatError
from loramix.formats.scales import CONFIG

_PREFERRED = ("adapter_model.safetensors", "pytorch_lora_weights.safetensors")


def find(path: Path) -> tuple[Path, Path | None]:
    """The tensor file at a path, and the PEFT config beside it."""
    file = path
    if path.is_dir():
        files = sorted(path.glob("*.safetensors"))
        preferred = [path / name for name in _PREFERRED if (path / name).is_file()]
        if not preferred and len(files) != 1:
            message = (
                f"{path}: a folder with {len(files)} .safetensors files and none named "
                f"{' or '.join(_PREFERRED)}; name the file"
            )
            raise FormatError(message)
        file = (preferred or files)[0]
    config = file.with_name(CONFIG)
    belongs = path.is_dir() or file.name == _PREFERRED[0]
    return file, config if belongs and config.is_file() else None


def text_of(config: Path) -> str:
    """Text of a config.

    Raises
    ------
    FormatError : not UTF-8.
    """
    try:
        return config.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        message = f"{config}: not UTF-8 text ({error.reason} at byte {error.start})"
        raise FormatError(message) from error
