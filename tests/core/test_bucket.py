"""Folders in a bucket: what paths can do, errors of the network, and what gs:// must not become."""

import asyncio
import pathlib
import sys

import aiohttp
import emulator
import pytest
from launched import in_the_repository, refused

from unet_jax import prepare
from unet_jax.core import bucket as buckets
from unet_jax.core.bucket import Unreachable, copy_tree, list_objects, remove_tree
from unet_jax.core.errors import UserError
from unet_jax.core.faults import explain
from unet_jax.core.files import expand, path_of, read_json, write_all, write_json
from unet_jax.data.download.mirror import local_folder, local_inputs
from unet_jax.interchange import pytorch
from unet_jax.reporting import report, sweep
from unet_jax.runs.lock import locked


def fill(folder: pathlib.Path, *names: str) -> None:
    for name in names:
        (folder / name).write_bytes(name.encode())


def test_a_path_in_a_bucket_does_what_a_local_one_does(bucket, tmp_path):
    def seen(folder: pathlib.Path) -> list:
        write_all({folder / "a.json": b"1", folder / "b" / "c.txt": b"2"})
        write_json(folder / "b" / "d.json", {"é": 3})
        (folder / "a.json").unlink()
        (folder / "a.json").unlink(missing_ok=True)
        fill(folder, "b/a.json")
        return [
            sorted(path.name for path in folder.iterdir()),
            sorted(str(path.relative_to(folder)) for path in folder.glob("b/*.json")),
            [(folder / name).exists() for name in ("", "b", "b/c.txt", "b/c", "x")],
            [(folder / name).is_dir() for name in ("b", "b/c.txt", "x")],
            [(folder / name).is_file() for name in ("b", "b/c.txt", "x")],
            (folder / "b" / "a.json").read_text(encoding="utf-8"),
            read_json(folder / "b" / "d.json"),
            (folder / "b").with_name("z").name,
        ]

    (tmp_path / "b").mkdir()
    assert not bucket.exists()
    assert seen(bucket) == seen(tmp_path)
    assert bucket.absolute() == bucket.resolve() == bucket
    assert str(bucket / "b" / ".." / "c").startswith("gs://bucket/")
    with pytest.raises(FileNotFoundError):
        (bucket / "x").read_bytes()
    with pytest.raises(FileNotFoundError):
        (bucket / "x").unlink()
    with pytest.raises(FileNotFoundError):
        list((bucket / "x").iterdir())


@pytest.mark.parametrize("end", [b"", b"\r", b"\n", b"\r\n", b"\n--==0==--", b"\0", b"{}"])
def test_every_byte_is_written(bucket, tmp_path, end, monkeypatch):
    (tmp_path / "a").write_bytes(b"x" * 9 + end)
    buckets.upload(tmp_path / "a", bucket / "a")
    assert (bucket / "a").read_bytes() == b"x" * 9 + end
    (bucket / "a").write_bytes(end)
    assert (bucket / "a").read_bytes() == end


def test_data_that_arrives_changed_is_an_error(bucket, monkeypatch):
    call = buckets.file_system().call
    changed = lambda *a, **k: call(*a, **(k | {"data": b"other"} if "data" in k else k))  # noqa: E731
    monkeypatch.setattr(buckets.file_system(), "call", changed)
    with pytest.raises(Unreachable, match="received other data"):
        (bucket / "a").write_bytes(b"1")


def test_an_object_that_marks_a_folder_is_not_in_it(bucket):
    buckets.file_system().pipe_file(f"{bucket}/", b"")
    assert list(bucket.iterdir()) == []
    assert list_objects(bucket) == {}


