"""Records of the 2018 builder are taken over as they are, checked, with a manifest."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bertjax import prepare
from bertjax.data import manifest as manifests
from bertjax.data import tfrecord
from bertjax.data.input import eval_batches
from bertjax.data.records import Records

Command = Callable[..., int]


@pytest.fixture
def foreign(tiny_records: Path, tmp_path: Path) -> Path:
    """Shards without index or manifest, as another builder leaves them."""
    folder = tmp_path / "foreign"
    folder.mkdir()
    for path in tiny_records.glob("*.tfrecord"):
        (folder / f"tf_examples.tfrecord-{path.name[8:13]}").write_bytes(path.read_bytes())
    return folder


def test_the_records_read_as_they_were(
    command: Command, foreign: Path, tiny_records: Path, tiny_vocabulary: Path, tmp_path: Path
) -> None:
    output = tmp_path / "records"
    given = [f"--input={foreign}/*.tfrecord*", f"--vocab={tiny_vocabulary}", f"--output={output}"]
    assert command(prepare, *given) == 0
    ours, theirs = Records(tiny_records), Records(output)
    assert len(ours) == len(theirs)
    for one, other in zip(
        eval_batches(ours, batch_size=16), eval_batches(theirs, batch_size=16), strict=True
    ):
        for name, value in one.items():
            assert np.array_equal(value, other[name]), name
    made, taken = ours.manifest, theirs.manifest
    assert taken.max_seq_length == made.max_seq_length
    assert taken.max_predictions_per_seq == made.max_predictions_per_seq
    assert taken.padding_share == pytest.approx(made.padding_share)
    # The text is counted before its masks: about the entropy of the corpus itself.
    assert taken.corpus["unigram_entropy"] == pytest.approx(made.corpus["unigram_entropy"], 0.03)
    assert command(prepare, *given) == 0  # again: reused


def test_what_does_not_fit_is_named(
    command: Command,
    foreign: Path,
    tiny_vocabulary: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refused(*flags: str) -> str:
        output = f"--output={tmp_path / 'records'}"
        assert command(prepare, f"--input={foreign}", output, *flags) == 2
        assert not (tmp_path / "records" / manifests.MANIFEST).exists()
        return capsys.readouterr().err

    assert "give the vocabulary they were made with" in refused()
    small = tmp_path / "small"
    small.mkdir()
    tokens = (tiny_vocabulary / "vocab.txt").read_text().splitlines()[:40]
    (small / "vocab.txt").write_text("\n".join(tokens))
    assert "--vocab has 40 entries" in refused(f"--vocab={small}")
    shard = sorted(foreign.iterdir())[1]
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-3])
    assert f"{shard}: truncated inside the record at byte" in refused(f"--vocab={tiny_vocabulary}")
    damaged = bytearray(whole)
    damaged[30] ^= 1
    shard.write_bytes(damaged)
    assert f"{shard}: a record whose checksum" in refused(f"--vocab={tiny_vocabulary}")
    with shard.open("wb") as file:
        tfrecord.write(file, [b""])
    assert f"{shard}: not all of its records have length" in refused(f"--vocab={tiny_vocabulary}")
    first = sorted(foreign.iterdir())[0]
    with first.open("wb") as file:
        tfrecord.write(file, [b""])
    assert "have no input_ids" in refused(f"--vocab={tiny_vocabulary}")


def test_records_and_text_are_not_mixed(
    command: Command, foreign: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.txt").write_text("text")
    given = ["--input", f"{foreign}/*.tfrecord*", tmp_path / "a.txt"]
    assert command(prepare, *given, f"--output={tmp_path / 'records'}") == 2
    assert "both text and .tfrecord files" in capsys.readouterr().err
