"""Finds the word that a user may have meant. Knows nothing of what words mean."""

import difflib
from collections.abc import Collection


def nearest(word: str, words: Collection[str]) -> str:
    """The one of `words`, in small letters, that looks most like `word`; `words` must not be empty."""
    return difflib.get_close_matches(word.lower(), words, n=1, cutoff=0.0)[0]
