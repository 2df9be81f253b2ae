"""Text in, vocabulary and training records out.

example:
  python -m bertjax.prepare --input books/*.txt.xz --output records/books --vocab_size 8192
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
import time
from pathlib import Path

from tqdm import tqdm

from bertjax import errors, text, tokenizer, vocab
from bertjax.command_line import new_parser
from bertjax.data import records
from bertjax.data.build import BuildSettings, build, close_work_folder, open_work_folder
from bertjax.errors import UserError


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = new_parser("prepare", __doc__)
    add = parser.add_argument
    add(
        "--input",
        nargs="+",
        required=True,
        metavar="PATH",
        help=".txt, .txt.gz, .txt.xz files, folders or globs; a blank line ends a document",
    )
    add("--output", type=Path, required=True, help="folder for records, manifest, vocabulary")
    add("--vocab", type=Path, help="use this vocab.txt, .model or folder; default: learn one")
    add("--vocab_kind", choices=["wordpiece", "sentencepiece"], default="wordpiece")
    add("--vocab_size", type=int, default=8192, help="of a learnt vocabulary (%(default)s)")
    add("--cased", action="store_true", help="keep case and accents (default: lower-case)")
    add(
        "--keep_lines",
        action="store_true",
        help="lines are sentences already; default: split them into sentences",
    )
    add("--language", default="en", help="for sentence splitting (%(default)s)")
    add("--max_seq_length", type=int, default=128)
    add("--max_predictions_per_seq", type=int, default=20)
    add("--masked_lm_prob", type=float, default=0.15)
    add("--short_seq_prob", type=float, default=0.1)
    add("--dupe_factor", type=int, default=5, help="different maskings of the text (%(default)s)")
    add("--num_shards", type=int, default=0, help="default: files of about 64 MiB")
    add("--seed", type=int, default=0)
    add("--workers", type=int, default=os.cpu_count() or 1, help="processes (all cores)")
    return parser.parse_args(argv)


def _settings(flags: argparse.Namespace) -> BuildSettings:
    return BuildSettings(
        max_seq_length=flags.max_seq_length,
        max_predictions_per_seq=flags.max_predictions_per_seq,
        masked_lm_prob=flags.masked_lm_prob,
        short_seq_prob=flags.short_seq_prob,
        dupe_factor=flags.dupe_factor,
        seed=flags.seed,
        num_shards=flags.num_shards,
    )


def _source(flags: argparse.Namespace, paths: list[Path]) -> dict[str, object]:
    """All that the bytes of the result hang on; two builds with equal sources are the same."""
    files = [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in paths]
    given = flags.vocab and tokenizer.load(flags.vocab, _lowercase(flags)).fingerprint
    return {
        "files": files,
        "vocab": given or f"learnt {flags.vocab_kind} {flags.vocab_size}",
        "cased": flags.cased,
        "split_sentences": not flags.keep_lines,
        "language": flags.language,
    }


def _lowercase(flags: argparse.Namespace) -> bool | None:
    """--cased decides; without it a given vocabulary's own settings do."""
    return False if flags.cased else None


def _vocabulary(flags: argparse.Namespace, paths: list[Path], work: Path) -> Path:
    """The folder of the tokenizer to use: given, learnt by a killed run, or learnt now."""
    folder = work / "vocabulary"
    if folder.exists():
        return folder
    if flags.vocab:
        found = tokenizer.load(flags.vocab, _lowercase(flags))
    else:
        progress = tqdm(desc="counting words", unit=" characters", unit_scale=True)

        def show(read: int) -> None:
            progress.update(read - progress.n)

        with progress:
            lines = (line for path in paths for line in text.lines(path))
            learned = vocab.learn(
                lines,
                kind=flags.vocab_kind,
                size=flags.vocab_size,
                lowercase=not flags.cased,
                progress=show,
            )
        if learned.note:
            print(f"note: {learned.note}")
        found = learned.tokenizer
    partial = work / "vocabulary.partial"
    found.save(partial)
    os.replace(partial, folder)
    return folder


def _already_done(output: Path, source: dict[str, object], settings: BuildSettings) -> bool:
    if not (output / records.MANIFEST).exists():
        return False
    manifest = records.load_manifest(output)
    if manifest.source == source and manifest.settings == dataclasses.asdict(settings):
        close_work_folder(output)  # a run killed at its very end leaves it
        print(f"reusing {output}: {manifest.num_examples:,} records")
        return True
    raise UserError(
        f"{output}: holds records of another input or other settings; choose another --output "
        "or delete the folder"
    )


def _report(manifest: records.Manifest, output: Path, seconds: float) -> None:
    corpus = manifest.corpus
    print(
        f"{output}: {manifest.num_examples:,} records of length {manifest.max_seq_length} in "
        f"{len(manifest.shards)} shard(s), {seconds:.1f} s\n"
        f"corpus: {corpus['documents']:,} documents, {corpus['sentences']:,} sentences, "
        f"{corpus['tokens']:,} tokens, {corpus['unknown_share']:.3%} unknown\n"
        f"unigram entropy {corpus['unigram_entropy']:.3f} nats: the masked-LM loss must fall "
        f"below it; {1 - manifest.padding_share:.1%} of positions filled"
    )


def main() -> None:
    flags = parse_arguments()
    settings = _settings(flags)
    if flags.workers < 1:
        raise UserError(f"--workers={flags.workers}: give at least 1")
    paths = text.files(flags.input)
    source = _source(flags, paths)
    if _already_done(flags.output, source, settings):
        return
    start = time.monotonic()
    work = open_work_folder(flags.output, {"source": source, **dataclasses.asdict(settings)})
    blocks = text.blocks(flags.input, split_sentences=not flags.keep_lines, language=flags.language)
    manifest = build(
        blocks,
        _vocabulary(flags, paths, work),
        flags.output,
        settings,
        work=work,
        workers=flags.workers,
        source=source,
    )
    _report(manifest, flags.output, time.monotonic() - start)


if __name__ == "__main__":
    sys.exit(errors.run(main))
