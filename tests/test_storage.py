"""A path in a bucket works wherever a local one does, and nothing becomes a folder called gs:."""

from __future__ import annotations

import errno
import gzip
import json
import lzma
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import bucket as buckets
import numpy as np
import pytest

from bertjax import collect, doctor, finetune, prepare, pretrain
from bertjax.data import manifest as manifests
from bertjax.data.records import Records
from bertjax.errors import UserError
from bertjax.files import storage
from bertjax.files.whole_file import staged, whole, write_whole
from bertjax.models.config import BertConfig
from bertjax.models.masked_lm import PretrainingModel
from bertjax.runs import checkpoint, parameters
from bertjax.text.wordpiece import WordPieceTokenizer
from bertjax.training import run_log
from bertjax.weights import google, huggingface, model_folder, pretrained, word_vectors
from bertjax.weights.word_vectors import WordVectors

Command = Callable[..., int]
LAYOUT = ["--keep_lines", "--max_seq_length=32", "--max_predictions_per_seq=5"]
LAYOUT += ["--dupe_factor=2", "--num_shards=4", "--workers=1"]


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[buckets.Bucket]:
    """Google's bucket for this process, in a folder where nothing local may appear."""
    with (
        buckets.serve(tmp_path_factory.mktemp("server")) as (found, environment),
        pytest.MonkeyPatch.context() as patch,
    ):
        for name, value in environment.items():
            patch.setenv(name, value)
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        here = tmp_path_factory.mktemp("here")
        patch.chdir(here)
        yield found
        assert not list(here.iterdir())


@pytest.fixture(scope="module")
def records(
    bucket: buckets.Bucket, command: Command, tiny_corpus: Path, tiny_vocabulary: Path
) -> str:
    """The folder of tiny_records, made from and in the bucket."""
    text = tiny_corpus.read_bytes()
    bucket.put("bucket/text/tiny.txt.gz", gzip.compress(text))
    bucket.put("bucket/tiny.txt.xz", lzma.compress(text))
    for file in tiny_vocabulary.iterdir():
        bucket.put(f"bucket/vocabulary/{file.name}", file.read_bytes())
    paths = ["--input=gs://bucket/text", "--vocab=gs://bucket/vocabulary"]
    assert command(prepare, *paths, "--output=gs://bucket/records", *LAYOUT) == 0
    return "gs://bucket/records"


def test_only_a_bucket_is_remote() -> None:
    assert storage.path("runs/a") == Path("runs/a")
    assert not storage.is_remote(storage.path("./gs:/a"))
    assert str(storage.path("gs://bucket/runs") / "a") == "gs://bucket/runs/a"
    assert storage.is_remote(storage.path("gs://bucket/runs") / "a")
    for wrong in ("s3://bucket/a", "gs:/bucket/a", "gs://", "file:///a", "GS://bucket/a"):
        with pytest.raises(UserError, match="no such kind of path; give a local one or gs://"):
            storage.path(wrong)


def test_where_only_a_local_folder_will_do_that_is_said() -> None:
    with pytest.raises(UserError, match=r"gs://bucket/a: must be a local folder here; copy it"):
        storage.local_path("gs://bucket/a")


def test_a_file_in_a_bucket_is_whole_or_not_there(bucket: buckets.Bucket) -> None:
    path = storage.path("gs://bucket/whole/file")
    with pytest.raises(ZeroDivisionError), whole(path) as partial:
        partial.write_bytes(b"half")
        raise ZeroDivisionError
    assert bucket.names("bucket/whole/") == []
    write_whole(path, b"all")
    assert bucket.names("bucket/whole/") == ["bucket/whole/file"]
    assert path.read_bytes() == b"all" and storage.size(path) == 3


