"""Plans a pretraining run on TPUs that are not there: compiles its train step and reads the cost.

example:
  python -m bertjax.plan --config=configs/bert.py:large --topology v5e-16 v4-8 '2x v5e-16' \\
      --global_batch=4096 model.dtype=bfloat16

Needs libtpu (pip install .[tpu]), no TPU. All times are the compiler's estimates.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from bertjax import compile_cache, errors, settings
from bertjax.command_line import new_parser
from bertjax.data.manifest import MANIFEST
from bertjax.errors import UserError
from bertjax.files import storage
from bertjax.planner import plan_report, planned_work, planning, topology

# Of google-research/bert's uncased models.
_VOCAB_SIZE = 30522


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = new_parser("plan", __doc__, "--config FILE:ARGUMENT --topology NAME... [options]")
    add = parser.add_argument
    add("--config", required=True, help="as for bertjax.pretrain: configs/bert.py:large")
    add("--topology", nargs="+", action="extend", required=True, metavar="NAME",
        help="v5e-16, v5e:4x4, v4-8, v5p-128, v6e-16, '2x v5e-16', ...")  # fmt: skip
    add("--global_batch", type=int,
        help="rows of a batch (train.batch_size); of two phases, of the first")  # fmt: skip
    add("--seq_length", type=int, nargs="+", metavar="T",
        help="as if padded records of that length were there; 128 512 for two phases")  # fmt: skip
    add("--vocab_size", type=int, help="without records: pieces of the vocabulary (30522)")
    add("--compiles", type=int, default=3, metavar="N",
        help="at most so many for each row, to find the largest batch (3)")  # fmt: skip
    add("--json", action="store_true", help="prints one JSON object a row")
    add("overrides", nargs="*", metavar="name=value", help="settings of the config to change")
    return parser.parse_intermixed_args(argv)


def split(words: list[str]) -> tuple[list[str], list[str]]:
    """Names of topologies, and the settings that stand behind them."""
    return [w for w in words if "=" not in w], [w for w in words if "=" in w]


def find_work(
    config: ConfigDict, lengths: list[int] | None, vocab_size: int | None
) -> planned_work.Work:
    """On the records that data.records names, if they are there, or as if some were."""
    records = config.data.records
    if config.data.shapes:
        raise UserError("data.shapes: a plan is of rows of one length; leave it out")
    if lengths is None and (storage.path(records) / MANIFEST).exists():
        if vocab_size is not None:
            raise UserError(f"--vocab_size={vocab_size}: {records} has its own; leave it out")
        return planned_work.prepared(config)
    if lengths is None:
        lengths = [128, 512] if config.data.long_records else [128]
        said = " and ".join(map(str, lengths))
        print(f"no records in data.records={records}: rows of {said} are assumed", file=sys.stderr)
    return planned_work.imagined(config, lengths, vocab_size or _VOCAB_SIZE)


def main() -> None:
    flags = parse_arguments()
    jax.config.update("jax_platforms", "cpu")  # nothing is computed, no chip is taken
    names, more = split(flags.topology)
    overrides = flags.overrides + more
    if flags.global_batch is not None:
        overrides.append(f"train.batch_size={flags.global_batch}")
    if flags.vocab_size is not None and flags.vocab_size < 1:
        raise UserError(f"--vocab_size={flags.vocab_size}: give at least 1")
    if flags.compiles < 1:
        raise UserError(f"--compiles={flags.compiles}: give 1 or more")
    config = settings.load(flags.config, overrides, settings.TRAINING)
    wanted = [topology.parse(name) for name in names]
    work = find_work(config, flags.seq_length, flags.vocab_size)
    # All names and numbers are checked before the first compile, which takes minutes.
    chosen_mesh = any(override.startswith("mesh.") for override in overrides)
    sites = [planning.site(each, work, chosen_mesh) for each in wanted]
    cache = Path(compile_cache.folder()) / "plans"
    rows: list[dict[str, Any]] = []
    for site in sites:
        for row in planning.rows(site, work, flags.compiles, cache):
            rows.append(row)
            told = json.dumps(row | {"note": plan_report.NOTE})
            print(told if flags.json else plan_report.details(row), flush=True)
    if not flags.json:
        print(plan_report.table(rows))


if __name__ == "__main__":
    sys.exit(errors.run(main))
