"""From what a user names to the file of tensors: files, folders, local caches of the hub.

Nothing here goes to the network: a repository that is not in a cache is not there.
"""

import errno
import os
import re
from dataclasses import dataclass
from pathlib import Path

from loramix.errors import FormatError, ModelError
from loramix.formats.scales import CONFIG
from loramix.types import StrPath

PREFERRED = ("adapter_model.safetensors", "pytorch_lora_weights.safetensors")
PICKLES = (".bin", ".pt", ".pth", ".ckpt")
INDEX = ".safetensors.index.json"
"""How the name of the index of a sharded model ends."""
PIPELINE = "model_index.json"
"""Marks the folder of a diffusers pipeline."""
_CACHED = "models--"  # models--ORG--NAME
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*")
_SHOWN = 4


@dataclass(frozen=True, slots=True)
class Found:
    """What a name stands for.

    Attributes
    ----------
    file : of tensors.
    config : PEFT's config, where it belongs to the file.
    name : for reports.
    """

    file: Path
    config: Path | None
    name: str


def find(path: StrPath) -> Found:
    """Find the file of tensors that a name stands for.

    Parameters
    ----------
    path : a file; a folder with ``adapter_model.safetensors`` (PEFT),
        ``pytorch_lora_weights.safetensors`` (diffusers) or one ``.safetensors`` file; a folder
        ``models--ORG--NAME`` of a hub cache, whose ``main`` is taken; or, where there is nothing
        of that name, ``ORG/NAME`` or ``ORG/NAME/FILE`` in one of `caches`.

    Raises
    ------
    FormatError : a folder with no such file or several, a sharded adapter, a broken cache.
    FileNotFoundError : there is nothing of that name anywhere.
    """
    given = Path(path)
    if given.exists():
        return _there(given, plain_name(given))
    return _there(cached(path), given.name.removesuffix(".safetensors"))


def cached(path: StrPath) -> Path:
    """What ``ORG/NAME`` or ``ORG/NAME/FILE`` stands for in one of `caches`.

    Raises
    ------
    FormatError : a broken cache.
    FileNotFoundError : no cache has it.
    """
    parts = _repository(Path(path))
    if parts is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    organisation, name, *rest = parts
    looked = caches()
    for cache in looked:
        folder = cache / f"{_CACHED}{organisation}--{name}"
        if folder.is_dir():
            found = snapshot(folder).joinpath(*rest)
            if not found.exists():
                reason = f"the cached snapshot of {organisation}/{name} has no {'/'.join(rest)}"
                raise FileNotFoundError(errno.ENOENT, reason, str(path))
            return found
    reason = (
        f"no such file or folder, and no {_CACHED}{organisation}--{name} in "
        f"{' or '.join(map(str, looked))}; loramix downloads nothing"
    )
    raise FileNotFoundError(errno.ENOENT, reason, str(path))


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


def caches() -> tuple[Path, ...]:
    """Where the hub's clients keep what they downloaded; those of the environment come first."""
    found = [os.environ[name] for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE")
             if os.environ.get(name)]  # fmt: skip
    if os.environ.get("HF_HOME"):
        found.append(str(Path(os.environ["HF_HOME"]) / "hub"))
    general = os.environ.get("XDG_CACHE_HOME") or str(Path("~") / ".cache")
    found.append(str(Path(general) / "huggingface" / "hub"))
    return tuple(dict.fromkeys(Path(os.path.expandvars(one)).expanduser() for one in found))


def _there(path: Path, name: str) -> Found:
    if path.name.endswith(INDEX):
        _refuse_shards(path)
    if path.is_dir():
        path = snapshot(path)
        file = _of_folder(path)
        belongs = True
    else:
        file, belongs = path, path.name == PREFERRED[0]
    config = file.with_name(CONFIG)
    return Found(file, config if belongs and config.is_file() else None, name)


def _of_folder(folder: Path) -> Path:
    """The file of tensors in a folder."""
    preferred = [folder / name for name in PREFERRED if (folder / name).is_file()]
    if preferred:
        return preferred[0]
    for index in sorted(folder.glob(f"*{INDEX}")):
        _refuse_shards(index)
    if (folder / PIPELINE).is_file():
        message = f"{folder}: the folder of a pipeline, a base model: name an adapter"
        raise ModelError(message)
    files = sorted(folder.glob("*.safetensors"))
    if len(files) == 1:
        return files[0]
    what = f"with {len(files)} .safetensors files and none named {' or '.join(PREFERRED)}"
    if not files:
        what = "without .safetensors files"
    message = f"{folder}: a folder {what}; {_advice(folder, files)}"
    raise FormatError(message)


def _advice(folder: Path, files: list[Path]) -> str:
    """What to name instead."""
    if files:
        return f"name the file: {_listed(files)}"
    inner = sorted(one.parent for name in PREFERRED for one in folder.glob(f"*/{name}"))
    if inner:
        return f"name the folder: {_listed(inner)}"
    pickles = [one for one in sorted(folder.iterdir()) if one.suffix in PICKLES]
    if pickles:
        return (
            f"{_listed(pickles)} may run any code when it is opened, so loramix does not: get the "
            "adapter as .safetensors"
        )
    return "name the file"


def _listed(paths: list[Path]) -> str:
    more = f" and {len(paths) - _SHOWN} more" if len(paths) > _SHOWN else ""
    return ", ".join(path.name for path in paths[:_SHOWN]) + more


def _refuse_shards(index: Path) -> None:
    message = (
        f"{index}: an adapter in several shards, which loramix does not read, or a model: join "
        "them first: load every shard with safetensors.torch.load_file, save all tensors together "
        "with save_file"
    )
    raise ModelError(message)


def snapshot(folder: Path) -> Path:
    """The snapshot that a folder ``models--ORG--NAME`` of a cache stands for; others themselves.

    It is the revision that ``main`` was when it was downloaded; or the only one there is.

    Raises
    ------
    FormatError : the cache is broken.
    """
    if not (folder.name.startswith(_CACHED) and (folder / "snapshots").is_dir()):
        return folder
    reference = folder / "refs" / "main"
    if reference.is_file():
        revision = reference.read_text(encoding="utf-8", errors="replace").strip()
        found = folder / "snapshots" / revision
        if not _NAME.fullmatch(revision) or not found.is_dir():
            message = (
                f"{folder}: refs/main names the snapshot {revision[:40]!r}, which is not there; "
                "download it again, or name a folder in snapshots/"
            )
            raise FormatError(message)
        return found
    there = sorted(one for one in (folder / "snapshots").iterdir() if one.is_dir())
    if len(there) != 1:
        message = (
            f"{folder}: {len(there)} snapshots and no refs/main; "
            f"{'name one: ' + _listed(there) if there else 'download it again'}"
        )
        raise FormatError(message)
    return there[0]


def _repository(path: Path) -> tuple[str, ...] | None:
    """``ORG/NAME`` and what follows, if a path can be that."""
    parts = path.parts
    if path.is_absolute() or len(parts) < 2 or not all(map(_NAME.fullmatch, parts)):
        return None
    return None if parts[1].endswith(".safetensors") else parts


def plain_name(path: Path) -> str:
    """The last part of a path; of caches the repository: snapshots are named by digests.

    Links are not followed: those of a cache lead to files named by digests as well.
    """
    whole = Path(os.path.normpath(path.absolute()))
    if whole.parent.name == "snapshots" and whole.parent.parent.name.startswith(_CACHED):
        whole = whole.parent.parent
    if whole.name.startswith(_CACHED) and path.is_dir():
        return whole.name.rpartition("--")[2]
    return whole.name.removesuffix(".safetensors")
