"""What trainers wrote of the inputs, as far as it is true of the output.

One source, written in another form: all of it is still true, but for what describes the tensors.
Several: what describes the base model is kept where they agree, words that call what was trained
are united, the rest belongs to one source and stays with it (see `loramix.recipes.provenance`).
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from loramix.formats import hints
from loramix.formats.scales import CONFIG

Strings = Mapping[str, str]

TITLES = ("modelspec.title", "ss_output_name")
TAGS = "ss_tag_frequency"
DATASETS = "ss_dataset_dirs"

KEY = "loramix"
"""Where the provenance of an output is."""
HASHES = frozenset({"sshs_model_hash", "sshs_legacy_hash", "modelspec.hash_sha256"})
"""Of the tensors of the file; readers that use them make them where they are missing."""
# What describes tensors, their names or the file: no output has it from an input.
_OF_THE_FILE = HASHES | {
    "format", KEY, CONFIG, "lora_adapter_metadata", hints.MODULE, "ss_network_dim",
    "ss_network_alpha", "ss_network_args", "alpha", "lora_alpha", "network_alpha", "rank", "r",
    "network_dim",
}  # fmt: skip
# What says which base model an adapter is for, and how that is run.
_OF_THE_BASE = frozenset({
    "ss_base_model_version", "ss_v2", "ss_sd_model_name", "ss_sd_model_hash",
    "ss_new_sd_model_hash", "ss_vae_name", "ss_vae_hash", "ss_new_vae_hash", "ss_clip_skip",
    "ss_resolution", "ss_zero_terminal_snr", "modelspec.sai_model_spec", "modelspec.architecture",
    "modelspec.implementation", "modelspec.prediction_type", "modelspec.resolution",
    "modelspec.timestep_range", "modelspec.encoder_layer", "modelspec.is_negative_embedding",
})  # fmt: skip
# What gives permission: silence is none.
_OF_ALL = frozenset({"modelspec.license"})
# Words that call what was trained, one way or another.
_PHRASES = ("modelspec.trigger_phrase", "trigger_phrase", "trigger_word")
_WORDS = ("ss_trigger_words", "trigger_words", "trained_words", "modelspec.tags")
# What belongs to one source, by the name that it gets there.
_OWN: Mapping[str, tuple[str, ...]] = {
    "author": ("modelspec.author",),
    "license": ("modelspec.license",),
    "trigger": (*_PHRASES, *_WORDS[:3]),
}
_HALF = re.compile("[\ud800-\udfff]")


def carried(sources: Sequence[Strings], architecture: str | None) -> dict[str, str]:
    """Strings of the inputs that are true of the output.

    Parameters
    ----------
    sources : strings of the headers, one mapping for each input.
    architecture : the base model as names and shapes tell it; strings that name another are wrong,
        and not kept.

    Notes
    -----
    Values are strings of strangers: what is not understood is passed on where one source has it,
    and never a reason to fail; beside tables of others, what is no table has nothing to add.
    """
    if len(sources) == 1:
        found = {key: value for key, value in sources[0].items() if key not in _OF_THE_FILE}
    else:
        found = {**_agreed(sources), **_united(sources)}
    return {key: value for key, value in found.items() if _fits(key, value, architecture)}


def _fits(key: str, value: str, architecture: str | None) -> bool:
    """Whether what a string says of the base model can be true."""
    if architecture not in hints.NAMES:
        return True
    if key == "ss_v2":
        return hints.names_of(architecture).v2 in ("", value)
    named = hints.named(key, value) if key in (hints.BASE, hints.SPEC) else ()
    return not named or architecture in named


def title_of(strings: Strings, name: str) -> str:
    """What an input calls itself; the name of its file if it says nothing."""
    return next((strings[key] for key in TITLES if strings.get(key, "").strip()), name)


def own(strings: Strings) -> dict[str, str]:
    """What is to be known of one source of several: whose it is, and what calls it."""
    found = {}
    title = title_of(strings, "")
    if title:
        found["title"] = title
    for name, keys in _OWN.items():
        value = next((strings[key] for key in keys if strings.get(key, "").strip()), None)
        if value is not None:
            found[name] = value
    return found


def _agreed(sources: Sequence[Strings]) -> dict[str, str]:
    found = {}
    for key in sorted({key for source in sources for key in source}):
        values = [source[key] for source in sources if key in source]
        silent = len(values) < len(sources)
        kept = key in _OF_THE_BASE or (key in _OF_ALL and not silent)
        if kept and len(set(values)) == 1:
            found[key] = values[0]
    return found


def _united(sources: Sequence[Strings]) -> dict[str, str]:
    """Words and tables of several sources in one."""
    ways: dict[str, Callable[[Sequence[str]], str | None]] = {
        **dict.fromkeys(_PHRASES, _phrases),
        **dict.fromkeys(_WORDS, _words),
        TAGS: lambda texts: _tables(texts, _counted),
        DATASETS: lambda texts: _tables(texts, _folders),
    }
    found = {}
    for key, unite in ways.items():
        texts = [source[key] for source in sources if source.get(key, "").strip()]
        value = texts[0] if len(texts) == 1 else unite(texts) if texts else None
        if value is not None:
            found[key] = value
    return found


def _phrases(texts: Sequence[str]) -> str:
    """Each phrase once, in the order of the sources."""
    return ", ".join(dict.fromkeys(text.strip() for text in texts))


def _words(texts: Sequence[str]) -> str:
    """Each word once: lists of JSON stay one if all are, others have commas."""
    lists = [_listed(text) for text in texts]
    words = dict.fromkeys(
        word.strip()
        for text, words in zip(texts, lists, strict=True)
        for word in (text.split(",") if words is None else words)
        if word.strip()
    )
    if all(words is not None for words in lists):
        return json.dumps(list(words), ensure_ascii=False)
    return ", ".join(words)


def _listed(text: str) -> list[str] | None:
    value = _parsed(text)
    if not isinstance(value, list):
        return None
    # JSON can spell halves of characters, which no header can hold.
    fits = all(isinstance(word, str) and not _HALF.search(word) for word in value)
    return value if fits else None


def _tables(
    texts: Sequence[str], add: Callable[[dict[str, Any], Mapping[str, Any]], None]
) -> str | None:
    """Tables of JSON, numbers by name by name, added up; None if there is none."""
    total: dict[str, Any] = {}
    for table in map(_parsed, texts):
        rows = list(table.values()) if isinstance(table, dict) else [None]
        if all(isinstance(row, dict) and all(map(_is_number, row.values())) for row in rows):
            add(total, cast("Mapping[str, Any]", table))
    return json.dumps(total) if total else None


def _counted(total: dict[str, Any], table: Mapping[str, Mapping[str, float]]) -> None:
    """Add data set -> tag -> count."""
    for name, tags in table.items():
        counts = total.setdefault(name, {})
        for tag, count in tags.items():
            counts[tag] = counts.get(tag, 0) + count


def _folders(total: dict[str, Any], table: Mapping[str, Mapping[str, float]]) -> None:
    """Add folder -> ``{"n_repeats": ..., "img_count": ...}``.

    Folders of one name have their images together; another number is kept if it is the same.
    """
    for name, facts in table.items():
        there = total.get(name)
        if there is None:
            total[name] = dict(facts)
            continue
        same = {key: value for key, value in facts.items() if there.get(key) == value}
        images = there.get("img_count", 0) + facts.get("img_count", 0)
        total[name] = {**same, "img_count": images}


def _is_number(value: object) -> bool:
    """Whether sums of it are numbers that JSON has."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2**53


def _parsed(text: str) -> object:
    """JSON, or None: headers hold what they like."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
