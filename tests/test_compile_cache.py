"""Where compiled programs are kept."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
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


# What compiles fast is kept, too, so that nothing hangs on how busy the machine is.
CHILD = """
import sys
from bertjax import compile_cache, distributed, finetune
compile_cache._LEAST_SECONDS = 0.0
sys.exit(distributed.run(finetune.main))
"""


def test_a_second_fine_tuning_compiles_nothing(
    home: Path, tmp_path: Path, tiny_vocabulary: Path
) -> None:
    """All programs of the first process serve the second, which has another folder."""
    model, data = shutil.copytree(tiny_vocabulary, tmp_path / "model"), tmp_path / "data"
    config = {"model_type": "bert", "vocab_size": 160, "hidden_size": 16, "num_hidden_layers": 1}
    config |= {"num_attention_heads": 2, "intermediate_size": 32}
    (model / "config.json").write_text(json.dumps(config))
    data.mkdir()
    for name in ("train", "dev"):
        rows = "".join(f"the river {n % 2},{n % 2}\n" for n in range(16))
        (data / f"{name}.csv").write_text(f"sentence,label\n{rows}")
    flags = ["--task=classify", f"--data_dir={data}", f"--init=scratch:{model}", "--epochs=1"]
    flags += ["--batch_size=8", "--max_seq_length=32"]
    # On one device, whose programs are small, and not in the folder that tests share.
    others = ("XLA_FLAGS", "JAX_COMPILATION_CACHE_DIR")
    environment = {name: value for name, value in os.environ.items() if name not in others}

    def programs(run: str) -> set[str]:
        """What is kept after a run."""
        command = [sys.executable, "-c", CHILD, *flags, f"--workdir={tmp_path / run}"]
        subprocess.run(command, env=environment, check=True, capture_output=True)
        return {path.name for path in home.rglob("*-cache")}

    first = programs("first")
    assert {"jit_step", "jit_predict"} <= {name.partition("-")[0] for name in first}
    assert programs("second") == first
