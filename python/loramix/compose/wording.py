"""What other rooms refuse, in words for somebody who composes."""

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from loramix.errors import LoramixError

_OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")
_OURS = frozenset({"--architecture"})


def fitted(message: str) -> str:
    """A message that may name options of commands that read, convert or merge.

    Composing takes files whole and has none of those; ``loramix convert`` and ``merge`` have, and
    what they write can be composed.
    """
    strange = [one for one in dict.fromkeys(_OPTION.findall(message)) if one not in _OURS]
    if not strange:
        return message
    return (
        f"{message} ({' and '.join(strange)}: of 'loramix convert' and 'loramix merge', not of "
        "compose: compose what they write)"
    )


@contextmanager
def for_composing(folder: Path) -> Iterator[None]:
    """Refusals in these words.

    Parameters
    ----------
    folder : for temporary files.

    Raises
    ------
    LoramixError : the same kind.
    OSError : no room for temporary files; others as they are.
    """
    try:
        yield
    except LoramixError as error:
        raise type(error)(fitted(str(error))) from error
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        message = (
            "no room for the temporary files of composing: free some space, or name another folder "
            "in the environment variable TMPDIR"
        )
        raise OSError(errno.ENOSPC, message, str(folder)) from error
