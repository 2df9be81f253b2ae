"""Text in, vocabulary and training records out.

example:
  python -m bertjax.prepare --input books/*.txt.xz --output records/books --vocab_size 8192
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import os
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bertjax import errors, memory
from bertjax.command_line import new_parser
from bertjax.data import build_need, idle_flags
from bertjax.data import manifest as manifests
from bertjax.data.build import build, close_work_folder, open_work_folder
from bertjax.data.build_settings import BuildSettings
from bertjax.data.manifest import Manifest
from bertjax.data.masking import UNITS
from bertjax.data.segments import FORMATS
from bertjax.data.survey import Survey, Vocabulary
from bertjax.data.tokenized import TextSettings
from bertjax.errors import UserError
from bertjax.files import storage, text_files
from bertjax.files.whole_file import staged
from bertjax.text import corpus, tokenizer, vocab, word_counts
from bertjax.text.tokenizer import Tokenizer
from bertjax.weights import word_vectors
from bertjax.workers import Workers


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = new_parser("prepare", __doc__, "--input PATH ... --output FOLDER [option ...]")
    add = parser.add_argument
    # Short names of the values, so that most options take one line.
    number: dict[str, Any] = {"type": int, "metavar": "N"}
    share: dict[str, Any] = {"type": float, "metavar": "P"}
    add(
        "--input",
        nargs="+",
        required=True,
        metavar="PATH",
        help=".txt, .jsonl (also .gz, .xz, .zst), folders, globs, tfds:NAME@SPLIT",
    )
    add("--output", required=True, help="folder for records, manifest, vocabulary")
    add("--text_field", default="text", help="in JSON lines and data sets (%(default)s)")
    add(
        "--vocab",
        type=storage.path,
        help="use this vocab.txt, .model, vectors or folder; default: learn one",
    )
    add("--vocab_kind", choices=list(vocab.KINDS), default="wordpiece")
    add("--vocab_size", **number, help="of a learnt vocabulary (8192 pieces, all words)")
    add("--min_count", **number, default=5, help="words: rarer ones are [UNK] (%(default)s)")
    add("--extend", **number, default=0, help="words of the text to add to --vocab")
    add("--cased", action="store_true", help="keep case and accents (default: lower-case)")
    add("--keep_lines", action="store_true", help="lines are sentences (default: split them)")
    add("--language", default="en", help="for sentence splitting (%(default)s)")
    add("--min_tokens", **number, default=1, help="drop shorter documents (%(default)s)")
    add(
        "--drop_duplicates",
        choices=["documents", "lines"],
        metavar="WHAT",
        help="documents; lines: of documents, too",
    )
    add("--segments", choices=list(FORMATS), default="nsp", help="what a sequence is (%(default)s)")
    add("--max_seq_length", **number, default=128)
    add("--short_seq_prob", **share, default=0.1, help="share of shorter pairs (%(default)s)")
    add("--packed", action="store_true", help="several sequences in a row; with --masking=dynamic")
    add(
        "--masking",
        choices=["static", "dynamic"],
        default="static",
        metavar="WHEN",
        help="static, as in 2018; dynamic: in training (%(default)s)",
    )
    add("--mask_unit", choices=list(UNITS), default="token")
    add("--masked_lm_prob", **share, default=0.15, help="share that is hidden (%(default)s)")
    add("--mask_share", **share, default=0.8, help="of these become [MASK] (%(default)s)")
    add("--random_share", **share, default=0.1, help="another piece (%(default)s); rest stays")
    add("--max_predictions_per_seq", **number, help="default: that share of the length")
    add("--dupe_factor", **number, help="passes over the text; default: static 5, dynamic 1")
    add("--num_shards", **number, default=0, help="default: files of at most 64 MiB, about")
    add("--seed", **number, default=0)
    add("--workers", **number, default=os.cpu_count() or 1, help="processes (all cores)")
    add("--memory", default="2GB", help="for all processes together (%(default)s)")
    add("--runner", help="of Apache Beam (DirectRunner, DataflowRunner, ...); its options follow")
    flags, rest = parser.parse_known_args(argv)
    if flags.vocab_size is None:
        flags.vocab_size = word_counts.LIMIT if flags.vocab_kind == "words" else 8192
    flags.given, flags.beam = idle_flags.given(parser, argv), rest
    if flags.beam and not flags.runner:
        parser.error(f"unrecognized arguments: {' '.join(flags.beam)}")
    return flags


def _settings(flags: argparse.Namespace) -> BuildSettings:
    given = {f.name: getattr(flags, f.name) for f in dataclasses.fields(BuildSettings)}
    if not 0 <= flags.masked_lm_prob <= 1:
        raise UserError(f"--masked_lm_prob={flags.masked_lm_prob}: give a share from 0 to 1")
    if flags.max_predictions_per_seq is None:
        predictions = math.ceil(flags.max_seq_length * flags.masked_lm_prob)
        given["max_predictions_per_seq"] = predictions
    if flags.dupe_factor is None:
        given["dupe_factor"] = 1 if flags.masking == "dynamic" else 5
    given["drop_duplicates"] = flags.drop_duplicates is not None
    return BuildSettings(**given)


def _given(flags: argparse.Namespace) -> Tokenizer | None:
    """The tokenizer of --vocab; --cased decides, without it the vocabulary's own settings do."""
    if not flags.vocab:
        return None
    if not word_vectors.is_vectors(flags.vocab):
        return tokenizer.load(flags.vocab, False if flags.cased else None)
    # Imported late: text needs no JAX.
    from bertjax.weights import pretrained

    words = pretrained.load(flags.vocab).tokenizer
    tokens = words.pieces(range(words.vocab_size))
    return tokenizer.WordTokenizer(tokens, lowercase=False) if flags.cased else words


