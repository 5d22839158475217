#!/usr/bin/env python3
"""Run one OpenWhisk Python action behind a Unix socket.

usage: runner.py SOCKET

Speaks the action protocol: `POST /init` with {"value": {"name", "main", "code"}}, where `code` is Python source, then any
number of `POST /run` with {"value": {...}}; the answer of /run is what the action's main function returns. One request
at a time, one connection each. A failing action answers 502 and {"error": ...}; the process goes on.
"""

import http.server
import json
import os
import socketserver
import sys
import traceback


class Action(http.server.BaseHTTPRequestHandler):
    """The two verbs of the protocol."""

    main = None

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
            else:
                self.answer(404, {"error": "only /init and /run are here"})
        except Exception as failure:  # the action's own fault is its answer
            traceback.print_exc()
            self.answer(502, {"error": str(failure) or type(failure).__name__})

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
    Server(sys.argv[1], Action).serve_forever()
