"""What a run's folder tells of an earlier training: that it is finished, or that it diverged."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bertjax import distributed
from bertjax.files.json_file import read_json
from bertjax.files.whole_file import write_whole
from bertjax.finetuning.method import Data
from bertjax.runs import run_folder
from bertjax.training.skipped_updates import Diverged

METRICS = run_folder.SCORES
# Why a run was given up.
DIVERGED = "diverged.txt"
Result = dict[str, Any]


def reused(workdir: Path, data: Data) -> Result:
    """The result of a finished run; says which splits have come since."""
    result = read_json(workdir / METRICS)
    primary = result["primary"]
    said = f"reusing {workdir}: {primary} {result['dev'][primary]:.4f} on dev"
    known = ("train", *result.get("predicted", data.examples))
    later = [split for split in data.examples if split not in known]
    if later:
        said += (
            f"; {', '.join(later)} came after the training, predict it: --mode=predict "
            f"--workdir={workdir} --output=DIR, with the same data"
        )
    print(said)
    return result


@contextmanager
def given_up_once(workdir: Path) -> Iterator[None]:
    """Around a training: where it diverges it would do so again, and is not tried again.

    Raises:
      Diverged: now, or when the run was trained before.
    """
    path = workdir / DIVERGED
    if distributed.everywhere(path.is_file()):
        raise Diverged(
            f"{workdir}: diverged before, as {path} tells; train in another --workdir with a lower "
            "--learning_rate, or delete this one to try again"
        )
    try:
        yield
    except Diverged as error:
        if distributed.is_first():
            write_whole(path, f"{error}\n".encode())
        raise
