"""Files are found in a fixed order and unpacked block by block; what is damaged is named."""

from __future__ import annotations

import bz2
import gzip
import lzma
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from bertjax.errors import UserError
from bertjax.files import packings, text_files

PACK: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".xz": lzma.compress,
    # With a check sum, as the command line tool writes it.
    ".zst": zstandard.ZstdCompressor(write_checksum=True).compress,
}
PACKINGS = [packing for packing in PACK if packing]
# Numbers hardly shrink, so that half of the archive is about half of the text.
RANDOM = random.Random(0)
TEXT = "\n".join(str(RANDOM.random()) for _ in range(9999)).encode()


def put(path: Path, content: bytes | str = "x") -> Path:
    """Writes a file, packed as its name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    raw = content.encode() if isinstance(content, str) else content
    path.write_bytes(PACK[text_files.packing(path)](raw))
    return path


def read(path: Path) -> bytes:
    return b"".join(text_files.blocks(path))


def test_every_kind_of_compressed_file_is_tested_here() -> None:
    assert PACK.keys() == packings.PACKINGS.keys()


# --- Finding --------------------------------------------------------------------------------


def test_folders_and_globs_are_sorted_and_inputs_keep_their_order(tmp_path: Path) -> None:
    for name in ("f/z.txt", "f/b/y.jsonl.zst", "f/b/x.txt", "f/notes.md", "f/.hidden.txt"):
        put(tmp_path / name)
    for name in ("g/3.txt", "g/1.txt", "g/2.txt"):
        put(tmp_path / name)
    found = text_files.files([str(tmp_path / "g/*.txt"), tmp_path / "f"])
    names = [path.relative_to(tmp_path).as_posix() for path in found]
    assert names == ["g/1.txt", "g/2.txt", "g/3.txt", "f/b/x.txt", "f/b/y.jsonl.zst", "f/z.txt"]
    assert text_files.files([str(tmp_path / "**/x.txt")]) == [tmp_path / "f/b/x.txt"]


def test_a_glob_means_files_and_not_the_folders_that_it_matches(tmp_path: Path) -> None:
    put(tmp_path / "deeper" / "b.txt")
    path = put(tmp_path / "a.txt")
    assert text_files.files([str(tmp_path / "*")]) == [path]


def test_a_name_with_brackets_is_a_name_first(tmp_path: Path) -> None:
    path = put(tmp_path / "a[1].txt")
    put(tmp_path / "a1.txt")
    assert text_files.files([path]) == [path]


@pytest.mark.parametrize("extension", text_files.EXTENSIONS)
def test_every_extension_is_found_and_known_by_its_kind(extension: str, tmp_path: Path) -> None:
    path = put(tmp_path / f"a{extension}")
    assert text_files.files([tmp_path]) == [path]
    assert text_files.is_jsonl(path) == (".jsonl" in extension)
    assert extension.endswith(text_files.packing(path))


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()

    def message(given: Path | str) -> str:
        with pytest.raises(UserError) as error:
            text_files.files([given])
        return str(error.value)

    assert message(tmp_path / "a.txt") == f"{tmp_path}/a.txt: no such file or folder"
    assert message(f"{tmp_path}/*.gz") == f"{tmp_path}/*.gz: no file matches"
    assert message(tmp_path / "empty").endswith("file in this folder")
    pdf = put(tmp_path / "a.pdf")
    assert message(pdf).startswith(f"{pdf}: unknown extension; a text file ends in .txt, .txt.gz")
    assert message(f"{tmp_path}/*.pdf").startswith(f"{pdf}: unknown extension")


def test_records_are_told_from_text(tmp_path: Path) -> None:
    text = str(put(tmp_path / "text" / "a.txt"))
    for name in ("b.tfrecord", "a.tfrecord-00000-of-00001", "notes.md"):
        put(tmp_path / "records" / name)
    names = ["a.tfrecord-00000-of-00001", "b.tfrecord"]
    both = [tmp_path / "records" / name for name in names]
    assert text_files.record_files([text, str(tmp_path / "text"), "tfds:wiki"]) == []
    for given in ("records", "records/*.tfrecord*", "records/[ab].*"):
        assert text_files.record_files([str(tmp_path / given)]) == both
    for other in (text, str(tmp_path / "text"), "tfds:wiki"):
        with pytest.raises(UserError, match="holds both text and .tfrecord files"):
            text_files.record_files([str(both[1]), other])
    with pytest.raises(UserError, match="holds both text and .tfrecord files"):
        text_files.record_files([str(tmp_path / "records" / "*")])


# --- Unpacking ------------------------------------------------------------------------------


@pytest.mark.parametrize("packing", PACK)
def test_a_file_is_read_in_blocks_without_loss(
    packing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packings, "_BLOCK", 1 << 12)
    path = put(tmp_path / f"a.txt{packing}", TEXT)
    blocks = list(text_files.blocks(path))
    assert b"".join(blocks) == TEXT
    if packing == ".zst":  # which unpacks no less than 128 kB at a time
        assert max(map(len, blocks)) <= 1 << 17
    else:
        assert max(map(len, blocks)) == 1 << 12


@pytest.mark.parametrize("packing", PACK)
def test_a_byte_order_mark_is_no_text(
    packing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only in front of the file: elsewhere the three bytes are a character."""
    monkeypatch.setattr(packings, "_BLOCK", 64)
    marked = ("x" * 64 + "\ufeffy").encode()
    path = put(tmp_path / f"a.txt{packing}", b"\xef\xbb\xbf" + marked[3:])
    assert read(path) == marked[3:]
    assert read(put(path, marked)) == marked


