"""What a pretraining run is given: records in phases, their encoder, a model to go on from."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from bertjax import partition, settings, shares
from bertjax.data.manifest import Manifest
from bertjax.data.records import Records
from bertjax.files import storage
from bertjax.models import encoders
from bertjax.models.config import EncoderConfig
from bertjax.runs.state import check_seed
from bertjax.text import tokenizer
from bertjax.text.tokenizer import Tokenizer
from bertjax.training import continuation, phases, program, timetable
from bertjax.weights import pretrained


class Inputs(NamedTuple):
    """What to train on, in phases; the encoder that fits it.

    If wanted, records held out and a model to go on from.
    """

    phases: list[phases.Phase]
    held_out: Records | None
    encoder: EncoderConfig
    start: pretrained.Pretrained | None

    @property
    def pretraining(self) -> encoders.Pretraining:
        return encoders.pretraining(self.encoder)

    @property
    def entropy(self) -> float:
        """Of the pieces' frequencies, in nats."""
        return self.records.manifest.corpus["unigram_entropy"]

    @property
    def records(self) -> Records:
        """Those of the first phase."""
        return self.phases[0].records


def build_config(
    config: ConfigDict, records: Records, start: pretrained.Pretrained | None
) -> EncoderConfig:
    """The encoder that fits the records; what the manifest says is not repeated in the config.

    A model to go on from tells its own sizes.
    """
    wanted = encoders.from_settings(config, records.manifest.vocab_size)
    return wanted if start is None else continuation.resized(start, wanted)


def open_inputs(config: ConfigDict) -> Inputs:
    """Opens the records and checks them against each other and the config.

    Raises:
      UserError: anything that would fail later, before anything is computed or written.
    """
    data = config.data
    records = phases.open_records(data.records, "data.records", data.skip_damaged)
    config.train.steps = phases.count_steps(config, records)
    opened: list[Records | None] = [None, None]
    for place, name in enumerate(("long_records", "eval_records")):
        if data[name]:
            found = phases.open_records(data[name], f"data.{name}", data.skip_damaged)
            phases.check_same(records, found)
            opened[place] = found
    longer, held_out = opened
    start = pretrained.load(storage.path(config.init)) if config.init else None
    if start is not None:
        continuation.check_vocabulary(start, tokenizer.load(records.folder))
    encoder = build_config(config, records, start)
    inputs = Inputs(phases.plan(config, records, longer), held_out, encoder, start)
    for each in filter(None, (records, longer, held_out)):
        phases.check_length(each, encoder.max_positions)
        phases.masks(config, each, inputs.pretraining.masks)
    return inputs


class Opened(NamedTuple):
    """A run that is to begin: what it is given and what it will compute."""

    config: ConfigDict
    inputs: Inputs
    mesh: Mesh
    program: program.Program
    timetable: timetable.Timetable


def open_run(spec: str, overrides: list[str]) -> Opened:
    """Opens and checks all that a run on these devices needs; nothing is computed or written yet.

    Args:
      spec, overrides: as settings.load takes them.

    Raises:
      UserError: anything that would fail later.
    """
    config = settings.load(spec, overrides, settings.TRAINING)
    check_seed(config.train.seed, "train.seed")
    inputs = open_inputs(config)
    mesh = partition.make_mesh(**config.mesh.to_dict())
    for phase in inputs.phases:
        shares.check_batch_size(phase.batch_size, mesh, config.train.get("microbatches", 1))
    made = build_program(config, inputs, mesh)
    return Opened(config, inputs, mesh, made, timetable.read(config))


def build_program(config: ConfigDict, inputs: Inputs, mesh: Mesh | None) -> program.Program:
    """The functions of a run on these inputs; `mesh` as for program.build."""
    opened = [phase.records for phase in inputs.phases]
    masks = inputs.pretraining.masks
    manifest = inputs.records.manifest
    labels = manifest.has_label and config.train.get("next_sentence", True)
    words = tokenizer.load(inputs.records.folder)
    return program.build(
        config,
        inputs.encoder,
        phases.schedule(config, inputs.phases),
        text=encoders.Text(labels, partial(counts, manifest, words)),
        words=words,
        expand=phases.expander(config, opened, config.train.seed, masks),
        mesh=mesh,
    )


def counts(manifest: Manifest, words: Tokenizer) -> np.ndarray:
    """[V] how often each entry stands in the rows: of the text, and the marks of one sequence each.

    Without the marks, which language models foretell as well, none of them would ever be drawn.

    Raises:
      UserError: records of a bertjax that did not keep the counts.
    """
    found = manifest.piece_counts()
    found[words.cls_id] += manifest.num_examples
    found[words.sep_id] += manifest.num_examples * (1 + manifest.pairs)
    return found
