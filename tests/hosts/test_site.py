"""The main job, on real hosts: provisioned, released, and asked as a visitor asks."""

import json
import time

import pytest

from .conftest import DOMAIN, ROOT, SLUG


def _eventually(question, expected, seconds=40):
    end = time.monotonic() + seconds
    answer = question()
    while answer != expected and time.monotonic() < end:
        time.sleep(0.5)
        answer = question()
    assert answer == expected


def test_site_answers_over_https(world):
    code, body = world.ask()
    health = json.loads(body)
    assert (code, health["status"]) == (200, "ok")
    assert health["release"] == world.live()
    assert world.ask("/")[0] == 200
    assert world.ask("/static/pages/site.css")[0] == 200
    assert world.ask("/static/../.env")[0] in (400, 404)
    assert world.ask("/static/releases.jsonl")[0] == 404


def test_ports_from_outside(world, request):
    other = request.getfixturevalue("trixie" if world.release == "bookworm" else "bookworm").host
    for port, open_ in ((22, True), (80, True), (443, True), (6379, False), (5432, False), (2019, False)):
        for ipv6 in (False, True):
            assert world.host.port_open(port, from_host=other, ipv6=ipv6) is open_, (port, ipv6)


def test_http_is_redirected(world):
    answer = world.sh(f"curl -sI -H 'Host: {DOMAIN}' http://127.0.0.1/health/")
    assert answer.startswith("HTTP/1.1 308") and f"https://{DOMAIN}/health/" in answer


def test_redis_answers_pong(world):
    assert world.sh("redis-cli ping") == "PONG"
    assert world.salt("goldenpath.redis_ping") == (0, "PONG")


def test_a_package_that_apt_does_not_know_fails_its_site_alone(trixie):
    """libmagic1 is a name that libmagic1t64 provides here. It stays, for the tests below."""
    trixie.write_pillar(packages=["libmagic1", "no-such-package"])
    states = trixie.apply("site")
    result, _, comment = states[f"site-packages-{SLUG}|{SLUG}"]
    assert result is False and "Unable to locate package no-such-package" in comment
    assert {key for key, state in states.items() if state[0] is False} == {
        f"site-packages-{SLUG}|{SLUG}", f"site-live-{SLUG}|{SLUG}",
    }  # fmt: skip
    trixie.write_pillar(packages=["libmagic1"])
    result, changes, _ = trixie.apply("site")[f"site-packages-{SLUG}|{SLUG}"]
    assert result is True and "libmagic1t64" in changes


def test_second_apply_changes_nothing(world):
    changed = {key: state for key, state in world.apply().items() if state[0] is not True or state[1]}
    assert changed == {}


def test_dry_run_finds_no_drift(world):
    changed = {key: state for key, state in world.apply("test=True").items() if state[0] is not True or state[1]}
    assert changed == {}


def test_everything_comes_back_after_a_reboot(world):
    live = world.live()
    world.host.reboot()
    _eventually(world.health, (200, "ok"), 60)
    assert json.loads(world.ask()[1])["release"] == live
    assert world.sh("systemctl is-system-running --wait", check=False) == "running"
    assert world.sh("redis-cli ping") == "PONG"
    running = world.sh(f"systemctl list-units --plain --no-legend 'sum-{SLUG}-gunicorn@*.service'").splitlines()
    assert [line.split()[0] for line in running] == [f"sum-{SLUG}-gunicorn@{live}.service"]


def test_files_pass_their_own_parsers(world):
    world.sh("caddy validate --adapter caddyfile --config /etc/caddy/Caddyfile")
    world.sh("systemd-analyze verify /etc/systemd/system/sum-*.service")
    world.sh("sshd -t")
    world.sh("/opt/goldenpath/redis-try-config /etc/redis/goldenpath.conf")


def test_what_others_begin_is_in_a_sandbox_at_once(world):
    """A fresh host's Caddy and Postgres; what runs on one that is taken over is named by `ps` until its next start."""
    postgres = world.sh("systemctl list-units --plain --no-legend 'postgresql@*' | cut -d' ' -f1")
    for unit in ("caddy.service", postgres, "goldenpath-buffer.service", "redis-server.service"):
        said = world.sh(f"systemd-analyze security --no-pager {unit} | tail -1")
        assert float(said.split(".service: ")[1].split()[0]) < 4, said
        pid = world.sh(f"systemctl show -p MainPID --value {unit}")
        assert world.sh(f"grep NoNewPrivs /proc/{pid}/status").split()[-1] == "1", unit
    assert "sandbox" not in world.sh("goldenpath ps")


