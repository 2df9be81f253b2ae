"""ELMo, against what its paper and its published weights say."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from bertjax.errors import UserError
from bertjax.models import characters, encoders, language_models
from bertjax.models.elmo import SIZES, Elmo, ElmoConfig
from bertjax.models.encoder_output import EncoderOutput, Packing
from bertjax.text.chunk_tokenizer import SPECIALS
from bertjax.text.words import WordTokenizer

WORDS = WordTokenizer([*SPECIALS, "cat", "dog", "mouse", "naïve", "internationally"], True)
CAT = len(SPECIALS)
SMALL = {"lstm_size": 12, "projection_size": 6, "filters": ((1, 4), (3, 5)), "max_characters": 8}
CONFIG = ElmoConfig(WORDS.vocab_size, highway_layers=1, character_size=3, **SMALL)
# Two rows: one with padding, one full.
IDS = jnp.array([[2, 5, 6, 7, 3, 0, 0], [2, 6, 5, 5, 8, 9, 3]])
MASK = (IDS != 0).astype(jnp.int32)


@pytest.fixture(scope="module")
def params() -> Any:
    shapes = jax.eval_shape(Elmo(CONFIG, WORDS).init, jax.random.key(0), IDS, MASK, MASK)["params"]
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: rng.normal(0, 0.5, leaf.shape).astype(np.float32), shapes)


def encode(params: Any, ids: Any = IDS, mask: Any = MASK, **more: Any) -> EncoderOutput:
    found: Any = Elmo(CONFIG, WORDS).apply({"params": params}, ids, mask, mask * 0, **more)
    return found


def count(tree: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def sized(size: str) -> Any:
    wanted = ConfigDict({"encoder": "elmo", "model": {"size": size}})
    return encoders.from_settings(wanted, WORDS.vocab_size)


def shapes_of(size: str) -> Any:
    """The parameters of a size, with shapes but without numbers."""
    model: Any = encoders.build(sized(size), WORDS)
    return jax.eval_shape(model.init, jax.random.key(0), IDS, MASK, MASK)["params"]


def test_the_original_has_the_published_93_6_million_parameters() -> None:
    """Peters et al.'s released weights; the softmax of the training is not among them.

    262 symbols of 16, 2,048 filters with bias, two highway layers, a projection to 512; in four
    LSTMs kernels of (512 + 512) x 16,384 with bias, and projections of 4,096 x 512.
    """
    shapes = shapes_of("original")
    filters = sum(wide * 16 * number + number for wide, number in ElmoConfig(1).filters)
    highway = 2 * 2 * (2048 * 2048 + 2048)
    assert count(shapes["embeddings"]) == 262 * 16 + filters + highway + 2048 * 512 + 512
    assert count(shapes["layer_0"]) == 2 * (1024 * 4 * 4096 + 4 * 4096 + 4096 * 512)
    assert count(shapes) == 93_600_864


@pytest.mark.parametrize(("size", "parameters"), [("medium", 28_027_744), ("small", 13_593_312)])
def test_the_smaller_ones_have_the_28_0_and_13_6_million_published(
    size: str, parameters: int
) -> None:
    """The table of models at allennlp.org/elmo, whose file names tell of one highway layer."""
    assert count(shapes_of(size)) == parameters


@pytest.mark.parametrize("size", SIZES)
def test_every_size_can_be_built(size: str) -> None:
    config = sized(size)
    model: Any = encoders.build(config, WORDS)
    found = jax.eval_shape(
        lambda key: model.init_with_output(key, IDS, MASK, MASK)[0], jax.random.key(0)
    )
    assert found.sequence.shape == (2, 7, config.hidden_size)
    assert found.layers.shape == (config.num_layers + 1, 2, 7, config.hidden_size)
    assert found.pooled.shape == (2, config.hidden_size)


def test_the_softmax_starts_as_in_the_published_code() -> None:
    """From numbers of deviation 1 / sqrt(P) (allenai/bilm-tf, training.py)."""
    config = dataclasses.replace(CONFIG, vocab_size=5000, projection_size=16)
    found = language_models.Softmax(config).init(jax.random.key(0))["params"]
    assert np.std(found["embedding"]) == pytest.approx(16**-0.5, rel=0.02)
    assert not np.any(found["bias"])


def test_where_words_are_drawn_the_softmax_knows_their_frequencies_from_the_start() -> None:
    """A rare word is drawn too seldom to be told so: over all words the loss would stay far off."""
    counts = np.r_[np.zeros(5), 1000 // np.arange(1, WORDS.vocab_size - 4)]
    counts[[WORDS.cls_id, WORDS.sep_id]] = 100
    config = dataclasses.replace(CONFIG, sampler="unigram", num_sampled=5)
    text = encoders.Text(labels=False, counts=lambda: counts)
    task = encoders.pretraining(config)
    model = task.model(config, WORDS, text)
    start = model.init(jax.random.key(0), IDS, MASK, MASK)["params"]["softmax"]["bias"]
    seen = np.maximum(counts, 1)
    np.testing.assert_allclose(start, np.log(seen / seen.sum()), rtol=1e-6)


# --- Letters --------------------------------------------------------------------------------


def test_words_are_spelled_in_the_published_symbols() -> None:
    table = characters.table(WORDS, 8)
    begin, end, rest = characters.BEGIN_WORD, characters.END_WORD, characters.PADDING
    assert table[CAT].tolist() == [begin, *(b + 1 for b in b"cat"), end, rest, rest, rest]
    assert table[CAT + 3].tolist()[1:-1] == [b + 1 for b in "naïve".encode()]
    assert table[CAT + 4].tolist() == [begin, *(b + 1 for b in b"intern"), end]
    assert table[WORDS.cls_id].tolist()[:3] == [begin, characters.BEGIN_SENTENCE, end]
    assert table[WORDS.sep_id].tolist()[:3] == [begin, characters.END_SENTENCE, end]
    assert not table[WORDS.pad_id].any()


def test_the_convolutions_are_those_of_the_definition(params: Any) -> None:
    """Every filter's best fit, relu; gate * relu(map) + (1 - gate) * input; a linear map."""
    own = params["embeddings"]["characters"]
    letters = own["symbol"]["embedding"][characters.table(WORDS, 8)[CAT]]
    fits = []
    for wide, _ in CONFIG.filters:
        kernel, bias = own[f"filter_{wide}"]["kernel"], own[f"filter_{wide}"]["bias"]
        windows = [letters[at : at + wide].reshape(-1) for at in range(8 - wide + 1)]
        fits.append(np.maximum(np.max([window @ kernel + bias for window in windows], axis=0), 0))
    x = np.concatenate(fits)
    transform, gate = own["highway_0_transform"], own["highway_0_gate"]
    open_ = 1 / (1 + np.exp(-(x @ gate["kernel"] + gate["bias"])))
    mapped = np.maximum(x @ transform["kernel"] + transform["bias"], 0)
    x = open_ * mapped + (1 - open_) * x
    expected = x @ own["projection"]["kernel"] + own["projection"]["bias"]
    found = encode(params).layers[0, 0, 1]
    np.testing.assert_allclose(found, np.concatenate([expected, expected]), atol=1e-5)