def test_the_file_that_tells_of_the_others_comes_last(bucket: buckets.Bucket) -> None:
    folder = storage.path("gs://bucket/staged")
    with pytest.raises(ZeroDivisionError), staged(folder, "mark") as local:
        write_whole(local / "mark", b"")
        raise ZeroDivisionError
    assert bucket.names("bucket/staged") == []
    with staged(folder, "mark") as again:
        assert again == local and (again / "mark").exists()
        for name in ("z", "a", "inner/b"):
            write_whole(again / name, name.encode())
    assert not local.exists()
    made = {name: bucket.objects[name][1] for name in bucket.names("bucket/staged/")}
    assert sorted(made) == [f"bucket/staged/{name}" for name in ("a", "inner/b", "mark", "z")]
    assert max(made, key=lambda name: made[name]) == "bucket/staged/mark"


def test_records_built_in_a_bucket_are_those_of_a_local_build(
    bucket: buckets.Bucket, records: str, tiny_records: Path, command: Command, capsys: Any
) -> None:
    for path in tiny_records.glob("records-*"):
        assert bucket.objects[f"bucket/records/{path.name}"][0] == path.read_bytes()
    paths = ["--input=gs://bucket/text/*.gz", "--vocab=gs://bucket/vocabulary"]
    assert command(prepare, *paths, f"--output={records}", *LAYOUT) == 0
    assert capsys.readouterr().out.startswith("reusing gs://bucket/records: ")


def test_shards_are_fetched_once(
    bucket: buckets.Bucket, records: str, tiny_records: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = Records(storage.path(records)), Records(tiny_records)
    assert [here[i] for i in range(len(here))] == [there[i] for i in range(len(there))]
    monkeypatch.setattr(storage, "copy", None)
    assert Records(storage.path(records))[0] == there[0]


def test_records_in_a_bucket_are_taken_over(
    bucket: buckets.Bucket, records: str, command: Command
) -> None:
    given = [f"--input={records}", f"--vocab={records}", "--output=gs://bucket/adopted"]
    assert command(prepare, *given) == 0
    for name in bucket.names("bucket/adopted/records-"):
        assert bucket.objects[name][0] == bucket.objects[name.replace("adopted", "records")][0]
    assert bucket.names("bucket/adopted/manifest.json")


def test_no_room_for_the_shards_is_told_before_they_are_fetched(
    records: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("", (), {"free": 10})())
    with pytest.raises(UserError, match=r"gs://bucket/records: 0\.0 GB are to be copied to .*"):
        Records(storage.path(records))


def test_a_missing_shard_is_named(bucket: buckets.Bucket, records: str) -> None:
    names = bucket.names("bucket/records/")
    last = max(name for name in names if name.endswith(".tfrecord"))
    for name in names:
        if name != last:
            bucket.put(name.replace("/records/", "/short/"), bucket.objects[name][0])
    with pytest.raises(UserError, match=f"gs://bucket/short/{Path(last).name}: missing"):
        manifests.load(storage.path("gs://bucket/short"))


@pytest.fixture(scope="module")
def run(
    bucket: buckets.Bucket,
    records: str,
    command: Command,
    tiny_settings: Path,
) -> str:
    """A pretraining in the bucket that is interrupted at step 8 and goes on from step 5."""
    arguments = [f"--config={tiny_settings}", "--workdir=gs://bucket/runs/tiny"]
    arguments += [f"data.records={records}"]
    keep = run_log.RunLog.keep

    def interrupted(log: run_log.RunLog, step: int, metrics: dict[str, float]) -> None:
        keep(log, step, metrics)
        if step == 8:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_log.RunLog, "keep", interrupted)
        patch.setattr(storage.Outbox, "close", lambda _: None)  # As SIGKILL would leave it.
        assert command(pretrain, *arguments) == 130
    assert command(pretrain, *arguments) == 0
    return "gs://bucket/runs/tiny"


