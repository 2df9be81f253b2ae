"""Trains gensim's word2vec on lines of words and writes its vectors; a worker of word2vec.py."""

from __future__ import annotations

import argparse
import json
import time

import gensim
from gensim.models import Word2Vec


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("--lines", required=True, help="words with spaces between them")
    flags.add_argument("--output", required=True, help="for the vectors, in word2vec's format")
    for name in ("width", "epochs", "workers", "seed"):
        flags.add_argument(f"--{name}", type=int, required=True)
    options = flags.parse_args()
    with open(options.lines, encoding="utf-8") as file:
        lines = [line.split() for line in file]
    # Every word of the lines is in bertjax's vocabulary: rare ones are gone already.
    model = Word2Vec(
        vector_size=options.width, window=5, negative=5, sample=1e-3, sg=1, min_count=1,
        workers=options.workers, seed=options.seed,
    )  # fmt: skip
    model.build_vocab(lines)
    start = time.perf_counter()
    model.train(lines, total_examples=len(lines), epochs=options.epochs)
    seconds = time.perf_counter() - start
    model.wv.save_word2vec_format(options.output, binary=True)
    words = sum(map(len, lines)) * options.epochs
    versions = f"gensim {gensim.__version__}"
    print(json.dumps({"words": words, "seconds": seconds, "versions": versions}))


if __name__ == "__main__":
    main()