@pytest.mark.parametrize("packing", PACKINGS)
def test_files_packed_one_behind_the_other_are_read_to_the_end(
    packing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `cat a.gz b.gz` makes them."""
    path = tmp_path / f"a.txt{packing}"
    members = [b"one\n", b"", TEXT[:999], b"two\n", b"three\n"]
    path.write_bytes(b"".join(map(PACK[packing], members)))
    assert read(path) == b"".join(members)
    # Frames end within a piece that is read, and at its end.
    for block in (64, 64 * 13, 64 * len(PACK[packing](b"one\n"))):
        monkeypatch.setattr(packings, "_BLOCK", block)
        assert read(path) == b"".join(members)


def test_zst_frames_that_hold_no_text_are_skipped(tmp_path: Path) -> None:
    """pzstd writes them between the others."""
    path = tmp_path / "a.txt.zst"
    skipped = b"\x50\x2a\x4d\x18" + (5).to_bytes(4, "little") + b"notes"
    path.write_bytes(skipped + zstandard.compress(b"one\n") + skipped + zstandard.compress(b"two"))
    assert read(path) == b"one\ntwo"


def test_zst_files_with_a_long_window_are_read(tmp_path: Path) -> None:
    """zstd --long=31 is common for archives of the web."""
    path = tmp_path / "a.txt.zst"
    settings = zstandard.ZstdCompressionParameters(window_log=31, compression_level=1)
    packer = zstandard.ZstdCompressor(compression_params=settings).compressobj()
    path.write_bytes(packer.compress(b"one\n") + packer.flush())
    assert read(path) == b"one\n"


@pytest.mark.parametrize("packing", PACKINGS)
def test_an_archive_that_is_cut_short_is_named_with_the_mend(packing: str, tmp_path: Path) -> None:
    path = put(tmp_path / f"a.txt{packing}", TEXT)
    whole = path.read_bytes()
    for left in (len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:left])
        with pytest.raises(UserError) as error:
            read(path)
        begin, _, end = str(error.value).partition(", after ")
        assert begin == f"{path}: the compressed file is cut short or damaged"
        assert end.endswith(" bytes of text; fetch or compress it again")


@pytest.mark.parametrize("packing", PACKINGS)
def test_the_second_of_two_archives_cut_short_is_noticed(packing: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.txt{packing}"
    packed = PACK[packing](b"one\n" * 100)
    path.write_bytes(packed + packed[:-3])
    with pytest.raises(UserError, match="cut short or damaged"):
        read(path)


@pytest.mark.parametrize("packing", PACKINGS)
def test_a_damaged_archive_is_named(packing: str, tmp_path: Path) -> None:
    path = put(tmp_path / f"a.txt{packing}", TEXT)
    whole = path.read_bytes()
    middle = len(whole) // 2
    flipped, overwritten = bytearray(whole), bytearray(whole)
    flipped[middle] ^= 0xFF
    overwritten[20:] = b"\xff" * len(whole[20:])  # the head is good
    for content in (flipped, overwritten, b"not an archive", bz2.compress(TEXT)):
        path.write_bytes(content)
        with pytest.raises(UserError, match="cut short or damaged"):
            read(path)


def test_how_far_a_cut_archive_could_be_read_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packings, "_BLOCK", 1000)
    path = put(tmp_path / "a.txt.xz", TEXT)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(UserError, match=f"after {len(TEXT) // 1000 * 1000:,} bytes"):
        read(path)


# --- Lines ----------------------------------------------------------------------------------


@pytest.mark.parametrize("packing", PACK)
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_the_line_of_every_byte_is_counted_from_one(
    packing: str, mark: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = b"".join(b"%d\n" % i**9 for i in range(20))
    path = put(tmp_path / f"a.txt{packing}", mark + text)
    for block in (64, 1 << 20):
        monkeypatch.setattr(packings, "_BLOCK", block)
        for offset in range(len(text)):
            assert text_files.line_at(path, offset) == text[:offset].count(b"\n") + 1
