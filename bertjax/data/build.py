"""Builds record shards from documents: tokens to disk once, then every shard on its own.

Two stages, each spread over worker processes, each continued where a killed run left it:
  1. blocks of documents -> token ids in one file, with the starts of sentences and documents;
  2. for every shard: pairs from its documents, masks, records.
The bytes depend on the text and the settings alone, never on the number of workers.
"""

from __future__ import annotations

import dataclasses
import json
import math
import random
import shutil
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

import bertjax
from bertjax import text
from bertjax import tokenizer as tokenizers
from bertjax.data import masking, pairs, records
from bertjax.errors import UserError
from bertjax.whole_file import write_whole

_WORK = ".building"
_JOB_CHARACTERS = 1 << 20
_ID_BYTES = 4
_ROWS_AT_ONCE = 4096


@dataclasses.dataclass(frozen=True)
class BuildSettings:
    """How records are made; stands in the manifest word for word."""

    max_seq_length: int = 128
    max_predictions_per_seq: int = 20
    masked_lm_prob: float = 0.15
    short_seq_prob: float = 0.1
    dupe_factor: int = 5
    seed: int = 0
    num_shards: int = 0  # 0: as many as keep a shard near 64 MiB

    def __post_init__(self) -> None:
        if self.max_seq_length < 8:
            raise UserError(f"max_seq_length {self.max_seq_length} is too short; use at least 8")
        if not 1 <= self.max_predictions_per_seq < self.max_seq_length:
            raise UserError(
                f"max_predictions_per_seq {self.max_predictions_per_seq} must lie between 1 and "
                f"max_seq_length {self.max_seq_length}"
            )
        if not 0 < self.masked_lm_prob < 1:
            raise UserError(f"masked_lm_prob {self.masked_lm_prob} must lie between 0 and 1")
        if not 0 <= self.short_seq_prob <= 1:
            raise UserError(f"short_seq_prob {self.short_seq_prob} must lie between 0 and 1")
        if self.dupe_factor < 1:
            raise UserError(f"dupe_factor {self.dupe_factor} must be at least 1")
        if self.num_shards < 0:
            raise UserError(f"num_shards {self.num_shards} must be at least 0 (as many as needed)")


# The tokenizer of a worker process; loaded once by each.
_tokenizer: tokenizers.Tokenizer


def _start_worker(tokenizer_path: Path) -> None:
    global _tokenizer
    _tokenizer = tokenizers.load(tokenizer_path)


def _pool(workers: int, tokenizer_path: Path) -> ProcessPoolExecutor:
    # spawn: a forked child of a process with running threads may hang.
    return ProcessPoolExecutor(
        workers, get_context("spawn"), initializer=_start_worker, initargs=(tokenizer_path,)
    )


def _in_order(pool: ProcessPoolExecutor, function, jobs: Iterable, ahead: int) -> Iterator:
    """Results in the jobs' order, with at most `ahead` jobs under way: memory stays bounded."""
    pending: list[Future] = []
    for job in jobs:
        pending.append(pool.submit(function, job))
        if len(pending) > ahead:
            yield pending.pop(0).result()
    for future in pending:
        yield future.result()


# Stage 1: documents -> token store


class _Tokenized(NamedTuple):
    """packed ids of all sentences; sentence_lengths; (document, its sentences); characters."""

    ids: bytes
    sentence_lengths: np.ndarray
    document_lengths: list[tuple[int, int]]
    characters: int


def _jobs(blocks: Iterable[text.Block]) -> Iterator[list[text.Block]]:
    """Groups short blocks, so that a worker is sent about a megabyte at a time."""
    job: list[text.Block] = []
    size = 0
    for block in blocks:
        job.append(block)
        size += sum(map(len, block.lines))
        if size >= _JOB_CHARACTERS:
            yield job
            job, size = [], 0
    if job:
        yield job


def _tokenize(job: list[text.Block]) -> _Tokenized:
    packed: list[bytes] = []
    document_lengths: list[tuple[int, int]] = []
    for block in job:
        sentences = [ids for ids in _tokenizer.encode_packed(block.lines) if ids]
        packed += sentences
        document_lengths.append((block.document, len(sentences)))
    lengths = np.array([len(ids) for ids in packed], np.int64) // _ID_BYTES
    characters = sum(len(line) for block in job for line in block.lines)
    return _Tokenized(b"".join(packed), lengths, document_lengths, characters)


