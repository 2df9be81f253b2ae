"""Labelled examples: each exactly once, padded little, cut as in 2018, resumable by step."""

from __future__ import annotations

import random
from collections import Counter
from itertools import islice

import numpy as np
import pytest

from bertjax.data import examples
from bertjax.data.examples import Batch, Encoded, Example
from bertjax.errors import UserError
from bertjax.tokenizer import WordPieceTokenizer

LIMIT = 40
NUM = 101


def example(text_a: str, text_b: str | None = None, label: str | None = "x") -> Example:
    return Example(text_a, text_b, label, "dev.tsv:17")


@pytest.fixture(scope="module")
def encoded() -> list[Encoded]:
    """Example i has i + 10 as its second token, and a length of 3 to 40."""
    rng = random.Random(0)
    return [
        Encoded([1, i + 10, *[5] * rng.randint(0, LIMIT - 3), 2], 2, i % 3, False)
        for i in range(NUM)
    ]


def train(encoded: list[Encoded], steps: int, start_step: int = 0, seed: int = 0) -> list[Batch]:
    batches = examples.train_batches(
        encoded, batch_size=8, max_seq_length=LIMIT, pad_id=0, seed=seed, start_step=start_step
    )
    return list(islice(batches, steps))


def numbers(batch: Batch) -> list[int]:
    """Which examples the real rows of a batch are."""
    return (batch["input_ids"][batch["example_weights"] > 0, 1] - 10).tolist()


