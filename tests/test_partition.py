"""Where parameters live, and that no placement or accumulation changes what a step computes."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import traverse_util
from jax.sharding import Mesh, PartitionSpec

from bertjax import partition, shares
from bertjax.errors import UserError
from bertjax.models import encoders, objectives
from bertjax.models.config import BertConfig
from bertjax.models.elmo import ElmoConfig
from bertjax.models.heads import TaskModel
from bertjax.models.language_models import BidirectionalModel, LeftToRightModel
from bertjax.models.masked_lm import PretrainingModel
from bertjax.models.objectives import Objective
from bertjax.models.word2vec import Word2VecConfig, Word2VecTables
from bertjax.runs import state
from bertjax.training import optimizer as optimizers
from bertjax.training import schedules, train_step

Batch = dict[str, np.ndarray]
MODELS: dict[str, Callable[[BertConfig], Any]] = {
    "pretraining": PretrainingModel,
    "classifier": lambda config: TaskModel(config, "classification", 3),
}
LANGUAGE_MODELS: dict[str, Callable[[BertConfig], Any]] = {
    "elmo": lambda config: BidirectionalModel(_elmo(config), _Words()),
}
# Stepped in two ways only, for compiling takes long.
MORE: dict[str, Callable[[BertConfig], Any]] = {
    "left to right": lambda config: LeftToRightModel(
        dataclasses.replace(config, attention="causal")
    ),
    "modern": lambda config: PretrainingModel(
        dataclasses.replace(
            config, residual="pre_norm", positions="rope", feed_forward="geglu",
            attention="local_global", attention_window=8, num_layers=2,  # of which one is local
        )
    ),
}  # fmt: skip
# What a task can put on the encoder beside one linear layer.
HEADS: dict[str, Callable[[BertConfig], Any]] = {
    "tagger on a mix": lambda config: TaskModel(
        config, "tagging", 3, layers="mix", frozen=True, bilstm=True
    ),
}
# Not learnt by gradients: tests/test_negative_sampling.py steps it.
OTHERS: dict[str, Callable[[BertConfig], Any]] = {
    "word2vec": lambda config: Word2VecTables(Word2VecConfig(config.vocab_size, 16, buckets=8)),
}
ALL = MODELS | LANGUAGE_MODELS | MORE | HEADS | OTHERS
MESHES = {"data=8": (8, 1, 1), "data=2 fsdp=2 tensor=2": (2, 2, 2)}


class _Words:
    """What an encoder that reads letters asks of a tokenizer."""

    vocab_size, pad_id, cls_id, sep_id = 160, 0, 2, 3

    def pieces(self, ids: Any) -> list[str]:
        return [f"w{number}" for number in ids]


def _elmo(config: BertConfig) -> ElmoConfig:
    size: dict[str, Any] = {"lstm_size": 16, "projection_size": 8, "num_layers": 2}
    size |= {"filters": ((1, 4), (3, 4)), "character_size": 4, "max_characters": 6}
    # All words are drawn, so that parts of a batch see the same ones.
    size |= {"sampler": "unigram", "num_sampled": config.vocab_size}
    return ElmoConfig(config.vocab_size, highway_layers=1, hidden_dropout=0.0, **size)


def _objective(model: Any) -> Objective:
    if isinstance(model, TaskModel):
        return objectives.task(model, model.head)
    counts = np.arange(model.config.vocab_size)
    return encoders.pretraining(model.config).objective(model, encoders.Text(True, lambda: counts))


def _one_device() -> Mesh:
    return Mesh(np.array(jax.devices()[:1]).reshape(1, 1, 1), partition.AXES)


def _init(model: Any) -> Callable[[jax.Array], Any]:
    row = jnp.zeros((1, 1), jnp.int32)
    inputs = [row] * (4 if isinstance(model, PretrainingModel) else 3)
    return lambda key: model.init(key, *inputs)["params"]


def _optimizer(name: str = "adam2018") -> optax.GradientTransformation:
    return optimizers.make_optimizer(name, schedules.linear(1e-3, 2, 10))


# --- Rows and meshes ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
def test_every_parameter_and_moment_matches_exactly_one_row(
    name: str, tiny_config: BertConfig
) -> None:
    model = ALL[name](tiny_config)
    abstract = state.abstract_state(_init(model), _optimizer(), partition.make_mesh())
    leaves = jax.tree_util.tree_leaves_with_path(abstract)
    named = {partition.path_name(path): leaf for path, leaf in leaves if leaf.shape}
    # Parameters and Adam's two moments; scalars are on every device.
    assert len(named) == 3 * sum(bool(leaf.shape) for leaf in jax.tree.leaves(abstract.params))
    for path in named:
        assert len(partition.matching_rows(path)) == 1, path


@pytest.mark.parametrize("name", optimizers.OPTIMIZERS)
def test_the_state_of_every_optimizer_lies_where_its_parameters_do(
    name: str, tiny_config: BertConfig
) -> None:
    mesh = partition.make_mesh(2, 2, 2)
    abstract = state.abstract_state(_init(PretrainingModel(tiny_config)), _optimizer(name), mesh)
    params = traverse_util.flatten_dict(abstract.params, sep="/")
    moments: set[str] = set()
    for path, leaf in jax.tree_util.tree_leaves_with_path(abstract.opt_state):
        end = next((n for n in params if partition.path_name(path).endswith(n)), "")
        if end:
            assert leaf.sharding == params[end].sharding
            moments.add(end)
        else:
            assert leaf.sharding.spec in (PartitionSpec(), PartitionSpec(None))
    assert moments == params.keys()


def test_every_row_is_needed(tiny_config: BertConfig) -> None:
    names = {"ns_coeffs"}
    for make in ALL.values():
        shapes = jax.eval_shape(_init(make(tiny_config)), jax.random.key(0))
        leaves = jax.tree_util.tree_leaves_with_path(shapes)
        names |= {partition.path_name(path) for path, _ in leaves}
    patterns = [pattern for pattern, _ in partition.ROWS]
    unused = [p for p in patterns if not any(re.search(rf"(^|/){p}$", name) for name in names)]
    assert unused == []
    assert any(name.startswith("next_token/") for name in names)
    assert any("/gate/" in name for name in names) and any("final_norm" in name for name in names)


@pytest.mark.parametrize("name", ["encoder/embeddings/tokens/embedding", "other_bias", "head/b"])
def test_a_misspelt_parameter_is_an_error_not_a_replica(name: str) -> None:
    tree = {name: jax.ShapeDtypeStruct((8,), jnp.float32)}
    with pytest.raises(ValueError, match=f"{name} matches 0 rows"):
        partition.tree_shardings(tree, partition.make_mesh())


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"data": 3}, "needs 3 devices, there are 8; set mesh.data=-1"),
        ({"data": -1, "tensor": 3}, "needs 6 devices, there are 8; choose sizes whose product"),
        ({"data": 2, "fsdp": 3}, "needs 6 devices, there are 8; choose sizes whose product"),
        ({"data": -1, "fsdp": -1}, "only one of"),
    ],
)
def test_a_mesh_that_does_not_fit_is_refused(sizes: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        partition.make_mesh(**sizes)


def test_minus_one_takes_what_the_others_leave() -> None:
    assert dict(partition.make_mesh(-1, 2, 2).shape) == {"data": 2, "fsdp": 2, "tensor": 2}
    assert partition.make_mesh().shape["data"] == 8


@dataclasses.dataclass(frozen=True)
class SliceDevice:
    """Of a device, what placing it asks for."""

    id: int
    slice_index: int
    platform: str = "cpu"
    device_kind: str = "cpu"
    process_index: int = 0
    coords: tuple[int, ...] = (0, 0, 0)
    core_on_chip: int = 0


def _slices(number: int, each: int) -> Any:
    """In no particular order, as they may be reported."""
    found = [
        SliceDevice(i, i // each, "tpu", coords=(i % each, 0, 0)) for i in range(number * each)
    ]
    return [found[i] for i in np.random.default_rng(0).permutation(len(found))]


@pytest.mark.parametrize("sizes", [{}, {"fsdp": 2}, {"fsdp": 2, "tensor": 2}, {"fsdp": 4}])
def test_slices_share_the_data_axis_and_nothing_else(sizes: dict[str, int]) -> None:
    """So only the sum of gradients passes the network between them."""
    mesh = partition.make_mesh(**sizes, devices=_slices(2, 4))
    assert mesh.devices.size == len({device.id for device in mesh.devices.flat}) == 8
    slices = np.vectorize(lambda device: device.slice_index, otypes=[int])(mesh.devices)
    data = mesh.shape["data"]
    # A half of the data axis is one slice, the other half the other.
    assert (slices[: data // 2] == 0).all()
    assert (slices[data // 2 :] == 1).all()


def test_a_mesh_that_cuts_a_slice_is_refused() -> None:
    message = "mesh.data=1 is not a multiple of the 2 slices.* divides the 4 devices of a slice"
    with pytest.raises(UserError, match=message):
        partition.make_mesh(1, 8, 1, devices=_slices(2, 4))


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_parameters_may_be_split_over_hosts(platform: str) -> None:
    """Each of which JAX calls a slice, but for TPUs."""
    devices: Any = [SliceDevice(i, i // 4, platform, process_index=i // 4) for i in range(8)]
    assert dict(partition.make_mesh(1, 8, 1, devices).shape) == {"data": 1, "fsdp": 8, "tensor": 1}


@pytest.mark.parametrize(
    ("sizes", "each", "held"),
    [
        ((4, 2, 1), 4, [(0, 1, 2, 3), (4, 5, 6, 7)]),
        ((2, 2, 2), 2, [(0,), (1,), (2,), (3,)]),
        ((1, 2, 4), 2, [(0,), (0,), (1,), (1,)]),  # the tensor axis spans two processes
        ((1, 1, 8), 4, [(0,), (0,)]),
    ],
)
def test_a_process_holds_the_rows_of_its_devices(
    sizes: tuple[int, int, int], each: int, held: list[tuple[int, ...]]
) -> None:
    devices: Any = [SliceDevice(i, 0, process_index=i // each) for i in range(8)]
    mesh = partition.make_mesh(*sizes, devices=devices)
    found = [shares.local_parts(mesh, process) for process in range(8 // each)]
    assert found == [(parts, sizes[0] * sizes[1]) for parts in held]
    # Of a batch that all have laid out, each puts the rows of its own parts on its devices.
    rows = np.arange(16 * 3).reshape(16, 3)
    each_part = rows.reshape(sizes[0] * sizes[1], -1, 3)
    for process, parts in enumerate(held):
        own = shares.own_share({"input_ids": rows}, mesh, process)["input_ids"]
        np.testing.assert_array_equal(own, np.concatenate([each_part[part] for part in parts]))


def test_processes_that_would_share_a_part_of_their_rows_are_refused() -> None:
    devices: Any = [SliceDevice(i, 0, process_index=i // 3) for i in range(6)]
    mesh = partition.make_mesh(3, 1, 2, devices=devices)
    with pytest.raises(UserError, match="mesh.tensor=2: .* choose a divisor or a multiple"):
        shares.local_parts(mesh, 0)


def test_a_mesh_may_be_of_some_of_the_devices() -> None:
    some = partition.make_mesh(fsdp=2, devices=jax.devices()[2:6])
    assert dict(some.shape) == {"data": 2, "fsdp": 2, "tensor": 1}
    assert set(some.devices.flat) == set(jax.devices()[2:6])


# --- Birth ----------------------------------------------------------------------------------


def test_the_state_is_born_sharded(tiny_config: BertConfig) -> None:
    mesh = partition.make_mesh(2, 2, 2)
    abstract = state.abstract_state(_init(PretrainingModel(tiny_config)), _optimizer(), mesh)
    born = state.init_state(_init(PretrainingModel(tiny_config)), _optimizer(), mesh, seed=0)
    for leaf, wanted in zip(jax.tree.leaves(born), jax.tree.leaves(abstract), strict=True):
        assert leaf.sharding.is_equivalent_to(wanted.sharding, leaf.ndim)
    query = born.params["encoder"]["layer_0"]["attention"]["query"]["kernel"]
    moment = born.opt_state[1].mean["encoder"]["layer_0"]["attention"]["query"]["kernel"]
    for leaf in (query, moment):
        assert leaf.sharding.spec == PartitionSpec("fsdp", "tensor")
        assert {shard.data.shape for shard in leaf.addressable_shards} == {(16, 16)}
    table = born.params["encoder"]["embeddings"]["token"]["embedding"]
    assert table.addressable_shards[0].data.shape == (tiny_config.vocab_size // 2, 16)


def test_an_axis_that_the_mesh_does_not_divide_stays_whole(tiny_config: BertConfig) -> None:
    """bert-base's 30,522 pieces over four devices, say."""
    odd = dataclasses.replace(tiny_config, vocab_size=30_522)
    shapes = jax.eval_shape(_init(PretrainingModel(odd)), jax.random.key(0))
    placed = partition.tree_shardings(shapes, partition.make_mesh(1, 2, 4))
    table = placed["encoder"]["embeddings"]["token"]["embedding"]
    assert table.spec == PartitionSpec(None, "fsdp")
    assert placed["masked_lm"]["bias"].spec == PartitionSpec(None)


