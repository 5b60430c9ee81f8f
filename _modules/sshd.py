"""
On which ports a host is administered by ssh.
"""

import glob
import os
import re
import shutil

from salt.exceptions import CommandExecutionError

PROC = "/proc"
CONFIG = "/etc/ssh/sshd_config"


def ports():
    """
    Find the ports on which this host is administered: those of sshd's configuration, of ssh.socket where
    systemd listens for sshd (Ubuntu 24.04), and of the ssh session that asks.

    :return: sorted list of integers, empty on a host without ssh.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 sshd.ports
    """
    ports = set()
    if (said := _said("sshd", "-T")) is not None:
        ports.update(re.findall(r"^listenaddress \S*:(\d+)$", said, re.MULTILINE))
        if not ports:
            # sshd -T answers only where sshd could start: without /run/sshd, for one, it does not.
            ports.update(_written(CONFIG) or {"22"})
    said = _said("systemctl", "show", "ssh.socket", "-pListen,ActiveState,UnitFileState") or ""
    if re.search(r"^(ActiveState=active|UnitFileState=enabled)$", said, re.MULTILINE):
        ports.update(re.findall(r"^Listen=\S*?(\d+) \(Stream\)$", said, re.MULTILINE))
    ports.update(_of_session())
    return sorted(int(port) for port in ports)


def _said(name, *words):
    """What a program prints: nothing where it fails, None where it is not there."""
    program = _program(name)
    if not program:
        return None
    ret = __salt__["cmd.run_all"](
        [program, *words],
        python_shell=False,
        ignore_retcode=True,
        output_loglevel="quiet",
        env={"LC_ALL": "C"},
        timeout=60,
    )
    return "" if ret["retcode"] else ret["stdout"]


def _program(name):
    return shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin:/usr/bin:/bin")


def _read(path):
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.read()
    except FileNotFoundError:
        return ""
    except OSError as exc:
        raise CommandExecutionError(f"{path} cannot be read: {exc.strerror}. Try: ls -l {path}") from exc


def _written(path):
    ports = set()
    for line in _read(path).splitlines():
        words = line.partition("#")[0].replace("=", " ", 1).split()
        keyword = words[0].lower() if len(words) > 1 else ""
        if keyword == "port":
            ports.add(words[1])
        elif keyword == "listenaddress":
            ports.update(re.findall(r"(?:\]|^[^:]+):(\d+)$", words[1]))
        elif keyword == "include":
            for pattern in words[1:]:
                for name in glob.glob(os.path.join(os.path.dirname(CONFIG), pattern)):
                    ports |= _written(name)
    return ports


def _of_session():
    """The port of the ssh session above this process: sudo takes SSH_CONNECTION away, its parents keep it."""
    pid = os.getpid()
    while pid > 1:
        try:
            session = re.search(r"(?:^|\0)SSH_CONNECTION=\S+ \d+ \S+ (\d+)\0", _read(f"{PROC}/{pid}/environ"))
            # The program's name stands in brackets and may hold anything.
            parent = re.search(r".*\) \S (\d+) ", _read(f"{PROC}/{pid}/stat"), re.DOTALL)
        except CommandExecutionError:
            break
        if session:
            return {session.group(1)}
        pid = int(parent.group(1)) if parent else 0
    return set()
