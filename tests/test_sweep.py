"""Many runs: the paper's grid, a table that is true, and only the best run's weights."""

from __future__ import annotations

import json
import random
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bertjax import finetune, own_command, reproduce
from bertjax.finetuning import from_flags, sweep, tuning
from bertjax.finetuning.method import Point
from bertjax.tasks.table import TASKS
from bertjax.training.skipped_updates import Diverged

Command = Callable[..., int]
FIRST = Point(batch_size=32, learning_rate=3e-5, epochs=3, seed=7)


def test_the_grid_is_the_paper_s() -> None:
    """Appendix A.3: batch 16, 32; rate 5e-5, 3e-5, 2e-5; epochs 2, 3, 4."""
    points = sweep.grid(FIRST, seeds=2)
    assert len(set(points)) == len(points) == 2 * 2 * 3 * 3
    assert {p.batch_size for p in points} == {16, 32}
    assert {p.learning_rate for p in points} == {5e-5, 3e-5, 2e-5}
    assert {p.epochs for p in points} == {2, 3, 4}
    assert {p.seed for p in points} == {7, 8}
    assert len({p.name for p in points}) == len(points)


def test_what_is_given_is_not_searched() -> None:
    points = sweep.grid(FIRST, seeds=1, fixed=["epochs", "learning_rate"])
    assert points == [Point(batch, 3e-5, 3, 7) for batch in (16, 32)]


def test_a_head_on_a_frozen_encoder_has_rates_of_its_own() -> None:
    """Whatever the task, but for what is given; the rest is as with a tuned encoder."""

    def points(*given: str) -> list[Point]:
        flags = finetune.parse_arguments(["--task=conll", "--encoder=frozen", *given])
        return from_flags.all_points(flags, TASKS["conll"])

    (point,) = points()
    assert point == Point(batch_size=32, learning_rate=1e-3, epochs=4, seed=0)
    (point,) = points("--learning_rate=2e-5")
    assert point.learning_rate == 2e-5
    swept = points("--sweep", "--seeds=1")
    assert len(set(swept)) == len(swept) == 2 * 3 * 3
    assert {point.learning_rate for point in swept} == {1e-3, 3e-3, 3e-4}
    assert {p.learning_rate for p in points("--sweep", "--learning_rate=2e-5")} == {2e-5}


class Bench:
    """Stands in for training: every point has its score, and leaves weights behind."""

    def __init__(
        self, scores: list[float], collapsed: tuple[int, ...] = (), perfect: float = 1.0
    ) -> None:
        self.points = sweep.repeated(FIRST, len(scores))
        self.scores = dict(zip(self.points, scores, strict=True))
        self.collapsed, self.perfect, self.trained = collapsed, perfect, 0

    def tune(self, folder: Path, point: Point) -> dict[str, Any]:
        if not (folder / "metrics.json").exists():
            self.trained += 1
            (folder / "checkpoints").mkdir(parents=True)
            (folder / "metrics.json").touch()
        bad = point.seed in self.collapsed
        scale = {"primary": "accuracy", "perfect": self.perfect}
        return {"score": self.scores[point], "collapsed": bad, **scale}


def with_weights(workdir: Path) -> list[str]:
    return [path.parent.name for path in workdir.glob("*/checkpoints")]


def test_the_table_holds_median_mean_deviation_best_and_names_collapsed_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = [0.7, 0.5, 0.9, 0.5]
    bench = Bench(scores, collapsed=(8, 10))
    best = sweep.run(tmp_path, bench.points, bench.tune)
    found = json.loads((tmp_path / "sweep.json").read_text())
    (row,) = found["rows"]
    assert row["median"] == pytest.approx(0.6)
    assert row["mean"] == pytest.approx(0.65)
    assert row["deviation"] == pytest.approx(statistics.stdev(scores))
    assert row["best"] == 0.9
    assert row["collapsed"] == [8, 10]
    assert best.name == found["best"] == bench.points[2].name
    table = (tmp_path / "sweep.md").read_text()
    shown = "| 32 | 3e-05 | 3 | 4 | 0.6000 | 0.6500 | 0.1915 | 0.9000 | seed 8, seed 10 |"
    assert shown in table
    assert shown in capsys.readouterr().out


def test_the_table_is_on_the_scale_of_the_task(tmp_path: Path) -> None:
    bench = Bench([0.5, 0.9], perfect=100)
    sweep.run(tmp_path, bench.points, bench.tune)
    table = (tmp_path / "sweep.md").read_text()
    assert "| 70.0000 | 70.0000 | 28.2843 | 90.0000 | none |" in table