def test_a_seed_gives_the_same_parameters_on_every_mesh(tiny_config: BertConfig) -> None:
    init = _init(PretrainingModel(dataclasses.replace(tiny_config, num_layers=1)))
    meshes = [_one_device(), partition.make_mesh(8), partition.make_mesh(2, 2, 2)]
    first, *others = (state.init_state(init, optax.sgd(1.0), m, seed=3).params for m in meshes)
    for other in others:
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-7), first, other)


# --- One step -------------------------------------------------------------------------------


def _step(
    model: Any, params: Any, batch: Batch, mesh: Mesh, microbatches: int = 1
) -> tuple[dict[str, float], Any]:
    """Metrics and gradients of one train step: plain descent at rate 1 moves by the gradient."""
    objective = _objective(model)
    descent = optax.sgd(1.0)
    begin = state.abstract_state(_init(model), descent, mesh)
    begin = begin.replace(step=jnp.int32(0), seed=jnp.int32(0), skipped=jnp.int32(0))
    begin = begin.replace(params=partition.placed(params, mesh))
    step = train_step.make_train_step(
        objective, descent, microbatches=microbatches, mesh=mesh, norms_every=1
    )
    after, metrics = step(begin, shares.global_batch(batch, mesh))
    assert int(after.step) == 1
    gradients = jax.tree.map(lambda old, new: old - np.asarray(new), params, after.params)
    return {name: float(value) for name, value in metrics.items()}, gradients


