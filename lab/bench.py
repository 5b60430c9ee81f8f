"""make bench: measurements as JSON lines, each beside what it is compared with, on hosts of its own."""

import json
import os
import pathlib
import signal
import statistics
import subprocess
import sys
import tempfile
import time

import yaml

from . import Lab, LabError, unwind_on_signals
from .controller import REPOSITORY, Controller
from .demo import DOMAIN, PILLAR
from .load import Load
from .master import Master
from .siterepo import SiteRepository

RUNS = 3
IN_A_ROW = 10
CLIENTS = 8
# Nothing here goes on for ever: one command, and all of it together, in seconds.
COMMAND = 900
WHOLE = 3600
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


# Healthy, and yet wrong: it is only found out at the front door, after the switch.
OLD_SHA = """
from django.http import JsonResponse
urlpatterns.insert(0, path("health/", lambda request: JsonResponse({"status": "ok", "git_sha": "deadbeef" * 5})))
"""


def timed(action, fails=False):
    began = time.monotonic()
    done = action()
    seconds = time.monotonic() - began
    if bool(done.returncode) is not fails:
        raise LabError(f"{done.args}: {(done.stdout or '')[-2000:]}{(done.stderr or '')[-2000:]}")
    return seconds


def say(name, seconds, beside=None, **more):
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


def over_ssh(host, line):
    return subprocess.run(
        [*host.ssh_command(), line],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=COMMAND,
        check=False,
    )


def _while_visited(host, action, load_seconds=600.0):
    """What visitors see while something is done: (what it returned, the Load, which is over)."""
    with Load(host, DOMAIN, clients=CLIENTS, seconds=load_seconds) as load:
        time.sleep(1)
        done = action()
        time.sleep(1)
    return done, load


def provisioning(lab, folder, release, prefix):
    """Bare hosts by state.apply, and identical ones by apt-get alone, in turn. Returns one that is provisioned."""
    ours, apt = [], []
    for run in range(RUNS):
        with lab.up(f"{prefix}-apt", release=release) as host:
            command = (
                "export DEBIAN_FRONTEND=noninteractive; apt-get update -qq && "
                f"apt-get install -qq --no-install-recommends {_packages()}"
            )
            apt.append(timed(lambda host=host, command=command: over_ssh(host, command)))
        host = lab.up(f"{prefix}-{run}", release=release)
        controller = Controller(folder / f"controller-{run}", [host])
        controller.pillar(host.name, PILLAR)
        ours.append(timed(lambda c=controller, h=host: c.salt_ssh(h.name, "state.apply")))
        if run < RUNS - 1:
            host.down()
    say(f"provision {release}", ours, apt, beside_is="apt-get install of the same packages")
    return host, controller


def deploys(host, controller, master, repository):
    """First and warm, over ssh and by a minion, and the plain script beside them."""
    say("first deploy, empty caches", [timed(lambda: controller.orchestrate("deploy"))])
    say(
        "state.apply, nothing to do, salt-ssh",
        [timed(lambda: controller.salt_ssh(host.name, "state.apply")) for _ in range(RUNS)],
    )
    master.admit(host)
    timed(lambda: master.salt(host.name, "saltutil.sync_all"))
    say(
        "state.apply, nothing to do, minion",
        [timed(lambda: master.salt(host.name, "state.apply")) for _ in range(RUNS)],
    )
    timed(lambda: over_ssh(host, PREPARE))
    timed(lambda: over_ssh(host, PLAIN))
    plain, ssh, minion, own = [], [], [], []
    for run in range(RUNS):
        for way, action in (
            (plain, lambda: over_ssh(host, PLAIN)),
            (ssh, lambda: controller.orchestrate("deploy", {"ref": "main"})),
            (minion, lambda: master.orchestrate("deploy", {"ref": "main"})),
        ):
            repository.commit(f"change {run}", {"NEWS": f"{run} {len(way)} {time.monotonic()}\n"})
            repository.publish(host)
            way.append(timed(action))
            if way is not plain:
                own.append(json.loads(host.exec(f"tail -n 1 {ROOT}/releases.jsonl").stdout)["seconds"])
    beside = "plain script over ssh, restarting in place"
    say("deploy, warm, salt-ssh", ssh, plain, beside_is=beside)
    say("deploy, warm, minion", minion, plain, beside_is=beside)
    say("deploy, warm, the part on the host", own, plain, beside_is=beside)
    say("rollback, minion", [timed(lambda: master.orchestrate("rollback")) for _ in range(RUNS)])


