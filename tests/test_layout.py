"""Rows read "[CLS] A [SEP] B [SEP]"; compact and masked records hold the same rows."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from bertjax.data import example_bytes, layout, masking, walk
from bertjax.data.layout import Filled, Layout, Messages
from bertjax.data.masking import MaskingSettings
from bertjax.data.records import FEATURES
from bertjax.data.segments import FORMATS, SegmentSettings, TokenStore
from bertjax.data.walk import Rows
from bertjax.text.tokenizer import WordPieceTokenizer

STATIC = Layout(12, False, True, True, MaskingSettings(max_predictions=3))
COMPACT = STATIC._replace(dynamic=True)


@pytest.fixture(scope="module")
def store(tiny_tokenizer: WordPieceTokenizer) -> TokenStore:
    """Thirty documents of five sentences of 4 to 8 tokens."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(4, 9, 150)
    return TokenStore(
        rng.integers(10, tiny_tokenizer.vocab_size, lengths.sum()).astype(np.uint16),
        np.concatenate([[0], np.cumsum(lengths)]),
        np.arange(0, 151, 5),
        np.arange(30),
    )


@pytest.fixture()
def rows() -> Rows:
    """Two rows; the second is of two sequences."""
    return Rows(
        row=np.array([0, 0, 1, 1, 1]),
        start=np.array([0, 20, 7, 3, 30]),
        end=np.array([3, 22, 8, 5, 32]),
        begins=np.array([True, False, True, False, True]),
        label=np.array([1, 1, 0, 0, 1]),
        num_rows=2,
    )


@pytest.fixture()
def filled(store: TokenStore, rows: Rows, tiny_tokenizer: WordPieceTokenizer) -> Filled:
    return layout.fill(store, rows, (0, 2), 12, tiny_tokenizer)


def parse(message: bytes) -> tf.train.Features:
    return tf.train.Example.FromString(message).features


# --- Rows -----------------------------------------------------------------------------------


def test_a_row_reads_cls_a_sep_b_sep_and_padding(
    store: TokenStore, filled: Filled, tiny_tokenizer: WordPieceTokenizer
) -> None:
    cls, sep, pad = tiny_tokenizer.cls_id, tiny_tokenizer.sep_id, tiny_tokenizer.pad_id
    text = store.tokens.tolist()
    assert filled.input_ids.tolist() == [
        [cls, *text[0:3], sep, *text[20:22], sep, *[pad] * 4],
        [cls, text[7], sep, *text[3:5], sep, cls, *text[30:32], sep, *[pad] * 2],
    ]
    assert filled.lengths.tolist() == [8, 10]
    assert filled.first.tolist() == [3, 1]
    assert filled.label.tolist() == [[1, 0], [0, 1]]
    assert filled.num_labels.tolist() == [1, 2]


def test_a_full_row_has_no_padding(store: TokenStore, tiny_tokenizer: WordPieceTokenizer) -> None:
    both = np.array([True, False])
    rows = Rows(np.zeros(2, int), np.array([0, 30]), np.array([30, 61]), both, np.zeros(2, int), 1)
    found = layout.fill(store, rows, (0, 1), 64, tiny_tokenizer)
    assert found.lengths.tolist() == [64]
    ends = np.flatnonzero(found.input_ids[0] == tiny_tokenizer.sep_id)
    assert ends.tolist() == [31, 63]
    assert (found.input_ids != tiny_tokenizer.pad_id).all()


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", FORMATS)
def test_any_span_of_rows_is_laid_out_as_among_all(
    kind: str, packed: bool, store: TokenStore, tiny_tokenizer: WordPieceTokenizer
) -> None:
    settings = SegmentSettings(kind, 32, packed=packed)
    rows = walk.make_rows(store, settings, np.random.default_rng(0))
    everything = layout.fill(store, rows, (0, rows.num_rows), 32, tiny_tokenizer)
    widths = rows.end - rows.start + 1 + rows.begins
    assert everything.lengths.tolist() == np.bincount(rows.row, widths).tolist()
    for span in ((0, 1), (3, 11), (rows.num_rows - 2, rows.num_rows)):
        some = layout.fill(store, rows, span, 32, tiny_tokenizer)
        for name, value in some._asdict().items():
            wanted = getattr(everything, name)[slice(*span)]
            if name == "label":
                wanted = wanted[:, : value.shape[1]]
            np.testing.assert_array_equal(value, wanted)


# --- Records of 2018 ------------------------------------------------------------------------


