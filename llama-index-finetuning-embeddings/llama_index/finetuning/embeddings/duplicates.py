"""Texts that are the same, or nearly so.

Near-duplicates are found by MinHash (Broder, 1997) over short pieces of text, with banded
locality-sensitive hashing (Leskovec, Rajaraman and Ullman, Mining of Massive Datasets, 3.4),
so that a million documents take seconds and never a million times a million comparisons.
"""

import functools
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from numbers import Real

import numpy as np
from numpy.typing import NDArray

from llama_index.finetuning.embeddings.errors import ConfigurationError
from llama_index.finetuning.embeddings.words import combining_marks

NEAR_DUPLICATE = 0.9

_PIECE = 16  # bytes of a piece: two or three words, or five CJK characters
_BANDS = 8
_ROWS = 4  # eight bands of four find pairs of Jaccard 0.9 with probability 0.9999, 0.8 with 0.985
_BATCH_BYTES = 1 << 21
_KEPT = 256  # texts whose pieces are kept while pairs are verified
_STEP = 8  # bytes to the next piece in a word that is longer than one
_U64 = np.uint64


def text_key(text: str) -> str:
    """Return the text with each run of white space as one space: equal texts have one key."""
    return " ".join(text.split())


def text_keys(texts: Mapping[str, str]) -> dict[str, int]:
    """Number the distinct texts, white space aside, from 0: id to number."""
    seen: dict[str, int] = {}
    return {one: seen.setdefault(text_key(text), len(seen)) for one, text in texts.items()}


def near_duplicate_clusters(
    texts: Sequence[str], *, threshold: float = NEAR_DUPLICATE
) -> NDArray[np.int64]:
    """Group texts that are equal but for a few words.

    Two texts belong together when the Jaccard similarity of their pieces (16 bytes from the start
    of every word, and further ones in longer words; case and punctuation aside) is at least
    ``threshold``. In a text of 60 words one other word gives about 0.94. Texts that differ in
    case, punctuation and white space only are always grouped; of pairs at the threshold 0.9 more
    than 99.9 % are found, about 96 % where thousands of texts are mostly the same boilerplate.
    Every pair is verified before it is joined.

    Args:
        texts: The texts to group.
        threshold: In (0, 1]; 1 groups only texts with exactly the same pieces.

    Returns:
        For each text the index of the first text of its group, shape ``(n_texts,)``.

    Raises:
        ConfigurationError: ``threshold`` is out of range.
    """
    if not isinstance(threshold, Real) or not 0 < threshold <= 1:
        raise ConfigurationError(f"'threshold' must be in (0, 1] (got {threshold!r}).")
    seen: dict[str, int] = {}
    plain = [_plain(text) for text in texts]
    first_of = np.fromiter(
        (seen.setdefault(text, i) for i, text in enumerate(plain)), np.int64, len(plain)
    )
    distinct = list(seen)
    del plain
    groups = DisjointSets(len(distinct))
    pieces = functools.lru_cache(_KEPT)(lambda one: _distinct_pieces(distinct[one]))
    for one, other in _candidates(_band_keys(distinct)):
        if groups.find(one) != groups.find(other) and (
            _jaccard(pieces(one), pieces(other)) >= threshold
        ):
            groups.join(one, other)
    roots = np.fromiter(map(groups.find, range(len(distinct))), np.int64, len(distinct))
    first_index = np.fromiter(seen.values(), np.int64, len(distinct))
    root_of = np.zeros(len(texts), dtype=np.int64)
    root_of[first_index] = first_index[roots]
    return root_of[first_of]


class DisjointSets:
    """Union-find over the numbers 0 to n - 1; a set is named by its smallest member."""

    def __init__(self, n: int) -> None:
        self._parents = list(range(n))

    def find(self, one: int) -> int:
        """Return the smallest member of the set that holds ``one``."""
        parents = self._parents
        while parents[one] != one:
            parents[one] = parents[parents[one]]
            one = parents[one]
        return one

    def join(self, one: int, other: int) -> None:
        """Make one set of the two that hold ``one`` and ``other``."""
        one, other = self.find(one), self.find(other)
        self._parents[max(one, other)] = min(one, other)


def _plain(text: str) -> str:
    # A text of signs alone has no words: then the text itself is compared.
    folded = unicodedata.normalize("NFC", text.casefold())
    return text_key(_signs().sub(" ", folded)) or text_key(text)