def test_environment_file_is_the_sites_alone(world):
    # Root's: what starts a site is nothing that the site writes.
    assert world.sh(f"stat -c '%a %U %G' {ROOT}/.env") == f"640 root sum-{SLUG}"
    names = {line.split("=")[0] for line in world.sh(f"grep -v '^#' {ROOT}/.env").splitlines()}
    assert {
        "DJANGO_SETTINGS_MODULE", "DJANGO_SECRET_KEY", "ALLOWED_HOSTS", "DJANGO_DB_NAME", "DJANGO_DB_USER",
        "DJANGO_DB_PASSWORD", "DJANGO_DB_HOST", "DJANGO_DB_PORT", "DJANGO_STATIC_ROOT", "DJANGO_MEDIA_ROOT",
        "SITE_DOMAIN", "REDIS_URL", "CELERY_BROKER_URL", "CELERY_RESULT_BACKEND",
    } <= names  # fmt: skip


def _runs_with(world, name, unit="gunicorn@*"):
    """The values that a site's processes have of a variable."""
    pids = world.sh(f"systemctl show --value -p MainPID 'sum-{SLUG}-{unit}.service'").split()
    return {world.sh(f"tr '\\0' '\\n' < /proc/{pid}/environ | grep ^{name}= || true") for pid in pids if pid != "0"}


def _moved(states):
    return {key: state for key, state in states.items() if state[0] is not True or state[1]}


def test_a_changed_variable_is_a_release_of_its_own(trixie):
    """Taken over from a host whose releases have no variables of their own; back with those of before."""
    before = trixie.live()
    trixie.sh(
        f"rm {ROOT}/releases/*/site.env; cd /etc/systemd/system && sed -i -e 's|^EnvironmentFile=.*site.env|"
        f"EnvironmentFile={ROOT}/.env|' sum-{SLUG}-*.service && systemctl daemon-reload && "
        f"systemctl restart 'sum-{SLUG}-gunicorn@{before}.service'"
    )
    _eventually(trixie.health, (200, "ok"))
    known = dict(trixie.pillar["sites"][SLUG].get("env", {}))
    trixie.sh(
        f'systemd-run --unit=visitors sh -c \'while :; do curl -sko /dev/null -w "%{{http_code}}\\n" '
        f"--resolve {DOMAIN}:443:127.0.0.1 https://{DOMAIN}/ >> /root/visits; sleep 0.05; done'"
    )
    trixie.write_pillar(env={**known, "COLOUR": "green"}, workers=3)
    result, changes, comment = trixie.apply("site")[f"site-live-{SLUG}|{SLUG}"]
    after = trixie.live()
    assert result is True and changes == {SLUG: [f"make a release of what changed: {after}"]}, comment
    assert after != before and after.rpartition("-")[2] == before.rpartition("-")[2]
    assert json.loads(trixie.ask()[1])["release"] == after and trixie.ask("/static/pages/site.css")[0] == 200
    assert _runs_with(trixie, "COLOUR") == _runs_with(trixie, "COLOUR", "celery") == {"COLOUR=green"}
    assert len(trixie.sh(f"pgrep -u sum-{SLUG} -f bin/gunicorn").split()) == 4
    assert trixie.sh(f"stat -c '%a %U %G' {ROOT}/releases/*/site.env | sort -u") == f"640 root sum-{SLUG}"
    assert trixie.sh(f"grep -lw COLOUR {ROOT}/releases/*/site.env") == f"{ROOT}/releases/{after}/site.env"
    assert trixie.sh(f"readlink {ROOT}/releases/{after}/src") == f"../{before}/src"
    assert '"action": "configure"' in trixie.sh(f"tail -n 1 {ROOT}/releases.jsonl")
    assert _moved(trixie.apply("site")) == {}
    status, output = trixie.deploy("rollback", site=SLUG)
    assert status == 0 and "what the pillar says of COLOUR comes with the next deploy" in output, output
    assert trixie.live() == before and _runs_with(trixie, "COLOUR") == {""}
    assert len(trixie.sh(f"pgrep -u sum-{SLUG} -f bin/gunicorn").split()) == 3
    # Nothing changed: whoever went back meant it.
    assert _moved(trixie.apply("site")) == {}
    status, output = trixie.deploy(site=SLUG)
    assert status == 0 and _runs_with(trixie, "COLOUR") == {"COLOUR=green"}, output
    trixie.sh("systemctl stop visitors")
    assert trixie.sh("sort -u /root/visits") == "200"


