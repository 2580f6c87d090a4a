"""Which symbols there are, and the words that prompts name them and the styles by."""

BASE = "ABCDEFGHJKLMNPQRSTUVWXYZ2357"
"""Symbols that the base model was trained on."""

CONTENTS = {
    "ampersand": "&",
    "question": "?",
    "percent": "%",
    "hash": "#",
    "dollar": "$",
    "at": "@",
    "four": "4",
    "plus": "+",
}
"""Symbols that it never saw: each is the content of an adapter, by its trigger word."""

SYMBOLS = (*BASE, *CONTENTS.values())
"""All of them, in the order of the classifier's classes and of the masks."""

WORD_OF = {symbol: symbol for symbol in BASE} | {s: word for word, s in CONTENTS.items()}
"""The word of a prompt for a symbol."""
