import gzip
import socket
import time

import numpy as np
import pytest
from full_disk import fill_disk
from served import serve

from unet_jax.data import transfer as module
from unet_jax.data.transfer import TransferError, transfer

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


def test_a_whole_file_comes_in_one_request(site, part):
    run(site, part)
    assert part.read_bytes() == CONTENT
    assert site.starts() == [0]
    assert list(part.parent.iterdir()) == [part]


def test_a_cut_transfer_asks_for_the_rest_alone(site, part):
    site.faults = ["cut", "drop", "cut"]
    run(site, part)
    assert part.read_bytes() == CONTENT
    first, *others = site.starts()
    assert first == 0
    # Half came, then nothing, then half of the other half; less than a chunk may be lost.
    for start, came in zip(others, [1 / 2, 1 / 2, 3 / 4], strict=True):
        assert came * len(CONTENT) - 2 * module.CHUNK < start <= came * len(CONTENT)


def test_another_call_goes_on_where_one_gave_up(site, part, monkeypatch):
    monkeypatch.setattr(module, "ATTEMPTS", 1)
    site.faults = ["cut"]
    with pytest.raises(TransferError, match="broke off"):
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
def test_the_date_ties_a_part_to_its_file_where_no_strong_etag_does(site, part, headers):
    site.headers, site.faults = headers, ["cut"]
    run(site, part)
    assert part.read_bytes() == CONTENT
    assert site.requests[1]["If-Range"] == headers["Last-Modified"]
    assert site.starts()[1] > 0


@pytest.mark.parametrize("headers", [{"ETag": None}, {"ETag": 'W/"1"'}], ids=["nothing", "weak"])
def test_a_part_that_nothing_ties_to_a_file_is_not_used(site, part, headers):
    site.headers, site.faults = headers, ["cut"]
    run(site, part)
    assert part.read_bytes() == CONTENT
    assert site.starts() == [0, 0]


def test_a_server_without_ranges_sends_all_of_it_again(site, part):
    site.faults = ["cut", "whole"]
    run(site, part)
    assert part.read_bytes() == CONTENT
    assert site.starts()[1] > 0


@pytest.mark.parametrize("length", [len(CONTENT), 100_000])
@pytest.mark.parametrize("faults", [[], ["glue"] * 3], ids=["honest", "glues"])
def test_a_file_that_changed_is_not_glued_to_its_old_half(site, part, monkeypatch, length, faults):
    site.faults = ["cut"]
    monkeypatch.setattr(module, "ATTEMPTS", 1)
    with pytest.raises(TransferError):
        run(site, part)
    monkeypatch.setattr(module, "ATTEMPTS", 2)
    site.content = np.random.default_rng(1).bytes(length)
    site.faults = [*faults]
    run(site, part)
    assert part.read_bytes() == site.content


def test_less_of_a_range_than_asked_for_is_completed(site, part):
    site.faults = ["cut", "short"]
    run(site, part)
    assert part.read_bytes() == CONTENT
    assert len(site.requests) == 3
    assert site.starts()[2] == site.starts()[1] + 100


def test_a_range_that_begins_elsewhere_is_not_used(site, part):
    site.faults = ["cut", "early"]
    run(site, part)
    assert part.read_bytes() == CONTENT
    assert site.starts()[2] == 0


def test_a_compressed_transfer_is_stored_as_it_came(site, part):
    site.content = gzip.compress(CONTENT)
    site.headers = {"Content-Encoding": "x-gzip"}
    run(site, part)
    assert part.read_bytes() == site.content
    assert site.requests[0]["Accept-Encoding"] == "identity"


@pytest.mark.parametrize("length", [None, "3000000"], ids=["unknown", "known"])
def test_an_endless_file_is_given_up(site, part, length):
    site.content, site.headers = bytes(3_000_000), {"Content-Length": length}
    with pytest.raises(TransferError, match="more than the 2000000 bytes"):
        run(site, part)
    assert list(part.parent.iterdir()) == []


@pytest.mark.parametrize("status", [403, 404, 416, 500, 503])
def test_a_status_is_told_and_not_asked_again(site, part, status):
    site.faults = [status]
    with pytest.raises(TransferError, match=f"HTTP {status}"):
        run(site, part)
    assert len(site.requests) == 1
    assert list(part.parent.iterdir()) == []


def test_a_stall_ends_in_time_and_keeps_what_came(site, part, monkeypatch):
    monkeypatch.setattr(module, "TIMEOUT", (5, 0.2))
    monkeypatch.setattr(module, "ATTEMPTS", 2)
    site.faults = ["stall", "stall"]
    began = time.monotonic()
    with pytest.raises(TransferError, match=r"nothing came for 0.2 s \(tried 2 times\)"):
        run(site, part)
    assert time.monotonic() - began < 3
    assert part.stat().st_size > 600_000
    run(site, part)
    assert part.read_bytes() == CONTENT


def test_a_mute_server_is_given_up(site, part, monkeypatch):
    monkeypatch.setattr(module, "TIMEOUT", (5, 0.2))
    with socket.create_server(("127.0.0.1", 0)) as mute:
        with pytest.raises(TransferError, match=r"no answer within 0.2 s"):
            transfer(f"http://127.0.0.1:{mute.getsockname()[1]}/file", part, LIMIT)


def test_a_server_that_always_breaks_off_is_given_up(site, part):
    site.faults = ["drop"] * 100
    with pytest.raises(TransferError, match=r"the connection broke off \(tried 5 times\)"):
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
def test_no_network_is_told_in_a_line(site, part, url, reason):
    with pytest.raises(TransferError) as error:
        transfer(url, part, LIMIT)
    assert reason in str(error.value)
    assert "\n" not in str(error.value)
    assert "object at" not in str(error.value)


def test_a_proxy_that_does_not_answer_is_told(site, part, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", "")
    with pytest.raises(TransferError) as error:
        run(site, part)
    assert str(error.value) == "[Errno 111] Connection refused"


def test_a_full_disk_keeps_what_it_could_take(site, part, monkeypatch):
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
