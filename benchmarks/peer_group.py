"""Text to rows of T tokens as run_mlm of transformers does it: tokenized, joined, cut, in a cache.

Run by grouping.py, in an environment with datasets and transformers:

    python peer_group.py TEXT VOCABULARY CACHE LENGTH PROCESSES
"""

from __future__ import annotations

import sys
from itertools import chain

import datasets
from transformers import BertTokenizerFast


def main() -> None:
    text, vocabulary, cache, length, processes = sys.argv[1:]
    size, number = int(length), int(processes)
    tokenizer = BertTokenizerFast(vocab_file=vocabulary, do_lower_case=True)
    # It warns of every line over 512 tokens, which are cut later.
    tokenizer.model_max_length = 10**9
    lines = datasets.load_dataset("text", data_files=text, cache_dir=cache, split="train")

    def tokenize(batch: dict) -> dict:
        return tokenizer(batch["text"], return_special_tokens_mask=True)

    def group(batch: dict) -> dict:
        joined = {name: list(chain(*batch[name])) for name in batch}
        total = len(joined["input_ids"]) // size * size
        return {
            name: [values[start : start + size] for start in range(0, total, size)]
            for name, values in joined.items()
        }

    settings = {"batched": True, "num_proc": number if number > 1 else None}
    tokenized = lines.map(tokenize, remove_columns=["text"], **settings)
    grouped = tokenized.map(group, **settings)
    print(len(grouped))


if __name__ == "__main__":
    main()
