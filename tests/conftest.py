"""Temporary files of all tests are in memory, where there is room.

Every output is synced before it gets its name; thousands of them keep a disk busy for minutes.
"""

import shutil
import tempfile
from pathlib import Path

import pytest

_MEMORY = Path("/dev/shm")
_ROOM = 4 << 30


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Choose the place, unless the command line did."""
    chosen = config.option.basetemp is not None
    if chosen or not _MEMORY.is_dir() or shutil.disk_usage(_MEMORY).free < _ROOM:
        return
    place = tempfile.mkdtemp(prefix="loramix-tests-", dir=_MEMORY)
    config.option.basetemp = place
    config.add_cleanup(lambda: shutil.rmtree(place, ignore_errors=True))
