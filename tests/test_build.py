"""The builder writes the same bytes however often it is killed and on however many cores."""

from __future__ import annotations

import gzip
import hashlib
import json
import lzma
import math
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bertjax import prepare
from bertjax.data import build, build_need, tfrecord
from bertjax.data import manifest as manifests
from bertjax.data.build_settings import BuildSettings
from bertjax.data.input import eval_batches
from bertjax.data.manifest import MANIFEST, Manifest
from bertjax.data.records import Records
from bertjax.data.segments import FORMATS
from bertjax.data.shards import num_shards
from bertjax.data.store import KEY_BINS, Runs, TokenParts, shard_bounds
from bertjax.errors import UserError
from bertjax.text import corpus, tokenizer
from bertjax.text.corpus import PART_BYTES
from bertjax.text.tokenizer import WordPieceTokenizer

Command = Callable[..., int]


@pytest.fixture(scope="module")
def arguments(tiny_corpus: Path, tiny_vocabulary: Path) -> list[str]:
    """The command that made the fixture tiny_records, but for its output and workers."""
    flags = ["--keep_lines", "--max_seq_length=32", "--max_predictions_per_seq=5"]
    flags += ["--dupe_factor=2", "--num_shards=4"]
    return [f"--input={tiny_corpus}", f"--vocab={tiny_vocabulary}", *flags]


