"""HTTP download of one file that resumes after an interruption."""

import pathlib
import re
import sys
import time
from collections.abc import Iterator

import requests
import rich.console
import rich.progress
from urllib3.exceptions import HTTPError, ProtocolError, ReadTimeoutError

TIMEOUT = (10, 60)  # seconds: for the connection, and between two chunks of data
ATTEMPTS = 5  # requests for one file if the connection is lost
PAUSE = 2  # seconds before a new request
CHUNK = 2**16  # bytes


class TransferError(Exception):
    """A failed transfer; the message is the reason in a few words."""


class _Interrupted(Exception):
    """The transfer was interrupted; a new request may resume it."""


def transfer(url: str, part: pathlib.Path, max_bytes: int) -> None:
    """Downloads the rest of the file `part`, with a progress bar on a terminal.

    A non-empty `part` is resumed if the server confirms that the file is unchanged; otherwise the
    download starts again.

    Args:
      url: address of the file.
      part: where to store it; after an error, the next call resumes it.
      max_bytes: largest size that is accepted.

    Raises:
      TransferError: the file cannot be downloaded or is too large.
      OSError: `part` cannot be written.
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
                _version_file(part).unlink()
                return
            except _Interrupted as error:
                reason = f"{error} (tried {ATTEMPTS} times)"
            except (requests.RequestException, HTTPError) as error:
                raise TransferError(_explain(error)) from error
    raise TransferError(reason)


def _request(url: str, part: pathlib.Path, max_bytes: int) -> Iterator[tuple[int, int | None]]:
    """Requests what `part` lacks; yields the bytes in `part` so far and the total, if known."""
    version_file = _version_file(part)
    known_version = version_file.read_text() if version_file.exists() else ""
    done = part.stat().st_size if known_version and part.exists() else 0
    headers = {"Accept-Encoding": "identity"}
    if done:
        headers |= {"Range": f"bytes={done}-", "If-Range": known_version}
    with _open(url, headers) as response:
        etag, date = (response.headers.get(name, "") for name in ("ETag", "Last-Modified"))
        # A weak ETag (W/) does not promise equal bytes, so that it cannot guard a resumed download.
        version = date if not etag or etag.startswith("W/") else etag
        span = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
        resumes = span and int(span[1]) == done and version in ("", known_version)
        if response.status_code == 200:  # the whole file: no range was requested or none supported
            done, total = 0, response.raw.length_remaining
        elif response.status_code == 206 and span and resumes:
            total = int(span[2])
        elif response.status_code in (206, 416) and done:
            part.unlink()
            raise _Interrupted("the file on the server has changed since the download began")
        else:
            raise requests.HTTPError(f"HTTP {response.status_code} {response.reason}")
        with open(part, "ab" if done else "wb") as file:
            if not done:
                version_file.write_text(version)
            try:
                # Not decoded, because some servers declare a .tgz a compressed transfer of a .tar.
                for chunk in response.raw.stream(CHUNK, decode_content=False):
                    file.write(chunk)
                    done += len(chunk)
                    if done > max_bytes:
                        part.unlink()
                        version_file.unlink()
                        raise TransferError(f"larger than the maximum of {max_bytes} bytes")
                    yield done, total
            except ReadTimeoutError as error:
                raise _Interrupted(f"no data for {TIMEOUT[1]} s") from error
            except HTTPError as error:
                raise _Interrupted("the connection was lost") from error
    if total not in (None, done):
        raise _Interrupted("the connection was lost")


def _open(url: str, headers: dict[str, str]) -> requests.Response:
    try:
        return requests.get(url, headers=headers, stream=True, timeout=TIMEOUT)
    except requests.ConnectionError as error:
        if error.args and isinstance(error.args[0], ProtocolError):
            raise _Interrupted("the connection was lost") from error
        raise


def _version_file(part: pathlib.Path) -> pathlib.Path:
    """Returns the file with the version (ETag or date) of the server's file in `part`."""
    return part.with_name(f"{part.name}.version")


def _explain(error: Exception) -> str:
    """Returns the reason inside the nested exceptions of requests and urllib3."""
    if isinstance(error, requests.Timeout):
        return f"no answer within {TIMEOUT[isinstance(error, requests.ReadTimeout)]} s"
    inside = [x for x in (getattr(error, "reason", None), *error.args) if isinstance(x, Exception)]
    if inside:
        return _explain(inside[0])
    return " ".join(str(error).rpartition(": ")[2].split())