def test_a_large_vocabulary_gives_the_same_vectors(params: Any) -> None:
    """Where a batch has fewer tokens than there are words, its tokens are worked out."""
    few = encode(params, IDS[:1, :5], MASK[:1, :5])
    assert IDS[:1, :5].size < WORDS.vocab_size <= IDS.size
    np.testing.assert_allclose(few.layers[:, 0], encode(params).layers[:, 0, :5], atol=1e-5)


def test_words_may_come_from_a_table() -> None:
    config = dataclasses.replace(CONFIG, words="table")
    model = Elmo(config)
    variables = model.init(jax.random.key(0), IDS, MASK, MASK)
    table = variables["params"]["embeddings"]["token"]["embedding"]
    found: Any = model.apply(variables, IDS, MASK, MASK)
    np.testing.assert_array_equal(found.layers[0, 0, 1, :6], table[CAT])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"words": "letters"}, "words 'letters' is unknown; choose one of characters, table"),
        ({"max_characters": 2}, "do not fit words of 2; set model.max_characters"),
        ({"max_characters": 2, "filters": ((2, 4),)}, "model.max_characters=2: give at least 3"),
        ({"filters": ()}, "filters: give pairs"),
        ({"filters": ((0, 4),)}, "filters: give pairs"),
        ({"sampler": "zipf"}, "sampler 'zipf' is unknown"),
        ({"sampler": "unigram", "num_sampled": 0}, "model.num_sampled=0: give at least 1"),
        ({"num_sampled": 100}, "model.num_sampled=100: .* set model.sampler=unigram"),
        ({"hidden_dropout": 1.0}, "hidden_dropout 1.0 must be"),
        ({"dtype": "float16"}, "dtype 'float16' is unknown"),
    ],
)
def test_settings_that_make_no_sense_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        dataclasses.replace(CONFIG, **change)


def test_filters_of_one_letter_are_enough() -> None:
    config = dataclasses.replace(CONFIG, filters=((1, 4),), max_characters=3)
    assert characters.table(WORDS, config.max_characters).shape == (WORDS.vocab_size, 3)


# --- Directions -----------------------------------------------------------------------------


