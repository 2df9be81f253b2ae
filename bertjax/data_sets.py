"""Opens data sets of tensorflow-datasets: their cache, else their download."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Collection, Iterator
from typing import Any
from urllib.parse import urlsplit

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
    """
    try:
        try:
            return builder.as_dataset(split=split).as_numpy_iterator()
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
            return there.as_dataset(split=split).as_numpy_iterator()
    except Exception as error:
        raise _unavailable(error) from error


def _unavailable(error: Exception) -> Unavailable:
    return Unavailable(" ".join(str(error).split())[:200])


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
