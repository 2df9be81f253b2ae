"""The builder as an Apache Beam pipeline, for more text than one machine can take.

The same parts, keys, shards and records as build.py makes: what a shard holds hangs on the texts
and the settings alone, so it does not matter who builds it, nor in which order.
"""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

import apache_beam as beam
import numpy as np
from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions, SetupOptions

from bertjax.data import manifest as manifests
from bertjax.data import store, tfrecord
from bertjax.data.build_settings import BuildSettings
from bertjax.data.corpus_facts import corpus_facts, make_manifest
from bertjax.data.shards import ShardJob, num_shards, write_shard
from bertjax.data.store import KEY_BINS, TokenParts
from bertjax.data.tokenized import TextSettings, Tokenized, tokenize
from bertjax.errors import UserError
from bertjax.files import text_files
from bertjax.text import corpus
from bertjax.text import tokenizer as tokenizers
from bertjax.text.corpus import Part


class Plan(NamedTuple):
    """What every worker must know.

    Attributes:
      vocabulary: {name: content} of the tokenizer's files, for workers on other machines.
      field: name of the text in JSON lines.
      language, settings: as in TextSettings and BuildSettings.
      output: a folder, local or of a file system that Beam knows (gs://...).
    """

    vocabulary: tuple[tuple[str, bytes], ...]
    field: str
    language: str
    settings: BuildSettings
    output: str


def find(inputs: list[str]) -> list[str]:
    """The files that paths and globs stand for, on any file system that Beam knows.

    Raises:
      UserError: none, or a file that is no text.
    """
    found = [
        file.path
        for match in FileSystems.match([_pattern(given) for given in inputs])
        for file in sorted(match.metadata_list, key=lambda file: file.path)
    ]
    if not found:
        raise UserError(f"no file matches {', '.join(inputs)}")
    for name in found:
        if not name.endswith(text_files.EXTENSIONS):
            legal = ", ".join(text_files.EXTENSIONS)
            raise UserError(f"{name}: unknown extension; a text file ends in {legal}")
    return found


def _pattern(given: str) -> str:
    """All of a folder, for Beam's globs know neither folders nor relative names."""
    name = given if "://" in given else str(Path(given).absolute())
    return f"{name.rstrip('/')}/**" if given.endswith("/") or Path(name).is_dir() else name


def build(
    files: list[str], plan: Plan, source: dict[str, Any], arguments: list[str]
) -> manifests.Manifest:
    """Runs the pipeline and writes the manifest.

    Args:
      arguments: Beam's own, such as --runner.

    Raises:
      UserError: no tokens; too few documents; what the text itself has wrong.
    """
    logging.getLogger().setLevel(logging.WARNING)
    options = PipelineOptions(arguments)
    options.view_as(SetupOptions).save_main_session = False
    FileSystems.exists(plan.output) or FileSystems.mkdirs(plan.output)
    partial = FileSystems.join(plan.output, "facts.partial")
    with beam.Pipeline(options=options) as pipeline:
        _pipeline(pipeline, files, plan, partial)
    facts = _take_facts(partial)
    tokenizer = _tokenizer(plan.vocabulary)
    entries = [entry for _, entry in sorted(facts["entries"])]
    read = {name: facts[name] for name in ("bytes", "short", "lines", "lengths")}
    known = corpus_facts(entries, np.array(facts["counts"]), read, tokenizer.unk_id)
    made = make_manifest(entries, known, tokenizer, plan.settings, source)
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save(folder)
        made.save(Path(folder))
        for path in sorted(Path(folder).iterdir(), key=lambda p: p.name == manifests.MANIFEST):
            _upload(path, plan.output)
    return made


