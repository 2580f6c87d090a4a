"""The licence of a font, as its Debian package states it."""

import re
from collections.abc import Iterator

_SPELLINGS = (
    (r"(sil[ _-])?(open[ _-]font[ _-]licen[cs]e|ofl)([ _-]v?(?P<version>1\.[01]))?", "OFL"),
    (r"sil(-(?P<version>1\.[01]))?", "OFL"),
    (r"apache-2", "Apache-2.0"),
    (r"bsd3", "BSD-3-Clause"),
    (r"bsd-3-clause", "BSD-3-Clause"),
    (r"expat", "MIT"),
    (r"public[ -]domain", "public-domain"),
)
_MENTIONS = (
    (r"gnu gpl (\d)", "GPL-{}"),
    (r"sil open font licen[cs]e,?\s+version (1\.[01])", "OFL-{}"),
    (r"licen[cs]e:\s+public domain", "public-domain"),
)


def licence_of(text: str) -> str:
    """Short names of the licences of what is in a package, but for the packaging itself.

    Parameters
    ----------
    text : of ``/usr/share/doc/PACKAGE/copyright``, in Debian's format 1.0 or in prose.

    Raises
    ------
    ValueError : no licence is found in it.
    """
    names = list(dict.fromkeys(_listed(text) if text.startswith("Format:") else _mentioned(text)))
    if not names:
        message = f"no licence is named in a copyright file that begins with {text[:60]!r}"
        raise ValueError(message)
    return "; ".join(names)


def _listed(text: str) -> Iterator[str]:
    """Licences of the paragraphs on files, but for those of the packaging."""
    for paragraph in re.split(r"\n[ \t]*\n", text):
        files = re.search(r"(?m)^Files:((?:.*\n[ \t]+)*.*)$", paragraph)
        licence = re.search(r"(?m)^License:[ \t]*(\S.*)$", paragraph)
        if not files or not licence:
            continue
        if not all(pattern.startswith("debian/") for pattern in files[1].split()):
            yield _spelled(licence[1].strip())


def _mentioned(text: str) -> Iterator[str]:
    for pattern, name in _MENTIONS:
        for found in re.finditer(pattern, text, re.IGNORECASE):
            yield name.format(*found.groups())


def _spelled(name: str) -> str:
    """One spelling for each licence, also among several that are joined."""
    parts = re.split(r"( or | and |\||,)", name)
    parts = [" or " if part == "|" else part for part in parts]
    return "".join(_one(part) if at % 2 == 0 else part for at, part in enumerate(parts))


def _one(name: str) -> str:
    for pattern, short in _SPELLINGS:
        found = re.fullmatch(pattern, name.strip().rstrip("."), re.IGNORECASE)
        if found:
            version = found.groupdict().get("version")
            return f"{short}-{version}" if version else short
    return name.strip().rstrip(".")
