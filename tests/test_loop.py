"""The loop does things in its promised order, at the promised steps, and stops when told."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from bertjax import partition, programs
from bertjax.errors import UserError
from bertjax.models import masked_lm
from bertjax.models.config import BertConfig
from bertjax.models.masked_lm import PretrainingModel
from bertjax.runs.state import TrainState
from bertjax.training import loop
from bertjax.training.loop import Timetable
from bertjax.training.pulse import Pulse
from bertjax.training.run_log import History
from bertjax.training.train_step import make_eval_step

# Wait and work are told apart by these fields of what the loop logs.
RATES = {
    "tokens_per_second",
    "padding_share",
    "input_wait_share",
    "seconds_per_step",
    "eta_seconds",
    "train_seconds",
    "goodput",
    "host_memory_gib",
    "skipped_updates",
}


@pytest.fixture(scope="module")
def mesh() -> Mesh:
    return partition.make_mesh()


class Story:
    """Stands in for step, log and checkpoints, and writes down what the loop asks of them."""

    stop_in_evaluation = (0, 0)  # step, part
    stop_in_wait = False

    def __init__(
        self,
        run: Path,
        skips: tuple[int, ...] = (),
        stop_at: int = 0,
        compact: bool = False,
        history: History | None = None,
        leaves_out: bool = True,
    ) -> None:
        self.run, self.history = run, history or History(time.time())
        self.told: list[str] = []
        self.metrics: dict[int, dict[str, float]] = {}
        self.said: list[str] = []
        self._skips, self._stop_at, self._leaves_out = skips, stop_at, leaves_out
        # Rows of four positions, three of them real, as masked and as compact records tell it.
        self.batch: dict[str, np.ndarray] = {"input_ids": np.zeros((8, 4), np.int32)}
        if compact:
            self.batch["lengths"] = np.full(8, 3, np.int32)
        else:
            self.batch["input_mask"] = np.array([[1, 1, 1, 0]] * 8, np.int32)

    def batches(self, start: int = 0) -> Iterator[dict[str, np.ndarray]]:
        for step in count(start + 1):
            self.told.append(f"batch {step}")
            yield self.batch

    def train_step(self, state: TrainState, batch: Any) -> tuple[TrainState, dict[str, jax.Array]]:
        step = int(state.step) + 1
        self.told.append(f"update {step}")
        if step == self._stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        skipped = state.skipped + (step in self._skips)
        loss = jnp.float32(math.nan if step in self._skips else step)
        state = state.replace(step=jnp.int32(step), skipped=skipped)
        counted = {"skipped_updates": skipped} if self._leaves_out else {}
        return state, {"loss": loss, **counted}

    def write(self, step: int, metrics: dict[str, float]) -> None:
        self.told.append(f"log {step}")
        self.metrics[step] = metrics

    def keep(self, step: int, metrics: dict[str, float]) -> None:
        self.told.append(f"keep {step}")

    def send(self) -> None:
        """A local log is where it belongs."""

    def say(self, line: str) -> None:
        self.said.append(line)

    def evaluate(self, state: TrainState, pulse: Pulse) -> tuple[dict[str, float], float]:
        self.told.append(f"evaluate {int(state.step)}")
        for number in pulse.through(range(3)):
            self.told.append(f"part {number}")
            if (int(state.step), number) == self.stop_in_evaluation:
                os.kill(os.getpid(), signal.SIGTERM)
        return {"dev_accuracy": 0.5}, 0.5

    def save(self, state: TrainState, score: float | None = None) -> None:
        self.told.append(f"save {int(state.step)} {score}")

    def wait(self) -> None:
        if self.stop_in_wait:
            os.kill(os.getpid(), signal.SIGTERM)
        self.said.append("on disk")


def play(story: Story, mesh: Mesh, timetable: Timetable, start: int = 0, **more: Any) -> TrainState:
    double: Any = story
    return loop.train(
        TrainState(jnp.int32(start), jnp.int32(0), jnp.int32(0), {}, {}),
        story.train_step,
        story.batches(start),
        mesh=mesh,
        timetable=timetable,
        log=double,
        checkpoints=double,
        **more,
    )


def test_batch_update_log_evaluate_save_in_this_order(mesh: Mesh, tmp_path: Path) -> None:
    story = Story(tmp_path)
    timetable = Timetable(total_steps=4, log_every=2, eval_every=3, save_every=2)
    state = play(story, mesh, timetable, evaluate=story.evaluate)
    assert int(state.step) == 4
    wanted = """
        batch 1, update 1,
        batch 2, update 2, log 2, save 2 None,
        batch 3, update 3, evaluate 3, part 0, part 1, part 2, keep 3, save 3 0.5,
        batch 4, update 4, log 4, evaluate 4, part 0, part 1, part 2, keep 4, save 4 0.5
    """
    assert story.told == [part.strip() for part in wanted.split(",")]


def test_everything_happens_at_the_last_step(mesh: Mesh, tmp_path: Path) -> None:
    story = Story(tmp_path)
    play(story, mesh, Timetable(3, 100, 100, 100), evaluate=story.evaluate)
    parts = ["part 0", "part 1", "part 2"]
    assert story.told[-7:] == ["log 3", "evaluate 3", *parts, "keep 3", "save 3 0.5"]


def test_a_finished_run_does_nothing(mesh: Mesh, tmp_path: Path) -> None:
    story = Story(tmp_path)
    play(story, mesh, Timetable(3, 1, 1, 1), start=3)
    assert story.told == []


@pytest.mark.parametrize("compact", [False, True])
def test_a_log_line_averages_the_steps_since_the_last(
    compact: bool, mesh: Mesh, tmp_path: Path
) -> None:
    story = Story(tmp_path, compact=compact)
    play(story, mesh, Timetable(6, 3, 100, 100))
    assert {step: line["loss"] for step, line in story.metrics.items()} == {3: 2.0, 6: 5.0}
    assert set(story.metrics[3]) == {"loss", *RATES}
    assert story.metrics[3]["padding_share"] == 0.25
    assert story.metrics[6]["eta_seconds"] == 0
    line = story.metrics[3]
    assert line["eta_seconds"] == pytest.approx(3 * line["seconds_per_step"])
    # Eight rows of three tokens a step.
    assert line["tokens_per_second"] == pytest.approx(24 / line["seconds_per_step"])
    assert 0 <= line["input_wait_share"] < 1


def test_rows_that_only_fill_a_batch_are_no_tokens(mesh: Mesh, tmp_path: Path) -> None:
    for compact in (False, True):
        story = Story(tmp_path, compact=compact)
        story.batch["example_weights"] = np.array([1, 1, 1, 1, 1, 1, 0, 0], np.float32)
        play(story, mesh, Timetable(2, 2, 100, 100))
        line = story.metrics[2]
        # Six rows of three tokens, of eight of four.
        assert line["padding_share"] == pytest.approx(1 - 18 / 32)
        assert line["tokens_per_second"] == pytest.approx(18 / line["seconds_per_step"])


# --- Updates that are left out ----------------------------------------------------------------


def test_a_skipped_update_is_told_counted_and_its_batch_kept(mesh: Mesh, tmp_path: Path) -> None:
    story = Story(tmp_path, skips=(2, 3, 5, 8))
    timetable = Timetable(8, 4, 100, 100, max_skipped=3)
    state = play(story, mesh, timetable)
    assert int(state.skipped) == 4
    *warnings, last = story.said
    assert last == "on disk"
    assert [line.split(":")[1] for line in warnings] == [
        " step 2",
        " step 3",
        " step 5",
        " step 8",
    ]
    assert "(2 in a row, 2 in all)" in story.said[1]
    assert "(1 in a row, 3 in all)" in story.said[2]
    # Averages are those of the updates that were made.
    assert {step: line["loss"] for step, line in story.metrics.items()} == {4: 2.5, 8: 6.5}
    assert {step: line["skipped_updates"] for step, line in story.metrics.items()} == {4: 2, 8: 4}
    kept = sorted((tmp_path / "skipped").iterdir())
    assert [path.name for path in kept] == [f"step-{step}.npz" for step in (2, 3, 5, 8)]
    with np.load(kept[0]) as batch:
        np.testing.assert_array_equal(batch["input_mask"], [[1, 1, 1, 0]] * 8)


# A GPU is given the next step while it works on one; a CPU is not.
@pytest.mark.parametrize(("platform", "last"), [("cpu", 6), ("gpu", 7)])
def test_too_many_skipped_updates_in_a_row_end_the_run_with_advice(
    mesh: Mesh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, platform: str, last: int
) -> None:
    monkeypatch.setattr(programs, "platform", lambda: platform)
    story = Story(tmp_path, skips=(2, 4, 5, 6, 7, 8))
    with pytest.raises(UserError, match=r"^3 updates in a row .* step 6: .*lower learning rate"):
        play(story, mesh, Timetable(20, 5, 100, 100, max_skipped=3))
    assert story.told[-2:] == [f"update {last}", f"log {last}"], "with what led there"


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_an_update_that_cannot_be_left_out_ends_the_run_and_is_not_saved(
    mesh: Mesh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, platform: str
) -> None:
    """As of tables of words: what is not finite is in them, whatever max_skipped says."""
    monkeypatch.setattr(programs, "platform", lambda: platform)
    story = Story(tmp_path, skips=(4,), leaves_out=False)
    with pytest.raises(UserError, match=r"^step 4: .* cannot be taken back; .*step-4.npz. Go on"):
        play(story, mesh, Timetable(20, 100, 100, save_every=2, max_skipped=9))
    assert story.told[-3:] == ["batch 4", "update 4", "log 4"]
    assert "save 2 None" in story.told and (tmp_path / "skipped" / "step-4.npz").is_file()
    assert "left out" not in " ".join(story.said)


def test_a_line_without_any_update_has_no_loss(mesh: Mesh, tmp_path: Path) -> None:
    story = Story(tmp_path, skips=(1, 2))
    play(story, mesh, Timetable(2, 2, 100, 100))
    assert set(story.metrics[2]) == RATES


def test_only_the_first_batches_are_kept(mesh: Mesh, tmp_path: Path) -> None:
    story = Story(tmp_path, skips=tuple(range(1, 30)))
    play(story, mesh, Timetable(30, 30, 100, 100, max_skipped=50))
    assert len(list((tmp_path / "skipped").iterdir())) == 20


# --- Stopped, stuck, going on -----------------------------------------------------------------


@pytest.fixture()
def handler() -> Iterator[Any]:
    """That of SIGTERM, which is put back afterwards."""
    before = signal.getsignal(signal.SIGTERM)
    yield before
    signal.signal(signal.SIGTERM, before)


def test_sigterm_finishes_the_step_saves_and_leaves_with_0(
    mesh: Mesh, tmp_path: Path, handler: Any
) -> None:
    story = Story(tmp_path, stop_at=2)
    story.stop_in_wait = True  # A second one finds the checkpoint half written.
    with pytest.raises(SystemExit) as caught:
        play(story, mesh, Timetable(8, 4, 100, 100))
    assert caught.value.code == 0
    assert story.told == ["batch 1", "update 1", "batch 2", "update 2", "log 2", "save 2 None"]
    assert story.metrics[2]["loss"] == 1.5, "of the steps since the last line"
    assert story.said[-2] == "on disk"
    assert "stopped at step 2, all saved" in story.said[-1]
    assert signal.getsignal(signal.SIGTERM) not in (handler, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGTERM)  # A third one changes nothing either.


def test_sigterm_while_the_last_checkpoint_is_written_waits_for_it(
    mesh: Mesh, tmp_path: Path, handler: Any
) -> None:
    story = Story(tmp_path)
    story.stop_in_wait = True
    with pytest.raises(SystemExit) as caught:
        play(story, mesh, Timetable(2, 4, 100, 100))
    assert caught.value.code == 0
    assert story.said[-1] == "on disk"


def test_a_run_that_nobody_stops_leaves_sigterm_as_it_was(
    mesh: Mesh, tmp_path: Path, handler: Any
) -> None:
    play(Story(tmp_path), mesh, Timetable(2, 4, 100, 100))
    assert signal.getsignal(signal.SIGTERM) == handler


# Waits where a command opens its data, long before the first step.
WAITING = """
import sys, time
from bertjax import distributed, {command}