def test_only_the_best_run_keeps_its_weights(tmp_path: Path) -> None:
    bench = Bench([0.5, 0.8, 0.8, 0.6])
    best = sweep.run(tmp_path, bench.points, bench.tune)
    assert with_weights(tmp_path) == [best.name] == [bench.points[1].name]


def test_a_sweep_that_grows_names_a_run_with_weights_at_any_moment(tmp_path: Path) -> None:
    bench = Bench([0.5, 0.8, 0.6, 0.9, 0.95])
    sweep.run(tmp_path, bench.points[:2], bench.tune)
    named = []

    def tune(folder: Path, point: Point) -> dict[str, Any]:
        named.append(json.loads((tmp_path / "sweep.json").read_text())["best"])
        assert named[-1] in with_weights(tmp_path)
        return bench.tune(folder, point)

    sweep.run(tmp_path, bench.points, tune)
    assert named == [*[bench.points[1].name] * 4, bench.points[3].name]


def test_a_sweep_that_grows_may_find_an_equal_run_before_its_best(tmp_path: Path) -> None:
    bench = Bench([0.8, 0.5, 0.8, 0.6])
    sweep.run(tmp_path, bench.points[2:3], bench.tune)

    def tune(folder: Path, point: Point) -> dict[str, Any]:
        assert json.loads((tmp_path / "sweep.json").read_text())["best"] in with_weights(tmp_path)
        return bench.tune(folder, point)

    assert sweep.run(tmp_path, bench.points, tune).name == bench.points[0].name


