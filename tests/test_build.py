"""The builder writes the same bytes however often it is killed and on however many cores."""

from __future__ import annotations

import hashlib
import json
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

from bertjax import prepare, text
from bertjax.data import build, pairs, records
from bertjax.data.input import Records, eval_batches
from bertjax.errors import UserError
from bertjax.tokenizer import WordPieceTokenizer

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
    shards = [f"records-{i:05d}-of-00004.tfrecord" for i in range(4)]
    wanted = [*shards, "manifest.json", "vocab.txt", "tokenizer_config.json"]
    assert sorted(os.listdir(tiny_records)) == sorted(wanted)


# Kills itself and its workers, without any farewell, when stage 1 is done or two shards are.
KILLED = """
import os, signal, sys
from bertjax import prepare
from bertjax.data import build

def die(*_):
    os.killpg(0, signal.SIGKILL)

class Progress(build.tqdm):
    def update(self, n=1):
        super().update(n)
        if self.unit == "shard" and self.n == 2:
            die()

where = sys.argv.pop(1)
if where == "stage 1":
    build._write_shards = die
build.tqdm = Progress
prepare.main()
"""


def test_a_killed_build_goes_on_to_the_same_bytes_without_redoing_what_is_done(
    command: Command,
    arguments: list[str],
    tiny_records: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    output = tmp_path / "records"
    work = output / ".building"
    wanted = [*arguments, f"--output={output}", "--workers=1"]
    times: dict[str, int] = {}
    for where, existing in (("stage 1", "tokens.done"), ("stage 2", "shard-00001.json")):
        done = subprocess.run(
            [sys.executable, "-c", KILLED, where, *wanted],
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        assert done.returncode == -signal.SIGKILL
        assert (work / existing).exists()
        assert not (output / records.MANIFEST).exists()
        times[where] = (work / "tokens.bin").stat().st_mtime_ns
    # The second process did not tokenize again, nor does the third write finished shards again.
    assert times["stage 1"] == times["stage 2"]
    finished = [output / f"records-{i:05d}-of-00004.tfrecord" for i in range(2)]
    before = [path.stat().st_mtime_ns for path in finished]
    monkeypatch.setattr(build, "_write_store", None)
    assert command(prepare, *wanted) == 0
    assert [path.stat().st_mtime_ns for path in finished] == before
    assert content(output) == content(tiny_records)


def test_work_of_other_settings_is_not_continued(tmp_path: Path) -> None:
    work = build.open_work_folder(tmp_path, {"seed": 0})
    (work / "tokens.done").touch()
    assert (build.open_work_folder(tmp_path, {"seed": 0}) / "tokens.done").exists()
    assert not (build.open_work_folder(tmp_path, {"seed": 1}) / "tokens.done").exists()


# --- The manifest ---------------------------------------------------------------------------


def test_the_manifest_counts_the_corpus(
    tiny_records: Path, tiny_corpus: Path, tiny_tokenizer: WordPieceTokenizer
) -> None:
    documents = [part.splitlines() for part in tiny_corpus.read_text().split("\n\n")]
    pieces = [i for lines in documents for line in lines for i in tiny_tokenizer.encode(line)]
    counts = Counter(pieces)
    entropy = -sum(n / len(pieces) * math.log(n / len(pieces)) for n in counts.values())
    corpus = records.load_manifest(tiny_records).corpus
    assert corpus["documents"] == len(documents)
    assert corpus["sentences"] == sum(map(len, documents))
    assert corpus["tokens"] == len(pieces)
    assert corpus["pieces_used"] == len(counts)
    assert corpus["unknown_share"] == counts[tiny_tokenizer.unk_id] / len(pieces)
    assert corpus["unigram_entropy"] == pytest.approx(entropy, rel=1e-12)


def test_the_manifest_counts_the_records(tiny_records: Path) -> None:
    manifest = records.load_manifest(tiny_records)
    for shard in manifest.shards:
        data = (tiny_records / shard.file).read_bytes()
        assert shard.bytes == len(data)
        assert shard.sha256 == hashlib.sha256(data).hexdigest()
        assert shard.examples == len(records.ShardReader(tiny_records / shard.file))
    rows = all_rows(tiny_records)
    assert manifest.num_examples == len(rows["input_ids"]) > 100
    assert manifest.padding_share == pytest.approx(1 - rows["input_mask"].mean())


def test_the_manifest_names_the_settings_and_the_vocabulary(
    tiny_records: Path, tiny_tokenizer: WordPieceTokenizer
) -> None:
    manifest = records.load_manifest(tiny_records)
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
    number = records.load_manifest(tiny_records).num_examples
    assert capsys.readouterr().out == f"reusing {tiny_records}: {number} records\n"
    assert before == {path: path.stat().st_mtime_ns for path in tiny_records.iterdir()}


@pytest.mark.parametrize("other", ["--seed=1", "--max_seq_length=16", "--cased", "--language=de"])
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


def test_a_single_document_cannot_make_pairs(tmp_path: Path, tiny_vocabulary: Path) -> None:
    (tmp_path / "one.txt").write_text("The river.\nThe garden.\n")
    work = build.open_work_folder(tmp_path, {})
    with pytest.raises(UserError, match="holds 1 document"):
        build.build(
            text.blocks([tmp_path / "one.txt"]),
            tiny_vocabulary,
            tmp_path,
            build.BuildSettings(),
            work=work,
            workers=1,
            source={},
        )
    assert not (tmp_path / records.MANIFEST).exists()


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_seq_length": 7},
        {"max_predictions_per_seq": 0},
        {"max_seq_length": 16, "max_predictions_per_seq": 16},
        {"dupe_factor": 0},
        {"num_shards": -1},
        {"masked_lm_prob": 0.0},
        {"masked_lm_prob": 1.5},
        {"short_seq_prob": -0.1},
    ],
)
def test_settings_that_make_no_records_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(reversed(wrong))):
        build.BuildSettings(**wrong)


def test_no_shard_is_empty_and_a_large_corpus_gets_several() -> None:
    def shards(tokens: int, documents: int, wanted: int = 0) -> int:
        store = pairs.TokenStore(np.zeros(0), np.zeros(1), np.zeros(documents + 1))
        store = store._replace(tokens=np.broadcast_to(np.uint32(0), tokens))
        return build._num_shards(store, build.BuildSettings(num_shards=wanted))

    assert shards(100, documents=3, wanted=5) == 3
    assert shards(100, documents=3, wanted=2) == 2
    assert shards(100, documents=3) == 1
    # 50 million tokens, five times, in records of about 9 bytes a position.
    assert 30 < shards(50_000_000, documents=10_000) < 50


def test_the_manifest_is_json_that_a_person_can_read(tiny_records: Path) -> None:
    raw = json.loads((tiny_records / records.MANIFEST).read_text())
    assert raw["format_version"] == records.FORMAT_VERSION
    assert raw["shards"][0]["file"] in os.listdir(tiny_records)