@functools.cache
def _signs() -> re.Pattern[str]:
    return re.compile(rf"[^\w\s{combining_marks()}]+")


def _pieces(texts: Sequence[str]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Hash every piece of every text; returns the hashes and where each text's hashes start."""
    padding = bytes(_PIECE)
    encoded = [text.encode("utf-8") + padding for text in texts]
    lengths = np.fromiter(map(len, encoded), np.int64, len(encoded))
    data = np.frombuffer(b"".join(encoded), dtype=np.uint8)
    words = np.ndarray((len(data) - 7,), dtype="<u8", buffer=data.data, strides=(1,))
    # A piece starts at the start of a word, and at every character of three or four bytes:
    # most scripts that do without spaces are written in those.
    starts = data >= 0xE0
    ends = (data == 0x20) | (data == 0)
    starts[1:] |= ends[:-1] & (data[1:] != 0)
    text_starts = np.cumsum(lengths) - lengths
    starts[text_starts] = True
    words_begin = np.flatnonzero(starts & (data < 0xE0))
    starts[_inside_long_words(words_begin, np.flatnonzero(ends))] = True
    at = np.flatnonzero(starts)
    hashes = _mixed(_mixed(words[at]) ^ words[at + 8])
    return hashes, np.searchsorted(at, text_starts)


def _inside_long_words(at: NDArray[np.int64], ends: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the further pieces of words that are longer than one, given where words begin."""
    lengths = ends[np.searchsorted(ends, at)] - at
    begins, lengths = at[lengths > _PIECE], lengths[lengths > _PIECE]
    counts = -(-(lengths - _PIECE) // _STEP)
    numbers = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    further: NDArray[np.int64] = np.repeat(begins, counts) + _STEP * (numbers + 1)
    return further


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Spread 64 bits over 64 bits (the finaliser of MurmurHash3)."""
    values = values ^ (values >> _U64(33))
    values *= _U64(0xFF51AFD7ED558CCD)
    values ^= values >> _U64(33)
    values *= _U64(0xC4CEB9FE1A85EC53)
    values ^= values >> _U64(33)
    return values


def _band_keys(texts: Sequence[str]) -> NDArray[np.uint64]:
    """Return one key per band and text: texts of equal key in any band may be near-duplicates."""
    # Fixed, not the caller's seed: which documents are twins is a fact of the data.
    odd = np.random.default_rng(0).integers(1 << 62, size=_BANDS * _ROWS, dtype=np.uint64)
    multipliers = odd * _U64(2) + _U64(1)
    keys = np.empty((_BANDS, len(texts)), dtype=np.uint64)
    for start, stop in _batches(texts):
        hashes, offsets = _pieces(texts[start:stop])
        for band in range(_BANDS):
            key = np.zeros(stop - start, dtype=np.uint64)
            for multiplier in multipliers[band * _ROWS : (band + 1) * _ROWS]:
                key = _mixed(key ^ np.minimum.reduceat(hashes * multiplier, offsets))
            keys[band, start:stop] = key
    return keys


def _batches(texts: Sequence[str]) -> Iterator[tuple[int, int]]:
    start = size = 0
    for i, text in enumerate(texts):
        size += len(text)
        if size >= _BATCH_BYTES:
            yield start, i + 1
            start, size = i + 1, 0
    if start < len(texts):
        yield start, len(texts)


def _candidates(keys: NDArray[np.uint64]) -> Iterator[tuple[int, int]]:
    """Yield pairs to verify: in each bucket, each text with the first one and with the one before.

    All pairs of a bucket would be quadratic where thousands of documents share their boilerplate.
    Those share several buckets, too: each pair comes once, and all of a text together.
    """
    n = keys.shape[1]
    at = np.arange(n)
    found = []
    for band in keys:
        order = np.argsort(band, kind="stable")
        begins = np.ones(n, dtype=bool)
        begins[1:] = band[order[1:]] != band[order[:-1]]
        first = order[np.maximum.accumulate(np.where(begins, at, 0))]
        later = order[~begins] * n
        found += [later + first[~begins], later + order[at[~begins] - 1]]
    for pair in np.unique(np.concatenate(found)):
        later, earlier = divmod(int(pair), n)
        yield earlier, later


def _distinct_pieces(text: str) -> frozenset[int]:
    return frozenset(_pieces([text])[0].tolist())


def _jaccard(left: frozenset[int], right: frozenset[int]) -> float:
    shared = len(left & right)
    return shared / (len(left) + len(right) - shared)