def _wanted(flags: argparse.Namespace) -> Vocabulary:
    given, size = _given(flags), flags.vocab_size
    return Vocabulary(given, flags.extend, flags.vocab_kind, size, not flags.cased, flags.min_count)


def _source(
    flags: argparse.Namespace, sources: list[str | Path], wanted: Vocabulary
) -> dict[str, object]:
    """All that the bytes of the result hang on; two builds with equal sources are the same."""
    return {
        "files": [_identity(source) for source in sources],
        "text_field": flags.text_field,
        "vocab": wanted.source(),
        "extend": flags.extend,
        "cased": flags.cased,
        "split_sentences": not flags.keep_lines,
        "language": flags.language,
        "drop_duplicate_lines": flags.drop_duplicates == "lines",
    }


def _identity(source: str | Path) -> list[object]:
    if isinstance(source, str):
        return [source]
    return [source.name, storage.size(source), storage.modified(source)]


def _already_done(output: Path, source: dict[str, object], settings: BuildSettings) -> bool:
    if not (output / manifests.MANIFEST).exists():
        return False
    manifest = manifests.load(output)
    if manifest.source == source and manifest.settings == dataclasses.asdict(settings):
        if not storage.is_remote(output):
            close_work_folder(output)  # a run killed at its very end leaves it
        print(f"reusing {output}: {manifest.num_examples:,} records")
        return True
    raise UserError(
        f"{output}: holds records of another input or other settings; choose another --output "
        "or delete the folder"
    )


def _report(manifest: Manifest, output: str | Path, seconds: float) -> None:
    found, dropped = manifest.corpus, manifest.corpus["dropped"]
    size = sum(shard.bytes for shard in manifest.shards)
    positions = manifest.num_examples * manifest.max_seq_length
    filled = (1 - manifest.padding_share) * positions
    print(
        f"{output}: {manifest.num_examples:,} records of length {manifest.max_seq_length} in "
        f"{len(manifest.shards)} shard(s), {size / 1e6:,.1f} MB, {size / filled:.2f} bytes a "
        f"token; {seconds:.1f} s\n"
        f"corpus: {found['documents']:,} documents, {found['sentences']:,} sentences, "
        f"{found['tokens']:,} tokens, {found['unknown_share']:.3%} unknown\n"
        f"dropped: {dropped['short_documents']:,} short and {dropped['duplicate_documents']:,} "
        f"duplicate documents ({found['duplicate_share']:.2%} of the tokens), "
        f"{dropped['duplicate_lines']:,} duplicate lines\n"
        f"unigram entropy {found['unigram_entropy']:.3f} nats: the masked-LM loss must fall "
        f"below it; {1 - manifest.padding_share:.1%} of positions filled"
    )


