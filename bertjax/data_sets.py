"""Opens data sets of tensorflow-datasets: their cache, else their download."""

from __future__ import annotations

import re
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Collection, Iterator
from typing import Any
from urllib.parse import urlsplit

from bertjax.errors import UserError

# How long to wait for an answer, in seconds; tensorflow-datasets itself tries for minutes.
_PATIENCE = 5


class Unavailable(Exception):
    """No such data set, or neither in the cache nor to be had; the reason in one line."""


def find(name: str) -> Any:
    """The builder of a data set, "NAME" or "NAME/CONFIG:VERSION".

    Raises:
      Unavailable: tensorflow-datasets knows none of this name.
    """
    # What it would say while it is imported and looks for files helps nobody.
    from absl import logging

    logging.set_verbosity(logging.ERROR)
    import tensorflow_datasets as tfds

    try:
        return tfds.builder(name, try_gcs=False)
    except Exception as error:
        raise _unavailable(error) from error


def is_cached(name: str) -> bool:
    """Whether a data set has been prepared on this machine already."""
    try:
        return bool(find(name).data_path.exists())
    except Unavailable:
        return False


def examples(builder: Any, split: str) -> Iterator[dict[str, Any]]:
    """The examples of a split; downloads and prepares the data set if it is not in the cache.

    Raises:
      Unavailable: its host does not answer, no such split, or anything else that stands in the way.
      UserError: while they are read, for the cache is damaged.
    """
    try:
        try:
            return _read(builder.as_dataset(split=split), builder.data_path)
        except AssertionError:  # It is not in the cache.
            # Those of the community list no addresses.
            _check_reachable(getattr(builder, "url_infos", None) or ())
            try:
                builder.download_and_prepare()
            except Exception:
                # Another process may have put it there meanwhile.
                if not builder.data_path.exists():
                    raise
            # This builder has read nothing of what another process has put there.
            import tensorflow_datasets as tfds

            there = tfds.builder_from_directory(builder.data_path)
            return _read(there.as_dataset(split=split), builder.data_path)
    except Exception as error:
        raise _unavailable(error) from error


def _read(dataset: Any, folder: Any) -> Iterator[dict[str, Any]]:
    """Raises UserError: a file in the folder is cut, changed or missing."""
    import tensorflow as tf

    try:
        yield from dataset.as_numpy_iterator()
    except tf.errors.OpError as error:
        raise UserError(
            f"{folder}: what tensorflow-datasets keeps there is damaged ({_line(error)}); delete "
            "this folder and run the same command again"
        ) from error


def _unavailable(error: Exception) -> Unavailable:
    return Unavailable(_line(error))


def _line(error: Exception) -> str:
    """What an error says, without the places in TensorFlow's program: {{function_node ...}}."""
    return " ".join(re.sub(r"\{\{.*?\}\}", "", str(error)).split())[:200]


def _check_reachable(urls: Collection[str]) -> None:
    """Raises OSError: the host that most of the files come from does not answer in time.

    Anything below 500 is an answer: what it thinks of single files the download finds out.
    """
    hosts = Counter(urlsplit(url).netloc for url in urls).most_common(1)
    for host, _ in hosts:
        url = next(url for url in urls if urlsplit(url).netloc == host)
        try:
            urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=_PATIENCE)
        except OSError as error:
            if not isinstance(error, urllib.error.HTTPError) or error.code >= 500:
                raise OSError(f"{host} does not answer, {error}") from error
