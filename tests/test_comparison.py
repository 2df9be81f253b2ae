"""The comparison by its command, small; and what it says of scores, budgets and contexts."""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bertjax import compare, finetune, own_command, prepare, settings
from bertjax.comparison import budget, contexts, findings, systems
from bertjax.comparison.findings import Mix, Ordering, Score
from bertjax.errors import UserError
from bertjax.tasks.table import TASKS
from bertjax.tasks.word_lists import WORD_TASKS
from bertjax.training import run_log
from bertjax.weights import pretrained

Command = Callable[..., int]
# Steps of a system, however slow they are here.
LEAST = 5
# Half of it for three systems.
SECONDS = 0.3

CONFIG = """
from ml_collections import ConfigDict


def get_config():
    bert = {"config": %(settings)r, "records": "pairs",
            "settings": ("model.hidden_dropout=0.0", "model.attention_dropout=0.0")}
    return ConfigDict({
        "records": {"pairs": ("--vocab_size=150", "--max_seq_length=32", "--masking=dynamic",
                              "--workers=1")},
        # Not in the order of the alphabet.
        "systems": ({"name": "other", **bert, "tuning": ("--learning_rate=0.002",)},
                    {"name": "bert", **bert, "settings": ("train.seed=1",)}),
        "ablations": ({"name": "wide", **bert, "paper": {"near": "98"}},),
        "tasks": (
            {"name": "near", "task": "classify", "needs": ("train.tsv", "dev.tsv"),
             "paper": {"bert": "99"},
             "options": ("--train={data}/train.tsv", "--dev={data}/dev.tsv")},
            {"name": "far", "needs": ("nowhere.tsv",), "options": ()},
        ),
        "tuning": ("--epochs=1", "--batch_size=16", "--max_seq_length=32"),
        "frozen": ("--learning_rate=0.004",),
        "ablation_tasks": ("near",),
        "contexts": {"river": ("the river crossed the garden", "the old river in the garden",
                               "this old river in the rain")},
    })
"""


# In what a comparison is killed for the first and the second time.
KILLED = ("pretrained/bert ", "tasks/bert/near/tuned ")


class Killed(BaseException):
    """Stands for SIGKILL: nobody heeds it."""


@pytest.fixture(scope="module")
def compared(
    tmp_path_factory: pytest.TempPathFactory, command: Command, tiny_corpus: Path,
    tiny_settings: Path,
) -> tuple[Path, list[str], list[str]]:  # fmt: skip
    """A comparison, killed twice and given again; its folder, its flags, the commands that it ran.

    Of those that it gave again each is named once.
    """
    folder = tmp_path_factory.mktemp("comparison")
    for split, rows in (("train", 32), ("dev", 16)):
        lines = [f"the {'river' if i % 2 else 'garden'} {i}\t{i % 2}" for i in range(rows)]
        text = "\n".join(["sentence\tlabel", *lines, ""])
        (folder / f"{split}.tsv").write_text(text, encoding="utf-8")
    config = folder / "compare.py"
    config.write_text(CONFIG % {"settings": str(tiny_settings)}, encoding="utf-8")
    flags = [f"--config={config}", f"--data_dir={folder}", f"--workdir={folder / 'runs'}"]
    flags += ["--input", str(tiny_corpus), f"--budget={SECONDS}s", "--seeds=2", "--held_out=0.3"]
    flags += ["--jobs=1"]
    ran: list[str] = []
    kills, keep = list(KILLED), run_log.RunLog.keep

    def call(module: str, arguments: Sequence[str], log: Path | None = None) -> None:
        ran.append(own_command.shown(module, arguments))
        assert command(importlib.import_module(f"bertjax.{module}"), *arguments) == 0

    def kept(self: run_log.RunLog, step: int, metrics: dict[str, float]) -> None:
        keep(self, step, metrics)
        if kills and kills[0] in ran[-1] and step > 1:
            raise Killed(kills.pop(0))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compare, "call", call)
        patch.setattr(budget, "call", call)
        for name, steps in (("_MEASURED", 4), ("_SECONDS", 0), ("_LEAST", LEAST)):
            patch.setattr(budget, name, steps)
        patch.setattr(run_log.RunLog, "keep", kept)
        for killed in KILLED:
            with pytest.raises(Killed, match=killed):
                command(compare, *flags)
        assert command(compare, *flags) == 0
    return folder / "runs", flags, list(dict.fromkeys(ran))


