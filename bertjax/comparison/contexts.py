"""A word in sentences of two meanings: how alike its vectors are, and what is nearest to them."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from itertools import chain, compress
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from bertjax import programs
from bertjax.data.rows import Row, Shape, eval_batches
from bertjax.errors import UserError
from bertjax.files.json_file import write_json
from bertjax.models import encoders
from bertjax.weights import pretrained
from bertjax.weights.pretrained import Pretrained

FILE = "contexts.json"
_WORD = re.compile(r"[^\W\d_]+")
# Sentences that neighbours are looked for in, how long they are, and how many are run at once.
_SENTENCES, _LENGTHS, _BATCH = 4000, (6, 40), 64
_NEIGHBOURS = 6


class Occurrences(NamedTuple):
    """Words in their sentences: N of them, vectors [N, D] of length 1 around their mean.

    Attributes:
      pieces: what each word is made of.
    """

    words: list[str]
    texts: list[str]
    pieces: list[frozenset[int]]
    vectors: np.ndarray


def check(contexts: Mapping[str, Sequence[str]]) -> None:
    """Raises UserError: not three sentences, or one that does not hold its word."""
    for word, texts in contexts.items():
        if len(texts) != 3:
            raise UserError(
                f"contexts.{word}: {len(texts)} sentence(s); give two of one meaning, then one of "
                "another"
            )
        for text in texts:
            if word not in _WORD.findall(text.lower()):
                raise UserError(f"contexts.{word}: '{text}' does not hold the word")


def write(
    runs: Mapping[str, Path], contexts: Mapping[str, Sequence[str]], held_out: Path, path: Path
) -> None:
    """{word: {system: what neighbours finds}}.

    A system that does not know the word, or has no room for the sentences, is left out.
    """
    around = sentences(held_out)
    own = list(chain.from_iterable(contexts.values()))
    found: dict[str, dict[str, Any]] = {word: {} for word in contexts}
    for name, run in runs.items():
        everywhere = occurrences(pretrained.load(run), [*own, *around])
        for word, texts in contexts.items():
            near = neighbours(everywhere, word, texts, own)
            found[word] |= {name: near} if near else {}
    write_json(path, found)


def sentences(held_out: Path) -> list[str]:
    """Lines of a text that are neither short nor long, drawn at random but always the same."""
    lines = [line.strip() for line in held_out.read_text(encoding="utf-8").splitlines()]
    fewest, most = _LENGTHS
    fit = list(dict.fromkeys(line for line in lines if fewest <= len(line.split()) <= most))
    chosen = np.sort(np.random.default_rng(0).permutation(len(fit))[:_SENTENCES])
    return [fit[i] for i in chosen.tolist()]


def neighbours(
    found: Occurrences, word: str, texts: Sequence[str], own: Collection[str]
) -> dict[str, Any] | None:
    """Of a word in two sentences of one meaning and one of another: how alike, and what is near.

    Args:
      texts: the three sentences, in that order.
      own: those in which no neighbours are looked for.

    Returns:
      same, other: cosines of the first occurrence with those of the two others; neighbours: of the
      first and the last, the words nearest to it, each once. Words that share a piece with it are
      left out: they are alike by that alone. None: the word's are none of the occurrences.
    """
    places = {(t, w): i for i, (t, w) in enumerate(zip(found.texts, found.words, strict=True))}
    if any((text, word) not in places for text in texts):
        return None
    first, again, other = (places[text, word] for text in texts)
    lists = []
    for place in (first, other):
        nearest = np.argsort(-(found.vectors @ found.vectors[place]), kind="stable")
        rows: dict[str, dict[str, Any]] = {}
        for i in nearest.tolist():
            apart = not found.pieces[i] & found.pieces[place]
            if apart and found.texts[i] not in own and found.words[i] not in {word, *rows}:
                rows[found.words[i]] = {
                    "word": found.words[i],
                    "text": found.texts[i],
                    "similarity": round(float(found.vectors[i] @ found.vectors[place]), 3),
                }
            if len(rows) == _NEIGHBOURS:
                break
        lists.append(list(rows.values()))
    cosines = found.vectors[[again, other]] @ found.vectors[first]
    same, another = (round(cosine, 3) for cosine in cosines.tolist())
    return {"texts": list(texts), "same": same, "other": another, "neighbours": lists}


def occurrences(start: Pretrained, texts: Sequence[str]) -> Occurrences:
    """The last layer's vectors of all known words; of a word in pieces, their mean."""
    words: list[str] = []
    places: list[str] = []
    made_of: list[frozenset[int]] = []
    vectors: list[np.ndarray] = []
    pieces = [start.tokenizer.encode_with_offsets(text) for text in texts]
    # The longest sentences are left out where the encoder has no positions for them.
    fit = [len(ids) + 2 <= start.config.max_positions for ids, _ in pieces]
    texts, pieces = list(compress(texts, fit)), list(compress(pieces, fit))
    layers = _last_layer(start, [ids for ids, _ in pieces])
    unknown = start.tokenizer.unk_id
    for text, (ids, offsets), layer in zip(texts, pieces, layers, strict=True):
        for match in _WORD.finditer(text):
            inside = [i for i, (a, _) in enumerate(offsets) if match.start() <= a < match.end()]
            if inside and any(ids[i] != unknown for i in inside):
                words.append(match.group().lower())
                places.append(text)
                made_of.append(frozenset(ids[i] for i in inside))
                vectors.append(layer[inside].mean(axis=0))
    stacked = np.stack(vectors)
    # What all vectors share says nothing of a word (Ethayarajh 2019).
    centred = stacked - stacked.mean(axis=0)
    lengths = np.linalg.norm(centred, axis=1, keepdims=True)
    return Occurrences(words, places, made_of, centred / np.maximum(lengths, 1e-9))


def _last_layer(start: Pretrained, texts: Sequence[Sequence[int]]) -> list[np.ndarray]:
    """[T, D] for each text of T pieces."""
    words = start.tokenizer
    model = encoders.build(start.config, words)
    params: Any = start.params
    placed = jax.device_put(params["encoder"])
    encode = programs.jit(None, model.apply)
    rows = [Row([words.cls_id, *ids, words.sep_id], len(ids) + 2) for ids in texts]
    longest = max(len(row.ids) for row in rows)
    found: list[np.ndarray] = [np.empty(0)] * len(rows)
    for numbers, batch in eval_batches(rows, Shape("tagging", _BATCH, longest, words.pad_id)):
        inputs = (batch["input_ids"], batch["input_mask"], batch["segment_ids"])
        output: Any = encode({"params": placed}, *inputs)
        sequence = np.asarray(output.sequence, np.float32)
        for number, vectors in zip(numbers.tolist(), sequence, strict=False):
            found[number] = vectors[1 : len(texts[number]) + 1]
    return found
