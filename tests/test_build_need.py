"""What a build needs is told before it starts."""

from __future__ import annotations

import gzip
import random
import shutil
from pathlib import Path
from typing import NamedTuple

import pytest

from bertjax.data import build_need
from bertjax.data.build_settings import BuildSettings
from bertjax.errors import UserError


class Usage(NamedTuple):
    total: int
    used: int
    free: int


# --- Memory ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("2GB", 2 * 10**9),
        ("1.5G", 1_500_000_000),
        (" 800 mb ", 800_000_000),
        ("500M", 500_000_000),
        ("4GiB", 4 * 10**9),
        ("0.5T", 500 * 10**9),
        ("900000k", 900_000_000),
        ("500000000", 500_000_000),
        ("600000000B", 600_000_000),
    ],
)
def test_memory_is_given_in_units(given: str, wanted: int) -> None:
    assert build_need.parse_memory(given) == wanted


@pytest.mark.parametrize("given", ["", "GB", "two", "-2GB", "2GB2", "2,5GB", "2XB", "1e9", "."])
def test_what_is_no_memory_is_refused(given: str) -> None:
    with pytest.raises(UserError) as error:
        build_need.parse_memory(given)
    assert str(error.value) == f"--memory={given}: write it like 2GB or 800MB"


@pytest.mark.parametrize("given", ["499MB", "0", "2", "0.4GB"])
def test_too_little_memory_is_refused(given: str) -> None:
    with pytest.raises(UserError) as error:
        build_need.parse_memory(given)
    assert str(error.value) == f"--memory={given}: give at least 500MB"


def test_fewer_workers_than_wanted_are_said_aloud(capsys: pytest.CaptureFixture[str]) -> None:
    assert build_need.workers(4, 2 * 10**9) == 4
    assert capsys.readouterr().out == ""
    assert build_need.workers(64, 2 * 10**9) == 6
    assert capsys.readouterr().out == "6 of 64 workers fit into --memory=2GB\n"


def test_the_least_memory_has_room_for_one_worker() -> None:
    assert build_need.workers(2, build_need.parse_memory("500MB")) == 1


def test_processes_and_runs_stay_within_the_memory() -> None:
    """Tokens of a run stand in memory twice when they are sorted."""
    for memory in (10**9, 4 * 10**9, 64 * 10**9):
        processes = 150 * 10**6 + build_need.workers(10**6, memory) * 200 * 10**6
        assert processes + 2 * build_need.run_bytes(memory) <= memory


# --- Disk -----------------------------------------------------------------------------------


def test_text_is_estimated_from_the_files(tmp_path: Path) -> None:
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefgh", k=rng.randint(1, 9))) for _ in range(500)]
    text = " ".join(rng.choices(words, k=20_000)).encode()
    plain, packed = tmp_path / "a.txt", tmp_path / "a.jsonl.gz"
    plain.write_bytes(text)
    packed.write_bytes(gzip.compress(text))
    assert build_need.text_bytes([plain]) == len(text)
    assert 0.7 < build_need.text_bytes([packed]) / len(text) < 1.4
    assert build_need.text_bytes([plain, "tfds:wiki", plain]) == 2 * len(text)
    assert build_need.text_bytes([]) == 0


def check(free: int, text: int, output: Path, settings: BuildSettings) -> str:
    """What is said where so many bytes are free."""
    asked: list[Path] = []

    def disk_usage(path: Path) -> Usage:
        asked.append(path)
        return Usage(free, 0, free)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shutil, "disk_usage", disk_usage)
        try:
            build_need.check_disk(output, text, settings)
        except UserError as error:
            return str(error)
        finally:
            assert asked == [next(p for p in (output, *output.parents) if p.exists())]
    return ""


def test_a_build_that_does_not_fit_on_the_disk_is_refused_with_the_mend(tmp_path: Path) -> None:
    output = tmp_path / "records" / "books"
    told = check(5 * 10**9, 4 * 10**9, output, BuildSettings(dupe_factor=5))
    assert told == (
        f"{output}: the build will take about 43.2 GB, the disk has 5.0 GB free; choose another "
        "--output, a smaller --dupe_factor or --masking=dynamic"
    )
    assert check(50 * 10**9, 4 * 10**9, output, BuildSettings(dupe_factor=5)) == ""
    assert not output.parent.exists()


def test_the_advised_settings_need_less(tmp_path: Path) -> None:
    free, text = 11 * 10**9, 4 * 10**9
    assert check(free, text, tmp_path, BuildSettings(dupe_factor=2))
    assert check(free, text, tmp_path, BuildSettings(dupe_factor=1)) == ""
    assert check(free, text, tmp_path, BuildSettings(dupe_factor=3, masking="dynamic")) == ""


def test_of_data_sets_nothing_is_known_and_nothing_is_refused(tmp_path: Path) -> None:
    assert check(0, 0, tmp_path, BuildSettings()) == ""


def test_a_relative_output_is_looked_up_from_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    build_need.check_disk(Path("records/books"), 1, BuildSettings())
