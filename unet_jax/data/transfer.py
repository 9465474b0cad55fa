"""Getting a file over HTTP so that a cut transfer goes on where it broke off."""

import pathlib
import re
import sys
import time
from collections.abc import Iterator

import requests
import rich.console
import rich.progress
from urllib3.exceptions import HTTPError, ProtocolError, ReadTimeoutError

TIMEOUT = (10, 60)  # seconds: to connect, and of silence
ATTEMPTS = 5  # requests for one file where the connection breaks
PAUSE = 2  # seconds before another request
CHUNK = 2**16  # bytes


class TransferError(Exception):
    """A transfer that failed: why, in a few words."""


class _Cut(Exception):
    """A transfer that broke off: another request may go on."""


def transfer(url: str, part: pathlib.Path, max_bytes: int) -> None:
    """Completes the file `part`, with a progress bar on a terminal.

    What `part` has is kept and only the rest asked for, where the server can tell that the file
    is still the same. Raises a `TransferError`, or an OSError where the file cannot be written; in
    both cases `part` is left for the next try.
    """
    print(f"fetching {url}", file=sys.stderr)
    console = rich.console.Console(stderr=True)
    with rich.progress.Progress(
        rich.progress.BarColumn(),
        rich.progress.DownloadColumn(),
        rich.progress.TransferSpeedColumn(),
        rich.progress.TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    ) as bar:
        task, reason = bar.add_task(""), ""
        for attempt in range(ATTEMPTS):
            time.sleep(PAUSE if attempt else 0)
            try:
                for done, total in _request(url, part, max_bytes):
                    bar.update(task, completed=done, total=total)
                _mark(part).unlink()
                return
            except _Cut as error:
                reason = f"{error} (tried {ATTEMPTS} times)"
            except (requests.RequestException, HTTPError) as error:
                raise TransferError(_explain(error)) from error
    raise TransferError(reason)


def _request(url: str, part: pathlib.Path, max_bytes: int) -> Iterator[tuple[int, int | None]]:
    """Asks once for what `part` lacks; yields the bytes that it has, and those of the file."""
    mark = _mark(part)
    known = mark.read_text() if mark.exists() else ""
    done = part.stat().st_size if known and part.exists() else 0
    headers = {"Accept-Encoding": "identity"}
    if done:
        headers |= {"Range": f"bytes={done}-", "If-Range": known}
    with _open(url, headers) as response:
        etag, date = (response.headers.get(name, "") for name in ("ETag", "Last-Modified"))
        version = date if not etag or etag.startswith("W/") else etag  # W/: not byte for byte
        span = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
        goes_on = span and int(span[1]) == done and version in ("", known)
        if response.status_code == 200:  # all of it: no range was asked for, or none is served
            done, total = 0, response.raw.length_remaining
        elif response.status_code == 206 and span and goes_on:
            total = int(span[2])
        elif response.status_code in (206, 416) and done:
            part.unlink()
            raise _Cut("the file on the server is not the one that the download began with")
        else:
            raise requests.HTTPError(f"HTTP {response.status_code} {response.reason}")
        with open(part, "ab" if done else "wb") as file:
            if not done:
                mark.write_text(version)
            try:
                # Not decoded: some servers call a .tgz a compressed transfer of a .tar.
                for chunk in response.raw.stream(CHUNK, decode_content=False):
                    file.write(chunk)
                    done += len(chunk)
                    if done > max_bytes:
                        part.unlink()
                        mark.unlink()
                        raise TransferError(f"more than the {max_bytes} bytes expected at most")
                    yield done, total
            except ReadTimeoutError as error:
                raise _Cut(f"nothing came for {TIMEOUT[1]} s") from error
            except HTTPError as error:
                raise _Cut("the connection broke off") from error
    if total not in (None, done):
        raise _Cut("the connection broke off")


def _open(url: str, headers: dict[str, str]) -> requests.Response:
    try:
        return requests.get(url, headers=headers, stream=True, timeout=TIMEOUT)
    except requests.ConnectionError as error:
        if error.args and isinstance(error.args[0], ProtocolError):
            raise _Cut("the connection broke off") from error
        raise


def _mark(part: pathlib.Path) -> pathlib.Path:
    """The file that tells which version of a file on the server `part` is of."""
    return part.with_name(f"{part.name}.version")


def _explain(error: Exception) -> str:
    """The cause within the wrappings of requests and urllib3."""
    if isinstance(error, requests.Timeout):
        return f"no answer within {TIMEOUT[isinstance(error, requests.ReadTimeout)]} s"
    inside = [x for x in (getattr(error, "reason", None), *error.args) if isinstance(x, Exception)]
    if inside:
        return _explain(inside[0])
    return " ".join(str(error).rpartition(": ")[2].split())
