"""Examples a second that the reader delivers, and how long it takes to open at a late step.

    BERTJAX_DATA=<folder> python benchmarks/reader.py [--megabytes MB]

The folder holds corpus/books-00.txt.xz and vocab/bert-base-uncased-vocab.txt. Records of length
128 are made of it, masked and compact, and read in batches of 256 with nothing behind the reader;
beside it stands what a mini's training step takes on the same cores (batches of 32).
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path

import contest
import records as record_kinds

from bertjax.data import input as data_input
from bertjax.data.records import Records

BATCH, BATCHES = 256, 400
KINDS = ("as in 2018", "dynamic", "dynamic, packed")


def opening(records: Records, step: int) -> float:
    """Seconds to the first batch."""
    start = time.perf_counter()
    next(data_input.train_batches(records, batch_size=BATCH, seed=0, start_step=step))
    return time.perf_counter() - start


def rate(records: Records) -> float:
    """Examples a second, once it runs."""
    batches = data_input.train_batches(records, batch_size=BATCH, seed=0)
    next(batches)
    start = time.perf_counter()
    for _ in islice(batches, BATCHES):
        pass
    return BATCH * BATCHES / (time.perf_counter() - start)


def step_rate(steps: int) -> float:
    """Examples a second that a mini is trained on."""
    command = [sys.executable, contest.HERE / "step_bertjax.py", "--size=mini", "--warmup=2"]
    found = contest.run_worker([*command, f"--steps={steps}"])
    return 32 / statistics.median(found["seconds"])


def main() -> None:
    flags = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    flags.add_argument("--megabytes", type=float, default=10, help="of text (%(default)s)")
    flags.add_argument("--rounds", type=int, default=3)
    options = flags.parse_args()
    folder = contest.data_folder()
    if folder is None:
        return
    print("command: python " + " ".join(sys.argv) + "\n" + contest.machine())
    trained = [step_rate(10) for _ in range(options.rounds)]
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch, "books.txt")
        source.write_bytes(record_kinds.books(folder, int(options.megabytes * 1e6)))
        vocabulary = folder / "vocab" / "bert-base-uncased-vocab.txt"
        for number, kind in enumerate(KINDS):
            output = Path(scratch, str(number))
            record_kinds.build(source, vocabulary, 128, record_kinds.KINDS[kind], output)
            opened = Records(output)
            opening(opened, 0)  # what is loaded and traced only once
            rates = [rate(opened) for _ in range(options.rounds)]
            times = {
                step: [opening(opened, step) for _ in range(options.rounds)]
                for step in (0, 1_000_000)
            }
            ratio = statistics.median(rates) / statistics.median(trained)
            rows.append(
                {
                    "records": kind,
                    "examples/s: median (min to max)": contest.spread(rates),
                    "mini's step takes": contest.spread(trained),
                    "times that": f"{ratio:.0f}x",
                    "open at step 0, s": contest.spread(times[0], 3),
                    "open at step 1,000,000, s": contest.spread(times[1_000_000], 3),
                }
            )
    contest.print_table(rows)


if __name__ == "__main__":
    main()
