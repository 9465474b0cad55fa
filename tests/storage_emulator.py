"""python tests/storage_emulator.py PORT: an emulator of Google Cloud Storage that also fails.

gcp-storage-emulator keeps objects in memory. It lacks two things of the real service that the
programs here rely on, which are added: the generation of an object in the headers of its content,
and the condition on a generation in a request to write (412 if it does not hold). Unlike the real
service it gives an object that is composed of others an MD5, which is removed.

POST /faults with a JSON list makes the next requests that the list covers fail: 500 or 503 answers
with that status, "cut" closes the connection, a smaller number answers after so many seconds,
["kill", PID, AFTER] kills a process with SIGKILL before or after the request is performed, without
an answer, and null answers as usual. GET /requests returns the number of requests so far.
"""

import contextlib
import json
import os
import signal
import sys
import time

from gcp_storage_emulator.exceptions import NotFound
from gcp_storage_emulator.handlers import objects

insert, download, compose = objects.insert, objects.download, objects.compose


def insert_if(request, response, storage, *args, **kwargs) -> None:
    expected = request.query.get("ifGenerationMatch")
    if expected:
        name = (request.query.get("name") or [None])[0]
        if name is None and isinstance(request.data, dict):
            name = request.data.get("name") or request.data.get("meta", {}).get("name")
        try:
            there = storage.get_file_obj(request.params["bucket_name"], name)["generation"]
        except NotFound:
            there = "0"
        if there != expected[0]:
            response.status = objects.HTTPStatus.PRECONDITION_FAILED
            return
    insert(request, response, storage, *args, **kwargs)


def download_with_headers(request, response, storage, *args, **kwargs) -> None:
    download(request, response, storage, *args, **kwargs)
    bucket, name = request.params["bucket_name"], request.params["object_id"]
    with contextlib.suppress(NotFound):
        found = storage.get_file_obj(bucket, name)
        response["x-goog-generation"] = found["generation"]
        if not found["md5Hash"]:
            response["X-Goog-Hash"] = f"crc32c={found['crc32c']}"


def compose_without_md5(request, response, storage, *args, **kwargs) -> None:
    compose(request, response, storage, *args, **kwargs)
    with contextlib.suppress(NotFound):
        bucket, name = request.params["bucket_name"], request.params["object_id"]
        storage.get_file_obj(bucket, name)["md5Hash"] = None


objects.insert, objects.download = insert_if, download_with_headers
objects.compose = compose_without_md5

from gcp_storage_emulator import server  # noqa: E402  it refers to the functions above

handle = server.Router.handle
faults: list = []
requests = 0


def handle_or_fail(router, method: str) -> None:
    global requests
    handler = router._request_handler
    if handler.path == "/faults":
        faults[:] = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
    elif handler.path != "/requests":
        requests += 1
        fault = faults.pop(0) if faults else None
        if fault == "cut":
            handler.connection.close()
            return
        if fault in (500, 503):
            handler.send_response(fault)
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return
        if isinstance(fault, list):
            _, pid, after = fault
            if not after:
                os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(OSError):
                handle(router, method)
            if after:
                os.kill(pid, signal.SIGKILL)
            return
        time.sleep(fault or 0)
        handle(router, method)
        return
    body = str(requests).encode()
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


server.Router.handle = handle_or_fail

if __name__ == "__main__":
    port = int(sys.argv[1])
    server.create_server("127.0.0.1", port, in_memory=True, default_bucket="bucket").run()