def test_a_run_in_a_bucket_goes_on_and_is_the_one_that_never_left_this_machine(
    bucket: buckets.Bucket, run: str, tiny_run: Path
) -> None:
    starts = json.loads(bucket.objects["bucket/runs/tiny/starts.json"][0])["starts"]
    assert [start["step"] for start in starts] == [0, 5]
    found, calm = (run_log.read_metrics(folder) for folder in (storage.path(run), tiny_run))
    assert [line["step"] for line in found] == [line["step"] for line in calm]
    assert [line["loss"] for line in found] == [line["loss"] for line in calm]
    for name, leaf in parameters.flat(checkpoint.load_params(storage.path(run))).items():
        local = parameters.flat(checkpoint.load_params(tiny_run))[name]
        np.testing.assert_array_equal(leaf, local, err_msg=name)
    assert len([n for n in bucket.names("bucket/runs/tiny/") if "tfevents" in n]) == 2
    names = bucket.names("bucket/runs/tiny/checkpoints/")
    kept = {name.split("/")[4] for name in names if name.endswith("commit_success.txt")}
    assert kept == {"10", "12"}


def test_a_damaged_checkpoint_in_a_bucket_is_put_aside_for_the_one_before(
    bucket: buckets.Bucket,
    run: str,
    records: str,
    command: Command,
    tiny_settings: Path,
    capsys: Any,
) -> None:
    tiny, start = "bucket/runs/tiny/", "bucket/runs/damaged/"
    for name in bucket.names(tiny):
        bucket.put(name.replace(tiny, start), bucket.objects[name][0])
    newest, aside = f"{start}checkpoints/12/", f"{start}damaged/12/"
    files = [name.removeprefix(newest) for name in bucket.names(newest)]
    content = bytearray(bucket.objects[f"{newest}params/manifest.ocdbt"][0])
    content[len(content) // 2] ^= 4
    bucket.put(f"{newest}params/manifest.ocdbt", bytes(content))
    capsys.readouterr()
    arguments = [f"--config={tiny_settings}", "--workdir=gs://bucket/runs/damaged"]
    assert command(pretrain, *arguments, f"data.records={records}") == 0
    told = capsys.readouterr().out
    assert "warning: checkpoint 12 is damaged (" in told
    assert "it lies in gs://bucket/runs/damaged/damaged/12 now\ncontinuing at step 10\n" in told
    assert [name.removeprefix(aside) for name in bucket.names(aside)] == files
    assert bytes(content) == bucket.objects[f"{aside}params/manifest.ocdbt"][0]
    losses = [
        line["loss"] for line in run_log.read_metrics(storage.path("gs://bucket/runs/damaged"))
    ]
    assert losses == [line["loss"] for line in run_log.read_metrics(storage.path(run))]


def test_what_others_read_is_written_to_and_read_from_a_bucket(
    bucket: buckets.Bucket,
    tiny_config: BertConfig,
    tiny_tokenizer: WordPieceTokenizer,
    random_params: Callable[..., Any],
    tmp_path: Path,
) -> None:
    params = random_params(PretrainingModel(tiny_config))
    theirs, googles = (storage.path(f"gs://bucket/exports/{kind}") for kind in ("hf", "tf1"))
    huggingface.write_huggingface(theirs, params, tiny_config, tiny_tokenizer, max_seq_length=32)
    google.write_google(googles, params, tiny_config, tiny_tokenizer)
    # TensorFlow reads without letting go of Python, which serves the bucket here.
    for file in storage.files_below(googles):
        storage.copy(file, tmp_path / file.name)
    for folder in (theirs, tmp_path):
        start = pretrained.load(folder)
        assert (start.name, start.config) == (str(folder), tiny_config)
        for name, leaf in parameters.flat(start.params).items():
            np.testing.assert_array_equal(leaf, parameters.flat(params)[name], err_msg=name)
    with pytest.raises(UserError, match="gs://bucket/exports/hf: exists already"):
        model_folder.check_target(theirs)
    vectors = WordVectors(["a", "b"], np.arange(6, dtype=np.float32).reshape(2, 3))
    for write in (word_vectors.write_text, word_vectors.write_binary):
        write(storage.path("gs://bucket/vectors"), vectors)
        found = word_vectors.read(storage.path("gs://bucket/vectors"))
        assert found.words == vectors.words
        np.testing.assert_array_equal(found.vectors, vectors.vectors)


def test_a_task_is_trained_from_and_in_a_bucket(
    bucket: buckets.Bucket, run: str, command: Command, tiny_corpus: Path
) -> None:
    lines = [line for line in tiny_corpus.read_text().splitlines() if line][:40]
    rows = [f"{line}\t{'odd' if i % 2 else 'even'}\n" for i, line in enumerate(lines)]
    for split, part in (("train", rows[:32]), ("dev", rows[32:])):
        bucket.put(f"bucket/task/{split}.tsv", "".join(["sentence\tlabel\n", *part]).encode())
    arguments = ["--task=classify", "--data_dir=gs://bucket/task", f"--init={run}"]
    arguments += ["--workdir=gs://bucket/runs/task", "--epochs=1", "--batch_size=8"]
    assert command(finetune, *arguments) == 0
    rows = bucket.objects["bucket/runs/task/predictions-dev.tsv"][0].decode().splitlines()
    assert len(rows) == 9
    again = ["--mode=predict", "--workdir=gs://bucket/runs/task", "--output=gs://bucket/predicted"]
    assert command(finetune, *again, "--input=gs://bucket/task/dev.tsv") == 0
    assert bucket.names("bucket/predicted/")


def test_a_collection_appears_in_a_bucket(
    bucket: buckets.Bucket, records: str, command: Command
) -> None:
    arguments = ["--input=gs://bucket/tiny.txt.xz", "--no_task", "--held_out=0.3"]
    assert command(collect, *arguments, "--output=gs://bucket/collected") == 0
    names = [name.rpartition("/")[2] for name in bucket.names("bucket/collected/")]
    assert names == ["source.json", "train.txt", "valid.txt"]


def test_the_doctor_writes_to_the_bucket(bucket: buckets.Bucket) -> None:
    assert doctor.workdir(storage.path("gs://bucket/new"), 1 << 60).endswith("can be written to")
    assert bucket.names("bucket/new/") == []


def test_the_doctor_finds_what_a_fine_tuning_reads_in_a_bucket(bucket: buckets.Bucket) -> None:
    bucket.put("bucket/looked/at/train.tsv", b"sentence\tlabel\n")
    folder = storage.path("gs://bucket/looked")
    places = {"data_dir": folder, "train": folder / "at" / "train.tsv"}
    assert doctor.files(places) == "gs://bucket/looked, gs://bucket/looked/at/train.tsv"
    with pytest.raises(UserError, match="--dev=gs://bucket/looked/dev.tsv: no such file"):
        doctor.files({"dev": folder / "dev.tsv"})


def test_what_a_bucket_refuses_is_one_line(
    bucket: buckets.Bucket,
    records: str,
    command: Command,
    tiny_settings: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Any,
) -> None:
    monkeypatch.setattr(bucket, "refused", "bucket/closed")
    arguments = [f"--config={tiny_settings}", "--workdir=gs://bucket/closed/run"]
    capsys.readouterr()
    assert command(pretrain, *arguments, f"data.records={records}") == 2
    told = capsys.readouterr().err.strip().splitlines()
    assert told[-1].startswith("error: PermissionDeniedError: ")
    assert "gs://bucket/closed" in told[-1]
    assert not any(line.startswith("Traceback") for line in told)


def test_without_googles_client_a_run_in_a_bucket_is_refused(
    bucket: buckets.Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(errno.ENOENT, name)

    monkeypatch.setattr("importlib.import_module", missing)
    with pytest.raises(UserError, match=r"pip install 'bertjax\[gcs\]'"):
        checkpoint.Checkpoints(storage.path("gs://bucket/runs/other"))
