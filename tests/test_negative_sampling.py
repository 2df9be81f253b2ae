"""word2vec learns by the formula of Mikolov et al. 2013, from draws of the right distributions."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from bertjax import partition, shares
from bertjax.models import negative_sampling as sampling
from bertjax.models import subwords, word_stream, word_updates
from bertjax.models.negative_sampling import BLOCK, NOISE
from bertjax.models.word2vec import METHODS, Word2VecConfig, Word2VecTables
from bertjax.models.word_stream import Stream
from bertjax.models.word_updates import PART
from bertjax.runs import state
from bertjax.text.tokenizer import SPECIALS, WordTokenizer
from bertjax.training import schedules, train_step

WORDS = WordTokenizer([*SPECIALS, *(f"w{i}" for i in range(25)), "[unused0]", "[unused1]"], True)
V, D = WORDS.vocab_size, 8
COUNTS = np.array([0, 400, 9, 9, 0, *(1000 // (i + 1) for i in range(25)), 0, 0])
CONFIG = Word2VecConfig(V, D, window=3, negatives=4, subsample=0.0, update_tokens=BLOCK)


def make_batch(rows: int = 4, length: int = 40, seed: int = 0) -> dict[str, jax.Array]:
    """Rows of [CLS] words [SEP] [CLS] words [SEP] and padding, with some [UNK]."""
    rng = np.random.default_rng(seed)
    ids = rng.choice(np.arange(5, 30), (rows, length), p=COUNTS[5:30] / COUNTS[5:30].sum())
    ids[rng.random(ids.shape) < 0.1] = WORDS.unk_id
    ids[:, [0, 17]], ids[:, [16, 35]], ids[:, 36:] = WORDS.cls_id, WORDS.sep_id, WORDS.pad_id
    return {"input_ids": jnp.asarray(ids, jnp.int32)}


def make_params(seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)
    inputs, outputs = rng.normal(0, 0.5, (2, V, D)).astype(np.float32)
    encoder = {"embeddings": {"token": {"embedding": jnp.asarray(inputs)}}}
    return {"encoder": encoder, "output": {"embedding": jnp.asarray(outputs)}}


def flat(params: Any) -> tuple[np.ndarray, np.ndarray]:
    inputs = params["encoder"]["embeddings"]["token"]["embedding"]
    return np.asarray(inputs), np.asarray(params["output"]["embedding"])


def make_stream(config: Word2VecConfig, batch: Any = None, key: int = 0) -> Stream:
    found = word_stream.tables(config, COUNTS, WORDS)
    return word_stream.stream(batch or make_batch(), jax.random.key(key), config, found)


# --- The formula ----------------------------------------------------------------------------


class Reference(NamedTuple):
    """The loss and its gradients, word by word in NumPy."""

    loss: float
    inputs: np.ndarray
    outputs: np.ndarray


def sigma(x: float) -> float:
    return 1 / (1 + np.exp(-x))


def reference(
    inputs: np.ndarray, outputs: np.ndarray, words: Stream, noise: np.ndarray, method: str
) -> Reference:
    """Args: noise: [N, K] ids, of which every pair of its blocks sees all, at k / K each."""
    ids, document, reach = (np.asarray(x) for x in words[:3])
    inputs, outputs = inputs.astype(np.float64), outputs.astype(np.float64)
    loss, to_in, to_out = 0.0, np.zeros_like(inputs), np.zeros_like(outputs)

    def learn(vector: np.ndarray, own: list[int], target: int, weight: float, true: bool) -> None:
        nonlocal loss
        score = float(vector @ outputs[target])
        loss -= weight * np.log(sigma(score) if true else sigma(-score))
        error = weight * (sigma(score) - true)
        for word in own:
            # Of CBOW's mean each word takes the whole step, as in the papers' program.
            to_in[word] += error * outputs[target]
        to_out[target] += error * vector

    first = CONFIG.window
    blocks = (len(ids) - 2 * first) // BLOCK
    for i in range(first, len(ids) - first):
        near = range(i - reach[i], i + reach[i] + 1)
        seen = [int(ids[j]) for j in near if j != i and document[j] == document[i] >= 0]
        block = noise[(i - first) // BLOCK * len(noise) // blocks]
        if method == "cbow" and seen:
            pairs = [(np.mean(inputs[seen], axis=0), seen, int(ids[i]))]
        else:
            pairs = [(inputs[ids[i]], [int(ids[i])], word) for word in seen]
        for vector, own, target in pairs:
            learn(vector, own, target, 1.0, True)
            for other in block:
                learn(vector, own, int(other), CONFIG.negatives / NOISE, False)
    return Reference(loss, to_in, to_out)


# Five blocks have noise each for itself; of eight, four share it.
@pytest.mark.parametrize(("tokens", "noises"), [(160, 5), (256, 2)])
@pytest.mark.parametrize("method", METHODS)
def test_one_update_is_the_gradient_of_the_papers_loss(
    method: str, tokens: int, noises: int
) -> None:
    """All words in one group, so that the update is one step down the loss of a batch."""
    config = dataclasses.replace(CONFIG, method=method, update_tokens=tokens)
    updates = word_updates.word_updates(config, COUNTS, WORDS)
    batch, key, rate = make_batch(), jax.random.key(3), 1e-3
    params, sums, counts = jax.jit(updates.update)(make_params(), batch, key, rate)
    first, second = jax.random.split(key)
    table = word_stream.tables(config, COUNTS, WORDS)
    words = word_stream.stream(batch, first, config, table)
    noise = np.asarray(word_stream.draw_noise(second, (1, noises, NOISE), table))[0]
    inputs, outputs = flat(make_params())
    wanted = reference(inputs, outputs, words, noise, method)
    assert sums[PART]["loss"] == pytest.approx(wanted.loss, rel=1e-5)
    new_inputs, new_outputs = flat(params)
    np.testing.assert_allclose(new_inputs, inputs - rate * wanted.inputs, atol=1e-6)
    np.testing.assert_allclose(new_outputs, outputs - rate * wanted.outputs, atol=1e-6)
    assert abs(wanted.inputs).max() > 1 and counts[PART] > 50


@pytest.mark.parametrize("method", METHODS)
def test_what_a_word_learns_all_its_n_grams_learn(method: str) -> None:
    """So its vector, their mean, takes the step that a word without parts would take."""
    config = dataclasses.replace(CONFIG, method=method, update_tokens=160, buckets=60, min_gram=1)
    parts = subwords.table(WORDS, config)
    rng = np.random.default_rng(0)
    rows = rng.normal(0, 0.5, (V + 60, D)).astype(np.float32)
    before = make_params()
    before["encoder"]["embeddings"]["token"]["embedding"] = jnp.asarray(rows)
    batch, key, rate = make_batch(), jax.random.key(3), 1e-4
    update = jax.jit(word_updates.word_updates(config, COUNTS, WORDS).update)
    params, sums, _ = update(before, batch, key, rate)
    first, second = jax.random.split(key)
    table = word_stream.tables(config, COUNTS, WORDS)
    words = word_stream.stream(batch, first, config, table)
    noise = np.asarray(word_stream.draw_noise(second, (1, 5, NOISE), table))[0]
    own = [part[part < len(rows)] for part in parts]
    inputs = np.stack([rows[part].mean(axis=0) for part in own])
    outputs = flat(before)[1]
    wanted = reference(inputs, outputs, words, noise, method)
    assert abs(wanted.inputs).max() > 1
    assert sums[PART]["loss"] == pytest.approx(wanted.loss, rel=1e-5)
    expected = rows.copy()
    for word, part in enumerate(own):
        np.add.at(expected, part, -rate * wanted.inputs[word])
    np.testing.assert_allclose(flat(params)[0], expected, atol=1e-6)
    np.testing.assert_allclose(flat(params)[1], outputs - rate * wanted.outputs, atol=1e-6)


def test_groups_follow_one_another() -> None:
    """With groups of 32 words the second one sees what the first one has changed."""
    updates = word_updates.word_updates(CONFIG, COUNTS, WORDS)
    batch, key, rate = make_batch(), jax.random.key(3), 0.01
    params, sums, _ = jax.jit(updates.update)(make_params(), batch, key, rate)
    first, second = jax.random.split(key)
    table = word_stream.tables(CONFIG, COUNTS, WORDS)
    words = word_stream.stream(batch, first, CONFIG, table)
    noise = np.asarray(word_stream.draw_noise(second, (5, 1, NOISE), table))
    inputs, outputs = flat(make_params())
    loss = 0.0
    for number in range(5):
        # The words of the group alone foretell; those beside it are seen.
        centre = np.zeros(len(words.ids), bool)
        centre[CONFIG.window + 32 * number : CONFIG.window + 32 * (number + 1)] = True
        some = words._replace(reach=np.where(centre, words.reach, 0))
        found = reference(inputs, outputs, some, np.repeat(noise[number], 5, axis=0), "skip_gram")
        inputs, outputs = inputs - rate * found.inputs, outputs - rate * found.outputs
        loss += found.loss
    assert sums[PART]["loss"] == pytest.approx(loss, rel=1e-5)
    np.testing.assert_allclose(flat(params)[0], inputs, atol=3e-6)
    np.testing.assert_allclose(flat(params)[1], outputs, atol=3e-6)


def test_evaluation_is_the_same_loss_and_changes_nothing() -> None:
    updates = word_updates.word_updates(CONFIG, COUNTS, WORDS)
    batch = make_batch()
    sums = jax.jit(updates.objective.sums)(make_params(), batch, None)
    first, second = jax.random.split(jax.random.key(0))
    table = word_stream.tables(CONFIG, COUNTS, WORDS)
    words = word_stream.stream(batch, first, CONFIG, table)
    noise = np.asarray(word_stream.draw_noise(second, (5, 1, NOISE), table))[:, 0]
    wanted = reference(*flat(make_params()), words, noise, "skip_gram").loss
    assert sums[PART]["loss"] == pytest.approx(wanted, rel=1e-5)
    # Rows that only fill the last batch count for nothing.
    weights = {"example_weights": jnp.array([1.0, 1.0, 1.0, 0.0])}
    some = updates.objective.counts(batch | weights)[PART]
    assert some == updates.objective.counts({"input_ids": batch["input_ids"][:3]})[PART]


# --- Sums that would overshoot ---------------------------------------------------------------


def test_the_curvature_is_that_of_a_parabola_nowhere_below_the_loss() -> None:
    """Jaakkola and Jordan 2000, where it touches and elsewhere."""
    at = np.array([-6.0, -1.0, -1e-3, 0.0, 0.5, 4.0])[:, None]
    anywhere = np.linspace(-12, 12, 200)[None]
    pull = sampling._pull(jnp.asarray(at, jnp.float32))
    loss = np.log1p(np.exp(-at))
    parabola = loss - np.asarray(pull.change) * (anywhere - at)
    parabola = parabola + np.asarray(pull.curvature) * (anywhere - at) ** 2 / 2
    assert (parabola >= np.log1p(np.exp(-anywhere)) - 1e-5).all()
    np.testing.assert_allclose(pull.loss, loss[:, 0], rtol=1e-5)
    np.testing.assert_allclose(pull.change, sigma(-at), rtol=1e-5)
    # Many in a row, of which some are no pairs.
    scores, pairs = np.linspace(-3, 3, 200, dtype=np.float32), np.arange(200) % 3 > 0
    found = sampling._pull(jnp.asarray(scores), jnp.asarray(pairs, jnp.float32))
    assert found.loss == pytest.approx(np.log1p(np.exp(-scores[pairs])).sum(), rel=1e-5)
    assert not np.asarray(found.change)[~pairs].any()


def test_only_rows_that_would_overshoot_are_slowed_down() -> None:
    ids, change = jnp.array([3, 5, 3]), jnp.ones((3, D))
    some = sampling.Rows(ids, change, jnp.array([30.0, 4.0, 10.0]))
    table = word_updates.Table(jnp.zeros((V, D)), jnp.zeros(V))
    found = word_updates.learn(table, some, jnp.float32(0.1))
    # By hand: row 3 has a curvature of 40, and 0.1 * 40 > 1; row 5 has 0.1 * 4 < 1.
    assert found.rows[3, 0] == pytest.approx(2 * 0.1 / 4) and found.rows[5, 0] == pytest.approx(0.1)
    assert not np.asarray(found.rows).any(axis=1)[[0, 4, 6]].any() and not found.total.any()


@pytest.mark.parametrize("method", METHODS)
def test_the_commonest_words_never_make_it_diverge(method: str) -> None:
    """A vocabulary of 25 words at twenty times the usual rate."""
    config = dataclasses.replace(CONFIG, method=method, update_tokens=128)
    update = jax.jit(word_updates.word_updates(config, COUNTS, WORDS).update)
    params, losses = make_params(), []
    for step in range(100):
        batch = make_batch(seed=step % 10)
        params, sums, counts = update(params, batch, jax.random.key(step), 0.5)
        losses.append(float(sums[PART]["loss"] / counts[PART]))
    assert np.mean(losses[-10:]) < losses[0]
    assert abs(flat(params)[0]).max() < 20


# --- What is drawn --------------------------------------------------------------------------


@pytest.mark.parametrize("power", [0.75, 0.0])
def test_noise_is_drawn_by_the_power_of_counts_and_is_only_what_occurs(power: float) -> None:
    config = dataclasses.replace(CONFIG, noise_power=power)
    table = word_stream.tables(config, COUNTS, WORDS)
    columns = np.arange(V)
    # What the alias table gives, exactly.
    exact = np.bincount(columns, table.accept, V) + np.bincount(table.alias, 1 - table.accept, V)
    words = COUNTS.astype(float)
    words[[*range(5), 30, 31]] = 0
    words[words > 0] **= power
    np.testing.assert_allclose(exact / V, words / words.sum(), atol=1e-6)
    drawn = np.asarray(word_stream.draw_noise(jax.random.key(0), (100, 2000), table))
    shares = np.bincount(drawn.ravel(), minlength=V) / drawn.size
    assert not shares[words == 0].any()
    np.testing.assert_allclose(shares, exact / V, atol=5 * np.sqrt(0.1 / drawn.size))


def test_frequent_words_are_left_out_at_random() -> None:
    # By hand: a share of 0.4 and t = 0.1 give sqrt(1 / 4) + 1 / 4.
    keep = word_stream.keep_probability(np.array([40, 10, 50, 0]), 0.1)
    np.testing.assert_allclose(keep, [0.75, 1, np.sqrt(0.2) + 0.2, 0])
    np.testing.assert_array_equal(word_stream.keep_probability(np.array([3, 0]), 0.0), [1, 0])
    config = dataclasses.replace(CONFIG, subsample=0.02)
    batch = make_batch(rows=4000)
    words = make_stream(config, batch)
    there = np.bincount(np.asarray(batch["input_ids"]).ravel(), minlength=V)[5:30]
    left = np.bincount(np.asarray(words.ids)[np.asarray(words.document) >= 0], minlength=V)[5:30]
    words_only = np.where(np.isin(np.arange(V), np.arange(5, 30)), COUNTS, 0)
    wanted = word_stream.keep_probability(words_only, 0.02)[5:30]
    np.testing.assert_allclose(left / there, wanted, atol=0.03)
    assert wanted.min() < 0.4


def test_windows_are_of_every_size_alike() -> None:
    words = make_stream(CONFIG, make_batch(rows=1000))
    reach = np.asarray(words.reach)[np.asarray(words.document) >= 0]
    shares = np.bincount(reach, minlength=5) / len(reach)
    np.testing.assert_allclose(shares, [0, 1 / 3, 1 / 3, 1 / 3, 0], atol=0.01)


def test_a_stream_has_the_words_in_order_and_no_window_leaves_a_sequence() -> None:
    batch, window = make_batch(), CONFIG.window
    words = make_stream(CONFIG, batch)
    ids = np.asarray(batch["input_ids"])
    sequences = [part[part >= 5] for row in ids for part in (row[1:16], row[18:35])]
    size = int(words.size)
    assert size == sum(map(len, sequences))
    place = slice(window, window + size)
    np.testing.assert_array_equal(np.asarray(words.ids)[place], np.concatenate(sequences))
    number = np.repeat(np.arange(len(sequences)), list(map(len, sequences)))
    document = np.asarray(words.document)
    same = document[place][:, None] == document[place][None]
    np.testing.assert_array_equal(same, number[:, None] == number[None])
    assert (document[:window] < 0).all() and (document[window + size :] < 0).all()
    # The pairs, counted one by one.
    reach = np.asarray(words.reach)
    pairs = sum(
        document[j] == document[i] >= 0
        for i in range(window, window + size)
        for j in range(i - reach[i], i + reach[i] + 1)
        if j != i
    )
    assert word_stream.num_pairs(words, window) == pairs
    sees = np.concatenate(
        [
            sampling.group(words, jnp.int32(at), jnp.zeros((1, NOISE), int), CONFIG).sees[0]
            for at in range(0, len(words.ids) - 2 * window, BLOCK)
        ]
    )
    assert sees.sum() == pairs
    assert sees.any(axis=1).sum() == word_stream.num_seeing(words)


def test_words_alone_count_for_nothing() -> None:
    """By hand: of two, one and no words between the ends of sequences two see another."""
    ids = [WORDS.cls_id, 5, 6, WORDS.sep_id, WORDS.cls_id, 7, WORDS.sep_id, WORDS.cls_id]
    batch = {"input_ids": jnp.array([ids], jnp.int32)}
    config = dataclasses.replace(CONFIG, method="cbow")
    updates = word_updates.word_updates(config, COUNTS, WORDS)
    assert updates.objective.counts(batch)[PART] == 2
    # With all scores 0 the loss of a word and its four words of noise is 5 log 2.
    still = jax.tree.map(jnp.zeros_like, make_params())
    assert updates.objective.sums(still, batch, None)[PART]["loss"] == pytest.approx(10 * np.log(2))


def test_draws_hang_on_the_key_alone() -> None:
    same = make_stream(CONFIG, key=1), make_stream(CONFIG, key=1), make_stream(CONFIG, key=2)
    np.testing.assert_array_equal(same[0].reach, same[1].reach)
    assert (np.asarray(same[0].reach) != np.asarray(same[2].reach)).any()


# --- On a mesh ------------------------------------------------------------------------------


def test_a_step_of_rows_claims_to_leave_out_nothing() -> None:
    updates = word_updates.word_updates(CONFIG, COUNTS, WORDS)
    schedule = schedules.scale_by_schedule(schedules.linear(0.1, 0, 10))
    broken = jax.tree.map(lambda table: table.at[7].set(jnp.nan), make_params())
    numbers = (jnp.int32(0), jnp.int32(0), jnp.int32(0))
    begun = state.TrainState(*numbers, broken, schedule.init(broken))
    after, metrics = train_step.make_row_step(updates, schedule)(begun, make_batch())
    assert jnp.isnan(metrics["loss"]) and "skipped_updates" not in metrics
    assert (int(after.step), int(after.skipped)) == (1, 0)


@pytest.mark.parametrize("method", METHODS)
def test_tables_shared_out_in_any_way_learn_the_same(method: str) -> None:
    config = dataclasses.replace(CONFIG, method=method)
    updates = word_updates.word_updates(config, COUNTS, WORDS)
    model = Word2VecTables(config, WORDS)
    row = jnp.zeros((1, 4), jnp.int32)

    def init(key: jax.Array) -> Any:
        return model.init(key, row, row, row)["params"]

    schedule = schedules.scale_by_schedule(schedules.linear(0.1, 0, 10))
    one = Mesh(np.array(jax.devices()[:1]).reshape(1, 1, 1), partition.AXES)
    meshes = {"one": one}
    meshes |= {str(axes): partition.make_mesh(*axes) for axes in ((1, 8, 1), (2, 2, 2))}
    found = {}
    for name, mesh in meshes.items():
        made = state.init_state(init, schedule, mesh, 0)
        step = train_step.make_row_step(updates, schedule, mesh=mesh)
        for number in range(2):
            batch = {k: np.asarray(v) for k, v in make_batch(rows=16, seed=number).items()}
            made, metrics = step(made, shares.global_batch(batch, mesh))
        found[name] = (*flat(made.params), float(metrics["loss"]))
        table = made.params["encoder"]["embeddings"]["token"]["embedding"]
        wanted = (V // mesh.shape["tensor"], D // mesh.shape["fsdp"])
        assert table.addressable_shards[0].data.shape == wanted
    for name, parts in found.items():
        for part, expected in zip(parts, found["one"], strict=True):
            np.testing.assert_allclose(part, expected, atol=1e-5, err_msg=name)
    assert abs(found["one"][1]).max() > 0.01


def test_columns_that_the_devices_do_not_divide_are_shared_out_within_a_step() -> None:
    """100 on eight devices: 13 each, nine the last; the tables are those of one device."""
    config = dataclasses.replace(CONFIG, hidden_size=100)
    updates = word_updates.word_updates(config, COUNTS, WORDS)
    model, row = Word2VecTables(config, WORDS), jnp.zeros((1, 4), jnp.int32)

    def init(key: jax.Array) -> Any:
        return model.init(key, row, row, row)["params"]

    schedule = schedules.scale_by_schedule(schedules.linear(0.1, 0, 10))
    found, evaluated = [], []
    for number in (1, 8):
        mesh = partition.make_mesh(1, number, 1, devices=jax.devices()[:number])
        made = state.init_state(init, schedule, mesh, 0)
        step: Any = train_step.make_row_step(updates, schedule, mesh=mesh)
        batch = {name: np.asarray(ids) for name, ids in make_batch(rows=16).items()}
        placed = shares.global_batch(batch, mesh)
        assert (f"f32[{V},13]" in step.lower(made, placed).compile().as_text()) == (number == 8)
        made, _ = step(made, placed)
        found.append(flat(made.params))
        evaluate = train_step.make_eval_step(updates.objective, mesh=mesh)
        evaluated.append(float(evaluate(made.params, placed)[0][PART]["loss"]))
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    assert abs(found[0][1]).max() > 0.01
    assert evaluated[0] == pytest.approx(evaluated[1], rel=1e-5)
