"""Times tf-models-official's BertPretrainerV2 under tf.function; a worker of train_step.py."""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import json
from typing import Any

import contest
import pretraining_batch as data
import tensorflow as tf

# Only the interpreter that this worker runs in has these.
keras = importlib.import_module("tf_keras")
modeling = importlib.import_module("official.nlp.modeling")


def build(size: str) -> Any:
    layers, width, num_heads, inner, _ = data.SIZES[size]
    encoder = modeling.networks.BertEncoderV2(
        vocab_size=data.VOCABULARY,
        num_layers=layers,
        hidden_size=width,
        num_attention_heads=num_heads,
        inner_dim=inner,
        output_dropout=0.1,
        attention_dropout=0.1,
    )
    head = modeling.layers.ClassificationHead(
        inner_dim=width, num_classes=2, dropout_rate=0.1, name="next_sentence"
    )
    return modeling.models.BertPretrainerV2(
        encoder_network=encoder, classification_heads=[head], mlm_activation=tf.nn.gelu
    )


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("--size", choices=data.SIZES, required=True)
    flags.add_argument("--warmup", type=int, required=True)
    flags.add_argument("--steps", type=int, required=True)
    options = flags.parse_args()
    model = build(options.size)
    arrays = data.batch(data.SIZES[options.size][-1])
    inputs = {
        "input_word_ids": tf.constant(arrays["input_ids"]),
        "input_mask": tf.constant(arrays["input_mask"]),
        "input_type_ids": tf.constant(arrays["segment_ids"]),
        "masked_lm_positions": tf.constant(arrays["masked_lm_positions"]),
    }
    words = tf.constant(arrays["masked_lm_ids"])
    pairs = tf.constant(arrays["next_sentence_labels"][:, 0])
    model(inputs)
    # A pooler that the pretraining heads do not use has no gradient.
    variables = [v for v in model.trainable_variables if "pooler_transform" not in v.name]
    optimizer = keras.optimizers.AdamW(1e-4, weight_decay=0.01)
    optimizer.build(variables)

    @tf.function
    def train_step() -> tf.Tensor:
        cross_entropy = tf.nn.sparse_softmax_cross_entropy_with_logits
        with tf.GradientTape() as tape:
            output = model(inputs, training=True)
            loss = tf.reduce_mean(cross_entropy(labels=words, logits=output["mlm_logits"]))
            loss += tf.reduce_mean(cross_entropy(labels=pairs, logits=output["next_sentence"]))
        gradients, _ = tf.clip_by_global_norm(tape.gradient(loss, variables), 1.0)
        optimizer.apply_gradients(zip(gradients, variables, strict=True))
        return loss

    found = contest.timed(lambda: float(train_step()), options.warmup, options.steps)
    version = importlib.metadata.version("tf-models-official")
    versions = f"tensorflow {tf.__version__}, tf-models-official {version}"
    parameters = sum(int(tf.size(v)) for v in variables)
    print(json.dumps(found | {"versions": versions, "parameters": parameters}))


if __name__ == "__main__":
    main()