def test_a_changed_variable_that_breaks_the_site_takes_it_not_down(trixie):
    pids = f"systemctl show -p MainPID sum-{SLUG}-celery 'sum-{SLUG}-gunicorn@*.service'"
    before, live, running = trixie.sh(f"cat {ROOT}/current/site.env"), trixie.live(), trixie.sh(pids)
    known = trixie.pillar["sites"][SLUG].get("settings")
    try:
        trixie.write_pillar(settings="no_such_module.settings")
        for _ in range(2):
            result, _, comment = trixie.apply("site")[f"site-live-{SLUG}|{SLUG}"]
            assert result is False and comment.startswith(f"What changed for {SLUG} on {trixie.name} failed at step")
            assert "No module named 'no_such_module'" in comment
            assert f"Release {live} goes on serving, with the variables that it had." in comment
            assert trixie.sh(pids) == running and trixie.health() == (200, "ok") and trixie.live() == live
            assert trixie.sh(f"cat {ROOT}/current/site.env") == before
        result, changes, _ = trixie.apply("site", "test=True")[f"site-live-{SLUG}|{SLUG}"]
        assert result is None and changes == {SLUG: ["make a release of what changed"]}
    finally:
        trixie.pillar["sites"][SLUG].pop("settings")
        trixie.write_pillar(**({"settings": known} if known else {}))
    trixie.apply("site")
    assert _moved(trixie.apply("site")) == {}


def test_a_site_cannot_reach_another_ones_database(bookworm):
    bookworm.sh("runuser -u postgres -- psql -qc 'CREATE ROLE \"sum-other\" LOGIN'")
    try:
        refused = bookworm.sh(
            "useradd --system sum-other; "
            f"runuser -u sum-other -- psql -d sum-{SLUG} -c 'SELECT 1' 2>&1; "
            f"runuser -u sum-other -- psql -U sum-{SLUG} -d sum-{SLUG} -c 'SELECT 1' 2>&1",
            check=False,
        )
    finally:
        bookworm.sh("runuser -u postgres -- psql -qc 'DROP ROLE \"sum-other\"'; userdel sum-other")
    assert "permission denied for database" in refused and "Peer authentication failed" in refused


@pytest.mark.parametrize(
    ("unit", "stopped"),
    [
        ("redis-server", (503, "unhealthy")),
        ("postgresql*", (503, "unhealthy")),
        (f"sum-{SLUG}-celery", (200, "degraded")),
    ],
)
def test_health_tells_what_is_stopped(world, unit, stopped):
    world.sh(f"systemctl stop '{unit}'")
    try:
        _eventually(world.health, stopped)
    finally:
        world.sh("systemctl start postgresql" if unit == "postgresql*" else f"systemctl start '{unit}'")
    _eventually(world.health, (200, "ok"))


def test_deploy_stops_at_step_one_without_redis(world):
    world.sh("systemctl stop redis-server")
    try:
        before = world.state()
        status, output = world.deploy()
        assert status != 0
        assert (
            f"Redis on {world.name} did not answer PONG: connection refused on 127.0.0.1:6379. "
            "Try: systemctl status redis-server" in output
        )
        assert "Traceback" not in output
        assert world.state() == before
    finally:
        world.sh("systemctl start redis-server")
    _eventually(world.health, (200, "ok"))


def test_stopped_site_is_drift_and_is_started(world):
    live = world.live()
    world.sh(f"systemctl stop sum-{SLUG}-celery sum-{SLUG}-gunicorn")
    world.sh(f"systemctl disable --quiet sum-{SLUG}-celery")
    key = f"site-live-{SLUG}|{SLUG}"
    result, changes, _ = world.apply("test=True")[key]
    assert result is None and f"start sum-{SLUG}-celery.service" in changes[SLUG]
    assert world.apply()[key][0] is True
    _eventually(world.health, (200, "ok"))
    assert world.live() == live
    assert world.sh(f"systemctl is-enabled sum-{SLUG}-celery") == "enabled"
