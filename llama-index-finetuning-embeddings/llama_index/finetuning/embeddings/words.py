"""What the words of any script are made of."""

import functools
import unicodedata

# Those of emoji, which change how a sign looks and belong to no word.
_VARIATIONS = range(0xFE00, 0xFE10)
_LAST = 0x20000  # no script beyond it has any


@functools.cache
def combining_marks() -> str:
    """Return all accents, vowel signs and tone marks, that letters are written with.

    Hindi, Thai and vocalised Arabic have them, and decomposed accents are some; regular
    expressions count none of them among the characters of words. None has a meaning of its own
    inside the brackets of one.
    """
    return "".join(
        character
        for code in range(_LAST)
        if unicodedata.category(character := chr(code)) in ("Mn", "Mc") and code not in _VARIATIONS
    )