def _write_store(
    blocks: Iterable[text.Block], folder: Path, pool: ProcessPoolExecutor, ahead: int
) -> None:
    sentences: list[np.ndarray] = [np.zeros(1, np.int64)]
    documents: dict[int, int] = {}
    progress = tqdm(desc="tokenizing", unit=" characters", unit_scale=True)
    with open(folder / "tokens.bin", "wb") as file, progress:
        for done in _in_order(pool, _tokenize, _jobs(blocks), ahead):
            file.write(done.ids)
            sentences.append(done.sentence_lengths)
            for document, count in done.document_lengths:
                documents[document] = documents.get(document, 0) + count
            progress.update(done.characters)
    lengths = np.array([count for count in documents.values() if count], np.int64)
    np.save(folder / "sentence_starts.npy", np.cumsum(np.concatenate(sentences)))
    np.save(folder / "document_starts.npy", np.concatenate([[0], np.cumsum(lengths)]))
    (folder / "tokens.done").touch()


def _open_store(folder: Path) -> pairs.TokenStore:
    def load(name: str) -> np.ndarray:
        return np.load(folder / name, mmap_mode="r", allow_pickle=False)

    size = (folder / "tokens.bin").stat().st_size
    tokens = (
        np.memmap(folder / "tokens.bin", np.uint32, mode="r") if size else np.zeros(0, np.uint32)
    )
    return pairs.TokenStore(tokens, load("sentence_starts.npy"), load("document_starts.npy"))


def _corpus_facts(store: pairs.TokenStore, vocab_size: int, unk_id: int) -> dict[str, Any]:
    """Counts of the corpus, and the loss (nats) of predicting pieces by their frequency alone."""
    counts = np.zeros(vocab_size, np.int64)
    for start in range(0, len(store.tokens), 1 << 24):
        counts += np.bincount(store.tokens[start : start + (1 << 24)], minlength=vocab_size)
    shares = counts[counts > 0] / max(counts.sum(), 1)
    return {
        "documents": store.num_documents,
        "sentences": len(store.sentence_starts) - 1,
        "tokens": len(store.tokens),
        "unigram_entropy": float(-(shares * np.log(shares)).sum()),
        "unknown_share": float(counts[unk_id] / max(counts.sum(), 1)),
        "pieces_used": int((counts > 0).sum()),
    }


# Stage 2: token store -> shards


def _document_order(num_documents: int, seed: int) -> np.ndarray:
    return np.random.default_rng([seed, 0]).permutation(num_documents)


def _shard_pairs(store: pairs.TokenStore, index: int, shards: int, settings: BuildSettings):
    """[N, 5] pairs of one shard's documents, all duplicates, shuffled."""
    pair_settings = pairs.PairSettings(settings.max_seq_length, settings.short_seq_prob)
    documents = _document_order(store.num_documents, settings.seed)[index::shards].tolist()
    made = [
        pair
        for dupe in range(settings.dupe_factor)
        for document in documents
        for pair in pairs.document_pairs(
            store, document, pair_settings, random.Random(f"{settings.seed}/{dupe}/{document}")
        )
    ]
    order = np.random.default_rng([settings.seed, 1, index]).permutation(len(made))
    return np.array(made, np.int64).reshape(-1, 5)[order]


