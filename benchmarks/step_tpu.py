"""Compiles bertjax's pretraining step for TPUs that are not there; a worker of tpu_step.py."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import jax
import tpu_text

from bertjax import settings, shares
from bertjax.models import flops
from bertjax.planner import planned_work, planning, topology
from bertjax.planner.estimate import Shapes
from bertjax.planner.planned_work import Work
from bertjax.planner.planning import Site
from bertjax.runs.state import abstract_state
from bertjax.training.phases import Phase
from bertjax.training.program import Program


def packed(work: Work, length: int, sequences: int) -> Work:
    """The same work on packed rows, whose sequences attend to themselves alone."""

    def shapes(phase: Phase, rows: int) -> Shapes:
        found = work.shapes(phase, rows)
        integers = found["input_ids"][1]
        found["position_ids"] = ((rows, length), integers)
        for name in ("starts", "next_sentence_labels"):
            found[name] = ((rows, sequences), integers)
        found["next_sentence_weights"] = ((rows, sequences), found["masked_lm_weights"][1])
        return found

    return work._replace(shapes=shapes)


def compiled(program: Program, batch: Shapes, site: Site) -> Any:
    """The train step, compiled for the devices of a site."""
    state = abstract_state(program.init, program.optimizer, site.mesh)
    rows = shares.batch_sharding(site.mesh)
    inputs = {
        name: jax.ShapeDtypeStruct(shape, dtype, sharding=rows)
        for name, (shape, dtype) in batch.items()
    }
    step: Any = program.train_step
    return step.lower(state, inputs).compile()


def main() -> None:
    flags = tpu_text.worker_flags(__doc__)
    flags.add_argument("--microbatches", type=int, required=True)
    flags.add_argument("--fsdp", type=int, required=True)
    flags.add_argument("--packed", type=int, default=0, metavar="SEQUENCES", help="of a row")
    flags.add_argument("--settings", nargs="*", default=[], help="name=value, of the config")
    options = flags.parse_args()
    jax.config.update("jax_platforms", "cpu")
    config = settings.load(
        f"{Path(__file__).resolve().parents[1]}/configs/bert.py:{options.size}",
        [
            "model.dtype=bfloat16",
            f"train.batch_size={options.rows}",
            f"train.microbatches={options.microbatches}",
            f"mesh.fsdp={options.fsdp}",
            *options.settings,
        ],
    )
    work = planned_work.imagined(config, [options.length], tpu_text.VOCABULARY)
    if options.packed:
        work = packed(work, options.length, options.packed)
    site = planning.site(topology.parse(options.topology), work, chosen_mesh=True)
    found = compiled(work.build(site.mesh), work.shapes(work.phases[0], options.rows), site)
    tpu_text.write(options.text, found)
    predictions = work.phases[0].records.manifest.max_predictions_per_seq
    operations = flops.pretraining_step(
        work.encoder, options.rows, options.length, predictions, max(options.packed, 1)
    )
    print(json.dumps({"operations": operations, "versions": f"jax {jax.__version__}"}))


if __name__ == "__main__":
    sys.exit(main())
