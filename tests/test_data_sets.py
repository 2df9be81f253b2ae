"""A data set that cannot be had is told at once, with the reason."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds

from bertjax import data_sets


class Server(http.server.BaseHTTPRequestHandler):
    """Answers with the number that the address ends in; to /0 it does not answer."""

    silent = threading.Event()

    def do_HEAD(self) -> None:
        status = int(self.path[1:])
        if status == 0:
            self.silent.wait(10)
        self.send_response(status or 200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture()
def address(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    Server.silent.clear()
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("urllib.request._opener", None)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}"
        Server.silent.set()
        server.shutdown()


@pytest.mark.parametrize("moment", ["download_and_prepare", "_download_and_prepare"])
def test_what_another_process_has_prepared_meanwhile_is_taken(tmp_path: Path, moment: str) -> None:
    """Before ours begins, or until it ends, when its folder cannot take its name any more."""

    with tfds.core.registered.skip_registration():

        class Numbers(tfds.core.GeneratorBasedBuilder):
            VERSION, pkg_dir_path = tfds.core.Version("1.0.0"), tmp_path

            def _info(self) -> Any:
                return self.dataset_info_from_configs(
                    features=tfds.features.FeaturesDict({"x": np.int64})
                )

            def _split_generators(self, manager: Any) -> Any:
                return {"train": iter([(i, {"x": i}) for i in range(3)])}

            def _generate_examples(self) -> Any:
                raise NotImplementedError

    other, ours = Numbers(data_dir=tmp_path), Numbers(data_dir=tmp_path)
    step = getattr(ours, moment)

    def late(**given: Any) -> None:
        if moment == "download_and_prepare":
            other.download_and_prepare()
        step(**given)
        other.download_and_prepare()

    setattr(ours, moment, late)
    found = [int(example["x"]) for example in data_sets.examples(ours, "train")]
    assert sorted(found) == [0, 1, 2]


def test_the_host_of_most_files_is_asked(address: str) -> None:
    other = "http://127.0.0.1:9/200"
    for status in (200, 403, 404):
        data_sets._check_reachable([other, f"{address}/{status}", f"{address}/500"])
    for status in (500, 503):
        with pytest.raises(OSError, match=r"^127\.0\.0\.1:\d+ does not answer, HTTP Error 50"):
            data_sets._check_reachable([other, f"{address}/{status}", f"{address}/200"])
    with pytest.raises(OSError, match=r"^127\.0\.0\.1:9 does not answer, .*refused"):
        data_sets._check_reachable([other])


def test_a_host_that_does_not_answer_is_not_waited_for(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data_sets, "_PATIENCE", 0.1)
    with pytest.raises(OSError, match=r"does not answer, .*timed out"):
        data_sets._check_reachable([f"{address}/0"])


def test_unknown_names_and_splits_are_told_in_one_line() -> None:
    with tfds.testing.mock_data(num_examples=1):
        with pytest.raises(data_sets.Unavailable, match="no_such_data_set"):
            data_sets.find("no_such_data_set")
        assert len(list(data_sets.examples(data_sets.find("imdb_reviews"), "test"))) == 1