def test_a_tree_is_copied_and_deleted_in_the_order_that_is_asked_for(bucket):
    fill(bucket / "a", "x", "y/z", "m")
    order = []
    system = buckets.file_system()
    with pytest.MonkeyPatch.context() as patch:
        copy, delete = system.cp_file, system.rm
        patch.setattr(system, "cp_file", lambda *a: (order.append(a[1]), copy(*a)))
        patch.setattr(
            system, "rm", lambda *a, **k: (order.append(list(list_objects(bucket / "a"))),)
        )
        copy_tree(bucket / "a", bucket / "b", last="m")
        assert order.pop().endswith("/m")
        remove_tree(bucket / "a", first=["m"])
        assert order.pop() == ["x", "y/z"]
        patch.setattr(system, "rm", delete)
        remove_tree(bucket / "a")
    assert sorted(list_objects(bucket)) == ["b/m", "b/x", "b/y/z"]
    remove_tree(bucket / "a")  # there is nothing


@pytest.fixture
def impatient(monkeypatch):
    """Requests are repeated without a pause, and silence is taken for an error sooner."""
    sleep = asyncio.sleep
    monkeypatch.setattr(asyncio, "sleep", lambda seconds: sleep(0))
    monkeypatch.setattr(buckets, "NOTICE_SECONDS", -1)
    path_of("gs://bucket")
    limits = aiohttp.ClientTimeout(sock_connect=20, sock_read=2)
    monkeypatch.setattr(buckets.file_system(), "requests_timeout", limits)


@pytest.mark.parametrize("fault", [500, 503, "cut", pytest.param(3, marks=pytest.mark.slow)])
def test_a_request_that_fails_is_repeated_and_said(bucket, impatient, fault, capsys):
    emulator.fail([fault])
    (bucket / "a").write_bytes(b"1")
    emulator.fail([fault])
    assert (bucket / "a").read_bytes() == b"1"
    emulator.fail([fault])
    assert list(list_objects(bucket)) == ["a"]
    lines = capsys.readouterr().out.splitlines()
    assert lines
    assert all("the bucket does not answer (" in line and "repeated" in line for line in lines)


@pytest.mark.parametrize("fault", [503, "cut"], ids=str)
def test_a_bucket_that_does_not_answer_is_an_error_in_a_line(bucket, impatient, fault):
    acts = [
        lambda path: path.write_bytes(b"1"),
        lambda path: path.read_bytes(),
        lambda path: path.exists(),
        lambda path: path.is_dir(),
        lambda path: list(path.iterdir()),
        lambda path: list_objects(path),
    ]
    for act in acts:
        emulator.fail([fault] * 40)
        with pytest.raises(Unreachable, match=r"cannot be reached .* repeated") as error:
            act(bucket / "a")
        assert "\n" not in str(error.value)
        assert str(bucket / "a") in str(error.value)


FIRST_USES = {
    "exists": lambda path: path.exists(),
    "is_dir": lambda path: path.is_dir(),
    "is_file": lambda path: path.parent.is_file(),
    "iterdir": lambda path: list(path.iterdir()),
    "glob": lambda path: list(path.glob("*.png")),
    "read": lambda path: path.read_bytes(),
    "write": lambda path: path.write_bytes(b"1"),
    "write nothing": lambda path: path.write_bytes(b""),
    "unlink": lambda path: path.unlink(),
    "list": list_objects,
    "copy": lambda path: copy_tree(path, path.parent / "copy"),
    "upload": lambda path: buckets.upload(pathlib.Path(__file__), path),
    "data": lambda path: local_folder(str(path)),
    "images": lambda path: local_inputs(f"{path}/*.png", "masks", (".png",)),
    "image": lambda path: local_inputs(f"{path}.png", "masks", (".png",)),
    "lease": lambda path: locked(path).__enter__(),
}


@pytest.mark.parametrize("use", FIRST_USES.values(), ids=FIRST_USES)
def test_a_bucket_that_does_not_exist_is_an_error_in_a_line(storage, use):
    with pytest.raises(Unreachable) as error:
        use(path_of("gs://no-bucket/folder"))
    line = "gs://no-bucket: no such bucket, or no access to it; check its name"
    assert str(error.value) == line


