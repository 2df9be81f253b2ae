"""What predictions are called, that those of the training stay as they are, and who may vote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import softmax

from bertjax.data.rows import Row
from bertjax.errors import UserError
from bertjax.finetuning import finished
from bertjax.finetuning.finished import Finished
from bertjax.tasks.base import Context, Encoded, Options
from bertjax.tasks.sentences import Example
from bertjax.tasks.table import TASKS
from bertjax.text.tokenizer import WordPieceTokenizer


def test_of_a_run_that_is_not_finished_the_way_on_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A command that would be refused is not the way."""

    def stop(*_: Any, **__: Any) -> None:
        raise UserError("far enough")

    def told() -> str:
        with pytest.raises(UserError, match="far enough"):
            finished.load(tmp_path, mesh)
        return capsys.readouterr().out

    mesh: Any = None
    monkeypatch.setattr(finished.checkpoint, "load_params", stop)
    (tmp_path / "config.json").write_text('{"kind": "finetune"}')
    begins = f"{tmp_path}: not finished, its best checkpoint so far is taken; "
    assert told() == f"{begins}the command of its training goes on\n"
    (tmp_path / "diverged.txt").write_text("the loss is not finite\n")
    assert told().startswith(f"{begins}it diverged, as diverged.txt there tells: train in another")
    (tmp_path / "metrics.json").write_text("{}")
    assert told() == ""


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("new.csv", "new"),
        ("dev-v1.1.json", "dev-v1.1"),
        ("eng.testa", "eng.testa"),
        ("eng.testb.txt", "eng.testb"),
        ("a.b.jsonl", "a.b"),
        ("words", "words"),
    ],
)
def test_only_the_end_that_tells_the_kind_is_left_out(file: str, name: str) -> None:
    assert finished.name_of(Path("folder.txt", file)) == name


def test_the_training_s_own_predictions_are_not_replaced(tmp_path: Path) -> None:
    finished.check_output(tmp_path, ["dev"])
    known = {"digests": {"train": "a", "dev": "b", "ax": "c"}}
    (tmp_path / "metrics.json").write_text(json.dumps(known))
    finished.check_output(tmp_path, ["new", "test"])
    for split in ("dev", "ax"):
        with pytest.raises(UserError, match=rf"own predictions of {split}; .*--output=DIR"):
            finished.check_output(tmp_path, ["new", split])


def test_members_of_an_ensemble_must_agree(tiny_tokenizer: WordPieceTokenizer) -> None:
    context = Context(tiny_tokenizer, ["no", "yes"], Options())
    shape: Any = None
    first = Finished(Path("one"), TASKS["rte"], context, shape, shape, None)
    finished.check_alike([first])
    finished.check_alike([first, first])
    others = {
        "task": first._replace(task=TASKS["wnli"]),
        "labels": first._replace(context=context._replace(labels=["yes", "no"])),
        "options": first._replace(context=context._replace(options=Options(max_seq_length=9))),
    }
    for what, other in others.items():
        with pytest.raises(UserError, match=rf"^two: its {what} differ\(s\) from one's;"):
            finished.check_alike([first, first, other._replace(run=Path("two"))])


def test_an_ensemble_answers_by_the_mean_of_its_members_scores(
    tiny_tokenizer: WordPieceTokenizer,
) -> None:
    """Of scores, not of probabilities: the mean of those would be for the other label."""
    context = Context(tiny_tokenizer, ["no", "yes"], Options())
    scores = [[9.0, 0.0], [0.0, 2.0], [0.0, 2.0]]
    members = [
        Finished(Path(), TASKS["rte"], context, lambda params, *_: [params], None, np.array(own))
        for own in scores
    ]
    examples, encoded = [Example("a", "b", None, "x:1")], [Encoded([Row([1, 2], 2)], {})] * 3
    (found,) = finished.predict(members, examples, encoded)
    np.testing.assert_allclose(found.probabilities, softmax([3, 4 / 3]))
    assert found.label == "no"
