import bz2
import gzip
import io
import lzma
import subprocess
import tarfile

import pytest
from shard_files import tar

from torchaug_gen.shards.tar import TarError, read_tar

FILES = [("a.jpg", b"x" * 700), ("a.cls", b"1"), ("d" * 90 + "/" + "n" * 80 + ".jpg", b""), ("ü/é.cls", b"2" * 512)]
LONG = [("d/" * 130 + "name.jpg", b"long"), ("b.cls", b"3")]


def read(content):
    return list(read_tar(io.BytesIO(content)))


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_reads_what_tarfile_writes_in_every_format(form):
    files = FILES if form == tarfile.USTAR_FORMAT else FILES + LONG
    assert read(tar(files, format=form)) == files
    assert read(gzip.compress(tar(files, format=form))) == files


@pytest.mark.parametrize("form", ["ustar", "gnu", "posix", "v7"])
def test_reads_what_gnu_tar_writes(tmp_path, form):
    (tmp_path / "x" / "deep").mkdir(parents=True)
    names = ["x/deep/0.cls", "x/deep/0.jpg", "x/deep/1.cls"]
    for name in names:
        (tmp_path / name).write_bytes(name.encode() * 99)
    (tmp_path / "x" / "link.jpg").symlink_to("deep/0.jpg")
    command = ["tar", f"--format={form}", "--sort=name", "-cf", "-", "x"]
    content = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True).stdout
    assert read(content) == [(name, name.encode() * 99) for name in names]


def test_every_truncation_raises_and_everything_before_it_is_whole():
    content = tar(FILES)
    end = len(content.rstrip(b"\0")) // 512 * 512 + 512
    for length in range(0, end, 64):
        found = []
        with pytest.raises(TarError):
            found.extend(read_tar(io.BytesIO(content[:length])))
        # extend keeps what came before the error
        assert found == FILES[: len(found)]


def test_every_flipped_bit_in_a_header_raises():
    content = tar(FILES[:2])
    # Byte 155 is the space behind the checksum's digits and NUL, which says nothing.
    for at in [at for start in (0, 3 * 512) for at in range(start, start + 512) if at != start + 155]:
        damaged = bytearray(content)
        damaged[at] ^= 4
        with pytest.raises(TarError):
            read(bytes(damaged))


def test_names_of_the_highest_bytes_pass_the_checksum():
    files = [("\udcff" * 150 + "/" + "\udcff" * 90 + ".x", b"1"), ("\udcff" * 99, b"2")]
    assert read(tar(files, format=tarfile.USTAR_FORMAT, encoding="utf-8", errors="surrogateescape")) == files


def test_a_name_like_the_start_of_something_else_is_no_matter():
    files = [("BZh.jpg", b"1"), ("PK.jpg", b"2")]
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT):
        assert read(tar(files, format=form)) == files


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "without its end mark"),
        (b"<html>not found</html>", "truncated within a header"),
        (b"<html>" * 1000, "bad header"),
        (tar(FILES) + tar(FILES), "joined"),
        (gzip.compress(tar(FILES), mtime=0)[:-200], "gzip|truncated|end mark"),
        (b"\x1f\x8b" + b"junk" * 300, "gzip"),
        (bz2.compress(tar(FILES)), "no tar archive, but bzip2, which is not read"),
        (lzma.compress(tar(FILES)), "no tar archive, but xz, which is not read"),
        (b"PK\3\4" + bytes(600), "but zip"),
    ],
)
def test_what_is_no_archive_says_so(content, reason):
    with pytest.raises(TarError, match=reason):
        read(content)


def test_a_size_of_terabytes_is_refused_without_allocating_it():
    info = tarfile.TarInfo("a.jpg")
    info.size = 1 << 42
    with pytest.raises(TarError, match="truncated within a file"):
        read(info.tobuf(tarfile.GNU_FORMAT) + b"x" * 5000)