def test_a_killed_comparison_goes_on_where_it_was(
    compared: tuple[Path, list[str], list[str]],
) -> None:
    """What was whole is not begun again, what was not goes on from a step that was saved."""
    runs, _, _ = compared
    steps = {}
    for name in ("other", "bert"):
        starts = json.loads((runs / "pretrained" / name / "starts.json").read_text())["starts"]
        steps[name] = [start["step"] for start in starts]
    assert steps["other"] == [0]
    first, second = steps["bert"]
    assert first == 0 < second < LEAST


def test_every_system_has_records_training_tasks_and_a_place_in_the_report(
    compared: tuple[Path, list[str], list[str]],
) -> None:
    runs, _, ran = compared
    modules = [line.split()[2].removeprefix("bertjax.") for line in ran]
    # A measurement and a training of each; three readings of two systems, one of the third.
    assert modules.count("pretrain") == 6
    assert modules.count("finetune") == 7
    page = (runs / "report.md").read_text(encoding="utf-8")
    for said in ("| bert | tuned |", "| other | frozen, mix |", "in the paper | 99 |"):
        assert said in page
    # The first is the best by the papers.
    assert "other over bert, tuned" in page and "bert over other" not in page
    assert "| any | always the same answer | 50.0 |" in page
    assert f"Left out for want of files: far ({runs.parent / 'nowhere.tsv'})" in page
    frozen = [line for line in ran if "--encoder=frozen" in line]
    assert len(frozen) == 4 and all("--learning_rate=0.004" in line for line in frozen)
    assert sum("--learning_rate=0.004" in line for line in ran) == 4
    # What one system is tuned with is another's neither, nor that of its own frozen readings.
    (own,) = (line for line in ran if "--learning_rate=0.002" in line)
    assert "pretrained/other " in own and "--encoder=frozen" not in own
    # The ablation beside what the paper says of it, and its losses beside those of the first.
    assert re.search(r"^\| wide \| [\d.]+ ± [\d.]+( \(\d collapsed\))? \| 98 \|$", page, re.M)
    drawn = (runs / "charts" / "ablations-eval_masked_lm_loss.svg").read_text(encoding="utf-8")
    assert ">other<" in drawn and ">wide<" in drawn
    assert "nearest in: the river crossed the garden" in page
    assert (runs / "charts" / "mix-near.svg").is_file()
    html = (runs / "report.html").read_text(encoding="utf-8")
    assert "<svg" in html and "other over bert, tuned" in html


def test_each_system_has_the_steps_that_fill_its_share(
    compared: tuple[Path, list[str], list[str]],
) -> None:
    runs, _, ran = compared
    measured = json.loads((runs / "steps.json").read_text())
    assert measured.keys() == {"bert", "other", "wide"}
    for name, found in measured.items():
        wanted = max(LEAST, round(SECONDS / 2 / 3 / found["seconds_per_step"]))
        assert found["steps"] == wanted
        assert any(f"pretrained/{name} " in line and f"steps={wanted}" in line for line in ran)


