"""A log is not filled with what a terminal overwrites."""

from __future__ import annotations

import sys

import pytest

from bertjax.progress_bar import progress_bar


@pytest.mark.parametrize(("live", "states"), [(True, 100), (False, 2)])
def test_a_log_gets_a_state_now_and_then(
    live: bool, states: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: live)
    for _ in progress_bar(range(100), mininterval=0) if live else progress_bar(range(100)):
        pass
    shown = capsys.readouterr().err.count("\r")
    assert shown >= states if live else shown == states