def content(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, hidden ones too."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def records_of(folder: Path) -> dict[str, bytes]:
    """The shards and their indexes; what they were made of may have other names."""
    return {name: data for name, data in content(folder).items() if name.startswith("records-")}


def all_rows(folder: Path) -> dict[str, np.ndarray]:
    batches = list(eval_batches(Records(folder), batch_size=16))
    real = np.concatenate([batch["example_weights"] for batch in batches]) > 0
    return {name: np.concatenate([batch[name] for batch in batches])[real] for name in batches[0]}


# --- The same bytes -------------------------------------------------------------------------


def test_two_workers_write_the_bytes_of_one(
    command: Command, arguments: list[str], tiny_records: Path, tmp_path: Path
) -> None:
    assert command(prepare, *arguments, f"--output={tmp_path}", "--workers=2") == 0
    assert content(tmp_path) == content(tiny_records)


def test_the_folder_holds_the_records_and_nothing_of_the_work(tiny_records: Path) -> None:
    shards = [f"records-{i:05d}-of-00004{end}" for i in range(4) for end in (".tfrecord", ".index")]
    wanted = [*shards, "manifest.json", "vocab.txt", "tokenizer_config.json"]
    assert sorted(os.listdir(tiny_records)) == sorted(wanted)


def test_the_same_documents_in_other_files_give_the_same_bytes(
    command: Command, arguments: list[str], tiny_corpus: Path, tiny_records: Path, tmp_path: Path
) -> None:
    documents = tiny_corpus.read_text().strip().split("\n\n")
    texts = tmp_path / "texts"
    texts.mkdir()
    # Other files, another order, more blank lines, other line breaks, and three kinds of files.
    (texts / "a.txt").write_text("\n\n" + "\n \n\n".join(documents[7:]))
    (texts / "b.txt.gz").write_bytes(gzip.compress("\n\n".join(documents[:3]).encode()))
    rows = [json.dumps({"text": document}) for document in documents[3:6]]
    (texts / "c.jsonl").write_text("\n".join(rows))
    (texts / "d.jsonl.xz").write_bytes(lzma.compress(json.dumps({"text": documents[6]}).encode()))
    flags = [*arguments[1:], f"--input={texts}", f"--output={tmp_path / 'out'}", "--workers=1"]
    assert command(prepare, *flags) == 0
    assert records_of(tmp_path / "out") == records_of(tiny_records)


@pytest.fixture()
def small_runs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Every job is a document or two, every run some jobs; notes the sizes of the runs."""
    written: list[int] = []
    write = Runs.write

    def noted(self: Runs, parts: TokenParts, facts: dict[str, Any]) -> None:
        written.append(len(parts.key))
        write(self, parts, facts)

    monkeypatch.setattr(Runs, "write", noted)
    monkeypatch.setattr(corpus, "JOB_BYTES", 500)
    monkeypatch.setattr(build_need, "run_bytes", lambda memory: 400)
    return written


def test_memory_for_a_few_documents_at_a_time_gives_the_same_bytes(
    small_runs: list[int],
    command: Command,
    arguments: list[str],
    tiny_records: Path,
    tmp_path: Path,
) -> None:
    assert command(prepare, *arguments, f"--output={tmp_path}", "--workers=1") == 0
    assert len(small_runs) > 3
    assert max(small_runs) < 5
    assert content(tmp_path) == content(tiny_records)


# Kills itself and its workers, without any farewell: when three runs are written, when stage 1 is
# done, or when two shards are.
KILLED = """
import os, signal, sys
from tqdm import tqdm
from bertjax.data import build_need
from bertjax import prepare
from bertjax.data import build, tfrecord
from bertjax.data.store import Runs
from bertjax.text import corpus

def die(*_):
    os.killpg(0, signal.SIGKILL)

class Progress(tqdm):
    def update(self, n=1):
        super().update(n)
        if self.unit == "shard" and self.n == 2:
            die()

where = sys.argv.pop(1)
write = Runs.write

def written(self, *given):
    write(self, *given)
    if where == "runs" and len(self.paths()) == 3:
        die()

corpus.JOB_BYTES = 500
build_need.run_bytes = lambda memory: 400
Runs.write = written
if where == "stage 1":
    build._write_shards = die
build.progress_bar = Progress
prepare.main()
"""


def test_a_killed_build_goes_on_to_the_same_bytes_without_redoing_what_is_done(
    small_runs: list[int],
    command: Command,
    arguments: list[str],
    tiny_records: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    output = tmp_path / "records"
    work = output / ".building"
    wanted = [*arguments, f"--output={output}", "--workers=1"]
    times: list[dict[str, int]] = []
    for where, there, missing in (
        ("runs", "run-00002", "tokenized"),
        ("stage 1", "tokenized", "shard-00000.json"),
        ("stage 2", "shard-00001.json", "shard-00002.json"),
    ):
        done = subprocess.run(
            [sys.executable, "-c", KILLED, where, *wanted],
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        assert done.returncode == -signal.SIGKILL
        assert (work / there).exists()
        assert not (work / missing).exists()
        assert not (output / MANIFEST).exists()
        times.append({path.name: path.stat().st_mtime_ns for path in work.glob("run-*")})
    # No run was written twice, nor are finished shards.
    assert len(times[0]) == 3 < len(times[1])
    assert times[0].items() <= times[1].items() == times[2].items()
    finished = [output / f"records-{i:05d}-of-00004.tfrecord" for i in range(2)]
    before = [path.stat().st_mtime_ns for path in finished]
    assert command(prepare, *wanted) == 0
    assert small_runs == []
    assert [path.stat().st_mtime_ns for path in finished] == before
    assert content(output) == content(tiny_records)


def test_work_of_other_settings_is_not_continued(tmp_path: Path) -> None:
    work = build.open_work_folder(tmp_path, {"seed": 0})
    (work / "tokenized").touch()
    for name in ("records-00000-of-00002.tfrecord", "records-00000-of-00002.index", "notes.txt"):
        (tmp_path / name).touch()
    assert (build.open_work_folder(tmp_path, {"seed": 0}) / "tokenized").exists()
    assert len(os.listdir(tmp_path)) == 4
    assert not (build.open_work_folder(tmp_path, {"seed": 1}) / "tokenized").exists()
    assert sorted(os.listdir(tmp_path)) == [".building", "notes.txt"]


def test_another_seed_is_another_order(
    command: Command, arguments: list[str], tiny_records: Path, tmp_path: Path
) -> None:
    flags = [*arguments, f"--output={tmp_path}", "--workers=1", "--seed=1"]
    assert command(prepare, *flags) == 0
    assert records_of(tmp_path) != records_of(tiny_records)


# --- The manifest ---------------------------------------------------------------------------


def test_the_manifest_counts_the_corpus(
    tiny_records: Path, tiny_corpus: Path, tiny_tokenizer: WordPieceTokenizer
) -> None:
    documents = [part.splitlines() for part in tiny_corpus.read_text().split("\n\n")]
    pieces = [i for lines in documents for line in lines for i in tiny_tokenizer.encode(line)]
    counts = Counter(pieces)
    entropy = -sum(n / len(pieces) * math.log(n / len(pieces)) for n in counts.values())
    found = manifests.load(tiny_records).corpus
    assert found["documents"] == len(documents)
    assert found["sentences"] == sum(map(len, documents))
    assert found["tokens"] == len(pieces)
    assert found["pieces_used"] == len(counts)
    assert found["unknown_share"] == counts[tiny_tokenizer.unk_id] / len(pieces)
    assert found["unigram_entropy"] == pytest.approx(entropy, rel=1e-12)
    lengths = [sum(len(tiny_tokenizer.encode(line)) for line in lines) for lines in documents]
    below = Counter(str(1 << n.bit_length()) for n in lengths)
    assert found["documents_by_tokens_below"] == below
    dropped = {"short_documents": 0, "duplicate_documents": 0, "duplicate_lines": 0}
    assert found["dropped"] == dropped
    assert found["duplicate_share"] == 0


def test_the_manifest_counts_the_records(tiny_records: Path) -> None:
    manifest = manifests.load(tiny_records)
    for shard in manifest.shards:
        data = (tiny_records / shard.file).read_bytes()
        assert shard.bytes == len(data)
        assert shard.sha256 == hashlib.sha256(data).hexdigest()
        assert shard.examples == len(tfrecord.scan(tiny_records / shard.file))
    rows = all_rows(tiny_records)
    assert manifest.num_examples == len(rows["input_ids"]) > 100
    assert manifest.padding_share == pytest.approx(1 - rows["input_mask"].mean())


def test_the_manifest_names_the_settings_and_the_vocabulary(
    tiny_records: Path, tiny_tokenizer: WordPieceTokenizer
) -> None:
    manifest = manifests.load(tiny_records)
    assert manifest.max_seq_length == 32
    assert manifest.max_predictions_per_seq == 5
    assert manifest.vocab_size == tiny_tokenizer.vocab_size
    assert manifest.tokenizer == {
        "kind": "wordpiece",
        "fingerprint": tiny_tokenizer.fingerprint,
    }
    assert manifest.settings["dupe_factor"] == 2
    assert manifest.settings["masked_lm_prob"] == 0.15


# --- The records ----------------------------------------------------------------------------


def test_records_are_pairs_of_the_corpus_with_their_masks(
    tiny_records: Path, tiny_tokenizer: WordPieceTokenizer, tiny_corpus: Path
) -> None:
    t, rows = tiny_tokenizer, all_rows(tiny_records)
    restored = rows["input_ids"].copy()
    chosen = rows["masked_lm_weights"] > 0
    row, column = np.nonzero(chosen)
    restored[row, rows["masked_lm_positions"][row, column]] = rows["masked_lm_ids"][row, column]
    sentences = [t.encode(line) for line in tiny_corpus.read_text().splitlines()]
    stream = " ".join(map(str, sum(sentences, [])))
    for ids, mask, segments in zip(
        restored.tolist(), rows["input_mask"], rows["segment_ids"], strict=True
    ):
        length = int(mask.sum())
        assert mask[:length].all()
        assert ids[length:] == [t.pad_id] * (32 - length)
        assert ids[0] == t.cls_id
        assert ids[length - 1] == t.sep_id
        first_b = int(segments.argmax())
        assert ids[first_b - 1] == t.sep_id
        assert segments.sum() == length - first_b
        for segment in (ids[1 : first_b - 1], ids[first_b : length - 1]):
            assert segment
            assert not set(segment) & {t.cls_id, t.sep_id, t.mask_id, t.pad_id}
            assert " ".join(map(str, segment)) in stream


def test_duplicates_of_the_text_are_masked_differently(tiny_records: Path) -> None:
    rows = all_rows(tiny_records)
    keys = {tuple(row) for row in rows["input_ids"].tolist()}
    assert len(keys) > 0.95 * len(rows["input_ids"])


# --- Refusals -------------------------------------------------------------------------------


def test_a_second_run_says_what_it_reuses(
    command: Command,
    arguments: list[str],
    tiny_records: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = {path: path.stat().st_mtime_ns for path in tiny_records.iterdir()}
    assert command(prepare, *arguments, f"--output={tiny_records}") == 0
    number = manifests.load(tiny_records).num_examples
    assert capsys.readouterr().out == f"reusing {tiny_records}: {number} records\n"
    assert before == {path: path.stat().st_mtime_ns for path in tiny_records.iterdir()}


@pytest.mark.parametrize("other", ["--seed=1", "--max_seq_length=16", "--cased", "--text_field=a"])
def test_other_settings_for_the_same_folder_are_refused(
    other: str,
    command: Command,
    arguments: list[str],
    tiny_records: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = content(tiny_records)
    assert command(prepare, *arguments, other, f"--output={tiny_records}") == 2
    assert "holds records of another input or other settings" in capsys.readouterr().err
    assert content(tiny_records) == before


def test_another_language_for_the_same_folder_is_refused(
    command: Command, arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [flag for flag in arguments if flag != "--keep_lines"]
    flags += [f"--output={tmp_path / 'records'}"]
    assert command(prepare, *flags) == 0
    assert command(prepare, *flags, "--language=de") == 2
    assert "holds records of another input or other settings" in capsys.readouterr().err


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_seq_length": 7},
        {"max_predictions_per_seq": 0},
        {"max_seq_length": 16, "max_predictions_per_seq": 16},
        {"dupe_factor": 0},
        {"num_shards": -1},
        {"max_seq_length": 4097},
        {"min_tokens": -1},
        {"masking": "sometimes"},
        {"segments": "chapters"},
        {"mask_unit": "letter"},
        {"random_share": 0.3, "mask_share": 0.8},
        {"mask_share": -0.1},
        {"masked_lm_prob": 0.0},
        {"masked_lm_prob": 1.5},
        {"short_seq_prob": -0.1},
    ],
)
def test_settings_that_make_no_records_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(reversed(wrong))):
        BuildSettings(**wrong)


def test_packed_rows_cannot_be_masked_already() -> None:
    with pytest.raises(UserError, match="packed rows .*; add --masking=dynamic"):
        BuildSettings(packed=True)


# --- Shards ---------------------------------------------------------------------------------


def test_a_large_corpus_gets_several_shards_and_a_small_one_one() -> None:
    def shards(tokens: int, parts: int, wanted: int = 0) -> int:
        return num_shards(tokens, parts, BuildSettings(num_shards=wanted))

    assert shards(100, parts=3, wanted=5) == 3
    assert shards(100, parts=3, wanted=2) == 2
    assert shards(100, parts=3) == 1
    assert shards(600_000, parts=10_000) == 3
    assert shards(10_000_000, parts=10_000) == 16
    # 50 million tokens, five times, in shards of 7 million; never fewer than 8 parts in one.
    assert shards(50_000_000, parts=10_000) == 36
    assert shards(50_000_000, parts=40) == 5


def test_shards_are_about_equal_ranges_of_keys() -> None:
    tokens = np.random.default_rng(0).integers(0, 3, KEY_BINS)
    bounds = shard_bounds(tokens, 7)
    assert bounds[0] == 0
    assert bounds[-1] == KEY_BINS
    sizes = np.add.reduceat(tokens, bounds[:-1])
    assert len(sizes) == 7
    assert sizes.sum() == tokens.sum()
    assert np.ptp(sizes) <= 4


@pytest.mark.parametrize("place", [0, 499, 1000, KEY_BINS - 1])
def test_no_shard_is_empty_where_one_text_stands_there_very_often(place: int) -> None:
    tokens = np.zeros(KEY_BINS, np.int64)
    tokens[500:600] = 1
    tokens[place] = 1_000
    bounds = shard_bounds(tokens, 9)
    assert bounds[0] == 0
    assert bounds[-1] == KEY_BINS
    assert (np.diff(np.append(0, np.cumsum(tokens))[bounds]) > 0).all()


# --- What documents may be ------------------------------------------------------------------

Build = Callable[..., Manifest]


@pytest.fixture()
def made(command: Command, tiny_vocabulary: Path, tmp_path: Path) -> Build:
    """Prepares some text in tmp_path / "out"."""

    def prepared(text: str, *flags: object) -> Manifest:
        (tmp_path / "in.txt").write_text(text)
        files = [f"--input={tmp_path / 'in.txt'}", f"--vocab={tiny_vocabulary}"]
        fixed = [f"--output={tmp_path / 'out'}", "--workers=1", "--keep_lines"]
        assert command(prepare, *files, *fixed, "--max_seq_length=16", *flags) == 0
        return manifests.load(tmp_path / "out")

    return prepared


LINES = ["The old river.", "A quiet garden.", "This farmer watched every bridge.", "That winter."]


def test_equal_documents_are_dropped_on_demand_and_counted(
    made: Build, tiny_tokenizer: WordPieceTokenizer
) -> None:
    documents = ["\n".join(LINES[:2]), LINES[2], "\n".join(LINES[:2]), LINES[3], LINES[2], LINES[2]]
    found = made("\n\n".join(documents), "--drop_duplicates=documents").corpus
    assert found["documents"] == 3
    assert found["sentences"] == 4
    assert found["dropped"]["duplicate_documents"] == 3
    tokens = [sum(len(tiny_tokenizer.encode(line)) for line in d.split("\n")) for d in documents]
    assert found["tokens"] == tokens[0] + tokens[1] + tokens[3]
    assert found["duplicate_share"] == pytest.approx(1 - found["tokens"] / sum(tokens))


def test_a_long_document_that_stands_there_twice_counts_once(made: Build) -> None:
    # Longer than what a part of a document holds; the numbers tell its parts apart.
    long = "\n".join(f"{LINES[0]} {i}" for i in range(2 * PART_BYTES // len(LINES[0])))
    found = made("\n\n".join([long, LINES[1], long]), "--drop_duplicates=documents").corpus
    assert found["documents"] == 2
    assert found["dropped"]["duplicate_documents"] == 1


def test_equal_documents_stay_unless_told_otherwise(made: Build) -> None:
    found = made(f"{LINES[0]}\n\n{LINES[0]}\n\n{LINES[1]}").corpus
    assert found["documents"] == 3
    assert found["dropped"]["duplicate_documents"] == 0


def test_short_documents_are_dropped_on_demand_and_counted(
    made: Build, tiny_tokenizer: WordPieceTokenizer
) -> None:
    least = len(tiny_tokenizer.encode(LINES[0]))
    documents = [*LINES, f"{LINES[3]}\n{LINES[3]}", "☃"]
    sizes = [sum(len(tiny_tokenizer.encode(x)) for x in d.split("\n")) for d in documents]
    found = made("\n\n".join(documents), f"--min_tokens={least}").corpus
    kept = [size for size in sizes if size >= least]
    assert found["documents"] == len(kept)
    assert found["tokens"] == sum(kept)
    assert found["dropped"]["short_documents"] == len(sizes) - len(kept) > 1
    # The histogram tells what was there, so that a better limit can be chosen.
    assert sum(found["documents_by_tokens_below"].values()) == len(documents)


def test_unknown_pieces_are_counted(made: Build, tiny_tokenizer: WordPieceTokenizer) -> None:
    text = "The ☃ river.\n\nA ☃ ☃."
    tokens = sum(len(tiny_tokenizer.encode(line)) for line in text.split("\n\n"))
    assert made(text).corpus["unknown_share"] == pytest.approx(3 / tokens)


def test_documents_of_one_sentence_make_pairs(
    made: Build, tiny_tokenizer: WordPieceTokenizer, tmp_path: Path
) -> None:
    made("\n\n".join(LINES), "--dupe_factor=20", "--short_seq_prob=0")
    rows = all_rows(tmp_path / "out")
    assert set(rows["next_sentence_labels"][:, 0].tolist()) == {0, 1}
    ids, mask, segments = (rows[n] for n in ("input_ids", "input_mask", "segment_ids"))
    for row in range(len(ids)):
        assert (ids[row][mask[row] > 0] == tiny_tokenizer.sep_id).sum() == 2
        assert 1 < segments[row].sum() < mask[row].sum() - 2


def test_ten_documents_are_enough(made: Build) -> None:
    found = made("\n\n".join(f"{LINES[i % 4]}\n{LINES[i % 3]}" for i in range(10)))
    assert found.corpus["documents"] == 10
    assert found.num_examples >= 10


def test_a_single_document_cannot_make_pairs_but_sentences(
    made: Build, command: Command, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    text = "\n".join(LINES)
    with pytest.raises(AssertionError):
        made(text)
    error = capfd.readouterr().err
    assert "holds 1 document(s), and --segments=nsp draws from another one" in error
    assert "a blank line between documents" in error and "--segments=doc_sentences" in error
    assert not (tmp_path / "out" / MANIFEST).exists()
    assert made(text, "--segments=doc_sentences").corpus["documents"] == 1
    # Nothing of the build that was refused is left.
    assert not (tmp_path / "out" / ".building").exists()


def test_an_endless_line_is_cut_and_nothing_of_it_is_lost(
    made: Build, monkeypatch: pytest.MonkeyPatch, tiny_tokenizer: WordPieceTokenizer
) -> None:
    monkeypatch.setattr(corpus, "PART_BYTES", 300)
    monkeypatch.setattr(corpus, "MAX_LINE_BYTES", 200)
    text = " ".join(LINES * 100)
    found = made(text, "--segments=doc_sentences").corpus
    assert found["documents"] == 1
    assert found["sentences"] > len(text) // 500
    assert found["tokens"] == len(tiny_tokenizer.encode(text))
    # A document's tokens are counted together, in however many parts it lies.
    power = str(1 << found["tokens"].bit_length())
    assert found["documents_by_tokens_below"] == {power: 1}


def test_documents_too_short_for_two_segments_are_refused(
    made: Build, capfd: pytest.CaptureFixture[str]
) -> None:
    """A document of one token cannot be cut in two."""
    with pytest.raises(AssertionError):
        made("The\n\nThe\n\nThe", "--segments=sop")
    assert "no document is long enough for --segments=sop" in capfd.readouterr().err


def test_text_without_any_tokens_is_refused(made: Build, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(AssertionError):
        made("The river.\n\nA garden.", "--min_tokens=1000")
    assert "all documents are shorter than --min_tokens" in capfd.readouterr().err


# --- Every kind of record -------------------------------------------------------------------

KINDS: tuple[list[str], ...] = ([], ["--masking=dynamic"], ["--masking=dynamic", "--packed"])


@pytest.mark.parametrize("segments", list(FORMATS))
@pytest.mark.parametrize("kind", KINDS, ids=["static", "dynamic", "packed"])
def test_every_kind_of_records_is_consistent(
    segments: str,
    kind: list[str],
    command: Command,
    tiny_corpus: Path,
    tiny_vocabulary: Path,
    tiny_tokenizer: WordPieceTokenizer,
    tmp_path: Path,
) -> None:
    flags = [f"--input={tiny_corpus}", f"--vocab={tiny_vocabulary}", "--keep_lines"]
    flags += ["--max_seq_length=64", "--dupe_factor=1", f"--segments={segments}", *kind]
    assert command(prepare, *flags, f"--output={tmp_path}", "--workers=1") == 0
    manifest, rows = manifests.load(tmp_path), all_rows(tmp_path)
    wanted, t = FORMATS[segments], tiny_tokenizer
    assert manifest.pairs == (wanted.specials == 3)
    assert manifest.has_label == wanted.has_label
    assert (manifest.dynamic, manifest.packed) == (bool(kind), "--packed" in kind)
    lengths = rows["lengths"] if kind else rows["input_mask"].sum(axis=1)
    assert manifest.padding_share == pytest.approx(1 - lengths.mean() / 64)
    sequences = []
    for ids, length in zip(rows["input_ids"], lengths, strict=True):
        row = ids[:length]
        assert row[0] == t.cls_id
        assert row[-1] == t.sep_id
        begins, ends = row == t.cls_id, row == t.sep_id
        sequences.append(int(begins.sum()))
        if wanted.joins:
            assert ends.sum() >= begins.sum() == 1
        else:
            assert ends.sum() == begins.sum() * (wanted.specials - 1)
            # Every sequence begins behind the end of the one before it.
            assert row[:-1][begins[1:]].tolist() == [t.sep_id] * (begins.sum() - 1)
    assert max(sequences) == manifest.max_sequences
    assert (max(sequences) > 1) == (manifest.packed and not wanted.joins)
    labels = rows.get("next_sentence_labels")
    if wanted.has_label:
        assert labels is not None
        there = np.arange(labels.shape[1]) < np.array(sequences)[:, None]
        assert set(labels[there].tolist()) == {0, 1}
        assert not labels[~there].any()
    else:
        assert labels is None or not labels.any()
    if wanted.specials == 2 and kind:
        # Every token of the text stands in one row.
        found = rows["input_ids"][np.arange(64) < lengths[:, None]]
        text = [i for line in tiny_corpus.read_text().split("\n") for i in t.encode(line)]
        assert Counter(found[~np.isin(found, [t.cls_id, t.sep_id])].tolist()) == Counter(text)


# --- By the command -------------------------------------------------------------------------


def test_words_of_the_text_are_added_to_a_vocabulary(
    made: Build, tiny_tokenizer: WordPieceTokenizer, tmp_path: Path
) -> None:
    text = "\n\n".join(["The zebra watched a xylophone.", "A zebra."] * 3)
    manifest = made(text, "--extend=2")
    extended = tokenizer.load(tmp_path / "out")
    # Two words, and unused entries up to a multiple of 8.
    assert (
        manifest.vocab_size == extended.vocab_size == -(-(tiny_tokenizer.vocab_size + 2) // 8) * 8
    )
    assert manifest.tokenizer["fingerprint"] == extended.fingerprint
    old = range(tiny_tokenizer.vocab_size)
    assert extended.pieces(old) == tiny_tokenizer.pieces(old)
    assert len(extended.encode("zebra xylophone")) == 2 < len(tiny_tokenizer.encode("zebra"))
    ids = all_rows(tmp_path / "out")["masked_lm_ids"]
    assert ids.max() >= tiny_tokenizer.vocab_size


def test_words_can_only_be_added_to_a_given_vocabulary(
    command: Command, tiny_corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [f"--input={tiny_corpus}", f"--output={tmp_path / 'out'}", "--extend=2"]
    assert command(prepare, *flags) == 2
    assert "give it with --vocab" in capsys.readouterr().err
    assert command(prepare, *flags[:2], "--extend=-2") == 2
    assert "--extend=-2: give a number of words" in capsys.readouterr().err
