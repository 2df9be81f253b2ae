"""Fine-tuning: one encoder and one task, trained and evaluated once or many times."""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array
from jax.sharding import Mesh

from bertjax import distributed, partition, shares
from bertjax.data import rows as data_rows
from bertjax.files.json_file import write_json
from bertjax.finetuning import earlier, mixing
from bertjax.finetuning.earlier import Result
from bertjax.finetuning.method import Data, Method, Point
from bertjax.finetuning.predictor import Predictor, Through, conclude, row_shape, shown
from bertjax.models import objectives
from bertjax.models.heads import TaskModel
from bertjax.runs import checkpoint, parameters, run_folder
from bertjax.runs.state import TrainState, abstract_state, init_state
from bertjax.scores import metrics
from bertjax.tasks.base import Context, Encoded, Task
from bertjax.training import arithmetic, loop, optimizer, profiler, schedules, wandb_log
from bertjax.training.pulse import Pulse, Stopped
from bertjax.training.run_log import RunLog
from bertjax.training.skipped_updates import Diverged
from bertjax.training.timetable import Timetable
from bertjax.training.train_step import make_train_step
from bertjax.weights import pretrained
from bertjax.weights.transplant import transplant

# Steps: of an epoch that is longer, no more than these are lost with the machine.
_SAVE_EVERY = 1000


@dataclasses.dataclass
class _Best:
    """The evaluation with the highest score of those that this process has made."""

    step: int = -1
    score: float = -math.inf
    predictions: list[Any] = dataclasses.field(default_factory=list)


class Watching(NamedTuple):
    """What a user wants to see beside the runs' own logs.

    Attributes:
      project: of Weights & Biases, where every run is one, too.
      traced: the first and the last of the steps to trace.
    """

    project: str | None = None
    traced: tuple[int, int] | None = None


