#!/usr/bin/python3
"""
Managed by Golden Path. Start the installed redis-server with a configuration that is not in use yet: on a free
port, in a folder of its own, as the user redis. Exit 0 when it answers PONG; otherwise print why, and exit 1.

The file in use may still include the package's redis.conf. Then it is started too, and a directive that is lost with
the include is named, and the new file refused.

usage: redis-try-config FILE
"""

import glob
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
IN_USE = "/etc/redis/goldenpath.conf"
PACKAGED = "/etc/redis/redis.conf"
OPTIONS = ("daemonize", "supervised")  # which the unit sets, whatever a file says
PASSWORD = "/etc/goldenpath/redis-password"  # noqa: S105  a path
PATHS = ("pidfile", "logfile", "unixsocket")  # which the trial sets


class Failure(Exception):
    """Redis does not start, or does not answer: its reason."""


def talk(path, closed):
    """
    Redis' whole configuration, from the one that answers PONG on a socket; nothing where the answer is another.

    closed (bool)
        It asks who is there first, as a site's own does.
    """
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(1)
        connection.connect(path)
        with connection.makefile("rb") as answer:

            def ask(words):
                # One by one: sent as one, Redis 8.0 was seen to leave the answer to the refused AUTH out.
                connection.sendall(f"{words}\r\n".encode())
                return answer.readline()

            if not ask("PING").startswith(b"-NOAUTH" if closed else b"+PONG\r\n"):
                return None
            # The user of every site may not ask for all of it; a file of before knows no other.
            ask(f"AUTH goldenpath {password()}")
            head = ask("CONFIG GET *")
            if head[:1] != b"*":
                raise Failure(head.decode(errors="replace")[1:].strip())
            words = [answer.read(int(answer.readline()[1:]) + 2)[:-2].decode() for _ in range(int(head[1:]))]
    return dict(zip(words[::2], words[1::2], strict=True))


def password():
    """
    Of the tree's own user of Redis; a word that is none where there is no file.
    """
    try:
        return pathlib.Path(PASSWORD).read_text().strip() or "none"
    except OSError:
        return "none"


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
    """
    The configuration that Redis has, started with a file.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    copy, log, place = f"{folder}/redis.conf", f"{folder}/log", f"{folder}/socket"
    # Redis would tell a fault that it meets after that line in the log of the one that serves.
    lines = pathlib.Path(config).read_text(errors="replace").splitlines(keepends=True)
    pathlib.Path(copy).write_text("".join(line for line in lines if not line.lower().startswith("logfile ")))
    closed = any(line.startswith("user default on #") for line in lines)
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
                if found := talk(place, closed):
                    return found
            except OSError:
                pass
            time.sleep(0.02)
        if server.poll() is None:
            raise Failure(f"no PONG within {SECONDS} s")
        raise Failure(reason(pathlib.Path(log).read_text(errors="replace")))
    finally:
        server.kill()  # it holds nothing that is worth saving
        server.wait()


def directives(path):
    """
    What a configuration says, line by line: names and values.
    """
    for line in pathlib.Path(path).read_text(errors="replace").splitlines():
        name, _, value = line.strip().partition(" ")
        if name and not name.startswith("#"):
            yield name.lower(), value.strip().strip("\"'")


def everything(path):
    """
    The same, with what it includes.
    """
    for name, value in directives(path):
        if name == "include":
            for each in sorted(glob.glob(value)):
                yield from everything(each)
        else:
            yield name, value


def lost(new, config):
    """
    The directives that only the package's file sets, and that would have another value without it.

    new (str)
        The new file.
    config (dict)
        What Redis has, started with it.
    """
    include = ("include", PACKAGED)
    if not os.path.exists(IN_USE) or include not in directives(IN_USE) or include in directives(new):
        return []
    if not os.path.exists(PACKAGED):  # with which Redis did not start any more
        return []
    with tempfile.TemporaryDirectory(prefix="goldenpath-redis-") as folder:
        before = attempt(IN_USE, folder)
    own, packaged, said = dict(directives(IN_USE)), dict(everything(PACKAGED)), dict(directives(new))

    def differs(name):
        if name in PATHS:
            return os.path.realpath(packaged[name]) != os.path.realpath(said.get(name, ""))
        # What CONFIG does not tell, such as a user or a module, is nowhere without that file.
        return name not in before or before[name] != config.get(name)

    return [name for name in sorted(packaged) if name not in own and name not in OPTIONS and differs(name)]


def trial(path):
    """
    Why a new configuration is refused; nothing where it is good.
    """
    with tempfile.TemporaryDirectory(prefix="goldenpath-redis-") as folder:
        try:
            config = attempt(path, folder)
        except Failure as failure:
            return f"Redis does not start with this configuration: {failure}"
    try:
        names = lost(path, config)
    except Failure as failure:
        return (
            f"Nobody can tell what is lost of {PACKAGED}, which is no longer included: {failure}. Try: mend it, or "
            "put the package's own file back"
        )
    if not names:
        return None
    return (
        f"{PACKAGED}, which is no longer included, is the only one to set {', '.join(names)}. Try: write that into "
        f"salt/redis/files/goldenpath.conf, or out of it: sed -i -E '/^\\s*({'|'.join(names)})\\s/Id' {PACKAGED}"
    )


def main(config):
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    fault = trial(config)
    if fault:
        print(fault)
    return 1 if fault else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