def _largest_difference(first: Any, second: Any) -> float:
    pairs = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), first, second)
    return max(jax.tree.leaves(pairs))


@pytest.fixture(scope="module", params=[*MODELS, *LANGUAGE_MODELS])
def case(
    request: pytest.FixtureRequest,
    tiny_config: BertConfig,
    tiny_batch: Batch,
    random_params: Callable[..., Any],
) -> tuple[Any, Any, Batch, tuple[dict[str, float], Any]]:
    """(model, parameters, batch, what one device finds in one piece)."""
    # One layer, because compiling is what takes the time here.
    config = dataclasses.replace(
        tiny_config, num_layers=1, hidden_dropout=0.0, attention_dropout=0.0
    )
    model = (MODELS | LANGUAGE_MODELS)[request.param](config)
    batch = tiny_batch
    if request.param == "classifier":
        rows = len(tiny_batch["input_ids"])
        batch = {name: tiny_batch[name] for name in ("input_ids", "input_mask", "segment_ids")}
        batch["labels"] = (np.arange(rows) % 3).astype(np.int32)
        batch["example_weights"] = (np.arange(rows) < rows - 5).astype(np.float32)
    params = random_params(model)
    return model, params, batch, _step(model, params, batch, _one_device())


@pytest.mark.parametrize("sizes", MESHES.values(), ids=list(MESHES))
def test_eight_devices_compute_what_one_does(case: Any, sizes: tuple[int, int, int]) -> None:
    model, params, batch, (metrics, gradients) = case
    found, found_gradients = _step(model, params, batch, partition.make_mesh(*sizes))
    assert found == pytest.approx(metrics, rel=0, abs=1e-5)
    assert _largest_difference(found_gradients, gradients) < 1e-5
    assert metrics["gradient_norm"] > 0.1


