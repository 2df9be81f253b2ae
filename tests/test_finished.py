"""What predictions are called, and that those of the training stay as they are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bertjax.errors import UserError
from bertjax.finetuning import finished


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
    (tmp_path / "metrics.json").write_text(json.dumps({"predicted": ["dev", "ax"]}))
    finished.check_output(tmp_path, ["new", "test"])
    for split in ("dev", "ax"):
        with pytest.raises(UserError, match=rf"own predictions of {split}; .*--output=DIR"):
            finished.check_output(tmp_path, ["new", split])
