"""Text from outside, fit for a terminal: what would steer the terminal or reorder its text is written out instead.

Control characters (C0 and C1, with which every escape sequence begins), line separators, bidirectional controls and
lone surrogates become escapes, a bell `\\x07` and others `\\u202e`, as JSON takes them. All else stays as it is.
"""

import re
from reprlib import Repr

LONGEST_NOTICE = 1000  # characters
_STEERING = re.compile(
    "\r(?!\n)|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
_ELLIPSIS = " … "
_SHOWN = Repr()
_SHOWN.maxstring = _SHOWN.maxlong = _SHOWN.maxother = 60  # characters


def visible(text: str) -> str:
    """The text with all that steers a terminal written out; newlines, tabs and CRLF stay."""
    return text if text.isprintable() else _STEERING.sub(_written_out, text)


def notice(text: str) -> str:
    """A message in one line of bounded length; of a longer one the middle goes, since its end says what to do."""
    text = visible(re.sub("[\t\n\r]", _written_out, text))
    if len(text) > LONGEST_NOTICE:
        half = (LONGEST_NOTICE - len(_ELLIPSIS)) // 2
        text = text[:half] + _ELLIPSIS + text[-half:]
    return text


def shown(value: object) -> str:
    """A value as part of a notice, cut short in its middle; of what holds others, the first few."""
    return _SHOWN.repr(value)


def is_unicode(text: str) -> bool:
    """Whether a text has no lone surrogates, which stand for bytes that are no text."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _written_out(found: re.Match[str]) -> str:
    code = ord(found[0])
    return repr(found[0])[1:-1] if code < 0x20 else f"\\u{code:04x}"
