"""Sequence tagging: a tag for every word, predicted at its first piece (paper, section 5.3)."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from itertools import chain, groupby
from typing import NamedTuple

import numpy as np

from bertjax.data.rows import Row
from bertjax.errors import UserError
from bertjax.scores.entity_scores import PREFIXES, by_type, conlleval_lines, entity_scores
from bertjax.tasks.base import Context, Encoded, check_finite
from bertjax.tasks.sentences import check_length
from bertjax.tasks.word_windows import pieces_of, rows_of

_SCORES = ("f1", "precision", "recall", "token_accuracy", "strict_f1")
_ONE_DOCUMENT = "read as one document, for no -DOCSTART- line parts them"
_NOT_STRICT = "in IOB1, where an I- may begin an entity, so without strict_f1"


class Example(NamedTuple):
    """A sentence.

    Attributes:
      words: each gets a tag, whatever it is made of.
      gold: the tags of the words; None where they are to be predicted.
      document: the same for neighbouring sentences of one document; None of a file that tells
        nothing of documents, which is read as a single one.
      where: file and line, for messages.
      id: the file's own name of the sentence, "" if it has none.
    """

    words: list[str]
    gold: list[str] | None
    document: int | str | None
    where: str
    id: str = ""


class Prediction(NamedTuple):
    """A sentence's tags, and the probability that the model gives each of them."""

    tags: list[str]
    probabilities: list[float]


def _texts(examples: Sequence[Example], document_context: bool) -> list[list[Example]]:
    """What windows are laid over: single sentences, or whole documents."""
    if not document_context:
        return [[example] for example in examples]
    return [list(same) for _, same in groupby(examples, lambda example: example.document)]


def _tag_ids(example: Example, ids: Mapping[str, int]) -> list[int]:
    """-1 for every word where the tags are to be predicted."""
    if example.gold is None:
        return [-1] * len(example.words)
    for word, tag in zip(example.words, example.gold, strict=True):
        if tag not in ids:
            raise UserError(
                f"{example.where}: unknown tag '{tag}' of '{word}'; the tags are: {', '.join(ids)}"
            )
    return [ids[tag] for tag in example.gold]


# --- Predictions ----------------------------------------------------------------------------


def _prediction(example: Example, scores: np.ndarray, labels: Sequence[str]) -> Prediction:
    """scores: [words, K] logits."""
    check_finite(example, scores)
    highest = scores.max(axis=1, keepdims=True)
    return Prediction(
        tags=[labels[i] for i in scores.argmax(axis=1)],
        probabilities=(1 / np.exp(scores - highest).sum(axis=1)).tolist(),
    )


def _of_entities(tags: Collection[str]) -> set[str]:
    """Those of entities: B-PER and its like, and bare B, I, E, ... where only O is beside them."""
    others = set(tags) - {"O"}
    if others <= PREFIXES:
        return others
    return {tag for tag in others if tag[:1] in PREFIXES and tag[1:2] == "-"}


def _is_iob1(tags: Sequence[str], entities: Collection[str]) -> bool:
    """Whether an I begins an entity, as it does in IOB1; read strictly it would be of none."""
    return any(
        tag in entities and tag[0] == "I" and before not in (tag, f"B{tag[1:]}")
        for before, tag in zip(["O", *tags], tags, strict=False)
    )


def _columns(texts: Sequence[Sequence[str]]) -> list[list[str]]:
    """Without white space, which sets columns apart."""
    return [[re.sub(r"\s", "_", text) or "_" for text in of_sentence] for of_sentence in texts]


def _conll(examples: Sequence[Example], predictions: Sequence[Prediction]) -> str:
    """What conlleval reads or, where gold tags are missing, "word predicted"."""
    words = _columns([example.words for example in examples])
    predicted = _columns([prediction.tags for prediction in predictions])
    gold = [example.gold for example in examples if example.gold is not None]
    if len(gold) == len(examples):
        return conlleval_lines(words, _columns(gold), predicted)
    return "\n".join(
        "".join(f"{word} {tag}\n" for word, tag in zip(*sentence, strict=True))
        for sentence in zip(words, predicted, strict=True)
    )


def _scores_by_type(
    split: str, examples: Sequence[Example], predictions: Sequence[Prediction]
) -> dict[str, str]:
    """A file of them; none where a sentence has no gold tags, or none of them is of an entity."""
    gold = [example.gold for example in examples if example.gold is not None]
    if len(gold) < len(examples) or not _of_entities(set(chain.from_iterable(gold))):
        return {}
    found = by_type(gold, [prediction.tags for prediction in predictions])
    return {f"by_type-{split}.json": json.dumps(found, indent=2) + "\n"}


# --- The family -----------------------------------------------------------------------------


