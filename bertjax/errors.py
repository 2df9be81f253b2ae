"""The one error a user sees: a line that names the cause and the mend, and its exit status."""

from __future__ import annotations

import errno
import sys
import textwrap
import traceback
from collections.abc import Callable


class UserError(Exception):
    """Bad input, flag, file or machine state; the message is one line for the user."""


# What the operating system refuses, and what the user can do about it.
_SYSTEM_ADVICE = {
    errno.ENOSPC: "the disk is full; free some space and run the same command again",
    errno.EDQUOT: "the disk quota is used up; free some space and run the same command again",
    errno.EFBIG: "the file would exceed the allowed size; raise the limit (ulimit -f) or write "
    "elsewhere",
    errno.EACCES: "permission denied; choose another folder or change its permissions",
    errno.EROFS: "the file system is read-only; choose another folder",
    errno.ENOENT: "no such file or folder",
    errno.ENOTDIR: "a part of the path is a file, not a folder; choose another path",
    errno.EEXIST: "a file of this name is in the way; choose another path",
    errno.EISDIR: "this is a folder, not a file",
}


def describe_os_error(error: OSError) -> str | None:
    """One line for the system errors a user can mend, None for the others."""
    advice = _SYSTEM_ADVICE.get(error.errno or 0)
    if advice is None:
        return None
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{advice}"


# Where JAX looks for platforms.
_BACKENDS = "jax/_src/xla_bridge.py"
# How JAX refuses a platform of which it has never heard.
_NO_SUCH_PLATFORM = "is not in the list of known backends"
# How the refusals of a bucket begin, in the words of TensorFlow, TensorStore and Google's client:
# what the account may not do, and what is not there.
NOT_ALLOWED = (
    *("PermissionDeniedError", "UnauthenticatedError"),
    *("ValueError: PERMISSION_DENIED", "ValueError: UNAUTHENTICATED"),
    *("Forbidden", "Unauthorized", "DefaultCredentialsError"),
)
_NOT_FOUND = ("NotFoundError", "ValueError: NOT_FOUND", "NotFound")


def describe_refusal(error: Exception) -> str | None:
    """One line for what a bucket refuses; None for others, such as a network that is away."""
    told = f"{type(error).__name__}: {error}"
    remote = "gs://" in told or type(error).__module__.startswith("google.")
    if not (remote and told.startswith((*NOT_ALLOWED, *_NOT_FOUND))):
        return None
    return (
        f"{textwrap.shorten(told, 300)}; look at the name of the bucket, and what the account of "
        "this machine may do there (gcloud auth application-default login)"
    )


def describe_no_devices(error: Exception) -> str | None:
    """One line where JAX can use no platform; where JAX_PLATFORMS names one, it fails an assert."""
    *_, last = traceback.extract_tb(error.__traceback__)
    asked = isinstance(error, RuntimeError | AssertionError)
    if not asked or not last.filename.endswith(_BACKENDS):
        return None
    line = next(iter(str(error).splitlines()), "none of the platform that is asked for")
    return (
        f"JAX finds no devices: {line}; look at the driver and JAX_PLATFORMS, and whether another "
        "process holds them"
    )


def describe_no_memory(error: Exception) -> str | None:
    """One line where a device has no room for what is computed."""
    if type(error).__name__ not in ("JaxRuntimeError", "XlaRuntimeError"):
        return None
    if "RESOURCE_EXHAUSTED" not in str(error):
        return None
    return (
        "the memory of the devices is full; take a smaller batch or, in pretraining, more parts of "
        f"one (train.microbatches): {textwrap.shorten(str(error), 300)}"
    )


def _may_pass(error: Exception) -> bool:
    """Whether it may work later: devices that are there but cannot be had, as after a kill."""
    return (
        describe_no_devices(error) is not None
        and isinstance(error, RuntimeError)
        and _NO_SUCH_PLATFORM not in str(error)
    )


def _describe(error: Exception) -> str | None:
    """One line for an error that the user can mend; None for others."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError):
        return describe_os_error(error)
    return describe_no_devices(error) or describe_no_memory(error) or describe_refusal(error)


def run(main: Callable[[], None]) -> int:
    """Calls main and returns the process's exit status.

    That is 0, 2 for the user's errors, 1 for one that may pass, 130 for ^C. Another error keeps its
    traceback: that is a bug to be reported.
    """
    try:
        main()
    except Exception as error:
        line = _describe(error)
        if line is None:
            raise
        sys.stdout.flush()  # Into one log with it; the error comes last.
        print(f"error: {line}", file=sys.stderr)
        return 1 if _may_pass(error) else 2
    except KeyboardInterrupt:
        print("interrupted; run the same command again to continue", file=sys.stderr)
        return 130
    return 0
