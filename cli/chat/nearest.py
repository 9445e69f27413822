"""The word that someone may have meant."""

import difflib
from collections.abc import Collection


def nearest(word: str, words: Collection[str]) -> str:
    """The one of `words`, of which there is at least one, that looks most like `word`."""
    return difflib.get_close_matches(word, words, n=1, cutoff=0.0)[0]