def _pipeline(pipeline: beam.Pipeline, files: list[str], plan: Plan, partial: str) -> None:
    tokenized = (
        pipeline
        | "files" >> beam.Create(files)
        | "spread files" >> beam.Reshuffle()
        | "read" >> beam.FlatMap(_jobs, plan.field)
        | "spread text" >> beam.Reshuffle()
        | "tokenize" >> beam.Map(_tokenize, plan)
    )
    totals = tokenized | "totals" >> beam.CombineGlobally(_Totals())
    parts = tokenized | "parts" >> beam.FlatMap(_single_parts)
    shards = (
        parts
        | "to shards" >> beam.Map(_with_shard, beam.pvalue.AsSingleton(totals), plan)
        | "gather" >> beam.GroupByKey()
        | "write" >> beam.Map(_write, beam.pvalue.AsSingleton(totals), plan)
    )
    whole = tokenized | "whole documents" >> beam.FlatMap(_whole_lengths)
    long = (
        tokenized
        | "long documents" >> beam.FlatMap(_long_lengths)
        | "join parts" >> beam.CombinePerKey(sum)
        | "sums" >> beam.Values()
    )
    lengths = (
        (whole, long)
        | "documents" >> beam.Flatten()
        | "powers" >> beam.Map(int.bit_length)
        | "histogram" >> beam.combiners.Count.PerElement()
        | "lengths" >> beam.combiners.ToDict()
    )
    entries = shards | "entries" >> beam.Map(lambda done: done[:2]) | beam.combiners.ToList()
    counts = shards | "counts" >> beam.Map(lambda done: done[2]) | beam.CombineGlobally(_Sum())
    _ = totals | "facts" >> beam.Map(
        _keep_facts,
        beam.pvalue.AsSingleton(entries),
        beam.pvalue.AsSingleton(counts),
        beam.pvalue.AsSingleton(lengths),
        partial,
    )


# --- Text to parts --------------------------------------------------------------------------


def _jobs(name: str, field: str) -> Iterator[list[Part]]:
    file = FileSystems.open(name, compression_type=CompressionTypes.UNCOMPRESSED)
    with file:
        blocks = text_files.unpacked(cast(IO[bytes], file), name)
        yield from corpus.jobs(corpus.parts_of_file(name, blocks, field), corpus.JOB_BYTES)


@cache
def _folder(vocabulary: tuple[tuple[str, bytes], ...]) -> Path:
    """The tokenizer's files, unpacked once in every process."""
    folder = Path(tempfile.mkdtemp(prefix="vocabulary-"))
    for name, content in vocabulary:
        (folder / name).write_bytes(content)
    return folder


def _tokenizer(vocabulary: tuple[tuple[str, bytes], ...]) -> tokenizers.Tokenizer:
    return tokenizers.load(_folder(vocabulary))


def _tokenize(job: list[Part], plan: Plan) -> tuple[Tokenized, list[bytes]]:
    """With the document of every part, to add up the tokens of long ones."""
    text = TextSettings(
        tokenizer=_folder(plan.vocabulary),
        language=plan.language,
        min_tokens=plan.settings.min_tokens,
        seed=plan.settings.seed,
    )
    return tokenize((text, job)), [part.document for part in job]


def _single_parts(done: tuple[Tokenized, list[bytes]]) -> Iterator[TokenParts]:
    parts = done[0].parts
    for number in range(len(parts.key)):
        yield parts.take(np.array([number]))


def _whole_lengths(done: tuple[Tokenized, list[bytes]]) -> Iterator[int]:
    """Tokens of the documents of one part."""
    lengths = done[0].document_tokens.tolist()
    return (tokens for tokens, document in zip(lengths, done[1], strict=True) if not document)


def _long_lengths(done: tuple[Tokenized, list[bytes]]) -> Iterator[tuple[bytes, int]]:
    """Tokens of the parts of other documents, which may lie in several jobs."""
    lengths = done[0].document_tokens.tolist()
    return (row for row in zip(done[1], lengths, strict=True) if row[0])


