"""One update, as a pure function of state and batch."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.sharding import Mesh

from bertjax import partition, programs, shares
from bertjax.models import objectives
from bertjax.models.objectives import Batch, Objective
from bertjax.models.word_updates import WordUpdates
from bertjax.runs.state import TrainState
from bertjax.training import norms

# More at once are no faster on CPUs, and take memory: 0.7 MB each of a model of 23M parameters.
_CPU_TOKENS = 4096
Metrics = dict[str, Array]
TrainStep = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]


def dropout_key(seed: Array, step: Array) -> Array:
    """The random key of a step; a function of seed and step alone, so a resumed run repeats it."""
    # Measured: on CPUs threefry vectorises and takes a quarter of rbg's time; accelerators have
    # the generator behind rbg in hardware.
    generator = "threefry2x32" if programs.platform() == "cpu" else "rbg"
    return jax.random.fold_in(jax.random.key(seed, impl=generator), step)


def _num_examples(batch: Batch) -> int:
    """B; of multiple choice every example has several rows, its choices."""
    return min(x.shape[0] for x in jax.tree.leaves(batch))


def _microbatches(batch: Batch, count: int) -> Batch:
    """[B, ...] -> [count, B / count, ...]; every device cuts its own rows, none change place."""
    examples = _num_examples(batch)

    def split(x: Array) -> Array:
        # [B C, ...] -> [B / count, count, C, ...] -> [count, B C / count, ...]
        parts = x.reshape(examples // count, count, -1, *x.shape[1:]).swapaxes(0, 1)
        return parts.reshape(count, -1, *x.shape[1:])

    return jax.tree.map(split, batch)


def _suitable(batch: Batch, tokens_at_once: int) -> int:
    """The fewest microbatches in which no more tokens are worked on at once; 1 on a GPU."""
    limits = {"tpu": tokens_at_once, "cpu": _CPU_TOKENS}
    limit = limits.get(programs.platform(), math.inf)
    own, count = programs.own_rows(_num_examples(batch)), 1
    tokens = batch["input_ids"].size // _num_examples(batch) * own
    while tokens // count > limit and own % (2 * count) == 0:
        count *= 2
    return count


def _gradients(
    objective: Objective, params: Any, batch: Batch, counts: Metrics, key: Array
) -> tuple[Any, objectives.Sums]:
    def loss(params: Any) -> tuple[Array, objectives.Sums]:
        sums = objective.sums(params, batch, key)
        return objectives.total_loss(sums, counts), sums

    gradients, sums = jax.grad(loss, has_aux=True)(params)
    return gradients, sums


def _accumulated(
    objective: Objective, params: Any, batch: Batch, counts: Metrics, key: Array, microbatches: int
) -> tuple[Any, objectives.Sums]:
    """Adds up gradients over microbatches; counts are the whole batch's, so the sum is exact."""
    parts = _microbatches(batch, microbatches)
    keys = jax.random.split(key, microbatches)

    def add(total: Any, part: tuple[Batch, Array]) -> tuple[Any, None]:
        found = _gradients(objective, params, part[0], counts, part[1])
        return jax.tree.map(jnp.add, total, found), None

    first = jax.tree.map(lambda x: x[0], parts)
    empty = (
        optax.tree.zeros_like(params),
        objectives.zeros_like_sums(objective, params, first, key),
    )
    return jax.lax.scan(add, empty, (parts, keys))[0]


def _accumulated_apart(
    objective: Objective, params: Any, batch: Batch, counts: Metrics, key: Array, microbatches: int
) -> tuple[Any, objectives.Sums]:
    """The same; every device adds up over its own rows, and they exchange but once."""

    def own(params: Any, batch: Batch, rest: Any, place: Array) -> tuple[Any, objectives.Sums]:
        counts, key = rest
        key = jax.random.fold_in(key, place)
        return _accumulated(objective, params, batch, counts, key, microbatches)

    return programs.summed_over_devices(own, params, batch, (counts, key))


