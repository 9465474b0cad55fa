import gzip
import socket
import time

import numpy as np
import pytest
from full_disk import fill_disk
from served import serve

from unet_jax.data.download import transfer as module
from unet_jax.data.download.transfer import TransferError, transfer

CONTENT = np.random.default_rng(0).bytes(1_000_001)
LIMIT = 2_000_000


@pytest.fixture
def site(monkeypatch):
    monkeypatch.setattr(module, "PAUSE", 0)
    monkeypatch.setattr(module, "TIMEOUT", (5, 5))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with serve() as site:
        site.content = CONTENT
        yield site


@pytest.fixture
def part(tmp_path):
    return tmp_path / "file.part"


def run(site, part):
    transfer(f"{site.url}/file", part, LIMIT)


def test_a_whole_file_takes_one_request(site, part):
    run(site, part)
    assert part.read_bytes() == CONTENT
    assert site.starts() == [0]
    assert list(part.parent.iterdir()) == [part]


def test_an_interrupted_transfer_requests_only_the_rest(site, part):
    site.faults = ["cut", "drop", "cut"]
    run(site, part)
    assert part.read_bytes() == CONTENT
    first, *others = site.starts()
    assert first == 0
    # The server sends a half, nothing, then a quarter; less than a chunk may be lost.
    for start, came in zip(others, [1 / 2, 1 / 2, 3 / 4], strict=True):
        assert came * len(CONTENT) - 2 * module.CHUNK < start <= came * len(CONTENT)


def test_the_next_call_resumes_a_failed_transfer(site, part, monkeypatch):
    monkeypatch.setattr(module, "ATTEMPTS", 1)
    site.faults = ["cut"]
    with pytest.raises(TransferError, match="connection was lost"):
        run(site, part)
    kept = part.stat().st_size
    assert part.read_bytes() == CONTENT[:kept]
    assert kept > 400_000
    run(site, part)
    assert site.starts() == [0, kept]
    assert part.read_bytes() == CONTENT


@pytest.mark.parametrize(
    "headers",
    [
        {"ETag": None, "Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT"},
        {"ETag": 'W/"1"', "Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT"},
    ],
    ids=["date", "weak-etag"],
)
def test_without_a_strong_etag_the_date_identifies_the_version(site, part, headers):
    site.headers, site.faults = headers, ["cut"]
    run(site, part)
    assert part.read_bytes() == CONTENT
    assert site.requests[1]["If-Range"] == headers["Last-Modified"]
    assert site.starts()[1] > 0


@pytest.mark.parametrize("headers", [{"ETag": None}, {"ETag": 'W/"1"'}], ids=["nothing", "weak"])
def test_a_partial_file_of_unknown_version_is_not_used(site, part, headers):
    site.headers, site.faults = headers, ["cut"]
    run(site, part)
    assert part.read_bytes() == CONTENT
    assert site.starts() == [0, 0]


def test_a_server_without_ranges_sends_the_whole_file_again(site, part):
    site.faults = ["cut", "whole"]
    run(site, part)
    assert part.read_bytes() == CONTENT
    assert site.starts()[1] > 0


@pytest.mark.parametrize("length", [len(CONTENT), 100_000])
@pytest.mark.parametrize("faults", [[], ["glue"] * 3], ids=["honest", "glues"])
def test_a_changed_file_is_not_appended_to_its_old_half(site, part, monkeypatch, length, faults):
    site.faults = ["cut"]
    monkeypatch.setattr(module, "ATTEMPTS", 1)
    with pytest.raises(TransferError):
        run(site, part)
    monkeypatch.setattr(module, "ATTEMPTS", 2)
    site.content = np.random.default_rng(1).bytes(length)
    site.faults = [*faults]
    run(site, part)
    assert part.read_bytes() == site.content


def test_a_range_shorter_than_requested_is_completed(site, part):
    site.faults = ["cut", "short"]
    run(site, part)
    assert part.read_bytes() == CONTENT
    assert len(site.requests) == 3
    assert site.starts()[2] == site.starts()[1] + 100