def wait(*_):
    print("opening", flush=True)
    while True:  # A signal just before one long sleep would be heard at its end.
        time.sleep(0.1)

{command}.{opens} = wait
sys.exit(distributed.run({command}.main))
"""


@pytest.mark.parametrize(
    ("command", "opens", "flags"),
    [
        ("pretrain", "open_run", ["--config=configs/bert.py:tiny", "--workdir=none"]),
        ("finetune", "partition.make_mesh", ["--task=rte", "--workdir=none"]),
    ],
)
def test_sigterm_before_the_first_step_is_told_and_leaves_with_0(
    command: str, opens: str, flags: list[str]
) -> None:
    code = WAITING.format(command=command, opens=opens)
    process = subprocess.Popen(
        [sys.executable, "-c", code, *flags], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "opening\n"
    begin = time.monotonic()
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=100)
    assert process.returncode == 0 and time.monotonic() - begin < 60
    assert said.startswith("stopped while no step ran") and said.count("\n") == 1
    assert not Path("none").exists()


def test_an_evaluation_that_sigterm_interrupts_is_made_up_for(
    mesh: Mesh, tmp_path: Path, handler: Any
) -> None:
    timetable = Timetable(total_steps=3, log_every=9, eval_every=2, save_every=9)
    story = Story(tmp_path)
    story.stop_in_evaluation = (2, 1)
    with pytest.raises(SystemExit):
        play(story, mesh, timetable, evaluate=story.evaluate)
    assert story.told[-5:] == ["evaluate 2", "part 0", "part 1", "log 2", "save 2 None"]
    again = Story(tmp_path)
    play(again, mesh, timetable, start=2, evaluate=again.evaluate)
    wanted = ["evaluate 2", "part 0", "part 1", "part 2", "keep 2", "save 2 0.5", "batch 3"]
    assert again.told[:7] == wanted


def test_a_stuck_step_prints_where_it_is(tmp_path: Path) -> None:
    code = """
