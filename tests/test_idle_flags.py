"""Flags of prepare that would change nothing are refused before any text is read."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from bertjax import compare, prepare
from bertjax.data import idle_flags
from bertjax.data.segments import FORMATS, SegmentSettings, TokenStore, Walker
from bertjax.errors import UserError

Command = Callable[..., int]
ROOT = Path(__file__).parents[1]
FILES = ["--input=none.txt", "--output=none"]
RECORDS = "--input holds records, which stay as they are"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        # The value of a default is idle, too.
        (["--vocab=v", "--vocab_size=8192"], "--vocab_size: nothing is learnt with --vocab"),
        (["--vocab=v", "--vocab_kind=wordpiece"], "--vocab_kind: nothing is learnt with --vocab"),
        (["--vocab=v", "--min_count=2", "--extend=3"], "--min_count: nothing is learnt"),
        (["--min_count=5"], "--min_count: is for --vocab_kind=words"),
        (["--min_count=2", "--vocab_kind=sentencepiece"], "--min_count: is for --vocab_kind=words"),
        (
            ["--short_seq_prob=0", "--segments=sentence_pair"],
            "--short_seq_prob: --segments=sentence_pair makes none shorter",
        ),
        (["--language=de", "--keep_lines"], "--language: no line is split with --keep_lines"),
        (
            ["--runner=DirectRunner", "--vocab=v", "--memory=much", "--workers=3"],
            "--workers, --memory: the machines of --runner are set by its own options",
        ),
    ],
)
def test_idle_flags_are_refused(
    flags: list[str], message: str, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(prepare, *FILES, *flags) == 2
    assert capsys.readouterr().err.startswith(f"error: {message}")


def test_of_records_that_are_made_only_the_vocabulary_is_asked(
    command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.tfrecord").touch()
    given = [f"--input={tmp_path}", f"--output={tmp_path / 'out'}", "--vocab=none", "--cased"]
    settings = [
        "--masking=dynamic",
        "--packed",
        "--max_seq_length=128",
        "--extend=1",
        "--workers=1",
    ]
    for idle in [*([flag] for flag in settings), settings]:
        assert command(prepare, *given, *idle) == 2
        refused = capsys.readouterr().err.removeprefix("error: ")
        names, _, why = refused.partition(": ")
        assert set(names.split(", ")) == {flag.partition("=")[0] for flag in idle}
        assert why.startswith(RECORDS)
    assert command(prepare, *given) == 2  # for there is no such vocabulary
    assert RECORDS not in capsys.readouterr().err


@pytest.mark.parametrize(
    "flags",
    [
        ["--vocab_kind=words", "--min_count=2", "--vocab_size=100", "--memory=3GB"],
        ["--vocab=v", "--extend=3", "--cased", "--language=de", "--workers=2"],
        ["--vocab=v", "--runner=DirectRunner", "--seed=3", "--num_shards=2"],
        ["--keep_lines"],
        ["--short_seq_prob=0", "--segments=sop"],
        [],
    ],
)
def test_flags_that_are_read_pass(flags: list[str]) -> None:
    idle_flags.check(prepare.parse_arguments([*FILES, *flags]))


def _commands() -> list[list[str]]:
    """The flags of every prepare in the README and in the configs."""
    texts = [path.read_text() for path in (ROOT / "README.md", *(ROOT / "configs").glob("*.py"))]
    lines = [
        line.strip()
        for text in texts
        for line in text.replace("\\\\\n", " ").replace("\\\n", " ").splitlines()
    ]
    start = "python -m bertjax.prepare "
    return [line.removeprefix(start).split() for line in lines if line.startswith(start)]


def test_the_commands_of_the_documentation_have_no_idle_flags() -> None:
    assert len(_commands()) > 8
    for given in _commands():
        idle_flags.check(prepare.parse_arguments(given))


def test_a_comparison_gives_no_idle_flags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Held-out text has the vocabulary of the other, however that was made."""
    learnt = ("--vocab_kind=words", "--vocab_size=100", "--min_count=2", "--packed")
    added = ("--vocab=v", "--extend=3", "--packed")
    kinds = {"learnt": learnt, "added": added}
    wanted: Any = SimpleNamespace(
        records=kinds, systems=[SimpleNamespace(records=k) for k in kinds]
    )
    flags: Any = SimpleNamespace(workdir=tmp_path, held_out=0.1, input=["a.txt"])
    made: list[list[str]] = []
    monkeypatch.setattr(
        compare, "call", lambda name, given: made.append(given) if name == "prepare" else None
    )
    compare.prepare_text(flags, wanted)
    parsed = [prepare.parse_arguments(given) for given in made]
    for one in parsed:
        idle_flags.check(one)
    vocabularies = [tmp_path / "records" / kind for kind in kinds]
    assert [one.vocab for one in parsed[1::2]] == vocabularies
    assert [(one.extend, one.packed) for one in parsed[1::2]] == [(0, True)] * 2


@pytest.mark.parametrize("segments", FORMATS)
def test_the_share_of_shorter_pairs_is_idle_just_where_it_changes_nothing(segments: str) -> None:
    sentences = np.arange(0, 401, 4)
    store = TokenStore(np.arange(400), sentences, np.array([0, 50, 100]), np.arange(2))
    here = Walker(*(np.repeat(part, 8) for part in np.array([[0], [0], [50], [0], [128]])))
    settings = [SegmentSettings(segments, 128, share) for share in (0.0, 1.0)]
    found = [FORMATS[segments].step(store, here, s, np.random.default_rng(0)) for s in settings]
    same = all(map(np.array_equal, *found))
    flags = prepare.parse_arguments([*FILES, f"--segments={segments}", "--short_seq_prob=1"])
    with pytest.raises(UserError) if same else nullcontext():
        idle_flags.check(flags)
