"""Speed of WordPiece encoding and agreement with its peers, on real text; prints one table.

    BERTJAX_DATA=<folder> python benchmarks/tokenizer.py [--reference <folder>]

The folder holds corpus/*.txt.xz and vocab/bert-base-{uncased,cased}-vocab.txt. Peers, each left out
by name when it is not installed: tokenization.py of google-research/bert (--reference names the
folder it lies in; else tf-models-official's copy), Hugging Face tokenizers, tensorflow-text.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import os
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import contest

from bertjax import errors
from bertjax.text import corpus, tokenizer

Encode = Callable[[list[str]], list[list[int]]]


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    flags.add_argument("--reference", help="folder of google-research/bert's tokenization.py")
    flags.add_argument("--lines", type=int, default=40_000, help="lines of the corpus to encode")
    flags.add_argument("--rounds", type=int, default=5, help="runs of each, taken in turn")
    flags.add_argument("--case", choices=("uncased", "cased"), default="uncased")
    options = flags.parse_args()
    folder = contest.data_folder()
    if folder is None:
        return
    vocabulary = Path(folder, "vocab", f"bert-base-{options.case}-vocab.txt")
    lines = read_lines(Path(folder), options.lines)
    makers: dict[str, Callable[[], Encode]] = {}
    for name, find in PEERS.items():
        make = functools.partial(find, vocabulary, options.case == "uncased", options.reference)
        try:
            make()
            makers[name] = make
        except ImportError as error:
            print(f"{name}: left out ({error})")
    report(makers, lines, options.rounds, tokenizer.load(vocabulary))


def read_lines(folder: Path, number: int) -> list[str]:
    parts = corpus.parts([str(folder / "corpus" / "*.txt.xz")])
    return list(islice((line for part in parts for line in corpus.lines(part)), number))


def ours(vocabulary: Path, lowercase: bool, reference: str | None) -> Encode:
    reader = tokenizer.load(vocabulary, lowercase)
    return lambda lines: [reader.encode(line) for line in lines]


def google_research(vocabulary: Path, lowercase: bool, reference: str | None) -> Encode:
    if reference:
        sys.path.insert(0, reference)
        module = importlib.import_module("tokenization")
    else:
        module = importlib.import_module("official.nlp.tools.tokenization")
    reader = module.FullTokenizer(str(vocabulary), do_lower_case=lowercase)
    return lambda lines: [reader.convert_tokens_to_ids(reader.tokenize(s)) for s in lines]


def hugging_face(vocabulary: Path, lowercase: bool, reference: str | None) -> Encode:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    # One thread, as the others: this is a comparison per core.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    tokens = vocabulary.read_text(encoding="utf-8").splitlines()
    ids = {token: i for i, token in enumerate(tokens)}
    reader = Tokenizer(models.WordPiece(ids, unk_token="[UNK]", max_input_chars_per_word=100))
    reader.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    reader.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return lambda lines: [row.ids for row in reader.encode_batch(lines)]


def tensorflow_text(vocabulary: Path, lowercase: bool, reference: str | None) -> Encode:
    module = importlib.import_module("tensorflow_text")
    tokens = vocabulary.read_text(encoding="utf-8").splitlines()
    reader = module.FastBertTokenizer(tokens, lower_case_nfd_strip_accents=lowercase)
    return lambda lines: reader.tokenize(lines).merge_dims(1, 2).to_list()


PEERS = {
    "bertjax": ours,
    "google-research/bert": google_research,
    "HF tokenizers": hugging_face,
    "tensorflow-text": tensorflow_text,
}


def report(
    makers: dict[str, Callable[[], Encode]],
    lines: list[str],
    rounds: int,
    reader: tokenizer.Tokenizer,
) -> None:
    """Runs the encoders in turn, so that what else the machine does hits all of them alike.

    Each run starts with a new encoder, which remembers no word; "known words" is bertjax's second
    run over the same text, the speed that a long corpus tends to. Processor time, so that a busy
    machine does not show as a slow encoder.
    """
    megabytes = sum(len(line.encode()) for line in lines) / 1e6
    speeds: dict[str, list[float]] = defaultdict(list)
    results: dict[str, list[list[int]]] = {}
    for _ in range(rounds):
        for name, make in makers.items():
            encode = make()
            for run in (name, f"{name}, known words") if name == "bertjax" else (name,):
                begin = time.process_time()
                results[run] = encode(lines)
                speeds[run].append(megabytes / (time.process_time() - begin))
    print(
        f"{len(lines)} lines, {megabytes:.1f} MB, {rounds} rounds in turn, MB per processor second"
    )
    print(f"{'':22}{'MB/s median':>12}{'min':>8}{'max':>8}{'lines that differ':>20}")
    for name, found in speeds.items():
        differ = len(differences(results["bertjax"], results[name]))
        row = f"{name:22}{statistics.median(found):12.2f}{min(found):8.2f}{max(found):8.2f}"
        print(f"{row}{differ:20}")
    for name, ids in results.items():
        for i in differences(results["bertjax"], ids)[:3]:
            pairs = enumerate(zip(results["bertjax"][i], ids[i], strict=False))
            at = next((j for j, (a, b) in pairs if a != b), 0)
            mine, theirs = (reader.pieces(row[i][at : at + 6]) for row in (results["bertjax"], ids))
            print(f"line {i}: bertjax {mine}, {name} {theirs}")


def differences(ours: list[list[int]], theirs: list[list[int]]) -> list[int]:
    return [i for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b]


if __name__ == "__main__":
    sys.exit(errors.run(main))