def test_a_finished_comparison_measures_nothing_again(
    compared: tuple[Path, list[str], list[str]], command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs, flags, _ = compared
    before = (runs / "report.md").read_bytes()
    ran: list[str] = []

    def call(module: str, arguments: Sequence[str], log: Path | None = None) -> None:
        ran.append(module)

    monkeypatch.setattr(compare, "call", call)
    monkeypatch.setattr(budget, "call", call)
    assert command(compare, *flags) == 0
    assert ran.count("pretrain") == 3
    assert (runs / "report.md").read_bytes() == before


def test_the_shipped_comparison_names_configs_settings_and_tasks_that_there_are(
    tmp_path: Path,
) -> None:
    folder = Path(__file__).parents[1] / "configs"
    config = settings.load(str(folder / "compare.py"), [])
    for needed in [path for task in config.tasks for path in task["needs"]]:
        path = tmp_path / needed.replace("*[!0]", "11877")  # as parts of SQuAD are called
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    wanted = systems.read(config, folder, tmp_path)
    order = [s.name for s in wanted.systems if s.group == systems.SYSTEMS]
    assert order == ["bert", "left-to-right", "elmo", "word2vec"]
    for system in wanted.systems:
        settings.load(system.config, list(system.settings))
    for name, options in wanted.records.items():
        flags = prepare.parse_arguments(["--input=x", "--output=y", *options])
        assert flags.masking == "dynamic", name
    for trial in wanted.trials:
        assert finetune.parse_arguments(list(trial.options)).task in TASKS | WORD_TASKS
    assert not wanted.left_out
    for path in (tmp_path / "squad").iterdir():  # Only the files of SQuAD 2.0.
        path.rename(path.with_name(path.name.replace("11877", "v2.0")))
    assert systems.read(config, folder, tmp_path).left_out.keys() == {"squad"}


def test_a_budget_is_a_time() -> None:
    assert [budget.seconds(text) for text in ("90m", "2h", "1.5h", "30s")] == [5400, 7200, 5400, 30]
    for text in ("2", "h", "0m", "2 hours"):
        with pytest.raises(UserError, match="give a time such as 90m"):
            budget.seconds(text)


def test_a_comparison_keeps_the_time_it_began_with(tmp_path: Path) -> None:
    assert budget.share("2h", 6, tmp_path) == 600
    # With other cores, too; with another budget its systems could not be compared.
    assert budget.share("120m", 12, tmp_path) == 600
    with pytest.raises(UserError, match="was begun with --budget=2h"):
        budget.share("4h", 6, tmp_path)


def test_an_ordering_holds_only_beyond_the_noise_of_seeds_and_dev_set() -> None:
    one, two = Score("accuracy", (0.80, 0.82, 0.84), 900), Score("accuracy", (0.7, 0.72, 0.74), 900)
    near = Score("accuracy", (0.78, 0.80, 0.82), 900)
    few = [Score("accuracy", score.values, 30) for score in (one, two)]
    made = [findings.ordering("x", "task", *pair) for pair in ((one, two), (two, one), (one, near))]
    assert [o.verdict for o in made] == ["holds", "does not hold", "within noise"]
    assert findings.ordering("x", "task", *few).verdict == "within noise"
    # Binomial for shares, of which none is sure; of a correlation r it is 1 - r^2 over the root.
    assert one.dev_error == pytest.approx((0.82 * 0.18 / 900) ** 0.5)
    assert one.seed_error == pytest.approx(0.02 / 3**0.5)
    assert Score("f1", (0.0, 0.0), 100).dev_error == pytest.approx((0.01 * 0.99 / 100) ** 0.5)
    assert Score("matthews", (0.5, 0.5), 100).dev_error == pytest.approx(0.075)
    # Of three seeds each, Student's t with 4 degrees of freedom; of the dev set, 1.96.
    noise = np.hypot(2.776 * one.seed_error * 2**0.5, 1.96 * np.hypot(one.dev_error, two.dev_error))
    assert made[0].noise == pytest.approx(noise, rel=1e-3)
    assert Ordering("x", "task", 0.0, 0.0).verdict == "within noise"
    blind = Score("accuracy", (0.5, 0.5), 900, collapsed=2)
    assert findings.ordering("x", "task", blind, blind).verdict == "nothing learnt"
    assert findings.ordering("x", "task", one, blind).verdict == "holds"


def test_scores_tell_what_is_unknown_and_what_collapsed() -> None:
    assert Score("accuracy", (0.5, 0.6), 10).shown() == "55.0 ± 7.1"
    assert Score("spearman", (0.5,), 10, unknown=5).shown() == "50.0 (knows 10 of 15)"
    assert Score("accuracy", (0.5, 0.5), 10, collapsed=2).shown() == "50.0 ± 0.0 (2 collapsed)"
    assert Score("accuracy", (0.5,), 10, diverged=2).shown() == "50.0 (2 diverged)"


def test_all_pairs_are_claims_but_not_a_mix_of_one_layer_or_lists_of_words() -> None:
    one, elmo, two = (
        systems.System(name, systems.SYSTEMS, "", "", (), {})
        for name in ("bert", "elmo", "word2vec")
    )
    readings = ("tuned", "frozen, mix", "frozen, last")
    trials = [systems.Trial(s, "near", r, ()) for s in (one, elmo, two) for r in readings]
    trials += [systems.Trial(s, "list", "vectors", ()) for s in (one, elmo, two)]
    wanted = systems.Comparison([one, elmo, two], {}, trials, {}, {}, {})
    found = {(t.system.name, t.task, t.reading): Score("accuracy", (0.5, 0.6), 100) for t in trials}
    mixed = {
        "near": {
            "bert": Mix([[0.3, 0.7]], [1.0]),
            "elmo": Mix([[0.3, 0.7]], [1.0]),
            "word2vec": Mix([[1.0]], [1.0]),
        },
    }
    claims = [ordering.claim for ordering in findings.orderings(wanted, found, mixed)]
    assert claims == [
        "bert over elmo, tuned",
        "bert over elmo, frozen, mix",
        "bert over word2vec, tuned",
        "bert over word2vec, frozen, mix",
        "elmo over word2vec, tuned",
        "elmo over word2vec, frozen, mix",
        "bert: tuned over frozen, mix",
        "bert: frozen, mix over frozen, last",
        "elmo: tuned over frozen, mix",
        "elmo: frozen, mix over frozen, last",
        "word2vec: tuned over frozen, mix",
    ]


def test_the_neighbours_of_a_word_hang_on_its_sentence(tiny_run: Path) -> None:
    start = pretrained.load(tiny_run)
    texts = ["the river crossed the garden", "in the rain a river", "again a quiet river"]
    around = ["every old bridge in the rain", "this green letter", "a heavy engine yesterday"]
    around += ["rivered and rivering"]  # Alike by their piece alone.

    def near(texts: list[str]) -> dict[str, Any] | None:
        return contexts.neighbours(
            contexts.occurrences(start, [*texts, *around]), "river", texts, texts
        )

    found = near(texts)
    assert found and max(found["same"], found["other"]) < 0.999
    for rows in found["neighbours"]:
        assert len({row["word"] for row in rows}) == len(rows) > 2
        assert not [row for row in rows if "river" in row["word"]]
        assert {row["text"] for row in rows} <= set(around)
        similarities = [row["similarity"] for row in rows]
        assert similarities == sorted(similarities, reverse=True)
    assert near([" ".join(texts * 30)]) is None  # Longer than the encoder has positions.
    same = near([texts[0], texts[1], texts[0]])
    assert same and same["other"] == pytest.approx(1.0)
    assert same["neighbours"][0] == same["neighbours"][1]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (('"records": "pairs"', '"records": "triples"'), "records 'triples' are none of pairs"),
        (('_tasks": ("near",)', '_tasks": ("sst",)'), "'sst' is none of near, far"),
        (('"dev.tsv"),', '"none.tsv"),'), "holds the files of no task"),
        (("train.seed", "train.sead"), "'train.sead=1': no such setting"),
        (("model.hidden_dropout=0.0", "model.hidden_dropout=1.5"), "hidden_dropout 1.5 must be"),
        (
            ('16", "--max_seq_length=32', '16", "--max_seq_length=999'),
            "=999, but model.max_positions=",
        ),
        # The files of this test are empty.
        (("near", "near"), "train.tsv"),
        (('"frozen"', '"frosted"'), "it has no frozen"),
        (('"wide"', '"bert"'), "bert is the name of two systems or tasks"),
    ],
)
def test_a_config_that_does_not_fit_is_refused_before_anything_runs(
    change: tuple[str, str], says: str, tmp_path: Path, command: Command, tiny_settings: Path,
    tiny_corpus: Path, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    for split in ("train", "dev"):
        (tmp_path / f"{split}.tsv").touch()
    config = tmp_path / "compare.py"
    config.write_text((CONFIG % {"settings": str(tiny_settings)}).replace(*change))
    flags = [f"--config={config}", f"--data_dir={tmp_path}", f"--workdir={tmp_path / 'runs'}"]
    assert command(compare, *flags, f"--input={tiny_corpus}") == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
