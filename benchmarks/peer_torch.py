"""Times transformers' BertForPreTraining in torch, eager mode; a worker of train_step.py."""

from __future__ import annotations

import argparse
import json

import contest
import numpy as np
import pretraining_batch as data
import torch
import transformers

# What transformers leaves out of the masked-LM loss.
IGNORED = -100


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("--attention", choices=["sdpa", "eager"], required=True)
    flags.add_argument("--size", choices=data.SIZES, required=True)
    flags.add_argument("--warmup", type=int, required=True)
    flags.add_argument("--steps", type=int, required=True)
    options = flags.parse_args()
    layers, width, num_heads, inner, sequences = data.SIZES[options.size]
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=data.VOCABULARY,
        num_hidden_layers=layers,
        hidden_size=width,
        num_attention_heads=num_heads,
        intermediate_size=inner,
        hidden_dropout_prob=0.1,
        attention_probs_dropout_prob=0.1,
    )
    model = transformers.AutoModelForPreTraining.from_config(
        config, attn_implementation=options.attention
    ).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.01)
    arrays = data.batch(sequences)
    # It scores the vocabulary at every position; those that are not masked do not count.
    labels = np.full((sequences, data.LENGTH), IGNORED, np.int32)
    np.put_along_axis(labels, arrays["masked_lm_positions"], arrays["masked_lm_ids"], axis=1)
    inputs = {
        "input_ids": arrays["input_ids"],
        "attention_mask": arrays["input_mask"],
        "token_type_ids": arrays["segment_ids"],
        "labels": labels,
        "next_sentence_label": arrays["next_sentence_labels"][:, 0],
    }
    tensors = {name: torch.from_numpy(value).long() for name, value in inputs.items()}

    def step() -> None:
        model(**tensors).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    found = contest.timed(step, options.warmup, options.steps)
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    parameters = sum(p.numel() for p in model.parameters())
    print(json.dumps(found | {"versions": versions, "parameters": parameters}))


if __name__ == "__main__":
    main()
