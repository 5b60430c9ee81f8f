"""An operator's wishes, each as it is typed in the checkout, on a real host (docs/day.md)."""

import base64
import contextlib
import json
import os
import re
import shutil
import subprocess
import time

import pytest
import yaml

from lab.common import wait_for
from lab.controller import REPOSITORY
from lab.load import Load

from .conftest import DOMAIN, ROOT, SLUG

BROKEN = """
urlpatterns.insert(0, path("boom/", lambda request: 1 / 0))
"""


class Operator:
    """./goldenpath with the host's roster, in a folder of its own."""

    def __init__(self, world, folder):
        self.world, self.folder = world, folder
        self.env = {**os.environ, "GOLDENPATH_CONFIG": str(world.controller.config_dir)}

    @contextlib.contextmanager
    def beside(self, *words):
        """Type a command that goes on until it is ended; gives the file that it writes to."""
        # A file: the connection that several commands share holds a pipe open for longer than they last.
        path = self.folder / "beside.out"
        with open(path, "w") as stream:
            running = subprocess.Popen(
                [str(REPOSITORY / "goldenpath"), *words], cwd=self.folder, env=self.env, stdin=subprocess.DEVNULL,
                stdout=stream, stderr=subprocess.DEVNULL,
            )  # fmt: skip
            try:
                yield path
            finally:
                running.terminate()
                running.wait(20)

    def __call__(self, *words, status=0, **options):
        """Type a command. Returns what it printed to standard output; its errors are kept."""
        done = subprocess.run(
            [str(REPOSITORY / "goldenpath"), *words], cwd=self.folder, env=self.env, capture_output=True, text=True,
            timeout=300, check=False, **{"stdin": subprocess.DEVNULL, **options},
        )  # fmt: skip
        self.err = done.stderr
        assert done.returncode == status, (words, done.stdout, done.stderr)
        assert "Traceback (most recent call last)" not in done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def operator(trixie, tmp_path_factory):
    world = trixie
    world.write_pillar(
        schedules={"tidy": {"command": "manage.py check", "at": "yearly"}},
        secrets={"MAIL_PASSWORD": "correct horse battery"},
    )
    world.repository.reset("v1.0.0")
    urls = (world.repository.folder / "example_site/urls.py").read_text()
    world.repository.commit("Answers 500", {"example_site/urls.py": urls + BROKEN}, tag="broken")
    world.repository.publish(world.host)
    world.apply()
    yield Operator(world, tmp_path_factory.mktemp("operator"))
    for key in ("schedules", "secrets"):
        world.pillar["sites"][SLUG].pop(key)
    world.write_pillar()
    status, output = world.deploy(ref="v1.0.0")
    assert status == 0, output
    world.apply()


def test_a_deploy_by_its_one_command(operator):
    told = operator("diff", SLUG, "broken")
    assert re.search(r"broken is [0-9a-f]{8}: 1 commit ahead\nComes:\n  [0-9a-f]{7,} Answers 500 \(", told)
    out = operator("deploy", SLUG, "broken")
    shown = [line for line in (out + operator.err).splitlines() if not line.endswith(" ...")]
    assert len(shown) <= 25, "a page that a person reads, but for what is slow beside other tests"
    back = operator("diff", SLUG)
    assert "BACK by 1 commit; a deploy takes them out of production" in back
    assert json.loads(operator("diff", SLUG, "--json"))["way"] == "back"
    listed = operator("releases", f"site={SLUG}")
    assert "LIVE" in listed.splitlines()[-1] and "broken" in listed.splitlines()[-1] and "retcode" not in listed


def test_why_it_answered_500(operator):
    assert operator.world.ask("/boom/")[0] == 500
    told = []

    def heard():
        told[:] = [operator("logs", SLUG, "errors", "-n", "1")]
        return "ZeroDivisionError: division by zero" in told[0]

    assert wait_for(heard, 20, 0.5), told
    lines = told[0].strip().splitlines()
    assert lines[0].endswith(" web") and "/boom/" in lines[1] and "Traceback" in lines[2]
    requests = operator("logs", SLUG, "requests", "-n", "3")
    assert re.search(rf" 500 GET  {DOMAIN}/boom/ \d+ ms ", requests)


def test_logs_follow_over_a_deploy(operator):
    before = operator.world.live()
    with operator.beside("logs", SLUG, "web", "-f", "-n", "1") as path:
        time.sleep(1)
        operator("deploy", SLUG, "v1.0.0")
        assert operator.world.live() != before
        release = operator.world.live()
        assert wait_for(lambda: f"/{release}.sock" in path.read_text(), 20, 0.5), path.read_text()
    out = path.read_text()
    assert {line[15:23].strip() for line in out.splitlines()} == {"web"}
    assert operator("logs", SLUG, "worker", "-n", "2").count("worker") == 2
    assert "Applying" in operator("logs", SLUG, "deploy", "-n", "200") or "$ " in operator("logs", SLUG, "deploy")
    assert operator("logs", SLUG, "wbe", status=3) == "" and "Try one of: beat, deploy, errors" in operator.err


