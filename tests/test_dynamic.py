"""Compact rows to the model's input; a packed sequence is encoded as if it were alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bertjax.data import dynamic, layout, masking, walk
from bertjax.data.manifest import Manifest
from bertjax.data.masking import MaskingSettings
from bertjax.data.segments import FORMATS, SegmentSettings, TokenStore
from bertjax.models import masked_lm
from bertjax.models.config import BertConfig
from bertjax.models.encoder_output import Packing
from bertjax.models.masked_lm import PretrainingModel
from bertjax.text.tokenizer import WordPieceTokenizer

LENGTH, PREDICTIONS = 64, 10
Batch = dict[str, np.ndarray]


def make_manifest(tokenizer: WordPieceTokenizer, **changes: Any) -> Manifest:
    facts: dict[str, Any] = {
        "max_seq_length": LENGTH,
        "max_predictions_per_seq": PREDICTIONS,
        "vocab_size": tokenizer.vocab_size,
        "tokenizer": {},
        "settings": {},
        "corpus": {},
        "source": {},
        "padding_share": 0.0,
        "shards": (),
        "bertjax_version": "",
        "dynamic": True,
    }
    return Manifest(**facts | changes)


class Made(NamedTuple):
    """A batch of compact records, and what the manifest says of them."""

    batch: Batch
    manifest: Manifest


def make(tokenizer: WordPieceTokenizer, kind: str, packed: bool) -> Made:
    """Rows of some documents of 1 to 6 sentences of 2 to 12 tokens."""
    rng = np.random.default_rng(0)
    counts = rng.integers(1, 7, 16)
    lengths = rng.integers(2, 13, counts.sum())
    never = set(tokenizer.never_random.tolist())
    text = np.array([piece for piece in range(tokenizer.vocab_size) if piece not in never])
    store = TokenStore(
        rng.choice(text, lengths.sum()),
        np.concatenate([[0], np.cumsum(lengths)]),
        np.concatenate([[0], np.cumsum(counts)]),
        np.arange(16),
    )
    settings = SegmentSettings(kind, LENGTH, packed=packed)
    rows = walk.make_rows(store, settings, np.random.default_rng(1))
    filled = layout.fill(store, rows, (0, rows.num_rows), LENGTH, tokenizer)
    number = np.arange(rows.num_rows, dtype=np.int32)
    batch = {
        "input_ids": filled.input_ids,
        "lengths": filled.lengths.astype(np.int32),
        "record": number,
        "epoch": np.zeros_like(number),
    }
    kind_of = FORMATS[kind]
    if kind_of.has_label:
        batch["next_sentence_labels"] = filled.label.astype(np.int32)
    manifest = make_manifest(
        tokenizer,
        packed=packed,
        pairs=kind_of.specials == 3,
        has_label=kind_of.has_label,
        max_sequences=int(filled.num_labels.max()),
    )
    return Made(batch, manifest)


def expander(
    made: Made, tokenizer: WordPieceTokenizer, seed: int = 0
) -> Callable[..., dict[str, jax.Array]]:
    """What a train step does with the batch, or with one in which some arrays are others."""
    settings = MaskingSettings(PREDICTIONS)
    jitted = jax.jit(dynamic.expander(made.manifest, tokenizer, settings, seed))
    return lambda **changes: jitted({**made.batch, **changes})


@pytest.fixture(scope="module")
def packed(tiny_tokenizer: WordPieceTokenizer) -> Made:
    return make(tiny_tokenizer, "nsp", True)


@pytest.fixture(scope="module")
def expand(packed: Made, tiny_tokenizer: WordPieceTokenizer) -> Callable[..., Any]:
    return expander(packed, tiny_tokenizer)


@pytest.fixture(scope="module")
def expanded(expand: Callable[..., Any]) -> Batch:
    return {name: np.asarray(value) for name, value in expand().items()}


# --- Structure ------------------------------------------------------------------------------


def row(tokenizer: WordPieceTokenizer, text: str) -> list[int]:
    """C and S stand for [CLS] and [SEP], P for [PAD], anything else for a word of the text."""
    ids = {"C": tokenizer.cls_id, "S": tokenizer.sep_id, "P": tokenizer.pad_id}
    return [ids.get(letter, 20) for letter in text]


def test_sequences_and_segments_of_packed_rows_are_read_off_the_ids(
    tiny_tokenizer: WordPieceTokenizer,
) -> None:
    texts = ["CaaSbSCaSbbS", "CaaaSbbbSPPP", "CaSbSCaSbSCS"]
    batch = {
        "input_ids": jnp.array([row(tiny_tokenizer, text) for text in texts]),
        "lengths": jnp.array([12, 9, 10]),
        "next_sentence_labels": jnp.array([[1, 0, 0], [1, 0, 0], [0, 1, 0]]),
    }
    manifest = make_manifest(tiny_tokenizer, packed=True, max_sequences=3)
    found = dynamic.structure(batch, tiny_tokenizer, manifest)
    assert {name: value.tolist() for name, value in found.items()} == {
        "input_mask": [
            [1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2],
            [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
            # What stands behind the row's end is nothing, whatever it looks like.
            [1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 0, 0],
        ],
        "position_ids": [
            [0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4, 5],
            [0, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0],
            [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 0],
        ],
        "segment_ids": [
            [0, 0, 0, 0, 1, 1, 0, 0, 0, 1, 1, 1],
            [0, 0, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0],
            [0, 0, 0, 1, 1, 0, 0, 0, 1, 1, 0, 0],
        ],
        "starts": [[0, 6, 0], [0, 0, 0], [0, 5, 0]],
        "next_sentence_weights": [[1, 1, 0], [1, 0, 0], [1, 1, 0]],
        "next_sentence_labels": [[1, 0, 0], [1, 0, 0], [0, 1, 0]],
    }


def test_sentences_of_several_documents_are_one_sequence_of_one_segment(
    tiny_tokenizer: WordPieceTokenizer,
) -> None:
    batch = {
        "input_ids": jnp.array([row(tiny_tokenizer, "CaaSbbbSP")]),
        "lengths": jnp.array([8]),
    }
    manifest = make_manifest(tiny_tokenizer, packed=True, pairs=False, has_label=False)
    found = dynamic.structure(batch, tiny_tokenizer, manifest)
    assert found["input_mask"].tolist() == [[1] * 8 + [0]]
    assert found["segment_ids"].tolist() == [[0] * 9]
    assert found["position_ids"].tolist() == [[*range(8), 0]]
    assert "next_sentence_labels" not in found


def test_a_row_of_one_sequence_gets_what_the_records_of_2018_hold(
    tiny_tokenizer: WordPieceTokenizer,
) -> None:
    batch = {
        "input_ids": jnp.array([row(tiny_tokenizer, "CaaSbSPP")]),
        "lengths": jnp.array([6]),
        "next_sentence_labels": jnp.array([[1]]),
    }
    found = dynamic.structure(batch, tiny_tokenizer, make_manifest(tiny_tokenizer))
    assert {name: value.tolist() for name, value in found.items()} == {
        "input_mask": [[1, 1, 1, 1, 1, 1, 0, 0]],
        "segment_ids": [[0, 0, 0, 0, 1, 1, 0, 0]],
        "next_sentence_labels": [[1]],
    }


# --- Masks ----------------------------------------------------------------------------------


def test_masks_change_with_the_epoch_the_record_and_the_seed_and_repeat(
    packed: Made,
    expand: Callable[..., Any],
    expanded: Batch,
    tiny_tokenizer: WordPieceTokenizer,
) -> None:
    for name, value in expand().items():
        np.testing.assert_array_equal(value, expanded[name])
    epochs, records = packed.batch["epoch"], packed.batch["record"]
    others = [
        expand(epoch=epochs + 1),
        expand(epoch=epochs - 1),  # that of evaluation
        expand(record=records + 1),
        expand(record=epochs, epoch=records),
        expander(packed, tiny_tokenizer, seed=1)(),
        expanded,
    ]
    for number, one in enumerate(others):
        for two in others[:number]:
            pair = (np.asarray(made["masked_lm_positions"]) for made in (one, two))
            same = np.equal(*pair).all(axis=1)
            assert same.sum() <= 1


def test_masks_hang_on_the_record_and_not_on_its_place_in_the_batch(
    packed: Made, expand: Callable[..., Any], expanded: Batch
) -> None:
    back = {name: value[::-1] for name, value in packed.batch.items()}
    for name, value in expand(**back).items():
        np.testing.assert_array_equal(value[::-1], expanded[name])


def test_masks_are_those_of_masking_and_hide_nothing_special(
    packed: Made, expanded: Batch, tiny_tokenizer: WordPieceTokenizer
) -> None:
    wanted = masking.num_to_predict(packed.batch["lengths"], MaskingSettings(PREDICTIONS))
    assert expanded["masked_lm_weights"].sum(axis=1).tolist() == wanted.tolist()
    restored = expanded["input_ids"].copy()
    rows, columns = np.nonzero(expanded["masked_lm_weights"])
    places = expanded["masked_lm_positions"][rows, columns]
    restored[rows, places] = expanded["masked_lm_ids"][rows, columns]
    assert (restored == packed.batch["input_ids"]).all()
    assert not np.isin(restored[rows, places], tiny_tokenizer.never_random).any()


def test_numbers_are_drawn_as_masking_asks_for_every_unit(packed: Made) -> None:
    size = 1 + int(packed.batch["input_ids"].max())
    pieces = masking.pieces(size, 5, np.arange(10), np.arange(size) % 2 == 0)
    units = [MaskingSettings(PREDICTIONS, unit=unit) for unit in masking.UNITS]

    @jax.jit
    def masked(batch: Any) -> list[Any]:
        return [dynamic.mask(batch, settings, pieces, 0) for settings in units]

    positions = [made["masked_lm_positions"] for made in masked(packed.batch)]
    assert all(some.shape == (len(packed.batch["record"]), PREDICTIONS) for some in positions)
    assert len({str(some.tolist()) for some in positions}) == 3


def test_shorter_rows_have_accordingly_fewer_predictions(
    tiny_tokenizer: WordPieceTokenizer,
) -> None:
    made = make(tiny_tokenizer, "doc_sentences", False)
    expand = expander(made, tiny_tokenizer)
    for length, predictions in ((32, 5), (3, 1)):
        shorter = np.minimum(made.batch["lengths"], length)
        found = expand(input_ids=made.batch["input_ids"][:, :length], lengths=shorter)
        assert found["masked_lm_ids"].shape[1] == predictions
        assert found["masked_lm_positions"].max() < length


def test_rows_that_only_fill_the_batch_weigh_nothing(
    packed: Made, expand: Callable[..., Any], expanded: Batch
) -> None:
    weights = (np.arange(len(packed.batch["record"])) % 2).astype(np.float32)
    found = expand(example_weights=weights)
    assert not found["masked_lm_weights"][::2].any()
    assert (found["masked_lm_weights"][1::2] == expanded["masked_lm_weights"][1::2]).all()
    assert found["example_weights"].tolist() == weights.tolist()


def test_padding_is_the_tokenizers_whatever_the_reader_filled_in(
    packed: Made, expand: Callable[..., Any], expanded: Batch
) -> None:
    behind = np.arange(LENGTH) >= packed.batch["lengths"][:, None]
    assert behind.any()
    garbage = np.where(behind, 20, packed.batch["input_ids"]).astype(np.int32)
    for name, value in expand(input_ids=garbage).items():
        np.testing.assert_array_equal(value, expanded[name])


def test_masked_records_pass_as_they_are(tiny_tokenizer: WordPieceTokenizer) -> None:
    static = make_manifest(tiny_tokenizer, dynamic=False)
    batch = {"input_ids": jnp.zeros((1, 1))}
    assert dynamic.expander(static, tiny_tokenizer, MaskingSettings(), 0)(batch) is batch


def test_a_model_that_sees_every_token_gets_hidden_ones_back() -> None:
    """Of masked records, and of nothing that is only a place without a prediction."""
    batch = {
        "input_ids": jnp.array([[2, 4, 7, 4, 3], [2, 8, 4, 3, 0]]),
        "masked_lm_positions": jnp.array([[1, 3, 0], [2, 0, 0]]),
        "masked_lm_ids": jnp.array([[11, 12, 0], [13, 0, 0]]),
        "masked_lm_weights": jnp.array([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0]]),
    }
    found = dynamic.unmask(batch)["input_ids"]
    assert found.tolist() == [[2, 11, 7, 12, 3], [2, 8, 13, 3, 0]]


# --- Packed sequences are encoded as if each were alone -------------------------------------


def unpack(expanded: Batch, pad_id: int) -> tuple[Batch, list[tuple[int, int]]]:
    """Every sequence in a row of its own with its masks, and its (row, number) among the packed."""
    alone: dict[str, list[np.ndarray]] = {}
    found = []

    def keep(name: str, values: np.ndarray, size: int, filler: int = 0) -> None:
        alone.setdefault(name, []).append(
            np.pad(values, (0, size - len(values)), constant_values=filler)
        )

    for number, mask in enumerate(expanded["input_mask"]):
        for sequence in range(1, mask.max() + 1):
            places = np.flatnonzero(mask == sequence)
            keep("input_ids", expanded["input_ids"][number, places], LENGTH, pad_id)
            keep("segment_ids", expanded["segment_ids"][number, places], LENGTH)
            keep("input_mask", np.ones_like(places), LENGTH)
            at = expanded["masked_lm_positions"][number]
            inside = (expanded["masked_lm_weights"][number] > 0) & np.isin(at, places)
            keep("masked_lm_positions", at[inside] - places[0], PREDICTIONS)
            keep("masked_lm_ids", expanded["masked_lm_ids"][number, inside], PREDICTIONS)
            keep("masked_lm_weights", expanded["masked_lm_weights"][number, inside], PREDICTIONS)
            label = expanded["next_sentence_labels"][number, sequence - 1 : sequence]
            keep("next_sentence_labels", label, 1)
            found.append((number, sequence - 1))
    return {name: np.stack(rows) for name, rows in alone.items()}, found


class Computed(NamedTuple):
    """What the model and the objective make of a batch."""

    masked_lm: np.ndarray
    next_sentence: np.ndarray
    sums: Any
    counts: Any


@pytest.fixture(scope="module")
def both(
    expanded: Batch,
    tiny_tokenizer: WordPieceTokenizer,
    tiny_config: BertConfig,
    random_params: Callable[..., Any],
) -> tuple[Computed, Computed, Batch, list[tuple[int, int]]]:
    """Of the packed rows and of the same sequences alone."""
    model = PretrainingModel(tiny_config)
    params = random_params(model)
    objective = masked_lm.objective(model)

    @jax.jit
    def compute(params: Any, batch: Any) -> Computed:
        names = ("input_ids", "input_mask", "segment_ids", "masked_lm_positions")
        packing = None
        if "position_ids" in batch:
            packing = Packing(batch["position_ids"], batch["starts"])
        inputs = (batch[name] for name in names)
        output: Any = model.apply({"params": params}, *inputs, packing=packing)
        sums, counts = objective.sums(params, batch, None), objective.counts(batch)
        return Computed(output.masked_lm, output.next_sentence, sums, counts)

    alone, places = unpack(expanded, tiny_tokenizer.pad_id)
    return compute(params, expanded), compute(params, alone), alone, places


def test_packed_rows_of_the_test_hold_several_sequences_and_many_masks(expanded: Batch) -> None:
    assert expanded["input_mask"].max() >= 4
    assert np.median(expanded["input_mask"].max(axis=1)) >= 2
    assert expanded["masked_lm_weights"].sum() > 30
    assert set(expanded["next_sentence_labels"].ravel().tolist()) == {0, 1}


def test_next_sentence_logits_of_packed_sequences_are_those_of_each_alone(
    both: tuple[Computed, Computed, Batch, list[tuple[int, int]]],
) -> None:
    packed, alone, _, places = both
    rows, numbers = np.array(places).T
    assert packed.next_sentence.ndim == 3
    np.testing.assert_allclose(
        packed.next_sentence[rows, numbers], alone.next_sentence, rtol=0, atol=1e-5
    )


def test_masked_lm_logits_of_packed_sequences_are_those_of_each_alone(
    expanded: Batch, both: tuple[Computed, Computed, Batch, list[tuple[int, int]]]
) -> None:
    packed, alone, single, _ = both
    # Positions ascend in a row, so the masks of all sequences come in the same order.
    theirs = np.asarray(alone.masked_lm)[single["masked_lm_weights"] > 0]
    ours = np.asarray(packed.masked_lm)[expanded["masked_lm_weights"] > 0]
    assert len(ours) == len(theirs)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)


def test_the_loss_of_packed_rows_is_that_of_the_same_sequences_alone(
    both: tuple[Computed, Computed, Batch, list[tuple[int, int]]],
) -> None:
    packed, alone, _, places = both
    assert float(packed.counts["next_sentence"]) == len(places)
    assert float(packed.counts["masked_lm"]) == float(alone.counts["masked_lm"])
    for part in ("masked_lm", "next_sentence"):
        for name in ("loss", "accuracy"):
            assert float(packed.sums[part][name]) == pytest.approx(
                float(alone.sums[part][name]), rel=1e-5
            )
        assert packed.sums[part]["loss"] > 10
