"""make demo: a bare host becomes a healthy HTTPS site by the two Salt commands, and stays up until demo-down."""

import contextlib
import json
import shutil
import subprocess
import sys
import time

from . import Lab, LabError, base, unwind_on_signals
from .controller import REPOSITORY, Controller
from .siterepo import SiteRepository

NAME = "demo"
DOMAIN = "acme.example"
FOLDER = REPOSITORY / ".lab/demo"
PILLAR = {
    "redis": {},
    "sites": {
        "acme-kitchens": {
            "domains": [DOMAIN, f"www.{DOMAIN}"],
            "repo": "/srv/git/acme-kitchens.git",
            "ref": "v1.0.0",
            "project": "example_site",
            "redis": {"cache": 0, "broker": 1},
            "workers": 2,
            "celery": {"worker": True, "concurrency": 2},
            "tls": "internal",
        }
    },
}


def _step(text):
    print(f"== {text}", flush=True)
    return time.monotonic()


def _salt(title, action):
    """Run one Salt command with its output on the screen; its exit status decides."""
    began = _step(title)
    if action(capture_output=False).returncode:
        raise LabError(f"{title}: failed, see above")
    print(f"   {time.monotonic() - began:.1f} s", flush=True)


def ask(host, path="/health/", domain=DOMAIN, timeout=15):
    """Ask the site as a visitor would, by its name and over HTTPS.

    host
        the host (lab.Host)
    path
        what to ask for (str)
    domain
        the site's name (str)
    timeout
        seconds (int)

    Returns a pair: the status (int, 0 without an answer) and the body (str).
    """
    done = subprocess.run(
        ["curl", "--silent", "--insecure", "--max-time", str(timeout), "--write-out", "\n%{http_code}",
         "--resolve", f"{domain}:443:{host.address}", f"https://{domain}{path}"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    body, _, code = done.stdout.rpartition("\n")
    return int(code or 0), body


def up(release="trixie"):
    """Boot, provision, release, ask. What it started goes again when a step fails.

    release
        Debian's, as the lab names them (str)
    """
    release = base.release_name(release)
    down()
    FOLDER.parent.mkdir(mode=0o700, exist_ok=True)
    lab = Lab(print)
    try:
        began = _step(f"A bare Debian {release} host")
        host = lab.up(NAME, release=release)
        print(f"   {host.address}, up after {time.monotonic() - began:.1f} s", flush=True)
        controller = Controller(FOLDER / "controller", [host])
        controller.pillar(NAME, PILLAR)
        SiteRepository(FOLDER / "site").publish(host)
        words = ["--state-output=terse", "--state-verbose=False"]
        _salt(f"salt-ssh {NAME} state.apply", lambda **o: controller.salt_ssh(NAME, "state.apply", *words, **o))
        _salt(
            "salt-run state.orchestrate deploy",
            lambda **o: controller.salt_run("state.orchestrate", "deploy", *words, **o),
        )
        _step(f"https://{DOMAIN}/health/ at {host.address}")
        code, body = ask(host)
        print(f"   {code} {body}", flush=True)
        if code != 200:
            raise LabError("The site is not healthy.")
    except BaseException:
        down()
        raise
    print(
        f"\nThe site: curl -k --resolve {DOMAIN}:443:{host.address} https://{DOMAIN}/\n"
        "The host: make demo-info tells how to reach it, make demo-down removes it."
    )


def info():
    """Print how any Salt command, ssh and curl reach the demo host."""
    host = Lab().get(NAME)
    print(
        json.dumps(
            {
                "id": NAME,
                "address": host.address,
                "domain": DOMAIN,
                "ssh_key": str(host.ssh_key),
                "config_dir": str(FOLDER / "controller/config"),
            }
        )
    )


def down():
    """Remove the demo host and what belongs to it."""
    lab = Lab()
    if NAME in [host.name for host in lab.hosts()]:
        lab.down(NAME)
    shutil.rmtree(FOLDER, ignore_errors=True)
    with contextlib.suppress(OSError):
        FOLDER.parent.rmdir()  # unless something else is in it


def main(words):
    """Run one command: up, info or down.

    words
        the command line (list of str); `up` takes a release of Debian

    Returns an exit status (int).
    """
    commands = {"up": up, "info": info, "down": down}
    if not words or words[0] not in commands or len(words) > (2 if words[0] == "up" else 1):
        print("Usage: python -m lab.demo up [bookworm|trixie] | info | down", file=sys.stderr)
        return 2
    unwind_on_signals()
    try:
        commands[words[0]](*words[1:])
    except (LabError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
