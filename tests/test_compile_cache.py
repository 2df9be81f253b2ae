"""Where compiled programs are kept."""

from __future__ import annotations

from pathlib import Path

import jax
import pytest

from bertjax import compile_cache


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "bertjax" / "compiled"


def test_machines_that_share_a_home_share_no_programs(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program compiled for instructions that another machine lacks would end it."""
    facts = tmp_path / "cpuinfo"
    monkeypatch.setattr(compile_cache, "_CPU_FACTS", facts)
    folders = []
    for flags in ("fpu avx2", "fpu avx2 avx512f", "fpu avx2"):
        facts.write_text(f"processor : 0\nflags : {flags}\n")
        folders.append(compile_cache.folder())
    assert folders[0] == folders[2] != folders[1]
    assert {folder.parent for folder in folders} == {home}


@pytest.mark.parametrize("own", [None, "elsewhere"])
def test_a_folder_of_the_user_s_own_wins(
    own: str | None, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_to: dict[str, object] = {}
    monkeypatch.setattr(jax.config, "update", set_to.__setitem__)
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    if own:
        monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", own)
    compile_cache.turn_on()
    found = set_to.get("jax_compilation_cache_dir")
    assert found == (None if own else str(compile_cache.folder()))
