"""What a run shows and keeps of itself: one live line, metrics.jsonl, TensorBoard events."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from bertjax import distributed
from bertjax.errors import UserError
from bertjax.files import storage
from bertjax.files.json_file import read_json, write_json
from bertjax.files.whole_file import write_whole

METRICS = "metrics.jsonl"
STARTS = "starts.json"
# How metrics of evaluations begin.
EVALUATED = ("eval_", "dev_")

# name in the metrics -> how the live line shows it, in this order.
_SHOWN: dict[str, Callable[[float], str]] = {
    "loss": "loss {:.3f}".format,
    "forward_lm_perplexity": "perplexity {:,.1f}".format,
    "backward_lm_perplexity": "backwards {:,.1f}".format,
    "masked_lm_accuracy": "masked-LM accuracy {:.3f}".format,
    "next_sentence_accuracy": "next-sentence {:.3f}".format,
    "task_accuracy": "accuracy {:.3f}".format,
    "tokens_per_second": "{:,.0f} tokens/s".format,
    "mfu": "MFU {:.1%}".format,
    "padding_share": "padding {:.1%}".format,
    "input_wait_share": "input wait {:.1%}".format,
    "goodput": "goodput {:.1%}".format,
}


def with_perplexities(metrics: dict[str, float]) -> dict[str, float]:
    """Adds the perplexity, e to the power of the loss, of every model of the next word."""
    found = {}
    for name, value in metrics.items():
        if name.endswith(("forward_lm_loss", "backward_lm_loss")):
            found[name.removesuffix("loss") + "perplexity"] = math.exp(min(value, 700.0))
    return metrics | found


def shown(metrics: dict[str, float]) -> str:
    """Those metrics that people watch, in one line."""
    return " | ".join(show(metrics[name]) for name, show in _SHOWN.items() if name in metrics)


class History(NamedTuple):
    """What earlier starts of a run leave behind.

    Attributes:
      started: when it was first started, in seconds since 1970.
      train_seconds: how long it was trained up to the step that it goes on from.
      evaluated: whether that step was evaluated.
    """

    started: float
    train_seconds: float = 0.0
    evaluated: bool = False


def read_metrics(run: Path) -> list[dict[str, float]]:
    """The lines of a run's metrics.jsonl; none if it has no such file.

    Raises:
      UserError: it is damaged.
    """
    path = run / METRICS
    if not path.exists():
        return []
    # A line without its end was being written when the run was killed.
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    try:
        return [json.loads(line) for line in lines if line.endswith("\n")]
    except ValueError as error:
        raise UserError(
            f"{path}: is damaged ({error}); delete it, the run goes on without"
        ) from None


def _record_start(run: Path, step: int, total_steps: int) -> float:
    """Adds this start to starts.json, unless all is done; returns when the first one was."""
    path = run / STARTS
    starts: list[dict[str, Any]] = read_json(path)["starts"] if path.exists() else []
    if step < total_steps or not starts:
        starts.append({"step": step, "time": time.time()})
        write_json(path, {"starts": starts})
    return starts[0]["time"]


def _history(started: float, lines: list[dict[str, float]], step: int) -> History:
    last = [name for line in lines if line["step"] == step for name in line]
    return History(
        started,
        sum(line.get("train_seconds", 0.0) for line in lines),
        any(name.startswith(EVALUATED) for name in last),
    )


class RunLog:
    """Writes metrics as they come; a context, so that the files are closed in any case.

    Attributes:
      run: the run's folder.
      history: what earlier starts of the run leave behind.
    """

    def __init__(
        self,
        run: Path,
        title: str,
        total_steps: int,
        start_step: int,
        mirror: Callable[[float], Any] | None = None,
    ):
        """Continues the log of a run from start_step; later lines of a killed run are dropped.

        Of several processes all read it, and the first one alone writes and shows.

        Args:
          mirror: opens a run of wandb, see wandb_log.opener, which gets the metrics, too.
        """
        import tensorflow as tf

        self.run, self._summary, first = run, tf.summary, distributed.is_first()
        kept = [line for line in read_metrics(run) if line["step"] <= start_step]
        distributed.wait("log read")
        started, path = time.time(), Path(os.devnull)
        self._outbox, self._events = None, tf.summary.create_noop_writer()
        if first:
            self._outbox = storage.Outbox(run)
            path = self._outbox.folder / METRICS
            write_whole(path, "".join(json.dumps(line) + "\n" for line in kept).encode())
            started = _record_start(run, start_step, total_steps)
            self._events = tf.summary.create_file_writer(str(path.parent))
        self.history = _history(started, kept, start_step)
        self._file = path.open("a", encoding="utf-8")
        self._mirror = mirror(self.history.started) if first and mirror else None
        self._total, self._live = total_steps, first and sys.stderr.isatty()
        self._bar = tqdm(
            total=total_steps,
            initial=start_step,
            desc=title,
            disable=not self._live,
            bar_format="{desc} {percentage:3.0f}%|{bar:16}| {postfix}",
            dynamic_ncols=True,
        )

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
        self._file.close()
        self._events.close()
        if self._outbox:
            self._outbox.close()
        if self._mirror:
            self._mirror.finish()

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """Adds one line of metrics to the file and the events, and renews the live line."""
        metrics = with_perplexities(metrics)
        self.keep(step, metrics)
        eta = timedelta(seconds=round(metrics.get("eta_seconds", 0.0)))
        line = f"step {step:,}/{self._total:,} {shown(metrics)} | ETA {eta}"
        self._bar.update(step - self._bar.n)
        self._bar.set_postfix_str(line)
        if not self._live:
            print(line, flush=True)

    def keep(self, step: int, metrics: dict[str, float]) -> None:
        """Adds one line of metrics to the file and the events only."""
        self._file.write(json.dumps({"step": step, **metrics}) + "\n")
        self._file.flush()
        with self._events.as_default():
            for name, value in metrics.items():
                self._summary.scalar(name, value, step)
        self._events.flush()
        if self._mirror:
            self._mirror.log(metrics, step=step)

    def send(self) -> None:
        """Copies what is logged so far to a run in a bucket."""
        if self._outbox:
            self._outbox.send()

    def say(self, line: str) -> None:
        """Prints a line without breaking the live one."""
        self._bar.write(line, file=sys.stdout)
        sys.stdout.flush()