class Tuner:
    """Trains one task from one start; what is compiled serves all its runs."""

    def __init__(
        self,
        task: Task,
        context: Context,
        start: pretrained.Pretrained,
        model: TaskModel,
        mesh: Mesh,
        method: Method,
        watching: Watching | None = None,
    ):
        self.task, self.context, self.mesh = task, context, mesh
        self.model, self.method, self.watching = model, method, watching or Watching()
        self._begin_with(start)
        self.predictor = Predictor(model, mesh)
        # A head on other features cannot go on from one on the paper's.
        self._paper_head = pretrained.paper_head({"head": model.head, "features": self._features})
        self._train_step = make_train_step(
            objectives.task(model, model.head),
            self._optimizer(schedules.linear(0, 0, 0)),
            microbatches=0,
            mesh=mesh,
        )

    def _begin_with(self, start: pretrained.Pretrained) -> None:
        self.start = start
        self._start_digest = parameters.digest(start.params or {})

    def _optimizer(self, schedule: schedules.Schedule) -> Any:
        return optimizer.make_optimizer(
            "adamw" if self.method.bias_correction else "adam2018",
            schedule,
            layer_decay=self.method.layer_decay,
            frozen="encoder" if self.model.frozen else "",
        )

    @property
    def _features(self) -> dict[str, Any]:
        model = self.model
        return {"layers": model.layers, "frozen": model.frozen, "bilstm": model.bilstm}

    def shape(self, batch_size: int) -> data_rows.Shape:
        return row_shape(self.model, self._abstract_params, self.context, batch_size)

    @functools.cached_property
    def _abstract_params(self) -> Any:
        return jax.eval_shape(self._init, jax.random.key(0))

    def config(self, point: Point, data: Data) -> dict[str, Any]:
        """Everything that predicting and exporting need, and what made the run."""
        model = self.model
        return {
            "kind": "finetune",
            "task": self.task.name,
            "head": model.head,
            "num_outputs": model.num_outputs,
            "labels": list(self.context.labels),
            "encoder": model.config.encoder,
            "model": model.config.to_dict(),
            "features": self._features,
            "tokenizer": {
                "kind": self.context.tokenizer.kind,
                "fingerprint": self.context.tokenizer.fingerprint,
            },
            "max_seq_length": self.context.options.max_seq_length,
            "options": dataclasses.asdict(self.context.options),
            "init": self.start.name,
            "data": data.source,
            "columns": list(data.columns),
            run_folder.CONTENTS: {
                "train examples": data.digests["train"],
                "dev examples": data.digests["dev"],
                "weights of --init": self._start_digest,
            },
            "settings": dataclasses.asdict(point) | dataclasses.asdict(self.method),
        }

    def run(self, workdir: Path, point: Point, data: Data) -> Result:
        """Trains, predicts with the checkpoint that is best on dev, and writes what was found.

        A finished run is only read; one that was interrupted goes on where it was.

        Raises:
          UserError: the folder holds a run with other settings, examples or weights to begin with;
            steps to trace that it does not have.
          Diverged: the loss is not finite, now or when the run was trained before.
          SystemExit: with 0 after SIGTERM.
        """
        total = self._epoch(point, data) * point.epochs
        trace = profiler.of_run(workdir, self.watching.traced, total)
        # Of data and weights the contents are compared, not where they lie.
        run_folder.save_config(workdir, self.config(point, data), ("data", "init"))
        if distributed.everywhere((workdir / run_folder.SCORES).exists()):
            trace.tell(total)
            return earlier.reused(workdir, data)
        if distributed.is_first():
            self.context.tokenizer.save(workdir)
        best = _Best()
        with earlier.given_up_once(workdir):
            seconds = self._train(workdir, point, data, best, trace)
            step = checkpoint.best_step(workdir)
            params = checkpoint.load_params(workdir, step)
            known = {"dev": best.predictions} if best.step == step else {}
            try:
                with Pulse() as pulse:
                    result = self._finish(workdir, point, data, params, known, pulse.through)
            except Stopped:
                print("stopped while predicting; the same command goes on from here")
                raise SystemExit(0) from None
        result |= {"train_seconds": round(seconds, 1)}
        if distributed.is_first():
            if "mix" in params:
                mixing.write(workdir, params["mix"], f"What {self.task.name} reads of each layer")
            write_json(workdir / run_folder.SCORES, result)
        distributed.wait("written")
        self._tell(workdir, result)
        return result

    def _tell(self, workdir: Path, result: Result) -> None:
        baseline = result.get("majority_baseline")
        note = f"; always the most frequent label: {baseline:.4f}" if baseline else ""
        scores = {name: value for name, value in result["dev"].items() if name != "examples"}
        print(f"best on dev: {shown(scores)} ({result['dev']['examples']:,} examples{note})")
        for split, found in result["other_splits"].items():
            print(f"{split}: {shown(found)}")
        print(f"wrote {workdir}/{run_folder.SCORES} and the predictions")

    def train_first(self, folder: Path, point: Point, data: Data) -> None:
        """Trains on other examples, and starts from there (paper, section 4.2: TriviaQA)."""
        self.run(folder, point, data)
        self._begin_with(pretrained.load(folder))

    def predict(
        self,
        params: Any,
        examples: Sequence[Any],
        encoded: Encoded,
        batch: int,
        through: Through = iter,
    ) -> list:
        """Raises Diverged: a score is not finite."""
        outputs = self.predictor(params, encoded, self.shape(batch), through)
        if not all(np.isfinite(scores).all() for scores in outputs):
            raise Diverged(
                "the model's scores are not finite; train again with a lower --learning_rate"
            )
        return self.task.family.predict(examples, encoded.rows, outputs, self.context)

    def _epoch(self, point: Point, data: Data) -> int:
        """Steps of one."""
        train = data.encoded["train"]
        return data_rows.steps_per_epoch(len(train.rows) // train.choices, point.batch_size)

    def _mirror(self, workdir: Path, point: Point, data: Data) -> Callable[[float], Any] | None:
        project = self.watching.project
        return wandb_log.opener(project, workdir, self.config(point, data)) if project else None

    def _train(
        self, workdir: Path, point: Point, data: Data, best: _Best, trace: profiler.Profiler
    ) -> float:
        """Trains to the last epoch, evaluating after each; returns seconds spent."""
        train = data.encoded["train"]
        shape = self.shape(point.batch_size)._replace(choices=train.choices)
        per_epoch = self._epoch(point, data)
        total = per_epoch * point.epochs
        schedule = schedules.linear(
            point.learning_rate, int(self.method.warmup_share * total), total
        )
        began = time.monotonic()
        with checkpoint.Checkpoints(workdir) as checkpoints:
            state = self._start(checkpoints, schedule, point.seed)
            first = int(state.step)
            trace.tell(first)
            mirror = self._mirror(workdir, point, data)
            with RunLog(workdir, "fine-tuning", total, first, mirror) as log:
                loop.train(
                    state,
                    self._train_step,
                    (
                        shares.own_share(batch, self.mesh)
                        for batch in data_rows.train_batches(
                            train.rows, shape, seed=point.seed, start_step=first
                        )
                    ),
                    mesh=self.mesh,
                    timetable=Timetable(
                        total,
                        log_every=max(1, min(50, per_epoch)),
                        eval_every=per_epoch,
                        save_every=min(per_epoch, _SAVE_EVERY),
                    ),
                    log=log,
                    checkpoints=checkpoints,
                    evaluate=self._evaluation(log, point.batch_size, per_epoch, data, best),
                    flops=arithmetic.of_tuning(self.model.config, frozen=self.model.frozen),
                    profiler=trace,
                )
        return time.monotonic() - began

    def _init(self, key: Array) -> Any:
        ids = np.zeros((1, 8), np.int32)
        return self.model.init(key, ids, ids + 1, ids)["params"]

    def _start(
        self, checkpoints: checkpoint.Checkpoints, schedule: schedules.Schedule, seed: int
    ) -> TrainState:
        """1. this run's own checkpoint; 2. the given parameters; 3. scratch."""
        tx = self._optimizer(schedule)
        restored = checkpoints.restore(abstract_state(self._init, tx, self.mesh))
        if restored is not None:
            return restored
        state = init_state(self._init, tx, self.mesh, seed)
        if self.start.params is None:
            return state
        merged, changes = transplant(
            self.start, state.params, self._paper_head, self.context.labels
        )
        print("\n".join([f"weights from {self.start.name}", *changes]))
        return state.replace(params=partition.placed(merged, self.mesh))

    def _evaluation(
        self, log: RunLog, batch_size: int, per_epoch: int, data: Data, best: _Best
    ) -> Callable:
        def evaluate(state: TrainState, pulse: Pulse) -> tuple[dict[str, float], float]:
            examples, encoded = data.examples["dev"], data.encoded["dev"]
            found = self.predict(state.params, examples, encoded, batch_size, pulse.through)
            scores = self.task.family.score(examples, found)
            score = self.task.share(scores)
            if score > best.score:
                best.step, best.score, best.predictions = int(state.step), score, found
            shown = f"dev {self.task.primary} {scores[self.task.primary]:.4f}"
            log.say(f"epoch {int(state.step) / per_epoch:g}: {shown}")
            return {f"dev_{name}": value for name, value in scores.items()}, score

        return evaluate

    def _finish(
        self,
        workdir: Path,
        point: Point,
        data: Data,
        params: Any,
        known: dict[str, Any],
        through: Through,
    ) -> Result:
        """Predicts all splits but train, writes them, and scores those that have gold.

        Args:
          known: {split: predictions of these parameters}, where they have been made.
        """
        task, splits, collapsed = self.task, {}, False
        for split in [name for name in data.examples if name != "train"]:
            examples = data.examples[split]
            found = known.get(split) or self.predict(
                params, examples, data.encoded[split], point.batch_size, through
            )
            _, scores = conclude(task.family, split, examples, found, self.context, workdir)
            if scores:
                splits[split] = scores | {"examples": len(examples)}
            if split == "dev":
                collapsed = task.family.collapsed(found, self.context)
        dev = splits.pop("dev")
        return {
            "task": task.name,
            "split": "dev",
            "primary": task.primary,
            "perfect": task.perfect,
            "score": task.share(dev),
            "dev": dev,
            **self._baseline(data),
            "collapsed": collapsed,
            "other_splits": splits,
            "digests": data.digests,
            "init": self.start.name,
        }

    def _baseline(self, data: Data) -> dict[str, float]:
        if self.model.head != "classification":
            return {}
        gold = [example.gold for example in data.examples["dev"]]
        return {"majority_baseline": metrics.majority_share(gold)}