def test_errors_of_the_libraries_are_explained():
    run = path_of("gs://bucket/run")
    for error, part in {
        OSError("Forbidden: https://x\nmissing storage.objects.get"): "no access",
        ValueError(
            "Error writing gs://b/x: ABORTED: All 32 retry attempts failed"
        ): "(ABORTED: All",
        ValueError("Error writing x: Service Unavailable [http_response_code='503']"): "503",
        ValueError("PERMISSION_DENIED: Forbidden [http_response_code='403']"): "no access",
        aiohttp.ServerDisconnectedError(): "cannot be reached",
    }.items():
        wrapped = RuntimeError("orbax failed")
        wrapped.__cause__ = error
        line = explain(wrapped, run)
        assert part in line and line.startswith("gs://bucket/run: ") and "\n" not in line
        assert explain(wrapped, pathlib.Path("run")) is None
    for error in (ValueError("no"), FileNotFoundError("b/x"), KeyError("gs")):
        assert explain(error, run) is None


def test_names_that_are_no_folders_in_a_bucket_are_refused():
    for given in (
        "gs://",
        "gs:///x",
        "gs://B/x",
        "gs://bucket/../x",
        "gs://bucket/a*",
        "gs://a/#1",
    ):
        with pytest.raises(UserError, match="gs://"):
            path_of(given)
    for given in ("gs:/bucket/run", "s3://bucket/run", "https://host/x", "file:///tmp/x"):
        with pytest.raises(UserError, match="must be a local path"):
            path_of(given)
        with pytest.raises(UserError, match="must be a local path"):
            expand(given)
    for given in ("a:/b"[1:], "./gs:/b", "C", "run:best", "x/gs://b"):
        assert path_of(given) == pathlib.Path(given)


DEMO = "--config=configs/demo.py"


@pytest.mark.parametrize(
    "flags",
    [
        (DEMO, "--workdir=s3://bucket/run"),
        (DEMO, "--workdir=gs:/bucket/run"),
        (DEMO, "--workdir={}/run", "--config.data.root=s3://bucket/data"),
        ("--mode=eval", "--workdir={}/run", "--ensemble=https://host/run"),
        ("--mode=export", "--workdir={}/run", "--output=gs://bucket/exported"),
        ("--mode=predict", "--workdir={}/run", "--input=s3://x/y.png", "--output={}/masks"),
        ("--mode=predict", "--workdir={}/run", "--input={}/y.png", "--output=s3://x/masks"),
    ],
    ids=lambda flags: flags[-1].split("=")[0],
)
def test_a_url_never_becomes_a_local_folder(flags, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line = refused(*(flag.format(tmp_path) for flag in flags))
    assert "must be a local path" in line or "config.json" in line
    assert not list(tmp_path.rglob("*"))


def test_other_commands_refuse_it_too(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "run"
    for command, flags in {
        report.main: [str(run), "--output=gs://bucket/page.html"],
        sweep.main: ["--config=configs/demo.py", "--workdir=s3://bucket/sweep"],
        prepare.main: ["voc", "--root=gs://bucket/voc"],
        pytorch.main: ["file.pth", "--config=configs/demo.py", "--workdir=s3://bucket/run"],
    }.items():
        monkeypatch.setattr(sweep, "check_planned", lambda *_: None)
        with in_the_repository():
            assert command(flags) == 2
        assert "must be a local path" in capsys.readouterr().err
    for write in (write_json, lambda path, _: write_all({path: b""})):
        with pytest.raises(UserError, match="gs://bucket/x: must be a local path"):
            write(pathlib.Path("gs://bucket/x"), {})
    assert not list(tmp_path.rglob("*"))


def test_without_the_packages_gs_is_refused_in_a_line(monkeypatch):
    buckets._path_class.cache_clear()
    try:
        monkeypatch.setitem(sys.modules, "gcsfs", None)
        with pytest.raises(UserError, match="pip install -r requirements-gcs"):
            path_of("gs://bucket/run")
    finally:
        buckets._path_class.cache_clear()