@pytest.mark.parametrize("name", MORE)
def test_other_models_are_the_same_on_eight_devices(
    name: str, tiny_config: BertConfig, tiny_batch: Batch, random_params: Callable[..., Any]
) -> None:
    config = dataclasses.replace(
        tiny_config, num_layers=1, hidden_dropout=0.0, attention_dropout=0.0
    )
    model = MORE[name](config)
    params = random_params(model)
    metrics, gradients = _step(model, params, tiny_batch, _one_device())
    found, found_gradients = _step(model, params, tiny_batch, partition.make_mesh(2, 2, 2))
    assert found == pytest.approx(metrics, rel=0, abs=1e-5)
    assert _largest_difference(found_gradients, gradients) < 1e-5
    assert metrics["gradient_norm"] > 0.1


@pytest.mark.parametrize("sizes", [None, (4, 2, 1)], ids=["1 device", "8 devices"])
def test_microbatches_add_up_to_the_large_batch(
    case: Any, sizes: tuple[int, int, int] | None
) -> None:
    """Also where the parts hold different numbers of masked positions, or of filler rows."""
    model, params, batch, (metrics, gradients) = case
    weights = batch.get("masked_lm_weights", batch.get("example_weights"))
    assert weights is not None
    counts = {float(weights[part::4].sum()) for part in range(4)}
    assert len(counts) > 1
    mesh = partition.make_mesh(*sizes) if sizes else _one_device()
    found, found_gradients = _step(model, params, batch, mesh, microbatches=4)
    assert found == pytest.approx(metrics, rel=0, abs=1e-6 * max(1, metrics["loss"]))
    assert _largest_difference(found_gradients, gradients) < 1e-6


