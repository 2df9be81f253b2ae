"""Words a second of word2vec and what its vectors are worth, beside gensim.

    BERTJAX_DATA=<folder> python benchmarks/word2vec.py --gensim_python=PYTHON

The folder holds corpus/*.txt.xz and wordsim/. Skip-gram with 5 negatives, window 5, words of a
count of 5 or more, subsampled at 1e-3, rate 0.025 to 0; both sides see the same words, cut where
bertjax's records end. All in turn. Only training is timed, counting words and compilation are not;
"words" are those of the text, before subsampling. Both sides' vectors are scored by the same
commands of bertjax.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import contest
from builder import cut

from bertjax.data import manifest
from bertjax.files.json_file import read_json
from bertjax.text import tokenizer
from bertjax.training import run_log

HERE = contest.HERE.parent
ROW = 512
# (where to, width, turn) -> words and seconds
Side = Callable[[Path, int, int], contest.Result]
SCORES = {
    "similarity": {"WordSim-353": "EN-WS-353-ALL", "SimLex-999": "EN-SIMLEX-999"},
    "analogy": {"analogies": "questions-words"},
}


def prepare(text: Path, records: Path) -> None:
    """Compact records of whole words."""
    contest.run([
        sys.executable, "-m", "bertjax.prepare", f"--input={text}", f"--output={records}",
        "--keep_lines", "--vocab_kind=words", "--vocab_size=100000", "--min_count=5",
        "--masking=dynamic", "--packed", "--segments=doc_sentences", f"--max_seq_length={ROW}",
    ])  # fmt: skip


def write_lines(text: Path, records: Path, target: Path) -> None:
    """The known words of each document, as many in a line as a record holds."""
    words = tokenizer.load(records)
    documents = text.read_text(encoding="utf-8").split("\n\n")
    with target.open("w", encoding="utf-8") as file:
        for document in documents:
            known = [i for i in words.encode(document) if i != words.unk_id]
            for first in range(0, len(known), ROW - 2):
                file.write(" ".join(words.pieces(known[first : first + ROW - 2])) + "\n")


def ours(records: Path, epochs: int, init: Path, width: int, turn: int) -> contest.Result:
    """Trains by the command that users give, with another seed in every turn; the run is scored."""
    contest.run([
        sys.executable, "-m", "bertjax.pretrain", f"--config={HERE}/configs/word2vec.py:{width}",
        f"--workdir={init}", f"data.records={records}", f"train.epochs={epochs}",
        f"train.seed={turn}", "log_every=5",
    ])  # fmt: skip
    rows = [row for row in run_log.read_metrics(init) if "seconds_per_step" in row]
    seconds = statistics.mean(row["seconds_per_step"] for row in rows[1:]) * rows[-1]["step"]
    corpus = manifest.load(records).corpus
    words = corpus["tokens"] * (1 - corpus["unknown_share"]) * epochs
    return {"words": words, "seconds": seconds}


def theirs(
    command: Sequence[str | Path], lines: Path, epochs: int, workers: int,
    init: Path, width: int, turn: int,
) -> contest.Result:  # fmt: skip
    """Trains gensim's, with another seed in every turn; its vectors are scored."""
    return contest.run_worker(command, [
        f"--lines={lines}", f"--output={init}", f"--width={width}", f"--epochs={epochs}",
        f"--workers={workers}", f"--seed={turn}",
    ])  # fmt: skip


def scores(init: Path, data: Path, scratch: Path) -> dict[str, float]:
    """{list: score} of vectors or of a run, in percent."""
    found = {}
    for task, lists in SCORES.items():
        for name, file in lists.items():
            folder = scratch / f"scores-{name}"
            source = next((data / "wordsim").glob(f"{file}.*"))
            contest.run([
                sys.executable, "-m", "bertjax.finetune", f"--task={task}", f"--test={source}",
                f"--init={init}", f"--workdir={folder}",
            ])  # fmt: skip
            found[name] = 100 * read_json(folder / "metrics.json")["score"]
    return found


def sides(peer: contest.Contender, scratch: Path, epochs: int) -> dict[str, Side]:
    """{name: how it trains}."""
    found: dict[str, Side] = {"bertjax": partial(ours, scratch / "records", epochs)}
    if peer.why_not is None:
        gensim = partial(theirs, peer.command, scratch / "lines.txt", epochs)
        for workers in sorted({1, len(os.sched_getaffinity(0))}):
            found[f"gensim, {workers} worker(s)"] = partial(gensim, workers)
    return found


def measure(trained: dict[str, Side], data: Path, scratch: Path, width: int, rounds: int) -> None:
    """One table: all sides with vectors of a width."""
    results: dict[str, list[contest.Result]] = {name: [] for name in trained}
    for turn in range(rounds):
        for name, train in trained.items():
            folder = Path(tempfile.mkdtemp(dir=scratch))
            with contest.others_cpu() as others:
                found = train(folder / "vectors", width, turn)
            results[name].append(
                found | others | {"scores": scores(folder / "vectors", data, folder)}
            )
    print(f"{width} dimensions:")
    contest.print_table([row(name, found) for name, found in results.items()])


def row(name: str, found: list[contest.Result]) -> dict[str, str]:
    lists = found[0]["scores"]
    return {
        "side": name,
        "words/s": contest.spread([r["words"] / r["seconds"] for r in found]),
        **{name: contest.spread([r["scores"][name] for r in found], 1) for name in lists},
        "CPU of others": f"{max(r['others'] for r in found):.2f} cores",
    }


def main() -> None:
    flags = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    flags.add_argument("--gensim_python", type=Path, help="interpreter with gensim")
    flags.add_argument("--megabytes", type=float, default=20, help="of text (%(default)s)")
    flags.add_argument("--epochs", type=int, default=3)
    flags.add_argument("--widths", type=int, nargs="+", default=[100, 300])
    flags.add_argument("--rounds", type=int, default=3, help="runs of each, in turn")
    options = flags.parse_args()
    data = contest.data_folder()
    if data is None:
        return
    print("command: python " + " ".join(sys.argv) + "\n" + contest.machine())
    peer = contest.peer(
        "gensim", options.gensim_python, "--gensim_python", "gensim", "word2vec_gensim.py"
    )
    contest.report_skipped([peer])
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        cut(data / "corpus", options.megabytes, folder / "text.txt")
        prepare(folder / "text.txt", folder / "records")
        write_lines(folder / "text.txt", folder / "records", folder / "lines.txt")
        trained = sides(peer, folder, options.epochs)
        for width in options.widths:
            measure(trained, data, folder, width, options.rounds)


if __name__ == "__main__":
    main()
