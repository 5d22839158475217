#!/usr/bin/env python3
"""Run one OpenWhisk Python action behind a Unix socket.

usage: runner.py SOCKET

Speaks the action protocol: `POST /init` with {"value": {"name", "main", "code"}}, where `code` is Python source, then any
number of `POST /run` with {"value": {...}}; the answer of /run is what the action's main function returns. One request
at a time, one connection each. A failing action answers 502 and {"error": ...}; the process goes on.

An agent that wants to know what the action touches puts its memory aside meanwhile: `POST /watch` with {"value": {"bytes"}}
makes room and answers with the number of a userfaultfd, `POST /move` with {"value": {"parts": [[to, from, bytes], ...]}}
moves pages and answers with those that could not be moved, `POST /unwatch` closes both. Needs Linux 6.8.
"""

import errno
import fcntl
import http.server
import json
import mmap
import os
import socketserver
import struct
import sys
import traceback

PAGE = 4096
# <linux/userfaultfd.h>: USERFAULTFD_IOC_NEW, UFFDIO_API, UFFDIO_MOVE and UFFDIO_MOVE_MODE_ALLOW_SRC_HOLES.
NEW, API, MOVE, HOLES = 0xAA00, 0xC018AA3F, 0xC028AA05, 2
# UFFD_FEATURE_EVENT_FORK, _REMAP, _REMOVE, _UNMAP and UFFD_FEATURE_MOVE.
FEATURES = 1 << 1 | 1 << 2 | 1 << 3 | 1 << 6 | 1 << 16
NORESERVE = 0x4000


class Watch:
    """Room for the memory of this process while somebody watches what of it is touched."""

    def __init__(self, size):
        device = os.open("/dev/userfaultfd", os.O_RDWR | os.O_CLOEXEC)
        try:
            self.faults = fcntl.ioctl(device, NEW, os.O_CLOEXEC | os.O_NONBLOCK)
        finally:
            os.close(device)
        try:
            fcntl.ioctl(self.faults, API, struct.pack("3Q", 0xAA, FEATURES, 0))
            self.room = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | NORESERVE)
        except BaseException:
            os.close(self.faults)
            raise
        # Pages that a child has as well cannot be moved.
        self.room.madvise(mmap.MADV_DONTFORK)

    def move(self, to, start, size):
        """Moves pages; those that cannot be moved, as parts."""
        left, done = [], 0
        while done < size:
            call = bytearray(struct.pack("4Qq", to + done, start + done, size - done, HOLES, 0))
            try:
                fcntl.ioctl(self.faults, MOVE, call)
                break
            except OSError as failure:
                done += max(struct.unpack_from("q", call, 32)[0], 0)
                if isinstance(failure, BlockingIOError):
                    continue
                one = PAGE if failure.errno != errno.EINVAL else size - done
                if left and left[-1][0] + left[-1][2] == to + done:
                    left[-1][2] += one
                else:
                    left.append([to + done, start + done, one])
                done += one
        return left

    def close(self):
        """Nothing is aside any more."""
        os.close(self.faults)
        self.room.close()


class Action(http.server.BaseHTTPRequestHandler):
    """The two verbs of the protocol."""

    main = None
    watch = None

    def do_POST(self):
        """/init or /run."""
        try:
            length = int(self.headers.get("Content-Length", "0"))
            value = json.loads(self.rfile.read(length) or b"{}").get("value", {})
            if self.path == "/init":
                self.init(value)
            elif self.path == "/run":
                if Action.main is None:
                    self.answer(502, {"error": "no action yet: POST /init first"})
                else:
                    self.answer(200, Action.main(value))
            elif self.path == "/watch":
                Action.watch = Watch(value["bytes"])
                self.answer(200, {"faults": Action.watch.faults})
            elif self.path == "/move":
                self.answer(200, {"left": [part for parts in value["parts"] for part in Action.watch.move(*parts)]})
            elif self.path == "/unwatch":
                Action.watch.close()
                Action.watch = None
                self.answer(200, {"ok": True})
            else:
                self.answer(404, {"error": "only /init and /run are here, and /watch, /move and /unwatch"})
        except Exception as failure:  # the action's own fault is its answer
            traceback.print_exc()
            self.answer(502, {"error": str(failure) or type(failure).__name__})

    @staticmethod
    def born():
        """A child cannot be checkpointed with a userfaultfd."""
        if Action.watch is not None:
            os.close(Action.watch.faults)

    def init(self, value):
        """Loads the action's code, once."""
        if Action.main is not None:
            self.answer(403, {"error": "cannot initialize the action more than once"})
            return
        scope = {"__name__": value.get("name", "action")}
        exec(compile(value["code"], value.get("name", "action") + ".py", "exec"), scope)
        # Functions that pools of processes call are found by module and name.
        module = type(sys)(scope["__name__"])
        module.__dict__.update(scope)
        sys.modules[scope["__name__"]] = module
        Action.main = staticmethod(scope[value.get("main", "main")])
        self.answer(200, {"ok": True})

    def answer(self, status, value):
        """One JSON answer."""
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def address_string(self):
        """Unix sockets have no address."""
        return "unix"

    def log_message(self, *_):
        """Quiet: standard output belongs to the action."""


class Server(socketserver.UnixStreamServer):
    """One request after the other."""

    request_queue_size = 64


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    if os.path.exists(sys.argv[1]):
        os.unlink(sys.argv[1])
    os.register_at_fork(after_in_child=Action.born)
    Server(sys.argv[1], Action).serve_forever()
