"""The manifest tells the truth about a folder of records, or the folder is refused."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bertjax.data import manifest as manifests
from bertjax.data.manifest import FORMAT_VERSION, MANIFEST, Manifest, Shard
from bertjax.errors import UserError

CONTENT = b"twelve bytes"


@pytest.fixture()
def written(tmp_path: Path) -> Manifest:
    """The manifest of a folder with two shards; `tmp_path` is the folder."""
    shards = []
    for name in ("a.tfrecord", "b.tfrecord"):
        (tmp_path / name).write_bytes(CONTENT)
        shards.append(Shard(name, 3, len(CONTENT), hashlib.sha256(CONTENT).hexdigest()))
    manifest = Manifest(
        max_seq_length=16,
        max_predictions_per_seq=4,
        vocab_size=100,
        tokenizer={"kind": "wordpiece", "fingerprint": "none"},
        settings={"masking": "dynamic"},
        corpus={"unigram_entropy": 1.25},
        source={"files": [["a.txt", 12, 34]]},
        padding_share=0.1,
        shards=tuple(shards),
        bertjax_version="0",
        dynamic=True,
        packed=True,
        max_sequences=5,
    )
    manifest.save(tmp_path)
    return manifest


def change(folder: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    """Edits a manifest behind its back."""
    raw = json.loads((folder / MANIFEST).read_text())
    edit(raw)
    (folder / MANIFEST).write_text(json.dumps(raw))


# --- What is written ------------------------------------------------------------------------


def test_the_manifest_reads_back_as_it_was(written: Manifest, tmp_path: Path) -> None:
    assert manifests.load(tmp_path) == written
    assert written.num_examples == 6


def test_the_manifest_is_json_that_a_person_can_read(written: Manifest, tmp_path: Path) -> None:
    text = (tmp_path / MANIFEST).read_text()
    raw = json.loads(text)
    assert raw["format_version"] == FORMAT_VERSION
    assert raw["shards"][0]["file"] in os.listdir(tmp_path)
    assert '\n  "max_seq_length": 16,\n' in text


def test_the_fingerprint_hangs_on_the_contents_of_the_shards_alone(written: Manifest) -> None:
    renamed = [dataclasses.replace(shard, file="other") for shard in written.shards]
    other = [written.shards[0], dataclasses.replace(written.shards[1], sha256="another")]
    same = dataclasses.replace(written, shards=tuple(renamed), bertjax_version="1")
    assert same.fingerprint == written.fingerprint
    assert dataclasses.replace(written, shards=tuple(other)).fingerprint != written.fingerprint


# --- What is refused ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "edit",
    [
        lambda raw: raw.update(vocab_size=99),
        lambda raw: raw["shards"][1].update(examples=2),
        lambda raw: raw["corpus"].update(unigram_entropy=9.0),
        lambda raw: raw["shards"].pop(),
        lambda raw: raw.update(colour="red"),
        lambda raw: raw.pop("packed"),
    ],
)
def test_an_edited_manifest_is_refused(
    edit: Callable[[dict[str, Any]], object], written: Manifest, tmp_path: Path
) -> None:
    change(tmp_path, edit)
    with pytest.raises(UserError, match=r"manifest\.json: was edited, its checksum does not fit"):
        manifests.load(tmp_path)


def test_what_does_not_change_the_content_is_no_edit(written: Manifest, tmp_path: Path) -> None:
    raw = json.loads((tmp_path / MANIFEST).read_text())
    (tmp_path / MANIFEST).write_text(json.dumps(dict(reversed(raw.items()))))
    assert manifests.load(tmp_path) == written


def test_a_manifest_without_a_checksum_is_none(written: Manifest, tmp_path: Path) -> None:
    change(tmp_path, lambda raw: raw.pop("sha256"))
    with pytest.raises(UserError, match="not a manifest"):
        manifests.load(tmp_path)


def test_another_version_is_told_whatever_else_it_says(tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_text('{"format_version": 99, "pages": []}')
    with pytest.raises(UserError, match=f"version 99, this bertjax reads {FORMAT_VERSION}"):
        manifests.load(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b'"manifest"', b"{}", b"\xff\xfe"])
def test_a_file_that_is_no_manifest_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_bytes(content)
    with pytest.raises(UserError, match=r"manifest\.json: not a manifest"):
        manifests.load(tmp_path)


def test_a_folder_without_a_manifest_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="python -m bertjax.prepare"):
        manifests.load(tmp_path)


@pytest.mark.parametrize("shards", [(), (Shard("a.tfrecord", 0, len(CONTENT), ""),)])
def test_a_manifest_without_records_is_refused(
    shards: tuple[Shard, ...], written: Manifest, tmp_path: Path
) -> None:
    dataclasses.replace(written, shards=shards).save(tmp_path)
    with pytest.raises(UserError, match="no records"):
        manifests.load(tmp_path)


def test_a_missing_shard_and_one_of_another_size_are_named(
    written: Manifest, tmp_path: Path
) -> None:
    path = tmp_path / "b.tfrecord"
    path.write_bytes(CONTENT[:-1])
    with pytest.raises(UserError, match=r"b\.tfrecord: 11 bytes instead of 12; copy it again"):
        manifests.load(tmp_path)
    path.write_bytes(b"")
    with pytest.raises(UserError, match=r"b\.tfrecord: 0 bytes instead of 12"):
        manifests.load(tmp_path)
    path.unlink()
    with pytest.raises(UserError, match=r"b\.tfrecord: missing"):
        manifests.load(tmp_path)