class Tagging:
    """One linear layer over the words' first pieces, no tag hangs on another (section 5.3).

    A row is a window over a sentence or, with document_context, over the sentences of a document,
    of which it may serve several. So an epoch reads every document about twice. The paper does
    not say how it included "the maximal document context"; a window for every single sentence
    would cost more than twice as much.
    """

    head = "tagging"

    def find_labels(self, examples: Sequence[Example]) -> list[str]:
        """In the order of the alphabet, but "O" first.

        Every type of entity has every prefix: of a rare one, dev may hold what train lacks.

        Raises:
          UserError: there is only one tag.
        """
        tags = set(chain.from_iterable(example.gold or () for example in examples))
        if len(tags) < 2:
            file = examples[0].where.rpartition(":")[0]
            raise UserError(f"{file}: only one tag, {', '.join(tags)}; a task needs at least two")
        entities = _of_entities(tags)
        if not entities:
            print("tags: none begins with B- or I-, so f1 is the token accuracy, O included")
        prefixes = {"B", "I"}.union(tag[0] for tag in entities)
        tags |= {f"{prefix}{tag[1:]}" for prefix in prefixes for tag in entities}
        return sorted(tags, key=lambda tag: (tag != "O", tag))

    def encode(self, examples: Sequence[Example], context: Context) -> Encoded:
        """A word that the tokenizer turns into nothing is [UNK]; one of more pieces than half a
        row loses the last of them. Raises UserError: an unknown tag, max_seq_length below 8."""
        tokenizer, labels, options = context
        length, in_documents = options.max_seq_length, options.document_context
        check_length(length)
        room = length - 2
        counts: Counter[str] = Counter()
        pieces = pieces_of([e.words for e in examples], tokenizer, room // 2, counts)
        entities = _of_entities(labels)
        counts[_NOT_STRICT] = sum(_is_iob1(e.gold or (), entities) for e in examples)
        counts[_ONE_DOCUMENT] = in_documents * sum(e.document is None for e in examples)
        ids = {label: number for number, label in enumerate(labels)}
        rows: list[Row] = []
        for text in _texts(examples, in_documents):
            words = [pieces[word] for example in text for word in example.words]
            tags = [tag for example in text for tag in _tag_ids(example, ids)]
            of_text = rows_of(words, tags, tokenizer, room)
            if in_documents:
                counts["alone in their document, without context"] += len(text) == 1
            else:
                counts[f"over {length} tokens, in several windows"] += len(of_text) > 1
            rows += of_text
        return Encoded(rows, dict(+counts))

    def predict(
        self,
        examples: Sequence[Example],
        rows: Sequence[Row],
        outputs: Sequence[np.ndarray],
        context: Context,
    ) -> list[Prediction]:
        """As many tags as words, each from the window where its word has the most context.

        Raises:
          UserError: a score that is not finite; the sentence is named.
        """
        own = [scores[row.note] for row, scores in zip(rows, outputs, strict=True)]
        # All words in order, [N, K].
        scores = np.concatenate([np.empty((0, len(context.labels)), np.float32), *own])
        borders = np.cumsum([0, *(len(example.words) for example in examples)])
        assert len(scores) == borders[-1], "another number of predictions than of words"
        return [
            _prediction(example, scores[begin:end], context.labels)
            for example, begin, end in zip(examples, borders, borders[1:], strict=False)
        ]

    def score(
        self, examples: Sequence[Example], predictions: Sequence[Prediction]
    ) -> dict[str, float]:
        """f1, precision and recall of entities as conlleval counts; token_accuracy; strict_f1, but
        where gold is in IOB1, of which it tells nothing.

        Tags that are of no entities, such as parts of speech, count as one each: f1, precision,
        recall and strict_f1 are then the token_accuracy.
        """
        gold = [example.gold or [] for example in examples]
        scores = entity_scores(gold, [prediction.tags for prediction in predictions])
        tags = set(chain.from_iterable(gold)) - {"O"}
        entities = _of_entities(tags)
        if tags and not entities:
            return dict.fromkeys(_SCORES, scores["token_accuracy"])
        if any(_is_iob1(of_sentence, entities) for of_sentence in gold):
            del scores["strict_f1"]
        return {name: scores[name] for name in _SCORES if name in scores}

    def files(
        self,
        split: str,
        examples: Sequence[Example],
        predictions: Sequence[Prediction],
        context: Context,
    ) -> dict[str, str]:
        """Columns for conlleval, JSON lines with the probability of every predicted tag, and the
        scores by type of entity, where gold has tags of entities."""
        lines = [
            json.dumps(
                ({"id": example.id} if example.id else {})
                | {
                    "words": example.words,
                    "gold": example.gold,
                    "predicted": prediction.tags,
                    "probabilities": [round(share, 6) for share in prediction.probabilities],
                },
                ensure_ascii=False,
            )
            for example, prediction in zip(examples, predictions, strict=True)
        ]
        return {
            f"predictions-{split}.conll": _conll(examples, predictions),
            f"predictions-{split}.jsonl": "".join(line + "\n" for line in lines),
        } | _scores_by_type(split, examples, predictions)

    def collapsed(self, predictions: Sequence[Prediction], context: Context) -> bool:
        """Whether all words have got the same tag."""
        return len({tag for prediction in predictions for tag in prediction.tags}) == 1