def test_segment_ids_are_those_of_2018(
    filled: Filled, store: TokenStore, tiny_tokenizer: WordPieceTokenizer
) -> None:
    first = Filled(*(column[:1] for column in filled))
    pieces = Messages(STATIC, tiny_tokenizer).pieces
    found = layout.static(first, STATIC, pieces, np.random.default_rng(0))
    assert found["input_mask"].tolist() == [[1] * 8 + [0] * 4]
    # The second [SEP] belongs to B, padding to 0.
    assert found["segment_ids"].tolist() == [[0] * 5 + [1] * 3 + [0] * 4]
    assert found["next_sentence_labels"].tolist() == [[1]]
    alone = layout.static(first, STATIC._replace(pairs=False), pieces, np.random.default_rng(0))
    assert not alone["segment_ids"].any()


def test_masked_records_have_the_features_of_2018_with_one_mask_for_each_row(
    store: TokenStore, tiny_tokenizer: WordPieceTokenizer
) -> None:
    rows = walk.make_rows(store, SegmentSettings(max_seq_length=12), np.random.default_rng(0))
    messages = Messages(STATIC, tiny_tokenizer)
    made = list(messages.of(store, rows, np.random.default_rng(1)))
    plain = layout.fill(store, rows, (0, rows.num_rows), 12, tiny_tokenizer)
    assert len(made) == rows.num_rows
    assert messages.tokens == plain.lengths.sum()
    assert messages.most_sequences == 1
    for number, message in enumerate(made):
        found = parse(message).feature
        assert set(found) == set(FEATURES)
        for name, (size, kind) in FEATURES.items():
            values = getattr(found[name], f"{kind[:5]}_list" if kind == "int64" else "float_list")
            assert len(values.value) == {"T": 12, "P": 3, "1": 1}[size]
        ids = list(found["input_ids"].int64_list.value)
        for place, piece, weight in zip(
            found["masked_lm_positions"].int64_list.value,
            found["masked_lm_ids"].int64_list.value,
            found["masked_lm_weights"].float_list.value,
            strict=True,
        ):
            if weight:
                ids[place] = piece
        assert ids == plain.input_ids[number].tolist()


# --- Compact records ------------------------------------------------------------------------


@pytest.mark.parametrize(("vocab_size", "kind"), [(1 << 16, "<u2"), ((1 << 16) + 1, "<u4")])
def test_compact_tokens_decode_back(vocab_size: int, kind: str, filled: Filled) -> None:
    messages = list(example_bytes.encode(layout.compact(filled, COMPACT, vocab_size)))
    for number, message in enumerate(messages):
        found = parse(message).feature
        assert set(found) == {"tokens", "label"}
        (content,) = found["tokens"].bytes_list.value
        length = filled.lengths[number]
        assert np.frombuffer(content, kind).tolist() == filled.input_ids[number, :length].tolist()
        labels = filled.label[number, : filled.num_labels[number]].tolist()
        assert list(found["label"].int64_list.value) == labels


def test_large_ids_are_kept(filled: Filled) -> None:
    large = filled._replace(input_ids=filled.input_ids + 100_000)
    tokens, sizes = layout.compact(large, COMPACT, 200_000)["tokens"]
    found = tokens[0, : sizes[0]].view("<u4").tolist()
    assert found == large.input_ids[0, : large.lengths[0]].tolist()


def test_sequences_without_labels_have_no_feature_for_them(filled: Filled) -> None:
    assert set(layout.compact(filled, COMPACT._replace(has_label=False), 500)) == {"tokens"}


def test_records_are_the_same_however_many_rows_are_laid_out_at_once(
    store: TokenStore, tiny_tokenizer: WordPieceTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = SegmentSettings("sop", 48, packed=True)
    rows = walk.make_rows(store, settings, np.random.default_rng(0))

    def made() -> tuple[list[bytes], int, int]:
        messages = Messages(COMPACT._replace(max_seq_length=48), tiny_tokenizer)
        records = list(messages.of(store, rows, np.random.default_rng(1)))
        return records, messages.tokens, messages.most_sequences

    wanted = made()
    assert wanted[2] == np.bincount(rows.row, rows.begins).max() > 1
    monkeypatch.setattr(layout, "_ROWS_AT_ONCE", 3)
    assert made() == wanted


def test_masking_knows_the_vocabulary(tiny_tokenizer: WordPieceTokenizer) -> None:
    pieces = Messages(STATIC, tiny_tokenizer).pieces
    assert isinstance(pieces, masking.Pieces)
    named = set(tiny_tokenizer.pieces(np.flatnonzero(pieces.special)))
    assert {"[PAD]", "[CLS]", "[SEP]", "[MASK]", "[UNK]", "[unused0]"} <= named
    assert all(name.startswith("[") for name in named)
    assert pieces.mask_id == tiny_tokenizer.mask_id