def _build_with_beam(flags: argparse.Namespace, settings: BuildSettings) -> Manifest:
    """Raises UserError: no Apache Beam, or an option that needs all text in one place."""
    for name in ("extend", "drop_duplicates"):
        if getattr(flags, name) not in (0, None, "documents"):
            raise UserError(f"--{name} does not go with --runner; use it in a local build")
    vocabulary = _given(flags)
    if vocabulary is None:
        raise UserError(
            "--runner needs a vocabulary; learn one from a part of the text: run this command "
            "on that part without --runner and give its --output as --vocab"
        )
    try:
        from bertjax.data import build_beam
    except ModuleNotFoundError:
        raise UserError("--runner needs Apache Beam: pip install 'bertjax[beam]'") from None
    with tempfile.TemporaryDirectory() as folder:
        vocabulary.save(folder)
        files = tuple((path.name, path.read_bytes()) for path in sorted(Path(folder).iterdir()))
    inputs = build_beam.find(flags.input)
    source: dict[str, object] = {"files": inputs, "vocab": vocabulary.fingerprint}
    language = "" if flags.keep_lines else flags.language
    plan = build_beam.Plan(files, flags.text_field, language, settings, flags.output)
    return build_beam.build(inputs, plan, source, [f"--runner={flags.runner}", *flags.beam])


def _take_over(flags: argparse.Namespace, paths: list[Path]) -> None:
    """Records of the 2018 builder get a manifest."""
    idle_flags.check_records(flags)
    vocabulary = _given(flags)
    if vocabulary is None:
        raise UserError("--input holds records; give the vocabulary they were made with: --vocab")
    source = {"records": [_identity(path) for path in paths], "vocab": vocabulary.fingerprint}
    if (flags.output / manifests.MANIFEST).exists():
        if manifests.load(flags.output).source != source:
            raise UserError(f"{flags.output}: holds other records; choose another --output")
        print(f"reusing {flags.output}")
        return
    # Imported late: text needs no TensorFlow.
    from bertjax.data import adopt

    with ExitStack() as stack:
        local = [stack.enter_context(storage.local(path)) for path in paths]
        output = stack.enter_context(staged(flags.output, manifests.MANIFEST))
        manifest = adopt.adopt(local, vocabulary, output, source)
    print(
        f"{flags.output}: took over {manifest.num_examples:,} records of length "
        f"{manifest.max_seq_length} with {manifest.max_predictions_per_seq} predictions; "
        f"unigram entropy {manifest.corpus['unigram_entropy']:.3f} nats"
    )


def _build(
    flags: argparse.Namespace,
    output: Path,
    sources: list[str | Path],
    wanted: Vocabulary,
    source: dict[str, object],
    settings: BuildSettings,
) -> None:
    """Text to records, in a local folder."""
    total = build_need.text_bytes(sources)
    build_need.check_disk(output, total, settings)
    number = build_need.workers(flags.workers, flags.memory)
    work = open_work_folder(output, {"source": source, **dataclasses.asdict(settings)})
    with Workers(number) as workers:
        survey = Survey(flags.input, flags.text_field, total, work, workers)
        drop_lines = flags.drop_duplicates == "lines"
        text = TextSettings(
            tokenizer=survey.vocabulary(wanted),
            dropped_lines=survey.duplicate_lines() if drop_lines else None,
            language="" if flags.keep_lines else flags.language,
            min_tokens=settings.min_tokens,
            seed=settings.seed,
        )
        build(
            corpus.parts(flags.input, flags.text_field),
            text,
            output,
            settings,
            work=work,
            workers=workers,
            run_bytes=build_need.run_bytes(flags.memory),
            total=total,
            source=source,
        )


def main() -> None:
    flags = parse_arguments()
    memory.share_one_heap()
    idle_flags.check(flags)
    if flags.workers < 1:
        raise UserError(f"--workers={flags.workers}: give at least 1")
    if flags.extend < 0:
        raise UserError(f"--extend={flags.extend}: give a number of words")
    if flags.extend and not flags.vocab:
        raise UserError("--extend adds words to a vocabulary; give it with --vocab")
    if flags.runner:
        start = time.monotonic()
        _report(_build_with_beam(flags, _settings(flags)), flags.output, time.monotonic() - start)
        return
    flags.output = storage.path(flags.output)
    made = text_files.record_files(flags.input)
    if made:
        _take_over(flags, made)
        return
    settings = _settings(flags)
    flags.memory = build_need.parse_memory(flags.memory)
    sources = corpus.resolve(flags.input)
    wanted = _wanted(flags)
    source = _source(flags, sources, wanted)
    if _already_done(flags.output, source, settings):
        return
    start = time.monotonic()
    with staged(flags.output, manifests.MANIFEST) as output:
        # For a bucket all may be done already but for its copying.
        if output == flags.output or not _already_done(output, source, settings):
            _build(flags, output, sources, wanted, source, settings)
    _report(manifests.load(flags.output), flags.output, time.monotonic() - start)


if __name__ == "__main__":
    sys.exit(errors.run(main))
