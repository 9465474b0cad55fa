import contextlib
import gzip
import stat
import struct
import tarfile
import zlib

import pytest
from full_disk import fill_disk
from made_archives import files_in, make_tar, make_zip, tar_info, zip_info

from unet_jax.core.errors import UserError
from unet_jax.data.download import unpack as module
from unet_jax.data.download.unpack import BLOCK, unpack

LIMIT = 2**20
HOSTILE_NAMES = [
    "/tmp/escaped",
    "//host/share/escaped",
    "../escaped",
    "a/../../escaped",
    "a/..",
    "..\\escaped",
    "a\\..\\..\\escaped",
    "C:\\escaped",
    "c:escaped",
]


def refuse(path, tmp_path, reason):
    """Checks that the archive is refused and only its harmless members are written."""
    before = files_in(tmp_path)
    with pytest.raises(UserError, match=reason) as error:
        unpack(path, tmp_path / "deep" / "out", LIMIT)
    assert "\n" not in str(error.value)
    after = files_in(tmp_path)
    assert {name for name in after if name not in before} <= {"deep/out/good"}


@pytest.mark.parametrize(
    ("make", "suffix"), [(make_zip, ".zip"), (make_tar, ".tar"), (make_tar, ".tgz")]
)
def test_files_and_folders_are_unpacked(tmp_path, make, suffix):
    content = {"top/a": b"1" * 100_000, "top/deep/b": b"", "c": b"3", "./d..e": b"4"}
    path = make(tmp_path / f"set{suffix}", *content.items())
    unpack(path, tmp_path / "out", LIMIT)
    assert files_in(tmp_path / "out") == {n.removeprefix("./"): x for n, x in content.items()}


def test_directory_entries_and_backslashes(tmp_path):
    unpack(
        make_zip(tmp_path / "set.zip", ("a/", b""), ("b\\", b""), ("b\\c", b"1")),
        tmp_path / "z",
        LIMIT,
    )
    assert files_in(tmp_path / "z") == {"b/c": b"1"}
    assert (tmp_path / "z" / "a").is_dir()
    path = make_tar(tmp_path / "set.tar", (tar_info(".", tarfile.DIRTYPE), b""), ("a", b"1"))
    unpack(path, tmp_path / "t", LIMIT)
    assert files_in(tmp_path / "t") == {"a": b"1"}


def test_owner_and_mode_are_not_restored(tmp_path):
    mode = stat.S_IFREG | stat.S_ISUID | 0o777
    info = tarfile.TarInfo("a")
    info.mode, info.uid = mode, 12345
    make_tar(tmp_path / "set.tar", (info, b"1"))
    make_zip(tmp_path / "set.zip", (zip_info("a", mode), b"1"))
    (tmp_path / "usual").touch()
    for kind in ("tar", "zip"):
        unpack(tmp_path / f"set.{kind}", tmp_path / kind, LIMIT)
        made, usual = (tmp_path / kind / "a").stat(), (tmp_path / "usual").stat()
        assert (made.st_mode, made.st_uid) == (usual.st_mode, usual.st_uid)


@pytest.mark.parametrize("name", [*HOSTILE_NAMES, "good\0/../../escaped"])
def test_a_zip_that_leads_outside_is_refused(tmp_path, name):
    path = make_zip(tmp_path / "set.zip", ("good", b"1"), (zip_info(name), b"2"))
    refuse(path, tmp_path, "outside its folder")


def test_a_name_that_zipfile_would_truncate_is_refused(tmp_path):
    path = make_zip(tmp_path / "set.zip", ("good", b"1"), (zip_info("escaped\0good"), b"2"))
    refuse(path, tmp_path, "cannot be unpacked")


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_a_tar_that_leads_outside_is_refused(tmp_path, name):
    path = make_tar(tmp_path / "set.tgz", ("good", b"1"), (name, b"2"))
    refuse(path, tmp_path, "outside its folder")


@pytest.mark.parametrize(
    "mode", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK]
)
@pytest.mark.parametrize("name", ["x", "x/"])
def test_a_link_or_device_in_a_zip_is_refused(tmp_path, mode, name):
    link = zip_info(name, mode | 0o777)
    path = make_zip(tmp_path / "set.zip", ("good", b"1"), (link, b"/tmp"), ("x/escaped", b"2"))
    refuse(path, tmp_path, "a link or a device")


@pytest.mark.parametrize(
    "kind",
    [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, b"Z"],
)
def test_a_link_or_device_in_a_tar_is_refused(tmp_path, kind):
    link = tar_info("x", kind, "good" if kind == tarfile.LNKTYPE else "/tmp")
    path = make_tar(tmp_path / "set.tar", ("good", b"1"), (link, b""), ("x/escaped", b"2"))
    refuse(path, tmp_path, "a link or a device")


@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_an_archive_bomb_is_refused_before_it_is_unpacked(tmp_path, make):
    path = tmp_path / ("set.zip" if make is make_zip else "set.tgz")
    make(path, ("good", b"1"), ("bomb", bytes(LIMIT)))
    assert path.stat().st_size < LIMIT / 100
    refuse(path, tmp_path, f"more than {LIMIT} bytes")