@pytest.mark.parametrize("case", MODELS, indirect=True)
def test_the_loss_divides_one_sum_by_one_count(case: Any) -> None:
    """A step's loss is the mean over masked positions of the batch, not a mean of rows' means."""
    model, params, batch, (metrics, _) = case
    pretraining = isinstance(model, PretrainingModel)
    names = ["input_ids", "input_mask", "segment_ids"]
    names += ["masked_lm_positions"] if pretraining else []
    output = model.apply({"params": params}, *(jnp.asarray(batch[name]) for name in names))

    def mean(logits: Any, labels: np.ndarray, weights: np.ndarray) -> float:
        logits = np.asarray(logits, np.float64)
        top = logits.max(-1, keepdims=True)
        log_sum = np.log(np.exp(logits - top).sum(-1, keepdims=True)) + top
        losses = (log_sum - np.take_along_axis(logits, labels[..., None], -1))[..., 0]
        return float((losses * weights).sum() / weights.sum())

    if pretraining:
        pairs = batch["next_sentence_labels"][:, 0]
        expected = mean(output.masked_lm, batch["masked_lm_ids"], batch["masked_lm_weights"])
        expected += mean(output.next_sentence, pairs, np.ones(len(pairs)))
    else:
        expected = mean(output, batch["labels"], batch["example_weights"])
    assert metrics["loss"] == pytest.approx(expected, abs=1e-5)