def _masked_rows(
    store: pairs.TokenStore, places: np.ndarray, settings: BuildSettings, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    rows = pairs.lay_out(
        store,
        places,
        settings.max_seq_length,
        cls_id=_tokenizer.cls_id,
        sep_id=_tokenizer.sep_id,
        pad_id=_tokenizer.pad_id,
    )
    replacements = np.setdiff1d(np.arange(_tokenizer.vocab_size), _tokenizer.never_random)
    masked = masking.mask(
        rows["input_ids"],
        rows.pop("lengths"),
        rows.pop("maskable"),
        _tokenizer.mask_id,
        replacements,
        masking.MaskingSettings(settings.max_predictions_per_seq, settings.masked_lm_prob),
        rng,
    )
    return {**rows, **masked}


def _build_shard(job: tuple[Path, Path, int, int, BuildSettings]) -> dict[str, Any]:
    """Writes one shard and returns its manifest entry with the number of real tokens in it."""
    store_folder, output, index, shards, settings = job
    store = _open_store(store_folder)
    places = _shard_pairs(store, index, shards, settings)
    rng = np.random.default_rng([settings.seed, 2, index])
    real_tokens = 0

    def messages() -> Iterator[bytes]:
        nonlocal real_tokens
        for start in range(0, len(places), _ROWS_AT_ONCE):
            rows = _masked_rows(store, places[start : start + _ROWS_AT_ONCE], settings, rng)
            real_tokens += int(rows["input_mask"].sum())
            yield from records.serialize(rows)

    name = f"records-{index:05d}-of-{shards:05d}.tfrecord"
    shard = records.write_shard(output / name, messages())
    entry = {**dataclasses.asdict(shard), "real_tokens": real_tokens}
    write_whole(store_folder / f"shard-{index:05d}.json", json.dumps(entry).encode())
    return entry


def _num_shards(store: pairs.TokenStore, settings: BuildSettings) -> int:
    """As asked, or as many as keep a shard near 64 MiB, given 9 bytes a position."""
    if settings.num_shards:
        return min(settings.num_shards, store.num_documents)
    positions = len(store.tokens) * settings.dupe_factor / 0.85
    return max(1, min(math.ceil(positions * 9 / (64 << 20)), store.num_documents))


def _write_shards(
    store: pairs.TokenStore, work: Path, output: Path, settings: BuildSettings, pool
) -> list[dict[str, Any]]:
    shards = _num_shards(store, settings)
    entries = {
        index: json.loads(path.read_text())
        for index in range(shards)
        if (path := work / f"shard-{index:05d}.json").exists()
    }
    jobs = [(work, output, i, shards, settings) for i in range(shards) if i not in entries]
    progress = tqdm(desc="writing shards", total=shards, initial=len(entries), unit="shard")
    with progress:
        futures = {job[2]: pool.submit(_build_shard, job) for job in jobs}
        for index, future in futures.items():
            entries[index] = future.result()
            progress.update()
    return [entries[index] for index in range(shards)]


def open_work_folder(output: Path, identity: dict[str, Any]) -> Path:
    """The folder of unfinished work in `output`; emptied if it belongs to another build."""
    work = output / _WORK
    content = json.dumps(identity, sort_keys=True).encode()
    mark = work / "identity.json"
    if not mark.exists() or mark.read_bytes() != content:
        # Shards of an abandoned build; files that are there without one are the user's.
        for orphan in output.glob("records-*-of-*.tfrecord") if mark.exists() else ():
            orphan.unlink()
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        write_whole(mark, content)
    return work


def close_work_folder(output: Path) -> None:
    """Removes what only an unfinished build needs."""
    shutil.rmtree(output / _WORK, ignore_errors=True)


def build(
    blocks: Iterable[text.Block],
    tokenizer_path: Path,
    output: Path,
    settings: BuildSettings,
    *,
    work: Path,
    workers: int,
    source: dict[str, Any],
) -> records.Manifest:
    """Builds a folder of records; a killed build goes on where it was.

    Args:
      blocks: the documents' lines; read only if stage 1 is not done yet.
      tokenizer_path: what tokenizer.load takes.
      output: folder for shards, manifest and tokenizer files.
      work: from open_work_folder; what a killed build left there is used.
      source: names the input, for the manifest.

    Raises:
      UserError: fewer than two documents, so that no random next segment can be drawn.
    """
    tokenizer = tokenizers.load(tokenizer_path)
    with _pool(workers, tokenizer_path) as pool:
        if not (work / "tokens.done").exists():
            _write_store(blocks, work, pool, ahead=2 * workers)
        store = _open_store(work)
        if store.num_documents < 2:
            raise UserError(
                f"the input holds {store.num_documents} document(s), next-sentence pairs need two; "
                "put a blank line between documents or give several files"
            )
        facts = _corpus_facts(store, tokenizer.vocab_size, tokenizer.unk_id)
        entries = _write_shards(store, work, output, settings, pool)
    real_tokens = sum(entry.pop("real_tokens") for entry in entries)
    examples = sum(entry["examples"] for entry in entries)
    tokenizer.save(output)
    manifest = records.Manifest(
        max_seq_length=settings.max_seq_length,
        max_predictions_per_seq=settings.max_predictions_per_seq,
        vocab_size=tokenizer.vocab_size,
        tokenizer={"kind": tokenizer.kind, "fingerprint": tokenizer.fingerprint},
        settings=dataclasses.asdict(settings),
        corpus=facts,
        source=source,
        padding_share=1 - real_tokens / (examples * settings.max_seq_length),
        shards=tuple(records.Shard(**entry) for entry in entries),
        bertjax_version=bertjax.__version__,
    )
    manifest.save(output)
    close_work_folder(output)
    return manifest
