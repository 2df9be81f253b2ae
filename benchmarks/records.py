"""How full the rows are and how many bytes a token takes, for every kind of record.

    BERTJAX_DATA=<folder> python benchmarks/records.py [--megabytes MB]

The folder holds corpus/books-00.txt.xz (whole books), wikitext-2/*.txt (articles; every paragraph
is made a document of its own, so that they are short) and vocab/bert-base-uncased-vocab.txt.
"filled" is the share of positions that hold a token; its bytes are those of records and index.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import contest

from bertjax.files import text_files

KINDS = {
    "as in 2018": [],
    "as in 2018, 10 passes": ["--dupe_factor=10"],
    "dynamic": ["--masking=dynamic"],
    "dynamic, packed": ["--masking=dynamic", "--packed"],
    "dynamic, packed, sop": ["--masking=dynamic", "--packed", "--segments=sop"],
    "dynamic, packed, full_sentences": ["--masking=dynamic", "--packed"]
    + ["--segments=full_sentences"],
    "dynamic, packed, doc_sentences": ["--masking=dynamic", "--packed"]
    + ["--segments=doc_sentences"],
}


def books(folder: Path, size: int) -> bytes:
    text = b"".join(text_files.blocks(folder / "corpus" / "books-00.txt.xz"))[:size]
    return text[: text.rfind(b"\n")]


def articles(folder: Path, size: int) -> bytes:
    """Paragraphs of articles, without headings, as documents."""
    names = [folder / "wikitext-2" / f"{name}.txt" for name in ("valid", "test")]
    lines = [line for name in names for line in name.read_bytes().split(b"\n")]
    texts = [line.strip() for line in lines if line.strip() and not line.strip().startswith(b"=")]
    return b"\n\n".join(texts)[:size].rpartition(b"\n")[0]


def build(text: Path, vocabulary: Path, length: int, flags: list[str], output: Path) -> dict:
    one = [] if any("dupe" in flag for flag in flags) else ["--dupe_factor=1"]
    contest.run(
        [
            sys.executable,
            "-m",
            "bertjax.prepare",
            f"--input={text}",
            f"--output={output}",
            f"--vocab={vocabulary}",
            f"--max_seq_length={length}",
            *one,
            *flags,
        ]  # fmt: skip
    )
    return json.loads((output / "manifest.json").read_text())


def main() -> None:
    flags = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    flags.add_argument("--megabytes", type=float, default=5, help="of each text (%(default)s)")
    options = flags.parse_args()
    folder = contest.data_folder()
    if folder is None:
        return
    print("command: python " + " ".join(sys.argv) + "\n" + contest.machine())
    rows = []
    vocabulary = folder / "vocab" / "bert-base-uncased-vocab.txt"
    with tempfile.TemporaryDirectory() as scratch:
        for text in (books, articles):
            source = Path(scratch, f"{text.__name__}.txt")
            source.write_bytes(text(folder, int(options.megabytes * 1e6)))
            for length in (128, 512):
                for number, (kind, chosen) in enumerate(KINDS.items()):
                    output = Path(scratch, f"{text.__name__}-{length}-{number}")
                    found = build(source, vocabulary, length, chosen, output)
                    rows.append(row(text.__name__, length, kind, found, output))
    contest.print_table(rows)


def row(text: str, length: int, kind: str, manifest: dict, output: Path) -> dict[str, str]:
    records = sum(shard["examples"] for shard in manifest["shards"])
    filled = 1 - manifest["padding_share"]
    size = sum(path.stat().st_size for path in output.glob("records-*"))
    return {
        "text": text,
        "length": str(length),
        "records": kind,
        "filled": f"{filled:.2%}",
        "bytes a token": f"{size / (records * length * filled):.2f}",
        "MB per MB of text": f"{size / manifest['corpus']['bytes']:.2f}",
        "sequences a row, at most": str(manifest["max_sequences"]),
    }


if __name__ == "__main__":
    main()