class _Totals(beam.CombineFn):
    """Sums over all text; tokens by ranges of keys decide where shards end."""

    def create_accumulator(self) -> dict[str, Any]:
        bins = np.zeros(KEY_BINS, np.int64)
        return {"parts": 0, "bytes": 0, "short": 0, "lines": 0, "by_key": bins}

    def add_input(self, total: dict[str, Any], done: tuple[Tokenized, list[bytes]]) -> Any:
        found = done[0]
        np.add.at(total["by_key"], store.key_bins(found.parts.key), found.parts.num_tokens)
        total["parts"] += len(found.parts.key)
        total["bytes"] += found.characters
        total["short"] += found.short
        total["lines"] += found.lines
        return total

    def merge_accumulators(self, some: Iterable[dict[str, Any]]) -> dict[str, Any]:
        total = self.create_accumulator()
        for one in some:
            for name, value in one.items():
                total[name] = total[name] + value
        return total

    def extract_output(self, total: dict[str, Any]) -> dict[str, Any]:
        return total


class _Sum(beam.CombineFn):
    """Adds up arrays."""

    def create_accumulator(self) -> Any:
        return 0

    def add_input(self, total: Any, array: np.ndarray) -> Any:
        return total + array

    def merge_accumulators(self, some: Iterable[Any]) -> Any:
        return sum(some)

    def extract_output(self, total: Any) -> Any:
        return total


# --- Parts to shards ------------------------------------------------------------------------


def _bounds(totals: dict[str, Any], settings: BuildSettings) -> np.ndarray:
    shards = num_shards(int(totals["by_key"].sum()), totals["parts"], settings)
    return store.shard_bounds(totals["by_key"], shards)


def _with_shard(part: TokenParts, totals: dict[str, Any], plan: Plan) -> tuple[int, TokenParts]:
    bounds = _bounds(totals, plan.settings)
    return int(np.searchsorted(bounds, store.key_bins(part.key)[0], "right")) - 1, part


def _write(
    gathered: tuple[int, Iterable[TokenParts]], totals: dict[str, Any], plan: Plan
) -> tuple[int, dict[str, Any], np.ndarray]:
    """Builds a shard in a local folder and copies it to the output."""
    number, parts = gathered
    shards = len(_bounds(totals, plan.settings)) - 1
    joined = store.join(list(parts))
    joined = joined.take(np.argsort(joined.key, kind="stable"))
    with tempfile.TemporaryDirectory() as folder:
        local = Path(folder)
        job = ShardJob(
            local, local, _folder(plan.vocabulary), plan.settings, number, shards, 0, KEY_BINS
        )
        entry, counts = write_shard(joined, job)
        for path in (local / job.name, tfrecord.index_path(local / job.name)):
            _upload(path, plan.output)
    return number, entry, counts


def _keep_facts(
    totals: dict[str, Any],
    entries: list[tuple[int, dict[str, Any]]],
    counts: np.ndarray,
    lengths: dict[int, int],
    path: str,
) -> None:
    """What the manifest needs, in a file: the pipeline's end is all that its caller sees."""
    facts = {name: totals[name] for name in ("bytes", "short", "lines")}
    facts["lengths"] = [lengths.get(power, 0) for power in range(max(lengths) + 1)]
    content = {**facts, "entries": entries, "counts": counts.tolist()}
    with FileSystems.create(path, compression_type=CompressionTypes.UNCOMPRESSED) as file:
        file.write(json.dumps(content).encode())


def _take_facts(path: str) -> dict[str, Any]:
    if not FileSystems.exists(path):
        raise UserError("no tokens in the input, or all documents are shorter than --min_tokens")
    with FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED) as file:
        facts: dict[str, Any] = json.loads(file.read())
    FileSystems.delete([path])
    return facts


def _upload(path: Path, output: str) -> None:
    """Copies a file whole or not at all: Beam's files appear when they are closed."""
    target = FileSystems.join(output, path.name)
    partial = f"{target}.partial"
    target_file = FileSystems.create(partial, compression_type=CompressionTypes.UNCOMPRESSED)
    with target_file as file, path.open("rb") as local:
        while block := local.read(1 << 20):
            file.write(block)
    if FileSystems.exists(target):
        FileSystems.delete([target])
    FileSystems.rename([partial], [target])
