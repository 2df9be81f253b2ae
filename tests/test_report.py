"""The report needs nothing from outside, shows the numbers of the files and escapes their text."""

from __future__ import annotations

import dataclasses
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from bertjax import report
from bertjax.data import manifest
from bertjax.data.manifest import Manifest, Shard
from bertjax.errors import UserError
from bertjax.reporting import results

HOSTILE = '<script>alert("1")</script> & <b>bold</b>'


def write_lines(path: Path, lines: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def pretraining_run(folder: Path, loss: float = 4.321) -> Path:
    """A run of 300 steps whose held-out loss ends at `loss`, with a unigram entropy of 6.543."""
    facts = Manifest(
        max_seq_length=64,
        max_predictions_per_seq=10,
        vocab_size=8192,
        tokenizer={"kind": "wordpiece", "fingerprint": "0"},
        settings={"dupe_factor": 2, "masked_lm_prob": 0.15},
        corpus={
            "documents": 1234,
            "sentences": 56789,
            "tokens": 2345678,
            "unigram_entropy": 6.543,
            "unknown_share": 0.00123,
            "pieces_used": 8001,
        },
        source={},
        padding_share=0.0625,
        shards=(Shard("a.tfrecord", 10, 0, ""),),
        bertjax_version="0.1.0",
    )
    (folder / "records").mkdir(parents=True)
    (folder / "records" / "a.tfrecord").touch()
    facts.save(folder / "records")
    run = folder / "pretrained"
    run.mkdir()
    config = {
        "kind": "pretrain",
        "model": {"num_layers": 2, "hidden_size": 128},
        "unigram_entropy": 6.543,
        "settings": {"data": {"records": str(folder / "records")}, "train": {"batch_size": 64}},
    }
    (run / "config.json").write_text(json.dumps(config))
    common = {"input_wait_share": 0.01, "next_sentence_accuracy": 0.6}
    lines = [
        {"step": step, "masked_lm_loss": 900 / step, "masked_lm_accuracy": step / 1000,
         "tokens_per_second": speed, **common}
        for step, speed in ((100, 1000.0), (200, 7654.0), (300, 7700.0))
    ]  # fmt: skip
    held_out = {"eval_masked_lm_loss": loss, "eval_masked_lm_accuracy": 0.2345}
    lines.append({"step": 300, **held_out, "eval_next_sentence_accuracy": 0.678})
    write_lines(run / "metrics.jsonl", lines)
    return run


def finetuning_run(folder: Path, score: float, init: str) -> Path:
    run = folder / f"task-{init}"
    run.mkdir(parents=True)
    lines: list[dict[str, Any]] = [{"step": 10, "task_loss": 0.7}]
    write_lines(run / "metrics.jsonl", [*lines, {"step": 10, "dev_accuracy": score}])
    result = {
        "task": "classify",
        "split": "dev",
        "primary": "accuracy",
        "score": score,
        "perfect": 1.0,
        "dev": {"accuracy": score, "examples": 4321},
        "majority_baseline": 0.1357,
        "init": init,
        "train_seconds": 42.0,
    }
    (run / "metrics.json").write_text(json.dumps(result))
    (run / "predictions-dev.tsv").write_text(
        "index\tprediction\tlabel\tconfidence\ttext_a\n"
        f'0\tjax\tnumpy\t0.9110\t"{HOSTILE.replace(chr(34), chr(34) * 2)}"\n'
        "1\tjax\tjax\t0.8220\tA plain sentence.\n"
        "2\tjax\tjax\t0.7330\tA sentence less sure.\n"
    )
    return run


def render(folder: Path, *more: str, **settings: float) -> str:
    run = pretraining_run(folder, **settings)
    output = folder / "report.html"
    flags = report.parse_arguments(["--pretrain", str(run), "--output", str(output), *more])
    return report.render(flags)


@pytest.fixture
def page(tmp_path: Path) -> str:
    fill, times = tmp_path / "fill.json", tmp_path / "times.tsv"
    candidate = {"mask": 0, "piece": "<i>list</i>", "probability": 0.3456, "text": ""}
    fill.write_text(json.dumps([{"text": f"a [MASK] {HOSTILE}", "candidates": [candidate]}]))
    times.write_text("text\t61\npretraining\t80\npretraining\t120\n")
    runs = [finetuning_run(tmp_path, 0.8765, "runs/x"), finetuning_run(tmp_path, 0.7531, "scratch")]
    flags = ["--finetune", *map(str, runs), "--fill", str(fill), "--times", str(times)]
    return render(tmp_path, *flags)


class Outline(HTMLParser):
    """Collects what a page refers to and its ids, and whether its elements are closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.references: list[str] = []
        self.ids: list[str] = []
        self.tags: list[str] = []
        self.text: list[str] = []
        self._open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.references += [v or "" for k, v in attrs if k in ("src", "href", "xlink:href")]
        self.ids += [v or "" for k, v in attrs if k == "id"]
        if tag not in ("meta", "br"):
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self._open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def outline(page: str) -> Outline:
    found = Outline()
    found.feed(page)
    assert not found._open
    return found


def test_page_needs_nothing_from_outside(page: str) -> None:
    found = outline(page)
    assert all(reference.startswith("#") for reference in found.references)
    assert not {"script", "link", "img", "iframe", "object"} & set(found.tags)
    assert not re.search(r"https?:|//|@import|url\((?!#)", page)
    assert found.tags.count("svg") == 6


def test_ids_do_not_clash(page: str) -> None:
    found = outline(page)
    assert found.ids and len(found.ids) == len(set(found.ids))
    # What is referred to is there.
    used = {*found.references, *re.findall(r"url\((#\w+)\)", page)}
    assert used and used <= {f"#{name}" for name in found.ids}


def test_numbers_are_those_of_the_files(page: str) -> None:
    text = " ".join(outline(page).text)
    for number in (
        "4.321",  # held-out loss
        "6.543",  # unigram entropy
        "23.4 %",  # held-out masked-LM accuracy
        "67.8 %",  # held-out next-sentence accuracy
        "7,654",  # median speed
        "1,234",  # documents
        "2,345,678",  # tokens
        "0.123 %",  # unknown pieces
        "8,001",  # pieces in use
        "6.2 %",  # padding
        "87.6 %",  # fine-tuned from pretrained weights
        "75.3 %",  # from random weights
        "13.6 %",  # majority
        "12.3 points",  # what pretraining bought
        "4,321",  # dev examples
        "42 s",  # training time
        "91.1 %",  # confidence of the wrong prediction
        "34.6 %",  # probability of the filling
        "3 min 20 s",  # pretraining, both parts added up
    ):
        assert number in text, number


def test_text_is_escaped(page: str) -> None:
    found = outline(page)
    assert "script" not in found.tags and "alert" not in "".join(found.tags)
    assert "".join(found.text).count(HOSTILE) == 2  # in a prediction and in a filling
    assert "&lt;i&gt;list&lt;/i&gt;" in page


def test_right_samples_show_every_label_once_the_surest_first(page: str) -> None:
    assert "A plain sentence." in page
    assert "A sentence less sure." not in page


def test_a_loss_above_the_entropy_is_told(tmp_path: Path) -> None:
    assert "has not got below" in render(tmp_path / "bad", loss=6.6)
    assert "has not got below" not in render(tmp_path / "good", loss=6.5)


def test_finetuning_may_be_left_out(tmp_path: Path) -> None:
    found = outline(render(tmp_path))
    assert found.tags.count("svg") == 4
    assert "Fine-tuning" not in " ".join(found.text)


def test_nothing_is_told_that_a_run_has_not_done(tmp_path: Path) -> None:
    """No pairs, other weights to begin with, records of another builder; a task of numbers."""
    run, task = pretraining_run(tmp_path), finetuning_run(tmp_path, 0.9, "x")
    kept = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    kept = [{k: v for k, v in line.items() if "next_sentence" not in k} for line in kept]
    write_lines(run / "metrics.jsonl", kept)
    config = json.loads((run / "config.json").read_text())
    config["settings"]["init"] = "runs/earlier"
    (run / "config.json").write_text(json.dumps(config))
    facts = manifest.load(tmp_path / "records")
    corpus = {name: value for name, value in facts.corpus.items() if name != "documents"}
    dataclasses.replace(facts, corpus=corpus).save(tmp_path / "records")
    (task / "predictions-dev.tsv").write_text("index\tprediction\tlabel\ttext_a\n0\t1\t2\ta\n")
    given = ["--pretrain", str(run), "--finetune", str(task), "--output", str(tmp_path / "page")]
    page = report.render(report.parse_arguments(given))
    for untrue in ("second sentence", "belong together", "Next-sentence", "random numbers"):
        assert untrue not in page
    assert "started from runs/earlier and read 2,345,678 tokens" in page
    assert "Predictions on the development set" not in page and "Fine-tuning" in page


def test_of_a_sweep_its_best_run_is_told(tmp_path: Path) -> None:
    sweep = tmp_path / "seeds"
    runs = {str(score): finetuning_run(sweep, score, str(score)) for score in (0.6123, 0.7234)}
    (sweep / "sweep.json").write_text(json.dumps({"best": runs["0.7234"].name}))
    page = render(tmp_path, "--finetune", str(sweep))
    assert "72.3 %" in page and "61.2 %" not in page


def test_runs_of_one_start_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    made = [finetuning_run(tmp_path, 0.8, folder) for folder in ("one/a", "two/a", "b")]
    scratch = finetuning_run(tmp_path, 0.8, "scratch")
    names = [run.name for run in results.read_finetunings([*made, scratch])]
    assert names == [
        f"pretrained weights ({made[0]})",
        f"pretrained weights ({made[1]})",
        "pretrained weights (task-b)",
        "random weights",
    ]
    text = "".join(outline(render(tmp_path, "--finetune", *map(str, made[1:]))).text)
    assert "dev accuracy, pretrained weights (task-b)" in text


def test_runs_of_different_tasks_are_refused(tmp_path: Path) -> None:
    ours, other = (finetuning_run(tmp_path, 0.8, name) for name in "ab")
    result = json.loads((other / "metrics.json").read_text())
    (other / "metrics.json").write_text(json.dumps(result | {"task": "tag"}))
    message = f"{other}: a run of --task=tag, but {ours} is of --task=classify; give"
    with pytest.raises(UserError, match=re.escape(message)):
        render(tmp_path, "--finetune", str(ours), str(other))


@pytest.mark.parametrize(
    ("flag", "content", "message"),
    [
        ("--fill", b'{"text": 1}', "not what bertjax.fill writes"),
        ("--times", b"text\tnan\n", r":1: write a name"),
        ("--times", b"\xff\t1\n", "not UTF-8"),
    ],
)
def test_files_that_are_none_are_refused(
    flag: str, content: bytes, message: str, tmp_path: Path
) -> None:
    (tmp_path / "given").write_bytes(content)
    with pytest.raises(UserError, match=message):
        render(tmp_path, flag, str(tmp_path / "given"))


@pytest.mark.parametrize(
    ("missing", "named"),
    [
        ("pretrained/config.json", "not a run"),
        ("pretrained/metrics.jsonl", "metrics.jsonl"),
        ("records/manifest.json", "manifest.json"),
        ("task-x/metrics.json", "metrics.json"),
        ("task-x/predictions-dev.tsv", "predictions-dev.tsv"),
    ],
)
def test_missing_input_is_named(tmp_path: Path, missing: str, named: str) -> None:
    run, task = pretraining_run(tmp_path), finetuning_run(tmp_path, 0.9, "x")
    (tmp_path / missing).unlink()
    output = tmp_path / "report.html"
    flags = report.parse_arguments(
        ["--pretrain", str(run), "--finetune", str(task), "--output", str(output)]
    )
    with pytest.raises(UserError, match=named):
        report.render(flags)
    assert not output.exists()
