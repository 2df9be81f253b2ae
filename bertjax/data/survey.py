"""What a build must know of the whole text before its first record: vocabulary, duplicate lines."""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from bertjax.progress_bar import progress_bar
from bertjax.text import corpus, duplicate_lines, vocab, word_counts
from bertjax.text.tokenizer import Tokenizer
from bertjax.workers import Workers


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """The vocabulary wanted: a given one, with words of the text added to it, or a learnt one.

    Attributes:
      given: None: learn one.
      extend: words of the text to add to a given one.
      kind, size, lowercase, min_count: of a learnt one, see vocab.learn.
    """

    given: Tokenizer | None
    extend: int
    kind: str
    size: int
    lowercase: bool
    min_count: int

    def source(self) -> str:
        """What its bytes hang on, beside the text."""
        if self.given is not None:
            return self.given.fingerprint
        rare = [str(self.min_count)] * (self.kind == "words")
        return " ".join(["learnt", self.kind, str(self.size), *rare])

    def counter(self) -> Callable[[list[corpus.Part]], Counter[str]]:
        """Whole words are counted as such: of chunks there are many more, and memory is bounded."""
        if self.kind == "words" and self.given is None:
            return partial(word_counts.words_of_parts, self.lowercase)
        return word_counts.of_parts

    def of(self, counts: Counter[str]) -> vocab.Learned:
        if self.given is not None:
            return vocab.extend(counts, self.given, self.extend)
        return vocab.learn(
            counts,
            kind=self.kind,
            size=self.size,
            lowercase=self.lowercase,
            min_count=self.min_count,
        )


@dataclasses.dataclass(frozen=True)
class Survey:
    """A walk through the whole text; what it finds is kept in the work folder of the build.

    Attributes:
      total: bytes of text, about; for the progress bar.
      work: what a killed build has found there is not looked for again.
    """

    inputs: list[str]
    text_field: str
    total: int
    work: Path
    workers: Workers

    def vocabulary(self, wanted: Vocabulary) -> Path:
        """The folder of the tokenizer to use: given, learnt by a killed build, or learnt now."""
        folder, unfinished = self.work / "vocabulary", self.work / "vocabulary.partial"
        if folder.exists():
            return folder
        if wanted.given is None or wanted.extend:
            learned = wanted.of(self._counts(wanted))
            if learned.note:
                print(f"note: {learned.note}")
            learned.tokenizer.save(unfinished)
        else:
            wanted.given.save(unfinished)
        os.replace(unfinished, folder)
        return folder

    def _counts(self, wanted: Vocabulary) -> Counter[str]:
        jobs = self._jobs("counting words")
        counts, dropped = word_counts.merged(self.workers.map(wanted.counter(), jobs))
        if dropped:
            print(
                f"note: at most {word_counts.LIMIT:,} different words are counted at a time; to "
                f"make room, what was rare so far was dropped {dropped:,} times"
            )
        return counts

    def duplicate_lines(self) -> Path:
        """The folder of the lines that stand more than once."""
        jobs = self._jobs("looking for duplicate lines")
        return duplicate_lines.find(jobs, self.work / "lines", self.workers)

    def _jobs(self, doing: str) -> Iterator[list[corpus.Part]]:
        """Groups of parts, with a progress bar."""
        with progress_bar(desc=doing, total=self.total, unit="B", unit_scale=True) as bar:
            for job in corpus.jobs(corpus.parts(self.inputs, self.text_field), corpus.JOB_BYTES):
                bar.update(sum(len(part.raw) for part in job))
                yield job
            bar.total = bar.n  # so far it was an estimate