@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_a_bomb_of_many_empty_files_is_refused(tmp_path, make):
    path = tmp_path / ("set.zip" if make is make_zip else "set.tgz")
    make(path, *((f"{i}", b"") for i in range(LIMIT // BLOCK + 1)))
    with pytest.raises(UserError, match=f"more than {LIMIT} bytes"):
        unpack(path, tmp_path / "out", LIMIT)


def test_a_zip_with_a_wrong_size_is_refused(tmp_path):
    path = make_zip(tmp_path / "set.zip", ("good", b"1"), ("bomb", bytes(30_000_000)))
    honest, lie = struct.pack("<I", 30_000_000), struct.pack("<I", 1000)
    assert path.read_bytes().count(honest) == 2  # in the local header and in the central directory
    path.write_bytes(path.read_bytes().replace(honest, lie))
    with pytest.raises(UserError, match="cannot be unpacked"):
        unpack(path, tmp_path / "out", LIMIT)
    assert (tmp_path / "out" / "bomb").stat().st_size <= 1000


@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_conflicting_names_are_refused(tmp_path, make):
    path = tmp_path / ("set.zip" if make is make_zip else "set.tar")
    for members in [[("a", b"1"), ("a/b", b"2")], [("a/b", b"1"), ("a", b"2")], [("a" * 300, b"")]]:
        with pytest.raises(UserError, match="cannot be unpacked"):
            unpack(make(path, *members), tmp_path / str(len(list(tmp_path.iterdir()))), LIMIT)


@pytest.mark.parametrize("suffix", [".zip", ".tar", ".tgz"])
def test_a_damaged_archive_is_refused_in_one_line(tmp_path, suffix):
    path = tmp_path / f"set{suffix}"
    make = make_zip if suffix == ".zip" else make_tar
    content = make(path, ("a", bytes(range(256)) * 100), ("b", b"2")).read_bytes()
    broken = [b"", b"<html>no such file</html>", content[: len(content) // 2]]
    if suffix == ".zip":  # has a checksum of each file
        broken.append(content[:200] + bytes([content[200] ^ 255]) + content[201:])
    for i, damaged in enumerate(broken):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=f"set{suffix} cannot be unpacked") as error:
            unpack(path, tmp_path / str(i), LIMIT)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("suffix", [".tar", ".tgz"])
@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME])
def test_a_huge_header_is_not_read_into_memory(tmp_path, suffix, kind):
    path = make_tar(tmp_path / f"set{suffix}", (tar_info("x", kind), b"9" * (2**13 + 1)))
    refuse(path, tmp_path, "a header of 8193 bytes")
    path = make_tar(tmp_path / f"set{suffix}", (tar_info("x", kind), b"9" * 2**13))
    with pytest.raises(UserError, match="cannot be unpacked") as error:
        unpack(path, tmp_path / "out", LIMIT)
    assert "8192 bytes" not in str(error.value)


@pytest.mark.parametrize("suffix", [".tar", ".tgz"])
def test_a_tar_with_a_damaged_header_is_refused_and_not_truncated(tmp_path, suffix):
    path = make_tar(tmp_path / f"set{suffix}", *((name, name.encode()) for name in "abc"))
    content = gzip.decompress(path.read_bytes()) if suffix == ".tgz" else path.read_bytes()
    for place in (1024, 2048):
        for broken in (content[:place], content[:place] + b"!" + content[place + 1 :]):
            path.write_bytes(gzip.compress(broken) if suffix == ".tgz" else broken)
            with pytest.raises(UserError, match="cannot be unpacked"):
                unpack(path, tmp_path / "out", LIMIT)


def test_a_changed_byte_of_a_tgz_is_detected(tmp_path):
    path = make_tar(tmp_path / "set.tgz", ("a", bytes(range(256)) * 9))
    content = path.read_bytes()
    for place in range(20, len(content), 7):
        changed = content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]
        with contextlib.suppress(gzip.BadGzipFile, zlib.error, EOFError):
            if gzip.decompress(changed) == gzip.decompress(content):
                continue  # a bit without meaning
        path.write_bytes(changed)
        with pytest.raises(UserError, match="cannot be unpacked"):
            unpack(path, tmp_path / "out", LIMIT)


def test_other_compressions_of_unbounded_memory_are_not_read(tmp_path):
    for kind, suffix in (("xz", ".tar"), ("bz2", ".tgz"), ("gz", ".tar")):
        path = tmp_path / f"set{suffix}"
        with tarfile.open(path, f"w:{kind}") as file:
            file.addfile(tarfile.TarInfo("a"))
        refuse(path, tmp_path, "cannot be unpacked")


def test_a_zip_that_points_before_its_start_is_refused(tmp_path):
    path = make_zip(tmp_path / "set.zip", ("a", b"1"))
    content = bytearray(path.read_bytes())
    place = content.index(b"PK\1\2")
    end = content.index(b"PK\5\6")
    content[end + 16 : end + 20] = struct.pack("<I", place + 10)  # offset of the directory
    path.write_bytes(content)
    refuse(path, tmp_path, "cannot be unpacked")


def test_an_encrypted_zip_is_refused(tmp_path):
    path = make_zip(tmp_path / "set.zip", ("a", b"1"))
    content = bytearray(path.read_bytes())
    for start, flags in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        content[content.index(start) + flags] |= 1
    path.write_bytes(content)
    refuse(path, tmp_path, "cannot be unpacked")


def test_a_full_disk_is_not_reported_as_a_damaged_archive(tmp_path, monkeypatch):
    path = make_zip(tmp_path / "set.zip", ("a", bytes(100_000)))
    fill_disk(monkeypatch, module, room=50_000)
    with pytest.raises(OSError, match="No space left"):
        unpack(path, tmp_path / "out", LIMIT)
