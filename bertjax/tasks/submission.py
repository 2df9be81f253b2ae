"""The zip of predictions that the GLUE site scores: https://gluebenchmark.com/submit."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from bertjax.errors import UserError
from bertjax.files import storage
from bertjax.files.whole_file import write_whole
from bertjax.tasks.base import Task

# All files that the site wants, and the number of examples in each one's test.
TEST_SIZES = {
    "AX.tsv": 1104,
    "CoLA.tsv": 1063,
    "MNLI-m.tsv": 9796,
    "MNLI-mm.tsv": 9847,
    "MRPC.tsv": 1725,
    "QNLI.tsv": 5463,
    "QQP.tsv": 390965,
    "RTE.tsv": 3000,
    "SST-2.tsv": 1821,
    "STS-B.tsv": 1379,
    "WNLI.tsv": 146,
}
# Scores of similarity go from 0 to 5; the site refuses others.
_SCORES = ("STS-B.tsv", 0.0, 5.0)


def files_of(task: Task, splits: Collection[str]) -> dict[str, str]:
    """{split: the site's file} of the splits whose answers it takes.

    Raises:
      UserError: there is no such split.
    """
    found = {split: file for split, file in task.submission.items() if split in splits}
    if not found:
        raise UserError(
            f"--submission: takes {task.name}'s answers to {' or '.join(task.submission)}, and "
            f"there is only {', '.join(splits)}; give --test=FILE or --data_dir=DIR"
        )
    return found


def check_target(path: Path) -> None:
    """Checks that answers can be put into a zip, before they are made.

    Raises:
      UserError: `path` is a folder, or there but no zip.
      OSError: nothing can be written there.
    """
    if path.is_dir():
        raise UserError(f"--submission={path}: a folder; give a file, {path / 'glue.zip'}")
    _read(path)
    storage.check_writable(path.parent)


def write_submission(path: Path, answers: Mapping[str, Sequence[str]]) -> list[str]:
    """Puts answers into the zip, in place of those of the same files; says what is missing.

    Args:
      answers: {file of TEST_SIZES: the answer to each example of its test, in order}.

    Returns:
      The files that the site wants and the zip does not hold yet.

    Raises:
      UserError: `path` is there but no zip.
    """
    held = _read(path)
    for name, found in answers.items():
        if len(found) != TEST_SIZES[name]:
            print(f"{name}: {len(found):,} answers; the site wants {TEST_SIZES[name]:,}")
        held[name] = _table(name, found)
    write_whole(path, _zip(held))
    missing = [name for name in TEST_SIZES if name not in held]
    rest = f"still missing: {', '.join(missing)}" if missing else "it is complete"
    print(f"wrote {path} with {', '.join(answers)}; {rest}")
    return missing


def _read(path: Path) -> dict[str, bytes]:
    if not path.exists():
        return {}
    try:
        with zipfile.ZipFile(io.BytesIO(path.read_bytes())) as archive:
            return {name: archive.read(name) for name in archive.namelist()}
    except (zipfile.BadZipFile, RuntimeError) as error:  # The second: it is encrypted.
        raise UserError(f"{path}: {error}; delete it or give another --submission") from None


def _table(name: str, answers: Sequence[str]) -> bytes:
    scores, least, most = _SCORES
    if name == scores:
        answers = [f"{min(max(float(answer), least), most):.3f}" for answer in answers]
    lines = [f"{index}\t{answer}\n" for index, answer in enumerate(answers)]
    return "".join(["index\tprediction\n", *lines]).encode()


def _zip(files: Mapping[str, bytes]) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(files):
            # A ZipInfo of its own tells neither time nor machine: equal answers are equal bytes.
            entry = zipfile.ZipInfo(name)
            entry.create_system = 3  # Unix
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, files[name])
    return content.getvalue()