def test_what_is_live_and_what_is_wrong(operator):
    out = operator("ps")
    head, line, schedule, machine = out.splitlines()[:4]
    assert head.split()[:3] == ["SITE", "RELEASE", "REF"] and line.startswith(SLUG) and line.endswith("up")
    assert schedule.startswith(f"  {SLUG} tidy: has not run since the boot, last due ") and "disk " in machine
    operator.world.sh(f"systemctl stop sum-{SLUG}-celery")
    try:
        assert f"sum-{SLUG}-celery.service is down" in operator("ps")
        operator.world.sh("redis-cli -n 1 rpush celery a b c; redis-cli -n 1 llen celery")
        columns = operator("ps").splitlines()
        at = columns[0].index("QUEUE")
        assert columns[1][at : at + 2].strip() == "3"
    finally:
        operator.world.sh(f"redis-cli -n 1 del celery; systemctl start sum-{SLUG}-celery")


def test_a_schedule_now(operator):
    assert f"tidy of {SLUG} is done" in operator("run", SLUG, "tidy")
    assert f"  {SLUG} tidy: ran " in operator("ps") and "FAILED" not in operator("ps")
    operator.world.write_pillar(schedules={"tidy": {"command": "manage.py nothing-of-the-kind", "at": "yearly"}})
    operator.world.apply("site")
    operator("run", SLUG, "tidy", status=1)
    assert f"tidy of {SLUG} failed. Try: goldenpath logs {SLUG} tidy" in operator.err
    assert "Unknown command: 'nothing-of-the-kind'" in operator.err
    assert "FAILED (exit-code)" in operator("ps")
    assert "Unknown command" in operator("logs", SLUG, "tidy")
    assert operator("run", SLUG, "id", "-un").strip() == f"sum-{SLUG}"


def test_the_database_and_manage_py(operator):
    asked = operator("psql", SLUG, "-Atc", "select current_user, current_database()")
    assert asked.strip() == f"sum-{SLUG}|sum-{SLUG}"
    operator("psql", SLUG, "-c", "select nothing", status=1)
    shell = operator("manage", SLUG, "shell", "-c", "print(6 * 7)")
    assert shell.strip().splitlines()[-1] == "42"
    operator("manage", SLUG, "nothing", status=1)
    assert "Unknown command: 'nothing'" in operator.err


def test_variables_and_no_secret(operator):
    names = operator("env", SLUG).splitlines()
    assert "MAIL_PASSWORD (secret)" in names and "DJANGO_SECRET_KEY (secret)" in names and "SITE_DOMAIN" in names
    values = operator("env", SLUG, "--values")
    assert f"SITE_DOMAIN={DOMAIN}" in values and "correct horse" not in values
    assert operator.world.sh(f"grep DJANGO_SECRET_KEY {ROOT}/.env").split("=", 1)[1].strip("'\"") not in values


def test_the_maintenance_page(operator):
    said = operator("maintenance", SLUG, "on", "--text", "We <move>", "--until", "2h")
    until = re.search(r"put there by operator until (.*), when it goes down by itself", said)[1]
    assert f"goldenpath maintenance {SLUG} off" in said
    code, page = operator.world.ask("/any/page/")
    assert code == 503 and f"<p>We &lt;move&gt; We are back at {until}.</p>" in page
    told = operator("deploy", SLUG, "v1.0.0") + operator.err
    assert f"visitors read the maintenance page, also after this, until {until}" in told
    assert f"maintenance page by operator until {until}" in operator("ps")
    units = "systemctl list-units --all --plain --no-legend 'goldenpath-maintenance-*'"
    assert f"goldenpath-maintenance-{SLUG}.timer" in operator.world.sh(units)
    operator("maintenance", SLUG, "on")
    assert operator.world.sh(units, check=False) == "", "it stays until somebody takes it down"
    assert "being looked after" in operator.world.ask("/")[1]
    assert operator.world.ask("/")[0] == 503 and "maintenance page by operator" in operator("ps")
    assert "is down: visitors reach the site" in operator("maintenance", SLUG, "off")
    assert operator.world.ask("/")[0] == 200