STEPS = -(-NUM // 8)


# --- Batches --------------------------------------------------------------------------------


def test_every_epoch_holds_every_example_once_in_another_order(encoded: list[Encoded]) -> None:
    steps = train(encoded, 3 * STEPS)
    epochs = [sum(map(numbers, steps[i * STEPS : (i + 1) * STEPS]), []) for i in range(3)]
    assert all(sorted(epoch) == list(range(NUM)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3


@pytest.mark.parametrize("step", [1, STEPS - 1, STEPS, 2 * STEPS + 3])
def test_opening_at_a_step_gives_the_batches_from_there_on(
    step: int, encoded: list[Encoded]
) -> None:
    whole, resumed = train(encoded, step + 3)[step:], train(encoded, 3, start_step=step)
    for wanted, found in zip(whole, resumed, strict=True):
        assert all((wanted[name] == found[name]).all() for name in wanted)


def test_the_order_hangs_on_the_seed(encoded: list[Encoded]) -> None:
    first, again, other = (
        [numbers(batch) for batch in train(encoded, STEPS, seed=seed)] for seed in (0, 0, 1)
    )
    assert first == again != other


def test_evaluation_counts_every_example_once(encoded: list[Encoded]) -> None:
    found = list(examples.eval_batches(encoded, batch_size=8, max_seq_length=LIMIT, pad_id=0))
    assert Counter(i for _, batch in found for i in numbers(batch)) == Counter(range(NUM))
    for chosen, batch in found:
        assert numbers(batch) == chosen.tolist()
        assert len(batch["labels"]) == 8
        assert batch["labels"][: len(chosen)].tolist() == [i % 3 for i in chosen]
    assert sum(batch["example_weights"].sum() for _, batch in found) == NUM


def test_batches_are_padded_to_the_next_of_a_few_lengths(encoded: list[Encoded]) -> None:
    lengths = set()
    for batch in train(encoded, STEPS):
        length = batch["input_ids"].shape[1]
        longest = int(batch["input_mask"].sum(axis=1).max())
        assert length == min(n for n in (16, 32, LIMIT) if n >= longest)
        lengths.add(length)
    assert lengths == {16, 32, LIMIT}


def test_sorting_by_length_leaves_less_padding_than_chance(encoded: list[Encoded]) -> None:
    real = sum(int(batch["input_mask"].sum()) for batch in train(encoded, STEPS))
    grouped = sum(batch["input_mask"].size for batch in train(encoded, STEPS))
    assert real / grouped > 0.7 > real / (STEPS * 8 * LIMIT)


def test_a_batch_marks_text_segments_and_filling() -> None:
    rows = [Encoded([1, 7, 2, 8, 9, 2], 3, 1, False), Encoded([1, 7, 2], 3, -1, False)]
    batch = examples.collate(rows, 3, 8, pad_id=0)
    assert batch["input_ids"].tolist() == [
        [1, 7, 2, 8, 9, 2, 0, 0],
        [1, 7, 2, 0, 0, 0, 0, 0],
        [0] * 8,
    ]
    assert batch["segment_ids"].tolist() == [[0, 0, 0, 1, 1, 1, 0, 0], [0] * 8, [0] * 8]
    assert batch["input_mask"][:2].sum(axis=1).tolist() == [6, 3]
    assert batch["example_weights"].tolist() == [1, 1, 0]
    # An attention over no position at all would be undefined.
    assert batch["input_mask"][2].sum() == 1


# --- Encoding -------------------------------------------------------------------------------


def test_one_text_and_two_texts(tiny_tokenizer: WordPieceTokenizer) -> None:
    t = tiny_tokenizer
    river, old = t.encode("the river"), t.encode("old garden")
    single, pair = examples.encode(
        [example("the river", label="b"), example("the river", "old garden", "a")],
        t,
        ["a", "b"],
        LIMIT,
    )
    assert single == Encoded([t.cls_id, *river, t.sep_id], 4, 1, False)
    assert pair == Encoded([t.cls_id, *river, t.sep_id, *old, t.sep_id], 4, 0, False)


def test_the_longer_text_is_cut_from_its_end(tiny_tokenizer: WordPieceTokenizer) -> None:
    t = tiny_tokenizer
    words = [
        "the",
        "small",
        "old",
        "quiet",
        "bright",
        "green",
        "heavy",
        "distant",
        "curious",
        "river",
    ]
    a, b = t.encode(" ".join(words)), t.encode(" ".join(words[:4]))
    assert len(a) == 10
    assert len(b) == 4
    texts = [" ".join(words), " ".join(words[:4])]
    # Room for 9, 6 and 5 tokens: the loop of 2018 takes from b when both are as long.
    for limit, left_a, left_b in ((12, 5, 4), (9, 3, 3), (8, 3, 2)):
        (found,) = examples.encode([example(*texts)], t, ["x"], limit)
        wanted = [t.cls_id, *a[:left_a], t.sep_id, *b[:left_b], t.sep_id]
        assert found == Encoded(wanted, left_a + 2, 0, True)
    (alone,) = examples.encode([example(texts[0])], t, ["x"], 8)
    assert alone == Encoded([t.cls_id, *a[:6], t.sep_id], 8, 0, True)


def test_what_just_fits_is_not_called_cut(tiny_tokenizer: WordPieceTokenizer) -> None:
    (found,) = examples.encode([example("the old river the old river")], tiny_tokenizer, ["x"], 8)
    assert not found.was_cut


def test_an_empty_text_is_cls_and_sep(tiny_tokenizer: WordPieceTokenizer) -> None:
    (found,) = examples.encode([example("")], tiny_tokenizer, ["x"], 8)
    assert found.ids == [tiny_tokenizer.cls_id, tiny_tokenizer.sep_id]


def test_an_unknown_label_is_named_with_file_and_line(tiny_tokenizer: WordPieceTokenizer) -> None:
    with pytest.raises(UserError, match=r"dev\.tsv:17: unknown label 'z'; the labels are: x, y"):
        examples.encode([example("river", label="z")], tiny_tokenizer, ["x", "y"], 8)


def test_what_is_to_be_predicted_has_no_label(tiny_tokenizer: WordPieceTokenizer) -> None:
    (found,) = examples.encode([example("river", label=None)], tiny_tokenizer, ["x"], 8)
    assert found.label == -1
    assert examples.collate([found], 1, 8, 0)["labels"].tolist() == [0]


def test_the_order_of_an_epoch_groups_alike_lengths() -> None:
    lengths = np.arange(64)
    batches = examples.epoch_order(lengths, 8, seed=0, epoch=0)
    assert all(np.ptp(batch) == 7 for batch in batches)
    starts = [int(batch.min()) for batch in batches]
    assert starts != sorted(starts)
