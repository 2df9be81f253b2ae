"""Counts the words of a corpus in bounded memory, on all cores."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from bertjax.text import corpus
from bertjax.text.basic_words import basic_words, chunks
from bertjax.text.corpus import Part

# Different words held in memory, about 150 bytes each; fixed, because the vocabulary hangs on it.
LIMIT = 500_000


def of_lines(lines: Iterable[str]) -> Counter[str]:
    """The white-space-delimited chunks of some lines."""
    counts: Counter[str] = Counter()
    for line in lines:
        counts.update(chunks(line))
    return counts


def of_parts(parts: list[Part]) -> Counter[str]:
    """Of parts of documents. Raises what corpus.lines does."""
    return of_lines(line for part in parts for line in corpus.lines(part))


def words_of_parts(lowercase: bool, parts: list[Part]) -> Counter[str]:
    """The words of parts of documents, of which there are fewer than of chunks."""
    return in_chunks(of_parts(parts), lowercase)


def in_chunks(counts: Counter[str], lowercase: bool) -> Counter[str]:
    """The words, by the rules of 2018, of counted chunks."""
    words: Counter[str] = Counter()
    for chunk, count in counts.items():
        for word in basic_words(chunk, lowercase).split():
            words[word] += count
    return words


def merged(some: Iterable[Counter[str]], limit: int = LIMIT) -> tuple[Counter[str], int]:
    """All counts, and how many rare words memory had no room for.

    Above `limit` different words the rarer half goes (of equals, the later in the alphabet), as in
    word2vec: what is rare so far can hardly become frequent enough to matter.
    """
    counts: Counter[str] = Counter()
    dropped = 0
    for more in some:
        counts.update(more)
        if len(counts) > limit:
            dropped += len(counts) - limit // 2
            counts = Counter(dict(by_frequency(counts)[: limit // 2]))
    return counts, dropped


def by_frequency(counts: Counter[str]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda row: (-row[1], row[0]))