def test_no_direction_sees_what_it_is_to_predict(params: Any) -> None:
    """Another word in one place: forwards nothing changes before it, backwards nothing behind."""
    place, half = 3, CONFIG.projection_size
    first = np.asarray(encode(params).sequence)[1]
    other = np.asarray(encode(params, IDS.at[1, place].set(7)).sequence)[1]
    changed = np.abs(first - other).max(axis=1, initial=0)
    forward = np.abs(first - other)[:, :half].max(axis=1)
    backward = np.abs(first - other)[:, half:].max(axis=1)
    assert (forward[:place] == 0).all()
    assert (forward[place:] > 1e-4).all()
    assert (backward[place + 1 :] == 0).all()
    assert (backward[: place + 1] > 1e-4).all()
    assert (changed > 1e-4).all()


def test_padding_makes_no_difference(params: Any) -> None:
    alone = encode(params, IDS[:1, :5], MASK[:1, :5])
    padded = encode(params)
    np.testing.assert_allclose(padded.sequence[0, :5], alone.sequence[0], atol=1e-6)
    np.testing.assert_allclose(padded.pooled[0], alone.pooled[0], atol=1e-6)


def test_sequences_in_a_row_are_encoded_as_if_alone(params: Any) -> None:
    row = jnp.array([[2, 5, 6, 7, 3, 2, 6, 5, 3, 0, 0]])
    numbers = jnp.array([[1] * 5 + [2] * 4 + [0] * 2])
    packing = Packing(jnp.zeros_like(row), jnp.array([[0, 5]]))
    packed = encode(params, row, numbers, packing=packing)
    for number, (begin, end) in enumerate([(0, 5), (5, 9)]):
        alone = encode(params, row[:, begin:end], jnp.ones((1, end - begin), jnp.int32))
        np.testing.assert_allclose(packed.sequence[0, begin:end], alone.sequence[0], atol=1e-6)
        np.testing.assert_allclose(packed.pooled[0, number], alone.pooled[0], atol=1e-6)


def test_the_second_layer_is_added_to_the_first(params: Any) -> None:
    """Peters et al. 2018, section 3.4: a residual connection from the first to the second layer."""
    still = jax.tree.map(np.copy, params)
    still["layer_1"]["projection_kernel"][:] = 0
    layers = encode(still).layers
    np.testing.assert_array_equal(layers[2], layers[1])
    first = jax.tree.map(np.copy, params)
    first["layer_0"]["projection_kernel"][:] = 0
    assert not np.asarray(encode(first).layers[1]).any()


def test_pooled_is_what_each_direction_knows_at_its_end(params: Any) -> None:
    found, half = encode(params), CONFIG.projection_size
    np.testing.assert_array_equal(found.pooled[0, :half], found.sequence[0, 4, :half])
    np.testing.assert_array_equal(found.pooled[0, half:], found.sequence[0, 0, half:])


# --- The loss -------------------------------------------------------------------------------


def test_the_loss_is_the_sum_of_both_log_likelihoods(params: Any) -> None:
    """Peters et al. 2018, equation in section 3.1, written out over the words of two sequences."""
    rng = np.random.default_rng(2)
    table = rng.normal(size=(WORDS.vocab_size, 6)).astype(np.float32)
    bias = rng.normal(size=WORDS.vocab_size).astype(np.float32)
    whole = {"encoder": params, "softmax": {"embedding": table, "bias": bias}}
    model = language_models.BidirectionalModel(CONFIG, WORDS)
    batch = {"input_ids": IDS, "input_mask": MASK, "segment_ids": MASK * 0}
    objective = language_models.objective(model, ("forward_lm", "backward_lm"))
    sums, counts = objective.sums(whole, batch, None), objective.counts(batch)
    sequence = np.asarray(encode(params).sequence, np.float64)
    for part, step, side in (("forward_lm", 1, np.s_[:6]), ("backward_lm", -1, np.s_[6:])):
        total, pairs, right = 0.0, 0, 0
        for row, length in enumerate([5, 7]):
            for place in range(length):
                if 0 <= place + step < length:
                    scores = table @ sequence[row, place, side] + bias
                    word = int(IDS[row, place + step])
                    total += np.log(np.exp(scores).sum()) - scores[word]
                    right += scores.argmax() == word
                    pairs += 1
        assert float(counts[part]) == pairs
        assert float(sums[part]["loss"]) == pytest.approx(total, rel=1e-5)
        assert float(sums[part]["accuracy"]) == right


def test_rows_that_only_fill_a_batch_do_not_count(params: Any) -> None:
    model = language_models.BidirectionalModel(CONFIG, WORDS)
    objective = language_models.objective(model, ("forward_lm",))
    batch = {"input_ids": IDS, "input_mask": MASK, "example_weights": jnp.array([1.0, 0.0])}
    assert float(objective.counts(batch)["forward_lm"]) == 4
