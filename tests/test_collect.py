"""The text to begin with keeps what is held out, and what the task asks on dev, from training."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from bertjax import collect
from bertjax.errors import UserError
from bertjax.starter.documentation import Document

LIBRARIES = ("alpha", "bravo")


def documents() -> list[Document]:
    """Two libraries of 150 modules with five passages of twenty words each."""
    made = []
    for number, library in enumerate(LIBRARIES):
        for module in range(150):
            docstrings = [
                [" ".join(["Word"] + [f"w{number}m{module}x{part}y{i}" for i in range(20)]) + "."]
                for part in range(5)
            ]
            made.append(Document(library, f"pack.m{module}", docstrings))
    return made


def run(output: Path, monkeypatch: pytest.MonkeyPatch, *more: str) -> None:
    monkeypatch.setattr(collect, "read_documentation", lambda workers: documents())
    monkeypatch.setattr("sys.argv", ["collect", "--output", str(output), *more])
    collect.main()


def test_no_module_of_the_dev_examples_is_trained_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path / "text", monkeypatch)
    train = (tmp_path / "text" / "train.txt").read_text()
    valid = (tmp_path / "text" / "valid.txt").read_text()
    dev = (tmp_path / "text" / "task" / "dev.tsv").read_text().splitlines()[1:]
    assert len(dev) == 200
    for row in dev:
        last_word = row.split("\t")[0].split()[-1]
        assert last_word in valid and last_word not in train
    assert len(train.split("\n\n")) + len(valid.split("\n\n")) == 300
    run(tmp_path / "text", monkeypatch)
    assert "reusing" in capsys.readouterr().out


def test_your_own_text_is_held_out_in_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [f"Sentence number {i} of a long book." for i in range(5000)]
    (tmp_path / "book.txt").write_text("\n".join(lines))
    run(tmp_path / "text", monkeypatch, "--input", str(tmp_path / "book.txt"), "--held_out=0.2")
    parts = [
        (tmp_path / "text" / name).read_text().split("\n") for name in ("train.txt", "valid.txt")
    ]
    kept = [[line for line in part if line] for part in parts]
    assert sorted(kept[0] + kept[1]) == sorted(lines)
    assert 0.05 < len(kept[1]) / 5000 < 0.4
    with pytest.raises(UserError, match="holds other text"):
        run(tmp_path / "text", monkeypatch)


def test_your_own_text_may_be_json_lines_with_a_field_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path, output = tmp_path / "a.jsonl.gz", tmp_path / "text"
    lines = [f"Am 3. Mai kam Nummer {i}. Und mehr." for i in range(50)]
    rows = [json.dumps({"body": line, "text": "of no use"}) for line in lines]
    path.write_bytes(gzip.compress("\n".join(rows).encode()))
    given = ["--input", str(path), "--held_out=0.3", "--language=de"]
    with pytest.raises(UserError, match="no text in a field 'content' .*--text_field"):
        run(output, monkeypatch, *given, "--text_field=content")
    assert not output.exists()
    run(output, monkeypatch, *given, "--text_field=body")
    text = (output / "train.txt").read_text() + (output / "valid.txt").read_text()
    wanted = [s for i in range(50) for s in (f"Am 3. Mai kam Nummer {i}.", "Und mehr.")]
    assert sorted(line for line in text.split("\n") if line) == sorted(wanted)
    # Another field is another text; the same command finds its own.
    for other in ("--text_field=text", "--language=en"):
        with pytest.raises(UserError, match="holds other text"):
            run(output, monkeypatch, *given, "--text_field=body", other)
    run(output, monkeypatch, *given, "--text_field=body")
    assert "reusing" in capsys.readouterr().out
