"""The words of adapters, and how much they say about a prompt."""

import json
import math
import re
from collections.abc import Mapping, Sequence

from loramix.formats import trained

_WORD = re.compile(r"[^\W_]+")


def relevances(prompt: str, words: Sequence[Mapping[str, float]]) -> tuple[float, ...]:
    """How much adapters have to say about a prompt.

    ``sum over the words v of the prompt: own[i, v] ln(1 + n / n_v)`` with n_v the adapters that
    have the word: what all have tells nothing apart.

    Parameters
    ----------
    words : for every adapter its words, in lower case, with a number in (0, 1] each; see
        `words_of`.
    """
    asked = set(_split(prompt))
    common = {word: sum(word in own for own in words) for word in asked}
    return tuple(
        math.fsum(
            own[word] * math.log1p(len(words) / common[word]) for word in sorted(asked & own.keys())
        )
        for own in words
    )


def words_of(name: str, strings: Mapping[str, str]) -> dict[str, float]:
    """Words of an adapter: 1 for those of its name, title and triggers; tags by their share.

    Parameters
    ----------
    strings : of its header.
    """
    said = trained.own(strings)
    found = _tags(strings.get(trained.TAGS, ""))
    for text in (name, said.get("title", ""), said.get("trigger", "")):
        found |= dict.fromkeys(_split(text), 1.0)
    return found


def _split(text: str) -> list[str]:
    return [word.casefold() for word in _WORD.findall(text)]


def _tags(text: str) -> dict[str, float]:
    """Words of a table of tags by dataset, as shares of the most frequent one."""
    try:
        table = json.loads(text) if text else {}
    except ValueError:
        return {}  # a stranger's string
    counts: dict[str, float] = {}
    for tags in table.values() if isinstance(table, dict) else ():
        for tag, count in tags.items() if isinstance(tags, dict) else ():
            for word in _split(str(tag)):
                if isinstance(count, int | float) and count > 0:
                    counts[word] = counts.get(word, 0.0) + count
    top = max(counts.values(), default=1.0)
    return {word: count / top for word, count in counts.items()}