def test_the_maintenance_page_goes_down_by_itself(operator):
    """Also over a reboot."""
    world = operator.world
    at = int(world.sh("date +%s")) + 15
    operator("maintenance", SLUG, "on", "--until", world.sh(f"date -u -d @{at} +%Y-%m-%dT%H:%M:%SZ"))
    assert world.ask("/")[0] == 503
    assert wait_for(lambda: world.ask("/")[0] == 200, 40, 0.5)
    assert int(world.sh("date +%s")) >= at
    left = f"ls /etc/systemd/system /var/lib/systemd/timers | grep maintenance-{SLUG}"
    assert wait_for(lambda: world.sh(left, check=False) == "", 10, 0.5)
    operator("maintenance", SLUG, "on", "--until", "1m")
    at = int(world.sh("date +%s")) + 60
    world.host.reboot()
    assert wait_for(lambda: world.ask("/")[0] == 200, 120, 0.5)
    assert int(world.sh("date +%s")) >= at - 1 and world.health() == (200, "ok")
    assert wait_for(lambda: world.sh(left, check=False) == "", 10, 0.5)


def test_what_is_pulled_can_be_used(operator):
    operator.world.sh(f"runuser -u sum-{SLUG} -- sh -c 'echo kept > {ROOT}/media/kept.txt'")
    assert "pg_restore" in operator("pull", SLUG)
    dump = operator.folder / f"{SLUG}.dump"
    assert dump.stat().st_mode & 0o777 == 0o600
    restored = operator.world.host.exec(
        ["sh", "-c", "base64 -d > /root/x.dump; pg_restore --list /root/x.dump; rm /root/x.dump"],
        input=base64.b64encode(dump.read_bytes()).decode(),
    )
    assert "TABLE DATA public django_migrations" in restored.stdout
    operator("pull", SLUG, "--media")
    packed = subprocess.run(
        ["tar", "-xOf", f"{SLUG}.media.tar", "./kept.txt"], cwd=operator.folder, capture_output=True, text=True
    )
    assert packed.stdout == "kept\n"
    assert operator.world.sh(f"ls -A {ROOT}/backups | grep -c export", check=False) == "0", "nothing stays on the host"


def test_drift_is_found_and_corrected(operator):
    assert "is in order." in operator("drift")
    operator.world.sh(
        "systemctl disable --now --quiet goldenpath-drill.timer; chmod 666 /etc/goldenpath/nginx.conf; "
        "sysctl -q -w vm.overcommit_memory=0; echo '# mine' >> /etc/redis/goldenpath.conf"
    )
    told = operator("drift", status=2)
    for name in ("goldenpath-drill.timer", "/etc/goldenpath/nginx.conf", "vm.overcommit_memory",
                 "/etc/redis/goldenpath.conf"):  # fmt: skip
        assert name in told
    assert "retcode" not in told
    out = operator("apply", operator.world.name)
    assert len(out.splitlines()) <= 25 and "Failed:      0" in out
    assert "is in order." in operator("drift")
    assert len(operator("apply", operator.world.name).splitlines()) <= 12, "nothing to do is a few lines"
    operator("drift", "nobody*", status=1)


def test_a_host_that_is_gone_is_named(operator, tmp_path):
    shutil.copytree(operator.world.controller.config_dir, tmp_path / "config")
    roster = yaml.safe_load((tmp_path / "config/roster").read_text())
    roster[operator.world.name]["port"] = 1
    (tmp_path / "config/roster").write_text(yaml.safe_dump(roster))
    master = (tmp_path / "config/master").read_text()
    (tmp_path / "config/master").write_text(
        master.replace(str(operator.world.controller.config_dir / "roster"), str(tmp_path / "config/roster"))
    )
    gone = Operator(operator.world, tmp_path)
    gone.env["GOLDENPATH_CONFIG"] = str(tmp_path / "config")
    out = gone("ps", status=1)
    assert f"{operator.world.name} cannot be asked: " in out and ". Try: ./goldenpath ssh" in out
    gone("logs", SLUG, status=1)
    assert "timed out" in gone.err or "refused" in gone.err
    said = gone("drift", status=1) + gone.err
    assert "timed out" in said or "refused" in said


def test_more_connections_than_a_server_has_by_itself(operator):
    """Postgres is restarted once, and visitors read the page meanwhile, and never an error."""
    world = operator.world
    asked = "runuser -u postgres -- psql -Atc 'show max_connections'"
    assert world.sh(asked) == "100"
    world.write_pillar(workers=12)
    with Load(world.host, DOMAIN, clients=2, seconds=120) as load:
        time.sleep(1)
        states = world.apply()
        time.sleep(1)
    assert {key: state for key, state in states.items() if state[0] is not True} == {}
    assert int(world.sh(asked)) > 130
    assert load.failures and {status for _, _, status in load.failures} == {503}
    assert world.sh(f"test -e {ROOT}/maintenance && echo up", check=False) == ""
    assert world.health() == (200, "ok")
    assert "is in order." in operator("drift")
    world.write_pillar(workers=2)
    world.apply()
    assert world.sh(asked) == "100"
