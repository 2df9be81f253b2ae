"""What a run's folder tells of an earlier training: that it is finished, or that it diverged."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bertjax import distributed
from bertjax.errors import UserError
from bertjax.files.json_file import read_json
from bertjax.files.whole_file import write_whole
from bertjax.finetuning.method import Data
from bertjax.runs.run_folder import SCORES
from bertjax.training.skipped_updates import Diverged

# Why a run was given up.
DIVERGED = "diverged.txt"
Result = dict[str, Any]


def reused(workdir: Path, data: Data) -> Result:
    """The result of a finished run; says which splits have come since."""
    result = read_json(workdir / SCORES)
    primary = result["primary"]
    said = f"reusing {workdir}: {primary} {result['dev'][primary]:.4f} on dev"
    if later := since(result, data):
        said += f"; {_came_after(workdir, later)} data"
    print(said)
    return result


def since(result: Result, data: Data) -> list[str]:
    """The splits whose examples, as they are now, a finished run has not predicted."""
    known = result.get("digests", data.digests)
    return [split for split, digest in data.digests.items() if known.get(split) != digest]


def check_predicted(workdir: Path, data: Data, splits: Collection[str]) -> None:
    """Raises UserError: a finished run has predicted other examples of a split than these."""
    if later := [s for s in since(read_json(workdir / SCORES), data) if s in splits]:
        raise UserError(f"{workdir}: {_came_after(workdir, later)} --data_dir and --submission")


def _came_after(workdir: Path, splits: Sequence[str]) -> str:
    return (
        f"{', '.join(splits)} came after the training, predict it: --mode=predict "
        f"--workdir={workdir} --output=DIR, with the same"
    )


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
