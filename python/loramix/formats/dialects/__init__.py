"""Dialects: how trainers spell the names of modules, and which programs load what.

- `stems`: reading, one rule for all files: cut known prefixes, flatten, look the rest up;
- `conventions`: which program wrote a file;
- `forms`, `writing`: the dialects that can be written, and the name of a target in each;
- `clients`: which dialect a program loads best, and what it does not load.
"""

from loramix.formats.dialects.clients import CLIENTS, Client, client_for, refuse_unread
from loramix.formats.dialects.conventions import convention, default_dialect, is_flat
from loramix.formats.dialects.stems import (
    COMPONENTS,
    NETWORKS,
    Stem,
    lookup,
    partial_of,
    split_stem,
)
from loramix.formats.dialects.writing import DIALECTS, Dialect, dialect_for, writable

__all__ = [
    "CLIENTS",
    "COMPONENTS",
    "DIALECTS",
    "NETWORKS",
    "Client",
    "Dialect",
    "Stem",
    "client_for",
    "convention",
    "default_dialect",
    "dialect_for",
    "is_flat",
    "lookup",
    "partial_of",
    "refuse_unread",
    "split_stem",
    "writable",
]
