"""make bench: measurements as JSON lines, each beside what it is compared with, on hosts of its own."""

import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import yaml

from . import Lab, LabError
from .controller import REPOSITORY, Controller
from .demo import DOMAIN, PILLAR
from .load import Load
from .siterepo import SiteRepository

RUNS = 3
SLUG = "acme-kitchens"
ROOT = f"/srv/sum/{SLUG}"

# What most people start with: the same site, on the same host, by a script over ssh that restarts in place.
PLAIN = f"""
set -e
cd /srv/plain/src
git fetch --quiet origin
git checkout --quiet --force origin/main
/srv/plain/venv/bin/pip install --quiet --disable-pip-version-check -r requirements.txt
set -a; . {ROOT}/.env; DJANGO_STATIC_ROOT=/srv/plain/static; set +a
as_site="setpriv --reuid=sum-{SLUG} --regid=sum-{SLUG} --init-groups"
$as_site /srv/plain/venv/bin/python manage.py migrate --noinput
$as_site /srv/plain/venv/bin/python manage.py collectstatic --noinput
live=$(basename $(readlink {ROOT}/current))
systemctl stop sum-{SLUG}-gunicorn@$live.socket sum-{SLUG}-gunicorn@$live.service
systemctl start sum-{SLUG}-gunicorn@$live.socket sum-{SLUG}-gunicorn@$live.service
systemctl restart sum-{SLUG}-celery
"""
PREPARE = f"""
set -e
mkdir -p /srv/plain/static
git clone --quiet {PILLAR["sites"][SLUG]["repo"]} /srv/plain/src
python3 -m venv /srv/plain/venv
chown -R sum-{SLUG}: /srv/plain/static
"""


def _timed(action):
    began = time.monotonic()
    done = action()
    seconds = time.monotonic() - began
    if done.returncode:
        raise LabError(f"{done.args}: {(done.stdout or '')[-2000:]}{(done.stderr or '')[-2000:]}")
    return seconds


def _say(name, seconds, beside=None, **more):
    line = {
        "measure": name,
        "min": round(min(seconds), 2),
        "median": round(statistics.median(seconds), 2),
        "max": round(max(seconds), 2),
        "unit": "s",
    }
    if beside:
        line["beside"] = {
            "min": round(min(beside), 2),
            "median": round(statistics.median(beside), 2),
            "max": round(max(beside), 2),
        }
        line["ratio"] = round(statistics.median(seconds) / statistics.median(beside), 2)
    print(json.dumps({**line, **more}), flush=True)


def _packages():
    defaults = yaml.safe_load((REPOSITORY / "salt/base/defaults.yaml").read_text())
    return " ".join(defaults["packages"])


def _ssh(host, line):
    return subprocess.run(
        [*host.ssh_command(), line], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )


def provisioning(lab, folder, release, prefix):
    """Bare hosts by state.apply, and identical ones by apt-get alone, in turn. Returns one that is provisioned."""
    ours, apt = [], []
    for run in range(RUNS):
        with lab.up(f"{prefix}-apt", release=release) as host:
            command = (
                "export DEBIAN_FRONTEND=noninteractive; apt-get update -qq && "
                f"apt-get install -qq --no-install-recommends {_packages()}"
            )
            apt.append(_timed(lambda host=host, command=command: _ssh(host, command)))
        host = lab.up(f"{prefix}-{run}", release=release)
        controller = Controller(folder / f"controller-{run}", [host])
        controller.pillar(host.name, PILLAR)
        ours.append(_timed(lambda c=controller, h=host: c.salt_ssh(h.name, "state.apply")))
        if run < RUNS - 1:
            host.down()
    _say(f"provision {release}", ours, apt, beside_is="apt-get install of the same packages")
    return host, controller


def deploys(host, controller, folder):
    """First, warm, and under load; and the plain script beside it."""
    repository = SiteRepository(folder / "site")
    repository.publish(host)
    _say("first deploy, empty caches", [_timed(lambda: controller.orchestrate("deploy"))])
    _say(
        "state.apply, nothing to do",
        [_timed(lambda: controller.salt_ssh(host.name, "state.apply")) for _ in range(RUNS)],
    )
    _timed(lambda: _ssh(host, PREPARE))
    _timed(lambda: _ssh(host, PLAIN))
    ours, plain, own = [], [], []
    for run in range(RUNS):
        repository.commit(f"change {run}", {"NEWS": f"{run}\n"})
        repository.publish(host)
        plain.append(_timed(lambda: _ssh(host, PLAIN)))
        ours.append(_timed(lambda: controller.orchestrate("deploy", {"ref": "main"})))
        record = json.loads(host.exec(f"tail -n 1 {ROOT}/releases.jsonl").stdout)
        own.append(record["seconds"])
    _say("deploy, warm, over salt-ssh", ours, plain, beside_is="plain script over ssh, restarting in place")
    _say("deploy, warm, the part on the host", own, plain, beside_is="plain script over ssh, restarting in place")
    for name, action in (
        ("visitors during a deploy", lambda: controller.orchestrate("deploy", {"ref": "main"})),
        ("visitors during the plain script", lambda: _ssh(host, PLAIN)),
    ):
        seconds, requests, failed, pauses = [], 0, 0, []
        for _ in range(RUNS):
            with Load(host, DOMAIN, clients=8, seconds=300) as load:
                time.sleep(1)
                seconds.append(_timed(action))
                time.sleep(1)
            requests, failed = requests + load.requests, failed + load.failed
            pauses.append(load.pause)
        _say(name, seconds, requests=requests, failed=failed, longest_pause=round(max(pauses), 2))


def main():
    """Measure everything. Its hosts go again, also when something fails.

    Returns an exit status (int).
    """
    prefix = f"b{os.getpid() % 100000}"
    try:
        with Lab(lambda line: print(line, file=sys.stderr)) as lab, tempfile.TemporaryDirectory() as folder:
            host, controller = provisioning(lab, pathlib.Path(folder), "bookworm", prefix)
            deploys(host, controller, pathlib.Path(folder))
    except LabError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