def test_all_runs_keep_their_weights_if_they_are_to(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bench = Bench([0.5, 0.8, 0.6])
    best = sweep.run(tmp_path, bench.points, bench.tune, keep_all=True)
    assert best.name == bench.points[1].name
    assert sorted(with_weights(tmp_path)) == sorted(point.name for point in bench.points)
    assert "given up" not in capsys.readouterr().out


def test_weights_that_an_earlier_sweep_gave_up_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bench = Bench([0.5, 0.8])
    sweep.run(tmp_path, bench.points, bench.tune)
    sweep.run(tmp_path, bench.points, bench.tune, keep_all=True)
    said = capsys.readouterr().out
    assert f"the weights of {tmp_path / bench.points[0].name} were given up by a sweep" in said
    assert f"the weights of {tmp_path / bench.points[1].name}" not in said


@pytest.mark.parametrize("after", range(4))
def test_an_interrupted_sweep_ends_like_one_in_one_piece(after: int, tmp_path: Path) -> None:
    bench = Bench([0.5, 0.8, 0.7, 0.9])

    def tune(folder: Path, point: Point) -> dict[str, Any]:
        if bench.trained == after and not folder.exists():
            raise KeyboardInterrupt
        return bench.tune(folder, point)

    with pytest.raises(KeyboardInterrupt):
        sweep.run(tmp_path, bench.points, tune)
    best = sweep.run(tmp_path, bench.points, bench.tune)
    assert bench.trained == 4
    assert with_weights(tmp_path) == [best.name] == [bench.points[3].name]


@pytest.mark.parametrize("bad", [0, 1, 2])
def test_a_run_that_diverges_is_named_and_the_others_go_on(
    bad: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bench = Bench([0.5, 0.8, 0.7])
    lost = bench.points[bad].name

    def tune(folder: Path, point: Point) -> dict[str, Any]:
        if point.name == lost:
            (folder / "checkpoints").mkdir(parents=True)
            raise Diverged("not finite")
        return bench.tune(folder, point)

    best = sweep.run(tmp_path, bench.points, tune)
    assert with_weights(tmp_path) == [best.name] != [lost]
    found = json.loads((tmp_path / "sweep.json").read_text())
    assert found["diverged"] == [lost]
    assert found["runs"].keys() == {point.name for point in bench.points} - {lost}
    assert [row["seeds"] for row in found["rows"]] == [2]
    assert (tmp_path / "sweep.md").read_text().endswith(f"\n\ndiverged, and in no row: {lost}\n")
    assert f"{lost} diverged and is left out; {tmp_path / lost}/diverged.txt" in (
        capsys.readouterr().out
    )


def test_kinds_of_features_are_compared_over_their_seeds(tmp_path: Path) -> None:
    bench = Bench([0.7, 0.5, 0.9])
    best = sweep.run(tmp_path / "last", bench.points, bench.tune)
    alone = tmp_path / "mix"
    alone.mkdir()
    for run, score in ((best, 0.9), (alone, 0.4)):
        found = {"primary": "f1", "perfect": 1.0, "score": score}
        (run / "metrics.json").write_text(json.dumps(found))
    sweep.write_comparison(tmp_path, {"last": best, "mix": alone})
    _, _, *rows = (tmp_path / "layers.md").read_text().splitlines()
    assert rows == [
        "| last | 0.7000 | 0.2000 | 0.9000 | 3 |",
        "| mix | 0.4000 | - | 0.4000 | 1 |",
    ]


# --- By its command -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rte(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of GLUE with one task in it: does the second sentence name the river, too?"""
    folder, rng = tmp_path_factory.mktemp("glue") / "RTE", random.Random(0)
    folder.mkdir()
    for split, count in (("train", 24), ("dev", 12)):
        rows = ["index\tsentence1\tsentence2\tlabel"]
        for index in range(count):
            noun = rng.choice(["river", "garden"])
            label = "entailment" if noun == "river" else "not_entailment"
            rows.append(f"{index}\tthe old river\tthe {noun}\t{label}")
        (folder / f"{split}.tsv").write_text("\n".join(rows) + "\n")
    return folder.parent


@pytest.fixture(scope="module")
def swept(
    rte: Path, command: Command, tiny_run: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[str]]:
    run = tmp_path_factory.mktemp("swept")
    arguments = ["--task=rte", f"--data_dir={rte}", f"--init={tiny_run}", f"--workdir={run}"]
    arguments += ["--seeds=2", "--epochs=1", "--batch_size=8", "--max_seq_length=16"]
    assert command(finetune, *arguments) == 0
    return run, arguments


def test_seeds_differ_and_the_same_command_again_trains_nothing(
    swept: tuple[Path, list[str]], command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    run, arguments = swept
    before = json.loads((run / "sweep.json").read_text())
    assert len(before["runs"]) == 2
    assert command(finetune, *arguments) == 0
    assert capsys.readouterr().out.count("reusing") == 2
    assert json.loads((run / "sweep.json").read_text()) == before


def test_what_has_diverged_is_not_trained_again(
    swept: tuple[Path, list[str]],
    command: Command,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    flags = [*swept[1], f"--workdir={tmp_path}", "--learning_rate=1e30"]
    for _ in range(2):
        assert command(finetune, *flags) == 2
        said = capsys.readouterr()
        assert said.err.startswith(f"error: {tmp_path}: all runs diverged; take another --workdir")
        assert said.out.count("diverged and is left out") == 2
        monkeypatch.setattr(tuning.Tuner, "_train", None)
    reasons = [path.read_text() for path in tmp_path.glob("*/diverged.txt")]
    assert len(reasons) == 2 and all("not finite" in reason for reason in reasons)


def test_a_sweep_predicts_with_its_best_run(
    swept: tuple[Path, list[str]],
    rte: Path,
    command: Command,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run, _ = swept
    dev = rte / "RTE" / "dev.tsv"
    given = [f"--workdir={run}", f"--input={dev}", f"--output={tmp_path}"]
    assert command(finetune, "--mode=predict", *given) == 0
    best = json.loads((run / "sweep.json").read_text())["best"]
    assert f"{run}: a sweep; its best run is taken, {run / best}\n" in capsys.readouterr().out
    found = (tmp_path / "predictions-dev.tsv").read_bytes()
    assert found == (run / best / "predictions-dev.tsv").read_bytes()


def test_reproduce_sets_our_scores_beside_the_paper_s(
    swept: tuple[Path, list[str]], rte: Path, command: Command, tiny_run: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The command it runs is the one it shows; here that one's work is done already."""
    _, done = swept
    ran: list[list[str]] = []

    def run(made: list[str]) -> int:
        ran.append(made)
        rest = [flag for flag in done if flag.split("=")[0] not in ("--task", "--workdir")]
        workdir = next(flag for flag in made if flag.startswith("--workdir"))
        return command(finetune, "--task=rte", workdir, *rest)

    monkeypatch.setattr(own_command, "run_program", run)
    flags = [f"--data_dir={rte}", f"--init={tiny_run}", f"--workdir={tmp_path}", "--seeds=2"]
    assert command(reproduce, *flags) == 0
    ((_, *rest),) = ran
    said = capsys.readouterr().out
    assert f"$ python {' '.join(rest)}" in said
    assert "no data of squad: " in said
    table = (tmp_path / "paper.md").read_text()
    assert f"| `python {' '.join(rest)}` |" in table
    assert "| rte | accuracy | " in table
    assert " | 66.4 (test) | " in table
