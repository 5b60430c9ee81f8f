"""The command line: python -m lab COMMAND."""

import argparse
import json
import os
import pathlib
import shutil
import subprocess
import sys

from . import supervisor
from .common import LabError, install, unwind_on_signals
from .machine import Lab

# The command that shows that a package is there.
NEEDED = {
    "mmdebstrap": "mmdebstrap",
    "systemd-nspawn": "systemd-container",
    "nft": "nftables",
    "ssh-keygen": "openssh-client",
    "ip": "iproute2",
    "unshare": "util-linux",
}
ARCHIVE_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


def _parser():
    parser = argparse.ArgumentParser(prog="python -m lab", description="Throwaway bare Debian hosts on this machine.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name, help):
        return commands.add_parser(name, help=help, description=help)

    command("setup", "install what this machine lacks")
    up = command("up", "make a host and boot it")
    up.add_argument("name")
    up.add_argument("--release", default="bookworm", help="bullseye, bookworm, trixie or forky (default: bookworm)")
    up.add_argument("--json", action="store_true", help="print what `info` prints")
    for name, help in (
        ("shell", "a root shell in a host, over ssh"),
        ("reboot", "reboot a host cleanly and wait for its ssh"),
        ("poweroff", "pull a host's plug"),
        ("start", "boot a host that is off"),
        ("info", "where a host is and how to reach it, as JSON"),
    ):
        command(name, help).add_argument("name")
    execute = command("exec", "run a command in a host as root, with its exit status")
    execute.add_argument("name")
    execute.add_argument("words", nargs=argparse.REMAINDER, metavar="-- CMD")
    port = command("port", "try a TCP port of a host from outside: open (0) or closed (1)")
    port.add_argument("name")
    port.add_argument("port", type=int)
    port.add_argument("--from", dest="other", help="the host to try from, instead of this machine")
    port.add_argument("--timeout", type=float, default=2.0, help="seconds until it counts as closed (default: 2)")
    port.add_argument("--ipv6", action="store_true", help="its IPv6 address")
    listing = command("list", "all hosts")
    listing.add_argument("--json", action="store_true")
    down = command("down", "remove hosts and all that they left")
    down.add_argument("names", nargs="*", metavar="NAME")
    down.add_argument("--all", action="store_true", help="every host of this machine")
    return parser


def main(argv=None):
    """Run one command.

    argv
        the words after `python -m lab` (list of str); by default the process's

    Returns an exit status (int).
    """
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["supervise"] and len(argv) == 2:
        return supervisor.supervise(argv[1])
    options = _parser().parse_args(argv)
    if os.geteuid():
        _become_root(argv)
    unwind_on_signals()
    try:
        return globals()[f"_{options.command}"](options) or 0
    except LabError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return 130


def _become_root(argv):
    package = pathlib.Path(__file__).resolve().parent.parent
    sudo = shutil.which("sudo")
    if not sudo or subprocess.run([sudo, "-n", "true"], capture_output=True, check=False).returncode:
        print("The lab needs root. Try: sudo python3 -m lab " + " ".join(argv), file=sys.stderr)
        sys.exit(1)
    command = [
        "sudo",
        "-n",
        "env",
        "PYTHONDONTWRITEBYTECODE=1",
        f"PYTHONPATH={package}",
        sys.executable,
        "-m",
        "lab",
        *argv,
    ]
    os.execvp("sudo", command)  # noqa: S606


def _say(line):
    print(line, file=sys.stderr, flush=True)


def _setup(options):
    if not install(NEEDED, {ARCHIVE_KEYRING: "debian-archive-keyring"}, _say):
        _say("All that the lab needs is installed.")


def _up(options):
    host = Lab(_say).up(options.name, options.release)
    if options.json:
        print(json.dumps(host.info(), indent=2))
    else:
        print(f"{host.name} is up: Debian {host.release}, {host.address}. Try: python -m lab shell {host.name}")


def _info(options):
    print(json.dumps(Lab().get(options.name).info(), indent=2))


def _list(options):
    found = [host.info() for host in Lab().hosts()]
    if options.json:
        print(json.dumps(found, indent=2))
        return
    for host in found:
        print(f"{host['name']:20} {host['release']:10} {host['state']:8} {host['address']}")


def _exec(options):
    words = options.words[1:] if options.words[:1] == ["--"] else options.words
    if not words:
        raise LabError(f"No command given. Try: python -m lab exec {options.name} -- uptime")
    command = Lab().get(options.name).enter_command(words)
    os.execvp(command[0], command)  # noqa: S606


def _shell(options):
    command = Lab().get(options.name).ssh_command()
    os.execvp(command[0], command)  # noqa: S606


def _reboot(options):
    Lab().get(options.name).reboot()


def _poweroff(options):
    Lab().get(options.name).poweroff()


def _start(options):
    Lab().get(options.name).start()


def _port(options):
    lab = Lab()
    other = lab.get(options.other) if options.other else None
    is_open = lab.get(options.name).port_open(options.port, other, options.timeout, options.ipv6)
    print("open" if is_open else "closed")
    return 0 if is_open else 1


def _down(options):
    if bool(options.names) == options.all:
        raise LabError("Name the hosts, or all of them. Try: python -m lab down --all")
    if options.all:
        Lab().down_all()
    else:
        Lab().down(*options.names)
