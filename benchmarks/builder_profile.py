"""Where the builder's time goes on one core: shares by file, of stacks looked at every few ms.

    BERTJAX_DATA=<folder> python benchmarks/builder_profile.py --megabytes 20 --dupe_factor 10

The folder holds corpus/*.txt.xz and vocab/bert-base-uncased-vocab.txt; the settings are those of
builder.py. A look counts for the innermost file of bertjax, so that what NumPy and the checksums
take counts for who calls them. Imports are not looked at.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from types import FrameType

import builder
import contest

import bertjax
from bertjax import prepare

_SECONDS = 0.002
_HOUSE = Path(bertjax.__file__).parent


def innermost(frame: FrameType | None) -> str:
    """The file of bertjax that is nearest to what runs."""
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(_HOUSE):
            return str(path.relative_to(_HOUSE))
        frame = frame.f_back
    return "elsewhere"


def build(arguments: list[str]) -> tuple[float, Counter[str]]:
    """Processor seconds of a build in this process, and how often each file was seen at work."""
    seen: Counter[str] = Counter()
    signal.signal(signal.SIGPROF, lambda _, frame: seen.update([innermost(frame)]))
    sys.argv = ["bertjax.prepare", *arguments]
    start = time.process_time()
    signal.setitimer(signal.ITIMER_PROF, _SECONDS, _SECONDS)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            prepare.main()
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    return time.process_time() - start, seen


def main() -> None:
    flags = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    flags.add_argument("--megabytes", type=float, default=20, help="of text (default: 20)")
    flags.add_argument("--dupe_factor", type=int, default=10)
    options = flags.parse_args()
    folder = contest.data_folder()
    if folder is None:
        return
    print("command: python " + " ".join(sys.argv) + "\n" + contest.machine())
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    vocabulary = Path(folder, "vocab", "bert-base-uncased-vocab.txt")
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch, "text.txt")
        megabytes = builder.cut(Path(folder, "corpus"), options.megabytes, source)
        command = builder.ours(source, Path(scratch, "records"), vocabulary, 1)
        seconds, seen = build(
            [str(word) for word in command[3:]] + builder.settings(options.dupe_factor)
        )
    total = seen.total()
    rows = [
        {
            "file": name,
            "share": f"{100 * number / total:.1f} %",
            "s/MB": f"{seconds * number / total / megabytes:.3f}",
            "what": what(name),
        }
        for name, number in seen.most_common()
        if number >= total / 200
    ]
    contest.print_table(rows)
    print(f"{seconds:.1f} s for {megabytes:.1f} MB without start")


def what(name: str) -> str:
    """The first line of a file, which says what it does."""
    path = _HOUSE / name
    return path.read_text(encoding="utf-8").splitlines()[0].strip('"') if path.exists() else ""


if __name__ == "__main__":
    main()