import time
from bertjax.training.pulse import Pulse

def waits_for_ever():
    time.sleep(1.5)

with Pulse(stuck_after=0.5) as pulse:
    pulse.beat()
    waits_for_ever()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stderr.count("in waits_for_ever") >= 2
    assert "Timeout (0:00:00.5" in done.stderr


def test_goodput_counts_the_time_since_the_first_start(mesh: Mesh, tmp_path: Path) -> None:
    # 40 of the 80 seconds before this start were training that was kept.
    story = Story(tmp_path, history=History(time.time() - 80, train_seconds=40))
    play(story, mesh, Timetable(2, 1, 100, 100))
    assert 0.45 < story.metrics[2]["goodput"] < 0.55


@pytest.mark.parametrize("wrong", [{"total_steps": 0}, {"log_every": 0}, {"save_every": -1}])
def test_a_timetable_without_steps_is_refused(wrong: dict[str, int]) -> None:
    good = {"total_steps": 1, "log_every": 1, "eval_every": 1, "save_every": 1}
    with pytest.raises(UserError, match=next(iter(wrong))):
        Timetable(**(good | wrong))


def test_evaluation_is_one_sum_over_one_count(
    mesh: Mesh,
    tiny_config: BertConfig,
    tiny_batch: dict[str, np.ndarray],
    random_params: Any,
) -> None:
    # 21 examples in batches of 8: the last batch holds 5, and 3 rows that only fill it.
    model = PretrainingModel(tiny_config)
    objective = masked_lm.objective(model)
    params = random_params(model)
    rows = {name: value[:21] for name, value in tiny_batch.items()}
    batches = []
    for first in range(0, 21, 8):
        real = np.arange(first, first + 8) < 21
        batch = {name: value[np.arange(first, first + 8) * real] for name, value in rows.items()}
        batch["masked_lm_weights"] = batch["masked_lm_weights"] * real[:, None]
        batches.append(batch | {"example_weights": real.astype(np.float32)})
    found = loop.evaluate_batches(make_eval_step(objective), params, iter(batches), mesh)
    in_parts = make_eval_step(objective, microbatches=4)
    assert loop.evaluate_batches(in_parts, params, iter(batches), mesh) == pytest.approx(found)

    output: Any = jax.jit(model.apply)(
        {"params": params},
        *(rows[n] for n in ("input_ids", "input_mask", "segment_ids", "masked_lm_positions")),
    )
    weights = rows["masked_lm_weights"]
    guess = np.asarray(output.masked_lm).argmax(axis=-1)
    masked = ((guess == rows["masked_lm_ids"]) * weights).sum() / weights.sum()
    assert found["masked_lm_accuracy"] == pytest.approx(masked, abs=1e-6)
    pairs = np.asarray(output.next_sentence).argmax(axis=-1) == rows["next_sentence_labels"][:, 0]
    assert found["next_sentence_accuracy"] == pytest.approx(pairs.mean(), abs=1e-6)
    logs = np.asarray(jax.nn.log_softmax(output.next_sentence))
    loss = -np.take_along_axis(logs, rows["next_sentence_labels"], axis=1).mean()
    assert found["next_sentence_loss"] == pytest.approx(loss, rel=1e-5)
