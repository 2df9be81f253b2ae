"""The pipeline on Apache Beam writes the records that the local builder writes."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from bertjax import prepare
from bertjax.data import manifest as manifests

Command = Callable[..., int]
SEVERAL = ["--runner=DirectRunner", "--direct_num_workers=2"]
SEVERAL += ["--direct_running_mode=multi_processing"]


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory, tiny_corpus: Path) -> Path:
    """The tiny corpus in three files of three kinds, and a document twice."""
    folder = tmp_path_factory.mktemp("texts")
    documents = tiny_corpus.read_text().strip().split("\n\n")
    (folder / "a.txt").write_text("\n\n".join(documents[:5]))
    (folder / "b.txt.gz").write_bytes(gzip.compress("\n\n".join(documents[5:9]).encode()))
    rows = [json.dumps({"text": document}) for document in [*documents[9:], documents[0]]]
    (folder / "c.jsonl").write_text("\n".join(rows))
    return folder


@pytest.fixture(scope="module")
def flags(texts: Path, tiny_vocabulary: Path) -> list[str]:
    made = [f"--input={texts}", f"--vocab={tiny_vocabulary}", "--max_seq_length=32"]
    return [*made, "--num_shards=3", "--min_tokens=100", "--drop_duplicates=documents"]


@pytest.mark.parametrize(
    "kind", [["--dupe_factor=2"], ["--masking=dynamic", "--packed", "--segments=sop"]]
)
def test_several_processes_write_the_bytes_of_the_local_builder(
    kind: list[str], command: Command, flags: list[str], tmp_path: Path
) -> None:
    local, beam = tmp_path / "local", tmp_path / "beam"
    assert command(prepare, *flags, *kind, f"--output={local}", "--workers=1") == 0
    # The first in several processes, the second in this one.
    runner = SEVERAL if "--packed" not in kind else SEVERAL[:1]
    assert command(prepare, *flags, *kind, f"--output={beam}", *runner) == 0
    names = sorted(path.name for path in local.iterdir())
    assert sorted(path.name for path in beam.iterdir()) == names
    for name in set(names) - {manifests.MANIFEST}:
        assert (beam / name).read_bytes() == (local / name).read_bytes(), name
    ours, theirs = manifests.load(local), manifests.load(beam)
    assert theirs.shards == ours.shards
    assert theirs.corpus == ours.corpus
    assert ours.corpus["dropped"]["duplicate_documents"] == 1
    assert ours.corpus["dropped"]["short_documents"] > 0


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["--drop_duplicates=lines"], "--drop_duplicates does not go with --runner"),
        (["--extend=3"], "--extend does not go with --runner"),
        (["--input=nowhere/*.txt"], "no file matches nowhere/"),
    ],
)
def test_what_a_pipeline_cannot_do_is_refused(
    wrong: list[str],
    message: str,
    command: Command,
    flags: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = [f"--output={tmp_path / 'records'}", "--runner=DirectRunner"]
    assert command(prepare, *flags, *wrong, *output) == 2
    assert message in capsys.readouterr().err


def test_a_pipeline_needs_a_vocabulary(
    command: Command, texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [f"--input={texts}", f"--output={tmp_path}", "--runner=DirectRunner"]
    assert command(prepare, *given) == 2
    assert "--runner needs a vocabulary" in capsys.readouterr().err


def test_text_that_cannot_be_read_is_named(
    command: Command, flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bad.txt"
    path.write_bytes(b"fine\nGr\xf6\xdfe\n")
    given = [f"--input={path}", f"--output={tmp_path / 'records'}", "--runner=DirectRunner"]
    assert command(prepare, *flags, *given) == 2
    assert f"{path}:2: not UTF-8" in capsys.readouterr().err
    assert not (tmp_path / "records" / manifests.MANIFEST).exists()
