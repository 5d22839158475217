#!/usr/bin/env python3
"""Talk to a runner: call.py SOCKET init FUNCTION.py, or call.py SOCKET run JSON, or call.py SOCKET wait.

Prints the answer; ends with 1 unless the status is 200 and, for run, the answer's "ok" is true.
"""

import http.client
import json
import os
import socket
import sys
import time


class Unix(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path):
        super().__init__("localhost", timeout=120)
        self.path = path

    def connect(self):
        """Opens the socket."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


def post(path, verb, value):
    """One request; status and decoded answer."""
    unix = Unix(path)
    unix.request("POST", verb, json.dumps({"value": value}), {"Content-Type": "application/json"})
    response = unix.getresponse()
    return response.status, json.loads(response.read())


def main():
    """The command line."""
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    path, what = sys.argv[1], sys.argv[2]
    if what == "wait":
        for _ in range(600):
            if os.path.exists(path):
                return
            time.sleep(0.05)
        sys.exit(f"no socket at {path} after 30 s")
    if what == "init":
        with open(sys.argv[3], encoding="utf-8") as source:
            name = os.path.splitext(os.path.basename(sys.argv[3]))[0]
            status, answer = post(path, "/init", {"name": name, "main": "main", "code": source.read()})
        good = status == 200
    else:
        status, answer = post(path, "/run", json.loads(sys.argv[3]))
        good = status == 200 and answer.get("ok") is True
    print(json.dumps(answer))
    if not good:
        sys.exit(f"call.py: status {status}, not a good answer")


if __name__ == "__main__":
    main()