def visitors(host, controller, master, repository):
    """What eight clients see of deploys, of a rollback, of a deploy that undoes itself, and of the plain script."""

    def tell(name, seconds, load):
        slowest = max((ended - began for began, ended, path, _ in load.done if path in load.pages), default=0)
        say(name, seconds, requests=load.requests, failed=load.failed, longest_pause=round(load.pause, 2),
             slowest_page=round(slowest, 2))  # fmt: skip

    def row():
        seconds = []
        for run in range(IN_A_ROW):
            repository.commit(f"row {run}", {"NEWS": f"row {run}\n"})
            repository.publish(host)
            seconds.append(timed(lambda: master.orchestrate("deploy", {"ref": "main"})))
        return seconds

    tell(f"visitors, {IN_A_ROW} deploys in a row", *_while_visited(host, row))
    action = lambda: [timed(lambda: controller.orchestrate("rollback"))]  # noqa: E731
    tell("visitors, a rollback", *_while_visited(host, action))
    urls = (repository.folder / "example_site/urls.py").read_text()
    repository.commit("Says an old commit", {"example_site/urls.py": urls + OLD_SHA}, tag="wrong")
    repository.publish(host)
    action = lambda: [timed(lambda: controller.orchestrate("deploy", {"ref": "wrong"}), fails=True)]  # noqa: E731
    tell("visitors, a deploy that fails after the switch", *_while_visited(host, action))
    repository.reset("v1.0.0")
    repository.publish(host)
    action = lambda: [timed(lambda: over_ssh(host, PLAIN)) for _ in range(RUNS)]  # noqa: E731
    tell(f"visitors, {RUNS} runs of the plain script", *_while_visited(host, action))


def backups(host):
    """Answers' times with and without a backup beside them, in turn."""
    host.exec(f"head -c 32M /dev/urandom > {ROOT}/media/large.bin; chown sum-{SLUG}: {ROOT}/media/large.bin")
    answers, seconds = {"quiet": [], "backup": []}, []

    def backup():
        # New data each time, so that there is something to pack and to write.
        host.exec(f"head -c 32M /dev/urandom > {ROOT}/media/other.bin; chown sum-{SLUG}: {ROOT}/media/other.bin")
        seconds.append(timed(lambda: over_ssh(host, "systemctl start goldenpath-backup")))

    for _ in range(RUNS):
        for name, action in (("quiet", lambda: time.sleep(seconds[-1] if seconds else 5)), ("backup", backup)):
            _, load = _while_visited(host, action, 120)
            answers[name] += [ended - began for began, ended, path, _ in load.done if path in load.pages]
            if load.failed:
                raise LabError(f"{load.failed} of {load.requests} requests failed: {load.failures[:3]}")
    host.exec(f"rm -f {ROOT}/media/large.bin {ROOT}/media/other.bin")
    say("backup of a site beside visitors", seconds)
    for name, times in answers.items():
        print(
            json.dumps(
                {
                    "measure": f"answers to {CLIENTS} clients, {name}",
                    "median": round(statistics.median(times), 4),
                    "p95": round(statistics.quantiles(times, n=20)[-1], 4),
                    "max": round(max(times), 3),
                    "unit": "s",
                    "requests": len(times),
                }
            ),
            flush=True,
        )


def refusals(host, controller, master):
    """How soon a deploy says that Redis is stopped."""
    host.exec("systemctl stop redis-server")
    try:
        for name, ways in (("salt-ssh", controller), ("minion", master)):
            seconds = []
            for _ in range(RUNS):
                seconds.append(timed(lambda ways=ways: ways.orchestrate("deploy"), fails=True))
            say(f"deploy refused, Redis stopped, {name}", seconds)
    finally:
        host.exec("systemctl start redis-server")


def _too_long(*_):
    raise LabError(f"The bench took longer than {WHOLE} s, and was ended.")


def bounded(measure):
    """Measure, not for ever, and say why where it cannot be done.

    measure
        what is called; it takes its own hosts down (callable)

    Returns an exit status (int).
    """
    unwind_on_signals()
    signal.signal(signal.SIGALRM, _too_long)
    signal.alarm(WHOLE)
    try:
        measure()
    except (LabError, subprocess.TimeoutExpired) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        signal.alarm(0)
    return 0


def main():
    """Measure everything. Its hosts go again, also when something fails."""
    prefix = f"b{os.getpid() % 100000}"
    with Lab(lambda line: print(line, file=sys.stderr)) as lab, tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        host, controller = provisioning(lab, folder, "bookworm", prefix)
        repository = SiteRepository(folder / "site")
        repository.publish(host)
        with Master(folder / "m") as master:
            master.pillar(host.name, PILLAR)
            deploys(host, controller, master, repository)
            visitors(host, controller, master, repository)
            backups(host)
            refusals(host, controller, master)


if __name__ == "__main__":
    raise SystemExit(bounded(main))
