"""The encoders: one table of their sizes and modules, and of what each is pretrained for.

Everything that trains, tunes, predicts or exports asks this table and names no encoder.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from flax import linen as nn
from ml_collections import ConfigDict

from bertjax.errors import UserError
from bertjax.models import elmo, language_models, masked_lm, softmax, word2vec
from bertjax.models.bert import Bert
from bertjax.models.config import SIZES, BertConfig, EncoderConfig, size
from bertjax.models.objectives import Objective
from bertjax.models.word2vec import Word2Vec, Word2VecConfig, Word2VecTables
from bertjax.models.word_updates import WordUpdates, word_updates


class Text(NamedTuple):
    """What is known of the text that is trained on.

    Attributes:
      labels: whether pairs of segments have labels.
      counts: gives [V], how often each entry of the vocabulary occurs in the rows, [CLS] and
        [SEP] included.
    """

    labels: bool
    counts: Callable[[], np.ndarray]


class Pretraining(NamedTuple):
    """What an encoder is pretrained for.

    Attributes:
      model: (config, words, what the records say of their text) -> the module of which "encoder"
        is a part; see build for words. Without a text its parameters cannot start, only be given.
      inputs: the features of a batch that the module is called with.
      objective: (module, what the records say of their text) -> what is minimised.
      masks: tokens are hidden from the model, as masked LM asks for.
      losses: {part of the objective: its name}; each must fall below the unigram entropy.
      updates: (config, counts of the vocabulary's entries, words) -> what changes the rows that
        occur, where there is no gradient of all parameters and no optimizer; has an objective, too.
    """

    model: Callable[[Any, Any, Text | None], nn.Module]
    inputs: tuple[str, ...]
    objective: Callable[[Any, Text], Objective]
    masks: bool
    losses: Mapping[str, str]
    updates: Callable[[Any, np.ndarray, Any], WordUpdates] | None = None


class Encoder(NamedTuple):
    """A kind of encoder.

    Attributes:
      config: its dataclass, an EncoderConfig.
      sizes: {name: fields of the config}.
      module: (config, words, name) -> the module that returns an EncoderOutput.
      pretraining: config -> what it is pretrained for.
    """

    config: type
    sizes: Mapping[str, Mapping[str, Any]]
    module: Callable[[Any, Any, str | None], nn.Module]
    pretraining: Callable[[Any], Pretraining]


MASKED_LM = Pretraining(
    model=lambda config, words, text: masked_lm.PretrainingModel(config),
    inputs=("input_ids", "input_mask", "segment_ids", "masked_lm_positions"),
    objective=lambda model, text: masked_lm.objective(model, next_sentence=text.labels),
    masks=True,
    losses={"masked_lm": "masked-LM"},
)


def _bidirectional_model(config: elmo.ElmoConfig, words: Any, text: Text | None) -> nn.Module:
    start = partial(_log_probs, config, text) if config.sampler and text else None
    return language_models.BidirectionalModel(config, words, start)


def _log_probs(config: elmo.ElmoConfig, text: Text) -> np.ndarray:
    """[V] of drawing each word."""
    return softmax.sampler(config.sampler)(text.counts())


def _bidirectional(model: Any, text: Text) -> Objective:
    config = model.config
    drawn = _log_probs(config, text) if config.sampler else None
    parts = ("forward_lm", "backward_lm")
    return language_models.objective(model, parts, drawn, config.num_sampled)


BIDIRECTIONAL = Pretraining(
    model=_bidirectional_model,
    inputs=("input_ids", "input_mask", "segment_ids"),
    objective=_bidirectional,
    masks=False,
    losses={"forward_lm": "forward", "backward_lm": "backward"},
)

LEFT_TO_RIGHT = Pretraining(
    model=lambda config, words, text: language_models.LeftToRightModel(config),
    inputs=("input_ids", "input_mask", "segment_ids"),
    objective=lambda model, text: language_models.objective(model, ("forward_lm",)),
    masks=False,
    losses={"forward_lm": "next-word"},
)


def _no_gradient(model: nn.Module, text: Text) -> Objective:
    raise ValueError("negative sampling is learnt by its updates")


NEGATIVE_SAMPLING = Pretraining(
    model=lambda config, words, text: Word2VecTables(config, words),
    inputs=("input_ids", "input_mask", "segment_ids"),
    objective=_no_gradient,
    masks=False,
    losses={},
    updates=word_updates,
)

ENCODERS: dict[str, Encoder] = {
    "bert": Encoder(
        config=BertConfig,
        sizes=SIZES,
        module=lambda config, words, name: Bert(config, name=name),
        pretraining=lambda config: LEFT_TO_RIGHT if config.attention == "causal" else MASKED_LM,
    ),
    "elmo": Encoder(
        config=elmo.ElmoConfig,
        sizes=elmo.SIZES,
        module=lambda config, words, name: elmo.Elmo(config, words, name=name),
        pretraining=lambda config: BIDIRECTIONAL,
    ),
    "word2vec": Encoder(
        config=Word2VecConfig,
        sizes=word2vec.SIZES,
        module=lambda config, words, name: Word2Vec(config, words, name=name),
        pretraining=lambda config: NEGATIVE_SAMPLING,
    ),
}


def entry(name: str) -> Encoder:
    """Raises UserError: the name is not in ENCODERS."""
    if name not in ENCODERS:
        raise UserError(f"encoder '{name}' is unknown; choose one of {', '.join(ENCODERS)}")
    return ENCODERS[name]


def build(config: EncoderConfig, words: Any = None, name: str | None = None) -> nn.Module:
    """The module of an encoder.

    Args:
      words: the tokenizer; for encoders that read the letters of its entries.
      name: of the module in another one.
    """
    return entry(config.encoder).module(config, words, name)


def pretraining(config: EncoderConfig) -> Pretraining:
    """What an encoder is pretrained for; raises UserError: it is not in ENCODERS."""
    return entry(config.encoder).pretraining(config)


def from_settings(config: ConfigDict, vocab_size: int) -> EncoderConfig:
    """The config of a new encoder, as a training's says: a named size, and the rest of `model`.

    Raises:
      UserError: an unknown encoder or size.
    """
    kind = entry(config.get("encoder", "bert"))
    wanted = config.model.to_dict()
    named = size(wanted.pop("size"), kind.sizes)
    return kind.config(vocab_size=vocab_size, **named | wanted)


def from_run(run: Mapping[str, Any]) -> EncoderConfig:
    """The config that a run was saved with; runs of old do not name their encoder."""
    return entry(run.get("encoder", "bert")).config(**run["model"])


def with_dropout(config: Any, rate: float) -> Any:
    """The config with another rate of dropout, wherever it has any."""
    rates = [field.name for field in dataclasses.fields(config) if field.name.endswith("dropout")]
    return dataclasses.replace(config, **dict.fromkeys(rates, rate))
