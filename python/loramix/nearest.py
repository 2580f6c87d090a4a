"""What somebody may have meant."""

import difflib
from collections.abc import Iterable


def hint(word: str, known: Iterable[str]) -> str:
    """`` (did you mean ...?)``, or nothing if no known word is near."""
    choices = list(known)
    folded = {choice.casefold(): choice for choice in choices}
    near = difflib.get_close_matches(word.casefold(), folded, 1)
    return f" (did you mean {folded[near[0]]}?)" if near else ""
