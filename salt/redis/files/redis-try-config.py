#!/usr/bin/python3
"""
Managed by Golden Path. Start the installed redis-server with a configuration that is not in use yet: on a free
port, in a folder of its own, as the user redis. Exit 0 when it answers PONG; otherwise print why, and exit 1.

usage: redis-try-config FILE
"""

import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

SECONDS = 10


def pong(path):
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(1)
        connection.connect(path)
        connection.sendall(b"PING\r\n")
        return connection.recv(64) == b"+PONG\r\n"


def reason(log):
    """
    Redis' own words: those after >>> of its configuration error, or what it could not do, or its last line.
    """
    # Without the process, date and level that begin a line of its log.
    lines = [re.sub(r"^\d+:\w .*?[0-9] [#*.-] ", "", line).strip() for line in log.splitlines() if line.strip()]
    for number, line in enumerate(lines):
        if line.startswith(">>>"):
            return " ".join(lines[number : number + 2])[4:]
    return next((line for line in lines if "Could not" in line), lines[-1] if lines else "it said nothing")


def attempt(config, folder):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    copy, log, place = f"{folder}/redis.conf", f"{folder}/log", f"{folder}/socket"
    shutil.copyfile(config, copy)
    overrides = {
        "--port": port, "--unixsocket": place, "--dir": folder, "--pidfile": f"{folder}/pid",
        "--logfile": "", "--daemonize": "no", "--supervised": "no",
    }  # fmt: skip
    command = ["redis-server", copy] + [str(word) for pair in overrides.items() for word in pair]
    identity = {}
    if os.geteuid() == 0:
        identity = {"user": "redis", "group": "redis", "extra_groups": []}
        for path in (folder, copy):
            shutil.chown(path, "redis", "redis")
    with open(log, "wb") as output:
        server = subprocess.Popen(
            command, cwd=folder, stdin=subprocess.DEVNULL, stdout=output, stderr=output, **identity
        )
    try:
        end = time.monotonic() + SECONDS
        while time.monotonic() < end and server.poll() is None:
            try:
                if pong(place):
                    return None
            except OSError:
                pass
            time.sleep(0.02)
        if server.poll() is None:
            return f"no PONG within {SECONDS} s"
        return reason(pathlib.Path(log).read_text(errors="replace"))
    finally:
        server.kill()  # it holds nothing that is worth saving
        server.wait()


def main(config):
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with tempfile.TemporaryDirectory(prefix="goldenpath-redis-") as folder:
        fault = attempt(config, folder)
    if fault:
        print(f"Redis does not start with this configuration: {fault}")
    return 1 if fault else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