def make_train_step(
    objective: Objective,
    optimizer: optax.GradientTransformation,
    *,
    microbatches: int = 1,
    tokens_at_once: int = 8192,
    expand: Callable[[Batch], Batch] = lambda batch: batch,
    mesh: Mesh | None = None,
    norms_every: int = 50,
) -> TrainStep:
    """Builds the jitted step; the state it is given is consumed (its memory is reused).

    The loss is one global sum over one global count. `microbatches` > 1 runs the batch in
    that many parts, one after the other, for the gradient of the whole; 0 on a TPU in as many that
    no device works on more than `tokens_at_once`, on a CPU on more than 4,096, on a GPU in one.
    `expand` makes what the
    objective takes of what is read. `mesh`: of the devices that it will run on; without it they
    must be of the platform that JAX sees. An update whose loss or gradient is not finite is left
    out: the state stays as it is, but for its step and its count of them.

    Metrics: the objective's averages, "loss" (their minimised sum), "gradient_norm",
    "skipped_updates" (all so far) and, every `norms_every` steps and NaN in between, the norms of
    gradient and update by group.
    """

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        batch = expand(batch)
        counts = objective.counts(batch)
        key = dropout_key(state.seed, state.step)
        parts = microbatches or _suitable(batch, tokens_at_once)
        if parts == 1:
            gradients, sums = _gradients(objective, state.params, batch, counts, key)
        else:
            add_up = _accumulated_apart if programs.splits_rows_alone() else _accumulated
            gradients, sums = add_up(objective, state.params, batch, counts, key, parts)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        loss, norm = objectives.total_loss(sums, counts), optax.tree.norm(gradients)
        finite = jnp.isfinite(loss) & jnp.isfinite(norm)
        kept = jax.tree.map(
            lambda new, old: jnp.where(finite, new, old),
            (params, opt_state),
            (state.params, state.opt_state),
        )
        skipped = state.skipped + ~finite
        metrics = {
            "loss": loss,
            "gradient_norm": norm,
            "skipped_updates": skipped,
            **norms.measured(optimizer, gradients, state, norms_every),
            **objectives.averages(sums, counts),
        }
        state = state.replace(step=state.step + 1, skipped=skipped)
        state = state.replace(params=kept[0], opt_state=kept[1])
        return partition.by_rows(state, mesh), metrics

    return programs.jit(mesh, step, donated=[0])


def make_row_step(
    updates: WordUpdates,
    schedule: optax.GradientTransformation,
    *,
    expand: Callable[[Batch], Batch] = lambda batch: batch,
    mesh: Mesh | None = None,
) -> TrainStep:
    """A jitted step that changes rows of tables instead of following a gradient of all of them.

    No update is left out, for that would need a second copy of the tables: it counts none, and a
    loss that is not finite must end the run.

    Args:
      schedule: schedules.scale_by_schedule; the run's only optimizer.
      mesh: every device of it then sees the whole batch, which is but ids; what they share out are
        the columns of the tables.
    """

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        batch = expand(batch if mesh is None else shares.on_all_devices(batch, mesh))
        down, opt_state = schedule.update(jnp.ones(()), state.opt_state)
        key = dropout_key(state.seed, state.step)
        params, sums, counts = updates.update(state.params, batch, key, -down)
        loss = objectives.total_loss(sums, counts)
        metrics = {"loss": loss, **objectives.averages(sums, counts)}
        state = state.replace(step=state.step + 1, params=params, opt_state=opt_state)
        return partition.by_rows(state, mesh), metrics

    return programs.jit(mesh, step, donated=[0])


EvalStep = Callable[[Any, Batch], tuple[objectives.Sums, dict[str, Array]]]


def _added_up(
    objective: Objective, params: Any, batch: Batch, microbatches: int
) -> objectives.Sums:
    """Sums without dropout, a microbatch after the other."""
    parts = _microbatches(batch, microbatches)

    def add(total: objectives.Sums, part: Batch) -> tuple[objectives.Sums, None]:
        return jax.tree.map(jnp.add, total, objective.sums(params, part, None)), None

    first = jax.tree.map(lambda x: x[0], parts)
    empty = objectives.zeros_like_sums(objective, params, first, None)
    return jax.lax.scan(add, empty, parts)[0]


def make_eval_step(
    objective: Objective,
    *,
    microbatches: int = 1,
    tokens_at_once: int = 8192,
    expand: Callable[[Batch], Batch] = lambda batch: batch,
    mesh: Mesh | None = None,
) -> EvalStep:
    """Builds (params, batch) -> (sums, counts), without dropout; the rest as in make_train_step."""

    def step(params: Any, batch: Batch) -> tuple[objectives.Sums, dict[str, Array]]:
        batch = expand(batch)
        parts = microbatches or _suitable(batch, tokens_at_once)
        if parts == 1:
            sums = objective.sums(params, batch, None)
        else:
            sums = _added_up(objective, params, batch, parts)
        return sums, objective.counts(batch)

    return programs.jit(mesh, step)