def test_a_range_with_another_start_is_not_used(site, part):
    site.faults = ["cut", "early"]
    run(site, part)
    assert part.read_bytes() == CONTENT
    assert site.starts()[2] == 0


def test_a_compressed_transfer_is_stored_without_decoding(site, part):
    site.content = gzip.compress(CONTENT)
    site.headers = {"Content-Encoding": "x-gzip"}
    run(site, part)
    assert part.read_bytes() == site.content
    assert site.requests[0]["Accept-Encoding"] == "identity"


@pytest.mark.parametrize("length", [None, "3000000"], ids=["unknown", "known"])
def test_an_endless_file_is_refused(site, part, length):
    site.content, site.headers = bytes(3_000_000), {"Content-Length": length}
    with pytest.raises(TransferError, match="maximum of 2000000 bytes"):
        run(site, part)
    assert list(part.parent.iterdir()) == []


@pytest.mark.parametrize("status", [403, 404, 416, 500, 503])
def test_an_error_status_is_reported_without_a_retry(site, part, status):
    site.faults = [status]
    with pytest.raises(TransferError, match=f"HTTP {status}"):
        run(site, part)
    assert len(site.requests) == 1
    assert list(part.parent.iterdir()) == []


def test_a_stalled_transfer_times_out_and_keeps_its_data(site, part, monkeypatch):
    monkeypatch.setattr(module, "TIMEOUT", (5, 0.2))
    monkeypatch.setattr(module, "ATTEMPTS", 2)
    site.faults = ["stall", "stall"]
    began = time.monotonic()
    with pytest.raises(TransferError, match=r"no data for 0.2 s \(tried 2 times\)"):
        run(site, part)
    assert time.monotonic() - began < 3
    assert part.stat().st_size > 600_000
    run(site, part)
    assert part.read_bytes() == CONTENT


def test_a_server_that_does_not_answer_times_out(site, part, monkeypatch):
    monkeypatch.setattr(module, "TIMEOUT", (5, 0.2))
    with socket.create_server(("127.0.0.1", 0)) as mute:
        with pytest.raises(TransferError, match=r"no answer within 0.2 s"):
            transfer(f"http://127.0.0.1:{mute.getsockname()[1]}/file", part, LIMIT)


def test_a_server_that_always_disconnects_is_given_up(site, part):
    site.faults = ["drop"] * 100
    with pytest.raises(TransferError, match=r"the connection was lost \(tried 5 times\)"):
        run(site, part)
    assert len(site.requests) == 5


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://127.0.0.1:1/file", "Connection refused"),
        ("http://no-such-host.invalid/file", "resolve 'no-such-host.invalid'"),
        ("http://[broken/file", ""),
    ],
)
def test_a_missing_network_is_reported_in_one_line(site, part, url, reason):
    with pytest.raises(TransferError) as error:
        transfer(url, part, LIMIT)
    assert reason in str(error.value)
    assert "\n" not in str(error.value)
    assert "object at" not in str(error.value)


def test_a_proxy_that_does_not_answer_is_reported(site, part, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", "")
    with pytest.raises(TransferError) as error:
        run(site, part)
    assert str(error.value) == "[Errno 111] Connection refused"


def test_a_full_disk_keeps_what_was_written(site, part, monkeypatch):
    fill_disk(monkeypatch, module, room=300_000)
    with pytest.raises(OSError, match="No space left"):
        run(site, part)
    monkeypatch.delattr(module, "open")
    kept = part.stat().st_size
    assert part.read_bytes() == CONTENT[:kept]
    assert kept > 0
    run(site, part)
    assert site.starts() == [0, kept]
    assert part.read_bytes() == CONTENT


def test_a_terminal_shows_a_bar(site, part, monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    run(site, part)
    assert "1.0/1.0 MB" in capsys.readouterr().err
