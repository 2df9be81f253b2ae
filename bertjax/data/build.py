"""Builds record shards from documents: tokens to disk in random order, then shard by shard.

Two stages, each spread over worker processes, each continued where a killed run left it:
  1. parts of documents -> tokens, sorted into runs by a random key;
  2. for every shard: the parts in a range of keys, their segments, records.
The bytes hang on the texts and the settings alone: not on the number of workers, nor on that of the
files, nor on how often a build was killed. Memory does not grow with the input.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from bertjax.data import store, tokenized
from bertjax.data.build_settings import BuildSettings
from bertjax.data.corpus_facts import corpus_facts, make_manifest
from bertjax.data.manifest import Manifest
from bertjax.data.shards import SHARD_FILES, ShardJob, num_shards, write_shard
from bertjax.data.store import Runs
from bertjax.data.tokenized import TextSettings, Tokenized, tokenize
from bertjax.errors import UserError
from bertjax.files.json_file import read_json
from bertjax.files.whole_file import write_whole
from bertjax.progress_bar import progress_bar
from bertjax.text import corpus
from bertjax.workers import Workers

_WORK = ".building"


# --- Stage 1: documents -> runs of tokens ---------------------------------------------------


class _Progress:
    """What the runs hold so far; saved with each of them."""

    def __init__(self, saved: dict[str, Any]) -> None:
        self.parts = saved.get("parts", 0)
        self.bytes = saved.get("bytes", 0)
        self.short = saved.get("short", 0)
        self.lines = saved.get("lines", 0)
        # Documents of fewer than 2**i tokens, but not of fewer than 2**(i - 1).
        self.lengths = saved.get("lengths", [0] * 40)
        self.open = saved.get("open", 0)  # tokens of the last document so far
        self.documents = saved.get("documents", 0)

    def add(self, done: Tokenized) -> None:
        self.parts += done.read
        self.bytes += done.characters
        self.short += done.short
        self.lines += done.lines
        for tokens, first in zip(done.document_tokens.tolist(), done.first.tolist(), strict=True):
            if first:
                self.close()
                self.documents += 1
                self.open = 0
            self.open += tokens

    def close(self) -> None:
        """The last document is at its end."""
        if self.documents:
            self.lengths[self.open.bit_length()] += 1


def write_runs(
    parts: Iterable[corpus.Part],
    settings: TextSettings,
    runs: Runs,
    workers: Workers,
    *,
    run_bytes: int,
    total: int,
) -> None:
    """Tokenizes what is not in the runs yet.

    Args:
      run_bytes: size of a run's tokens.
      total: bytes of the text, about, for the progress bar.
    """
    progress = _Progress(runs.facts())
    jobs = corpus.jobs(islice(parts, progress.parts, None), corpus.JOB_BYTES)
    held: list[store.TokenParts] = []
    bar = progress_bar(
        desc="tokenizing",
        total=total,
        initial=progress.bytes,
        unit="B",
        unit_scale=True,
        miniters=1,
    )
    with bar:
        for done in workers.map(tokenize, ((settings, job) for job in jobs)):
            progress.add(done)
            held.append(done.parts)
            bar.update(done.characters)
            if sum(part.tokens.nbytes for part in held) >= run_bytes:
                runs.write(store.join(held), vars(progress))
                held = []
        bar.total = bar.n  # the estimate is not wanted any more
    if held:
        runs.write(store.join(held), vars(progress))


# --- Stage 2: runs -> shards ----------------------------------------------------------------


def _build_shard(job: ShardJob) -> dict[str, Any]:
    parts = Runs(job.work).read(job.first_key, job.last_key)
    entry, counts = write_shard(parts, job)
    write_whole(job.work / f"shard-{job.number:05d}.counts", counts.tobytes())
    write_whole(job.work / f"shard-{job.number:05d}.json", json.dumps(entry).encode())
    return entry


def _shard_jobs(
    runs: Runs, work: Path, output: Path, tokenizer: Path, settings: BuildSettings
) -> list[ShardJob]:
    by_key = runs.tokens_by_key()
    wanted = num_shards(int(by_key.sum()), runs.num_parts(), settings)
    bounds = store.shard_bounds(by_key, wanted).tolist()
    shards = len(bounds) - 1
    return [
        ShardJob(work, output, tokenizer, settings, index, shards, bounds[index], bounds[index + 1])
        for index in range(shards)
    ]


def _write_shards(jobs: list[ShardJob], workers: Workers) -> list[dict[str, Any]]:
    """The shards that are not there yet; returns what all of them tell."""
    done = {
        job.number: read_json(path)
        for job in jobs
        if (path := job.work / f"shard-{job.number:05d}.json").exists()
    }
    left = [job for job in jobs if job.number not in done]
    with progress_bar(
        desc="writing shards", total=len(jobs), initial=len(done), unit="shard"
    ) as bar:
        for job, entry in zip(left, workers.map(_build_shard, left), strict=True):
            done[job.number] = entry
            bar.update()
    return [done[job.number] for job in jobs]


def _all_counts(work: Path, shards: int, vocab_size: int) -> np.ndarray:
    total = np.zeros(vocab_size, np.int64)
    for index in range(shards):
        total += np.frombuffer((work / f"shard-{index:05d}.counts").read_bytes(), np.int64)
    return total


# --- Both -----------------------------------------------------------------------------------


def open_work_folder(output: Path, identity: dict[str, Any]) -> Path:
    """The folder of unfinished work in `output`; emptied if it belongs to another build."""
    work = output / _WORK
    content = json.dumps(identity, sort_keys=True).encode()
    mark = work / "identity.json"
    if not mark.exists() or mark.read_bytes() != content:
        # Shards of an abandoned build; files that are there without one are the user's.
        for orphan in output.glob(SHARD_FILES) if mark.exists() else ():
            orphan.unlink()
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        write_whole(mark, content)
    return work


def close_work_folder(output: Path) -> None:
    """Removes what only an unfinished build needs."""
    shutil.rmtree(output / _WORK, ignore_errors=True)


def build(
    parts: Iterable[corpus.Part],
    text: TextSettings,
    output: Path,
    settings: BuildSettings,
    *,
    work: Path,
    workers: Workers,
    run_bytes: int,
    total: int,
    source: dict[str, Any],
) -> Manifest:
    """Builds a folder of records; a killed build goes on where it was.

    Args:
      parts: of the documents; read only if stage 1 is not done yet.
      output: folder for shards, manifest and tokenizer files.
      work: from open_work_folder; what a killed build left there is used.
      run_bytes, total: as write_runs takes them.
      source: names the input, for the manifest.

    Raises:
      UserError: no tokens; too few documents to draw random segments from.
    """
    runs = Runs(work)
    mark = work / "tokenized"
    if not mark.exists():
        write_runs(parts, text, runs, workers, run_bytes=run_bytes, total=total)
        mark.touch()
    if not runs.num_parts():
        raise UserError("no tokens in the input, or all documents are shorter than --min_tokens")
    tokenizer = tokenized.load(text.tokenizer)
    entries = _write_shards(_shard_jobs(runs, work, output, text.tokenizer, settings), workers)
    read = _Progress(runs.facts())
    read.close()
    counts = _all_counts(work, len(entries), tokenizer.vocab_size)
    tokenizer.save(output)
    facts = corpus_facts(entries, counts, vars(read), tokenizer.unk_id)
    manifest = make_manifest(entries, facts, tokenizer, settings, source)
    manifest.save(output)
    close_work_folder(output)
    return manifest
