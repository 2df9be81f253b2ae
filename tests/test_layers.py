"""The interchangeable parts of a transformer, each against its formula."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf

from bertjax import partition, programs, shares
from bertjax.errors import UserError
from bertjax.models import layers
from bertjax.models.bert import Bert
from bertjax.models.config import PARTS, BertConfig
from bertjax.models.dropout import drop
from bertjax.models.encoder_output import Packing
from bertjax.models.layers import LayerNorm, rotate
from bertjax.models.reach import REACHES, How, Reach, attention_bias

Batch = dict[str, np.ndarray]
TABLES: dict[str, dict[str, Any]] = {
    "attention": REACHES,
    "residual": layers.RESIDUALS,
    "positions": layers.POSITIONS,
    "feed_forward": layers.FEED_FORWARDS,
}
OTHERS = [(part, name) for part, names in PARTS.items() for name in names[1:]]


def test_settings_and_tables_have_the_same_names() -> None:
    assert {part: tuple(table) for part, table in TABLES.items()} == PARTS


@pytest.mark.parametrize("part", PARTS)
def test_an_unknown_part_is_refused(part: str) -> None:
    with pytest.raises(
        UserError, match=f"{part} 'none' is unknown; choose one of {PARTS[part][0]}"
    ):
        BertConfig(10, **{part: "none"})


# --- Each by its formula --------------------------------------------------------------------


def test_rotary_products_hang_on_the_distance_alone() -> None:
    """Su et al. 2021, equation 16: <f(q, m), f(k, n)> is a function of q, k and m - n."""
    rng = np.random.default_rng(0)
    query, key = (np.broadcast_to(rng.normal(size=8), (1, 12, 1, 8)) for _ in range(2))
    turned = [np.asarray(rotate(jnp.asarray(x, jnp.float32)))[0, :, 0] for x in (query, key)]
    products = turned[0] @ turned[1].T
    for distance in range(-5, 6):
        diagonal = np.diagonal(products, distance)
        np.testing.assert_allclose(diagonal, diagonal[0], atol=1e-5)
    assert np.ptp([np.diagonal(products, distance)[0] for distance in range(-5, 6)]) > 0.1
    # Nothing is turned at the first place, and no length changes.
    np.testing.assert_allclose(turned[0][0], query[0, 0, 0], atol=1e-6)
    lengths = np.linalg.norm(turned[0], axis=-1)
    np.testing.assert_allclose(lengths, lengths[0], rtol=1e-5)


def test_rotary_pairs_turn_at_their_speeds() -> None:
    """Pair i turns by 10000^(-2 i / K) at every place."""
    x = np.zeros((1, 3, 1, 4), np.float32)
    x[..., :2] = 1
    found = np.asarray(rotate(jnp.asarray(x)))[0, 2, 0]
    angles = 2 * np.array([1.0, 0.01])
    np.testing.assert_allclose(found, [*np.cos(angles), *np.sin(angles)], atol=1e-6)


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("geglu", lambda x: x * (1 + erf(x / np.sqrt(2))) / 2),
        ("swiglu", lambda x: x / (1 + np.exp(-x))),
    ],
)
def test_gated_feed_forward_is_shazeer_s(name: str, function: Callable[..., Any]) -> None:
    """(f(x W) * x V) W2, two thirds as wide as a plain one, so with as many parameters."""
    config = BertConfig(10, hidden_size=12, num_heads=2, intermediate_size=48, feed_forward=name)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(5, 12)).astype(np.float32)

    class Whole(layers.nn.Module):
        @layers.nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            return layers.FEED_FORWARDS[name](config)(x)

    shapes = jax.eval_shape(Whole().init, jax.random.key(0), x)["params"]
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)
    own = params["feed_forward"]
    assert own["gate"]["kernel"].shape == own["intermediate"]["kernel"].shape == (12, 32)
    gate, inner = (x @ own[n]["kernel"] + own[n]["bias"] for n in ("gate", "intermediate"))
    expected = (function(gate) * inner) @ own["output"]["kernel"] + own["output"]["bias"]
    np.testing.assert_allclose(Whole().apply({"params": params}, x), expected, rtol=1e-4, atol=1e-4)


def test_the_short_gelu_is_exact_to_bfloat16() -> None:
    x = jnp.asarray(np.concatenate([np.linspace(-7, 7, 4001), [-300.0, 300.0]]), jnp.float32)
    wide = np.asarray(x, np.float64)
    phi = np.exp(-(wide**2) / 2) / np.sqrt(2 * np.pi)
    found, pull = jax.vjp(layers.short_gelu, x)
    below = 0.5 * (1 + erf(wide / np.sqrt(2)))
    np.testing.assert_allclose(found, wide * below, rtol=1e-6, atol=4e-5)
    np.testing.assert_allclose(pull(jnp.ones_like(x))[0], below + wide * phi, rtol=1e-6, atol=1e-4)


def test_devices_draw_for_their_own_rows() -> None:
    """A generator in hardware cannot draw a part of what it would draw for all."""
    mesh = partition.make_mesh(data=8)

    def run(x: jax.Array) -> jax.Array:
        return drop(x, 0.25, jax.random.key(1, impl="rbg"))

    x = jax.device_put(jnp.ones((16, 512)), shares.batch_sharding(mesh))
    found = np.asarray(jax.jit(programs.knowing(mesh, run))(x))
    assert (found > 0).mean() == pytest.approx(0.75, abs=0.02)
    assert len(np.unique(found, axis=0)) == 16
    text = jax.jit(programs.knowing(mesh, run)).lower(x).compile().as_text()
    sizes = [math.prod(map(int, sizes.split(","))) for sizes in re.findall(r"\[([\d,]+)\]", text)]
    assert max(sizes) <= 2 * x.size // 8


def test_where_the_norm_stands() -> None:
    around = layers.Around(
        norm=lambda x: x + 1,
        drop=lambda x: 2 * x,
        drop_add_norm=lambda x, added: x + 2 * added + 1,
        kept=lambda x: 100 * x,
    )

    def run(name: str) -> float:
        return float(layers.RESIDUALS[name](jnp.float32(3), lambda x: 10 * x, around))

    assert run("post_norm") == 300 + 2 * (10 * 3) + 1
    assert run("pre_norm") == 300 + 2 * (10 * (3 + 1))


@pytest.mark.parametrize(
    ("reach", "expected"),
    [
        (Reach(), ["1110", "1110", "1110", "1110"]),
        (Reach(causal=True), ["1000", "1100", "1110", "1110"]),
        (Reach(window=2), ["1100", "1110", "0110", "0010"]),
    ],
)
def test_reaches(reach: Reach, expected: list[str]) -> None:
    """Rows are queries; the fourth token is padding, which nobody attends to."""
    bias = attention_bias(jnp.array([[1, 1, 1, 0]]), reach=reach)
    allowed = np.broadcast_to(np.asarray(bias[0, 0]) == 0, (4, 4)).astype(int)
    assert ["".join(map(str, row)) for row in allowed] == expected


def test_every_third_layer_is_global() -> None:
    config = BertConfig(10, attention="local_global", attention_window=64)
    windows = [REACHES["local_global"](config, layer).window for layer in range(7)]
    assert windows == [0, 64, 64, 0, 64, 64, 0]


# --- In the encoder -------------------------------------------------------------------------


def distance(first: Any, second: Any) -> np.ndarray:
    return np.abs(np.asarray(first) - np.asarray(second))


def encoder(config: BertConfig, random_params: Callable[..., Any]) -> Callable[..., Any]:
    model = Bert(config)
    params = random_params(model)

    def encode(ids: Any, mask: Any, packing: Packing | None = None) -> Any:
        row = jnp.asarray(ids), jnp.asarray(mask), jnp.zeros_like(jnp.asarray(ids))
        return model.apply({"params": params}, *row, packing=packing)

    return encode


def test_a_causal_encoder_never_sees_the_future(
    tiny_config: BertConfig, random_params: Callable[..., Any]
) -> None:
    encode = encoder(dataclasses.replace(tiny_config, attention="causal"), random_params)
    ids, mask = np.arange(10, 18)[None], np.ones((1, 8), int)
    other = ids.copy()
    other[0, 5] = 99
    # [L + 1, 1, T, D] -> [T]
    change = distance(encode(ids, mask).layers, encode(other, mask).layers).max((0, 1, 3))
    assert (change[:5] == 0).all()
    assert (change[5:] > 1e-4).all()


def test_a_local_layer_sees_its_window_only(tiny_config: BertConfig) -> None:
    config = dataclasses.replace(tiny_config, attention="local_global", attention_window=2)
    numbers = jnp.ones((1, 8), jnp.int32)
    how = How(config.num_heads, reach=REACHES["local_global"](config, 1))
    layer = layers.EncoderLayer(config)
    x = np.random.default_rng(0).normal(size=(8, 32)).astype(np.float32)
    params = layer.init(jax.random.key(0), x, numbers, how, None)
    other = x.copy()
    other[4] += 1
    first, second = (layer.apply(params, each, numbers, how, None) for each in (x, other))
    change = distance(first, second)
    assert (change.max(1) > 0).tolist() == [False] * 3 + [True] * 3 + [False] * 2


def test_pre_norm_ends_with_a_norm(
    tiny_config: BertConfig, random_params: Callable[..., Any]
) -> None:
    config = dataclasses.replace(tiny_config, residual="pre_norm", num_layers=1)
    params = random_params(Bert(config))
    ids, mask = np.arange(10, 18)[None], np.ones((1, 8), int)
    found: Any = Bert(config).apply({"params": params}, ids, mask, mask * 0)
    layer: Any = layers.EncoderLayer(config).apply(
        {"params": params["layer_0"]},
        found.layers[0].reshape(-1, 32),
        jnp.asarray(mask),
        How(config.num_heads),
        None,
    )
    expected = LayerNorm(config).apply({"params": params["final_norm"]}, layer)
    np.testing.assert_allclose(found.sequence[0], expected, atol=1e-5)


@pytest.mark.parametrize(("part", "name"), OTHERS)
def test_packed_rows_are_encoded_as_if_alone(
    part: str, name: str, tiny_config: BertConfig, random_params: Callable[..., Any]
) -> None:
    config = dataclasses.replace(tiny_config, num_layers=2, **{part: name})
    encode = encoder(dataclasses.replace(config, attention_window=4), random_params)
    lengths = (9, 5)
    ids = np.random.default_rng(0).integers(10, 90, (1, 16))
    numbers = np.array([[1] * 9 + [2] * 5 + [0] * 2])
    places = np.array([[*range(9), *range(5), 0, 0]])
    packing = Packing(jnp.asarray(places), jnp.array([[0, 9]]))
    packed, begin = encode(ids, numbers, packing), 0
    for number, length in enumerate(lengths):
        alone = encode(ids[:, begin : begin + length], np.ones((1, length), int))
        inside = packed.sequence[0, begin : begin + length]
        np.testing.assert_allclose(inside, alone.sequence[0], atol=2e-5)
        np.testing.assert_allclose(packed.pooled[0, number], alone.pooled[0], atol=2e-5)
        begin += length


def test_a_causal_sequence_is_read_at_its_last_token(
    tiny_config: BertConfig, random_params: Callable[..., Any]
) -> None:
    """The first sees nothing but itself."""
    encode = encoder(dataclasses.replace(tiny_config, attention="causal"), random_params)
    ids = np.arange(10, 18)[None]
    pooled = encode(ids, np.array([[1] * 6 + [0] * 2])).pooled
    np.testing.assert_allclose(pooled, encode(ids[:, :6], np.ones((1, 6), int)).pooled, atol=1e-5)
    other = np.where(ids == ids[0, 5], 40, ids)
    changed = encode(other, np.array([[1] * 6 + [0] * 2])).pooled
    assert distance(changed, pooled).max() > 1e-3
