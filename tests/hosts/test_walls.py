"""
What a site that was broken into can do to its host and to its neighbour: tried as its user, from within the sandbox of
its own units and, where that is more, without. `acme-kitchens` attacks, `beta` is the neighbour. Costs about 90 s.
"""

import json
import shlex
import time

import pytest

from lab.common import wait_for
from lab.demo import ask
from lab.load import Load

from .conftest import DOMAIN, ROOT, SLUG
from .test_layouts import PINNED, Tree, project, site

USER, BETA = f"sum-{SLUG}", "/srv/sum/beta"


ECHO = """
from django.http import JsonResponse
from django.views.decorators.csrf import csrf_exempt

@csrf_exempt
def echo(request):
    told = {name: request.META.get(name) for name in ("CONTENT_LENGTH", "REMOTE_ADDR", "HTTP_X_FORWARDED_FOR")}
    return JsonResponse({"length": len(request.body), "secure": request.is_secure(), **told})
"""
# Bodies that come a byte in a second, on so many connections; prints how many are still open at the end.
SLOW = """
import socket, ssl, sys, time
context = ssl.create_default_context()
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
found = []
for _ in range(int(sys.argv[1])):
    one = context.wrap_socket(socket.create_connection(("127.0.0.1", 443)), server_hostname="beta.example")
    one.sendall(b"POST /echo HTTP/1.1\\r\\nHost: beta.example\\r\\nContent-Length: 1000\\r\\n\\r\\n")
    found.append(one)
for _ in range(int(sys.argv[2])):
    for one in found:
        one.sendall(b"x")
    time.sleep(1)
print(len(found))
"""


class Two:
    """The shared host with a neighbour of the site."""

    def __init__(self, world, folder):
        self.world = world
        files = {**project("beta", "", "def told(): return {}\n"), "requirements.txt": PINNED, "beta/echo.py": ECHO}
        files["beta/urls.py"] += 'from beta.echo import echo\nurlpatterns.append(path("echo", echo))\n'
        self.repository = Tree(folder / "beta", "/srv/git/beta.git", files)
        self.repository.publish(world.host)
        # What waits in the host's Redis, and who asks, while the sites get a Redis each.
        self.tasks = "from pages.tasks import counts, enqueue; from django.core.cache import cache; "
        self.sh(f"systemctl stop {USER}-celery")
        self.told(f"{self.tasks} enqueue(200); cache.set('kept', 'yes', 900)")
        beta = site("beta", "beta.example", (2, 3), repo="/srv/git/beta.git")
        world.controller.pillar(world.name, {**world.pillar, "sites": {**world.pillar["sites"], "beta": beta}})

    def sh(self, line, **options):
        return self.world.sh(line, **options)

    def attack(self, line, check=False):
        """A line of shell as whoever broke into the site has it: its user, in the sandbox of its units."""
        words = (
            f"systemd-run --quiet --wait --pipe --collect --unit={USER}-attack --uid={USER} --gid={USER} "
            f"-p ReadWritePaths={ROOT} -p BindPaths={ROOT}/tmp:/var/tmp -p RuntimeMaxSec=60 /bin/sh -c "
        )
        return self.sh(f"{words}{shlex.quote(line)} 2>&1", check=check)

    def outside(self, line, check=False):
        """The same with the account alone, in no sandbox."""
        return self.sh(
            f"setpriv --reuid={USER} --regid={USER} --init-groups sh -c {shlex.quote(line)} 2>&1", check=check
        )

    def told(self, code):
        """What Python prints that a person runs in the site."""
        return self.sh(f"goldenpath manage {SLUG} shell --verbosity 0 -c {shlex.quote(code)}").splitlines()[-1:]

    def sql(self, statements, database=USER):
        return self.outside(f"psql -qAt -d {database} <<'END'\n{statements}\nEND")

    def neighbour(self):
        """What the neighbour's visitors get."""
        return ask(self.world.host, "/up", domain="beta.example")[0]

    def remove(self):
        self.world.write_pillar()
        self.world.sh(
            "systemctl disable --now --quiet sum-beta-gunicorn.service; systemctl stop 'sum-beta-*'; "
            "systemctl disable --now --quiet redis-server@beta; "
            "rm -rf /etc/redis/goldenpath-beta.conf /var/lib/redis/beta; "
            "rm -rf /etc/systemd/system/sum-beta* /srv/sum/beta /etc/goldenpath/sites/beta.json; "
            "runuser -u postgres -- dropdb --force sum-beta; "
            "for role in dmp-beta sum-beta; do runuser -u postgres -- dropuser $role; userdel $role; done; "
            "systemctl daemon-reload; systemctl reset-failed",
            check=False,
        )
        self.world.apply()


@pytest.fixture(scope="module")
def two(trixie, tmp_path_factory):
    two = Two(trixie, tmp_path_factory.mktemp("two"))
    try:
        with Load(trixie.host, DOMAIN, clients=4) as two.load:
            failed = {key: state for key, state in trixie.apply().items() if state[0] is not True}
        assert failed == {}
        status, output = trixie.deploy(site="beta")
        assert status == 0, output
        assert two.neighbour() == 200
        yield two
    finally:
        two.remove()


# More rights than the site has


def test_nothing_that_root_runs_is_found_by_a_sites_path(two):
    """Programs that the deploy, the backup and the drill could look up, and variables that would change them."""
    venv = two.sh(f"readlink -f {ROOT}/current/venv")
    names = ("setpriv", "psql", "pg_dump", "pg_restore", "git", "systemctl", "systemd-run", "restic", "sh", "env")
    harm = '#!/bin/sh\\n[ $(id -u) = 0 ] && id > /run/owned\\nexec /usr/bin/$(basename $0) \\"$@\\"\\n'
    two.outside(
        f'for name in {" ".join(names)}; do printf "{harm}" > {venv}/bin/$name; chmod 755 {venv}/bin/$name; done',
        check=True,
    )
    assert "Permission denied" in two.outside(f"echo PATH={venv}/bin >> {ROOT}/.env")
    try:
        assert two.world.deploy(site=SLUG)[0] == 0
        two.sh(f"goldenpath backup {SLUG} && goldenpath drill {SLUG}")
        assert two.sh("cat /run/owned", check=False) == ""
    finally:
        two.sh(f"cd {venv}/bin && rm {' '.join(names)}")


def test_no_session_of_a_superuser_meets_what_a_site_planted(two):
    two.sql(
        "CREATE SCHEMA evil;\n"
        "CREATE FUNCTION evil.json_agg(anyelement) RETURNS json LANGUAGE plpgsql AS $$ BEGIN "
        "IF current_setting('is_superuser') = 'on' THEN CREATE ROLE owned SUPERUSER; END IF; RETURN '[]'; END $$;\n"
        f'ALTER ROLE "{USER}" SET search_path = evil, pg_catalog, public;'
    )
    assert "must be owner" in two.sql(f'ALTER DATABASE "{USER}" SET search_path = evil, pg_catalog, public;')
    try:
        two.sh(f"goldenpath backup {SLUG} && goldenpath drill {SLUG} && goldenpath plan {SLUG}")
        assert two.world.apply("postgres")[f"postgres-database-{SLUG}|{USER}"][0] is True
        assert two.sh('runuser -u postgres -- psql -qAtc "SELECT count(*) FROM pg_roles WHERE rolsuper"') == "1"
    finally:
        two.sql(f'ALTER ROLE "{USER}" RESET search_path;\nDROP SCHEMA evil CASCADE;')


def test_a_dump_is_made_by_nobody_whom_the_site_could_stop_or_trace(two):
    two.sh(
        f"setpriv --reuid={USER} --regid={USER} --init-groups psql -qd {USER} "
        "-c 'BEGIN; LOCK django_migrations; SELECT pg_sleep(4)' >/dev/null 2>&1 & "
        "sleep 0.5; goldenpath backup acme-kitchens >/tmp/backup 2>&1 & sleep 2; true"
    )
    owners = two.sh("ps -o user:32= -C pg_dump,psql | sort -u").split()
    assert f"dmp-{SLUG}" in owners
    assert "Operation not permitted" in two.outside(f"kill -STOP $(pgrep -u dmp-{SLUG} | head -1)")
    assert wait_for(lambda: "snapshot" in two.sh("cat /tmp/backup"), 60), two.sh("cat /tmp/backup")


@pytest.mark.parametrize("place", ["postgres", "template1", "sum-beta", f"{USER}.drill"])
def test_no_other_database_lets_a_site_in(two, place):
    assert "FATAL" in two.sql("CREATE TABLE left_here ();", place)


def test_a_backup_holds_nothing_that_a_link_leads_to(two):
    """Folders and links change places all the time while the backup looks at them."""
    media, out = f"{ROOT}/media", "/root/out"
    two.sh("echo root-only > /root/secret; echo neighbours > /srv/sum/beta/media/secret")
    fill = "mkdir -p swap && for n in $(seq 300); do mkdir -p d$n; touch d$n/f; done"
    two.outside(f"cd {media} && {fill}", check=True)
    links = "; ".join(f"ln -s {target} swap; rm swap" for target in ("/root", "/srv/sum/beta/media"))
    race = f"cd {media}; while :; do mv swap away; {links}; mv away swap; done"
    unit = f"--quiet --unit={USER}-race --uid={USER} -p ReadWritePaths={ROOT} -p RuntimeMaxSec=60"
    two.sh(f"systemd-run {unit} sh -c '{race}'")
    told = ""
    try:
        for _ in range(3):
            told = two.sh(f"goldenpath backup {SLUG} --accept-smaller", check=False)
    finally:
        two.sh(f"systemctl stop {USER}-race", check=False)
    assert told.startswith("{"), "a folder that changes all the time is no reason for no backup"
    snapshot = json.loads(told)[SLUG]["snapshot"]
    restic = "RESTIC_PASSWORD_FILE=/etc/goldenpath/restic-password restic --repo /var/backups/goldenpath/restic"
    two.sh(f"rm -rf {out}; {restic} --quiet restore {snapshot} --target {out}")
    assert two.sh(f"grep -rlE 'root-only|neighbours' {out}", check=False) == ""
    two.sh(f"rm -rf {out} /root/secret /srv/sum/beta/media/secret {media}/swap {media}/away {media}/d*")


def test_links_in_the_mirror_lead_nowhere(two):
    two.sh("touch /root/kept.lock /srv/sum/beta/kept.lock")
    two.outside(f"ln -s / {ROOT}/repo.git/everything; ln -s /srv/sum/beta {ROOT}/repo.git/beta")
    try:
        began = time.monotonic()
        assert two.world.deploy(site=SLUG)[0] == 0
        assert time.monotonic() - began < 60
        two.sh("rm /root/kept.lock /srv/sum/beta/kept.lock")
    finally:
        two.sh(f"rm {ROOT}/repo.git/everything {ROOT}/repo.git/beta")


def test_what_a_deploy_runs_of_a_site_has_nothing_to_gain_and_outlives_nothing(two):
    code = (
        "import subprocess, re; print(re.findall('(NoNewPrivs|CapBnd):\\t(\\S+)', open('/proc/self/status').read())); "
        "subprocess.Popen(['sleep', '987'], start_new_session=True)"
    )
    told = two.sh(f"goldenpath manage {SLUG} shell -c {shlex.quote(code)}")
    assert "[('CapBnd', '0000000000000000'), ('NoNewPrivs', '1')]" in told
    assert two.sh(f"pgrep -x -u {USER} sleep", check=False) == ""


# Standing in for others, stopping others


def test_a_stranger_in_redis_place_stops_a_deploy_by_name(two):
    listen = (
        "import socket; s = socket.create_server(('127.0.0.1', 6379)); "
        "[(c.recv(999), c.sendall(b'+PONG\\r\\n'), __import__('time').sleep(1)) for c, _ in iter(s.accept, None)]"
    )
    assert "NOPERM" in two.attack("redis-cli shutdown nosave")
    two.sh("systemctl mask --runtime --now redis-server")
    try:
        two.sh(f"systemd-run --quiet --unit={USER}-pong --uid={USER} python3 -c {shlex.quote(listen)}; sleep 1")
        before = two.world.state()
        status, output = two.world.deploy(site="beta")
        assert status != 0 and f"127.0.0.1:6379 is held by {USER} and not by redis" in output
        assert two.world.state() == before
    finally:
        two.sh(f"systemctl stop {USER}-pong; systemctl unmask --runtime redis-server; systemctl start redis-server")
    assert wait_for(lambda: two.sh("redis-cli ping") == "PONG", 20)


@pytest.mark.parametrize(
    "words",
    ["config set requirepass x", "config set maxmemory 1", "client pause 100000", "acl setuser x on nopass +@all ~*",
     "debug segfault", "replicaof 192.0.2.1 1", "save", "module load /tmp/x.so"],
)  # fmt: skip
def test_a_site_does_not_administer_redis(two, words):
    told = two.attack(f"redis-cli {words}")
    assert "NOPERM" in told or "command not allowed" in told
    assert two.neighbour() == 200


def test_the_visitors_address_arrives_and_is_not_forged(two):
    """gunicorn answers on a socket, whose peer has none; sites save it, and limit by it."""
    place = two.world.host.address
    forged = "-H 'X-Forwarded-For: 192.0.2.1' -H 'X-Real-IP: 192.0.2.1' -H 'Forwarded: for=192.0.2.1'"
    told = json.loads(
        two.sh(f"curl -sk {forged} --resolve beta.example:443:{place} --data-binary whole https://beta.example/echo")
    )
    assert told["REMOTE_ADDR"] == told["HTTP_X_FORWARDED_FOR"] == place and (told["length"], told["secure"]) == (
        5,
        True,
    )


def test_visitors_never_read_a_bare_502(two):
    live = two.sh("basename $(readlink /srv/sum/beta/current)")
    two.sh(f"systemctl stop sum-beta-gunicorn@{live}.socket sum-beta-gunicorn@{live}.service")
    try:
        ask = "curl -sk -o /tmp/page -w '%{http_code} %{content_type} %header{retry-after}' "
        there = "--resolve beta.example:443:127.0.0.1 https://beta.example"
        assert two.sh(f"{ask} {there}/") == "503 text/html; charset=utf-8 30"
        assert "will be back in a few minutes" in two.sh("cat /tmp/page")
        assert two.sh(f"{ask} {there}/up") == "503 application/json 30"
        assert json.loads(two.sh("cat /tmp/page")) == {"status": "unreachable"}
    finally:
        two.sh(f"systemctl start sum-beta-gunicorn@{live}.socket sum-beta-gunicorn@{live}.service")


# Redis between strangers


def test_the_sites_moved_apart_and_nothing_was_lost(two):
    assert two.load.requests > 20 and two.load.failed == 0, two.load.failures
    # Each reload of Caddy closes what is idle.
    assert two.load.reopened <= 3 * two.load.clients
    counts = f"{two.tasks} told = counts(); print(told['waiting'] == 0 and told['repeated'] == 0, cache.get('kept'))"
    assert wait_for(lambda: two.told(counts) == ["True yes"], 60), two.told(f"{two.tasks} print(counts())")
    assert two.sh("redis-cli -n 0 dbsize; redis-cli -n 1 dbsize").split() == ["0", "0"]
    assert not [key for key, state in two.world.apply().items() if state[1]]


def test_a_site_reaches_no_other_redis(two):
    ports = two.sh("cat /etc/redis/goldenpath-*.conf | sed -n 's/^port //p'").split()
    assert len(ports) == 2
    listeners = {line.split()[3] for line in two.sh("ss -Hltn").splitlines()}
    assert {f"127.0.0.1:{port}" for port in ports} <= listeners and not {
        f"0.0.0.0:{port}" for port in ports
    } & listeners
    (port,) = two.sh("sed -n 's/^port //p' /etc/redis/goldenpath-beta.conf").split()
    for words in ("ping", "get x", "flushall", "config get requirepass", "lrange celery 0 -1"):
        for told in (two.attack(f"redis-cli -p {port} {words}"), two.outside(f"redis-cli -p {port} {words}")):
            assert "NOAUTH" in told
    for path in ("/etc/redis/goldenpath-beta.conf", "/etc/goldenpath/redis-password-beta", "/var/lib/redis/beta/x"):
        assert "ermission denied" in two.outside(f"cat {path}")
    # In its own it does what a site does, and administers nothing.
    (mine,) = two.sh("sed -n 's/^port //p' /etc/redis/goldenpath-acme-kitchens.conf").split()
    two.sh(
        f"install -m 600 -o {USER} /etc/goldenpath/redis-password-{SLUG} {ROOT}/tmp/key; "
        f"printf 'REDISCLI_AUTH=$(cat /var/tmp/key) redis-cli -p {mine} \"$@\"\\n' > {ROOT}/tmp/mine"
    )
    mine = "sh /var/tmp/mine"
    told = two.attack(f"{mine} set x 1; {mine} flushdb; {mine} eval 'return 7' 0")
    assert told.splitlines() == ["OK", "OK", "7"]
    for words in ("config set maxmemory 1", "shutdown", "acl list", "client kill type normal", "replicaof no one"):
        assert "NOPERM" in two.attack(f"{mine} {words}")
    two.sh(f"rm {ROOT}/tmp/key {ROOT}/tmp/mine")


def test_nobody_takes_a_sites_place_while_its_redis_is_away(two):
    (port,) = two.sh("sed -n 's/^port //p' /etc/redis/goldenpath-beta.conf").split()
    two.sh("systemctl mask --runtime --now redis-server@beta")
    try:
        listen = f'import socket; socket.create_server(("127.0.0.1", {port}))'
        for told in (two.attack(f"python3 -c '{listen}'"), two.outside(f"python3 -c '{listen}'")):
            assert "Permission" in told
        # It stops its own deploys by name, and no other's.
        before = two.world.state()
        status, output = two.world.deploy(site="beta")
        assert status != 0 and f"Redis of beta on {two.world.name} did not answer PONG: connection refused" in output
        assert two.world.state() == before
        status, output = two.world.deploy(site=SLUG)
        assert status == 0, output
    finally:
        two.sh("systemctl unmask --runtime redis-server@beta; systemctl start redis-server@beta")


@pytest.mark.parametrize("path", [f"{ROOT}/deploy.lock", f"{BETA}/deploy.lock", "/run/goldenpath-backup.lock"])
def test_no_site_holds_a_lock(two, path):
    two.sh(f"goldenpath backup beta >/dev/null; test -e {path}")
    assert "Permission denied" in two.outside(f"flock --nonblock {path} true")


def test_one_sites_oddity_is_one_sites(two):
    """Folders deeper than anybody can name: its own backup fails and says why, the neighbour's is made."""
    deep = "import os\nos.chdir(f'{ROOT}/media')\nfor _ in range(2500): os.mkdir('d'); os.chdir('d')".replace(
        "{ROOT}", ROOT
    )
    two.outside(f"python3 -c {shlex.quote(deep.replace(chr(102) + chr(39), chr(39)))}", check=True)
    before = json.loads(two.sh("cat /var/lib/goldenpath/backup/beta.json"))["good"]["at"]
    try:
        done = two.world.host.exec("goldenpath backup", check=False)
        assert done.returncode == 1
        assert f"The backup of {SLUG} on {two.world.name} failed" in done.stderr and "lie too deep" in done.stderr
        assert json.loads(two.sh("cat /var/lib/goldenpath/backup/beta.json"))["good"]["at"] > before
    finally:
        two.sh(f"rm -rf {ROOT}/media/d")


def test_a_worker_that_is_told_to_shut_down_comes_back(two):
    before = two.sh(f"systemctl show -p MainPID --value {USER}-celery")
    two.sh(
        f"goldenpath manage {SLUG} shell -c 'from example_site.celery import app; app.control.broadcast(\"shutdown\")'"
    )
    assert wait_for(lambda: two.sh(f"systemctl show -p MainPID --value {USER}-celery") not in (before, "0"), 30)
    assert wait_for(lambda: two.sh(f"systemctl is-active {USER}-celery", check=False) == "active", 30)


def test_a_small_place_is_its_own(two):
    free = two.sh("df --output=avail /tmp /dev/shm | tail -n +2")
    assert "No space left" in two.attack("dd if=/dev/zero of=/tmp/full bs=1M count=400")
    assert "No space left" in two.attack("dd if=/dev/zero of=/dev/shm/full bs=1M count=400")
    assert two.sh("df --output=avail /tmp /dev/shm | tail -n +2") == free
    # What is large has a place on the disk.
    assert "No space" not in two.attack(
        "dd if=/dev/zero of=/var/tmp/large bs=1M count=400; rm /var/tmp/large", check=True
    )


# Strangers


def curl(words, path="/echo"):
    return f"curl -sk --resolve beta.example:443:127.0.0.1 https://beta.example{path} {words}"


def test_slow_bodies_keep_nobody_waiting(two):
    """Far more of them than the site has threads; each is a connection that says a byte in a second."""
    two.world.host.write("/root/slow.py", SLOW)
    two.sh("systemd-run --quiet --unit=x-slow python3 /root/slow.py 200 25; sleep 6")
    try:
        slowest = 0
        for _ in range(20):
            asked = curl("-m 5 -o /dev/null -w '%{http_code} %{time_total}'", "/up")
            code, seconds = two.sh(asked, check=False).split()
            assert code == "200"
            slowest = max(slowest, float(seconds))
        assert two.world.health() == (200, "ok")
        assert two.sh("systemctl is-active x-slow") == "active", "the slow ones are still there"
        assert slowest < 2
    finally:
        two.sh("systemctl stop x-slow; systemctl reset-failed x-slow", check=False)


@pytest.mark.parametrize("words", ["-T -", "--http1.1 -T -", "--http1.1 -H 'Transfer-Encoding: chunked' -T -"])
def test_a_body_without_a_length_arrives_whole(two, words):
    told = json.loads(two.sh(f"head -c 2000000 /dev/zero | {curl(f'-X POST {words}')}"))
    assert (told["length"], told["CONTENT_LENGTH"], told["secure"]) == (2000000, "2000000", True)


def test_a_visitors_address_is_not_what_it_says(two):
    told = json.loads(two.sh(curl("-X POST -d a -H 'X-Forwarded-For: 192.0.2.7' -H 'X-Forwarded-Proto: http'")))
    assert told["HTTP_X_FORWARDED_FOR"] == "127.0.0.1" and told["secure"] is True


def test_a_large_body_is_on_disk_and_one_that_is_too_large_is_refused(two):
    small = "df --output=used /tmp /run /dev/shm | tail -n +2"
    used = sum(map(int, two.sh(small).split()))
    body = f"(head -c 60000000 /dev/zero; sleep 6) | {curl('-m 20 -T -')}"
    two.sh(f"systemd-run --quiet --unit=x-large sh -c {shlex.quote(body)}; sleep 3")
    assert sum(map(int, two.sh(small).split())) - used < 20000
    assert wait_for(lambda: two.sh("systemctl is-active x-large", check=False) != "active", 20)
    larger = curl("-X POST --data-binary @- -o /dev/null -w '%{http_code}'")
    assert two.sh(f"head -c 110000000 /dev/zero | {larger}") == "413"
    assert two.neighbour() == 200


def test_where_requests_wait_is_no_way_in(two):
    """A neighbour that reached it could say what Caddy says: who the visitor is, and that it is encrypted."""
    status = "-o /dev/null -w '%{http_code}' http://beta.example/up"
    for line in (
        f"curl -s --unix-socket /run/goldenpath-buffer/beta.sock {status}",
        f"curl -s --unix-socket /srv/sum/beta/current/gunicorn.sock {status}",
        "ls /run/goldenpath-buffer && echo 200", "ls /var/cache/goldenpath-buffer/body && echo 200",
    ):  # fmt: skip
        assert "200" not in two.outside(line), line


def test_no_pipe_and_no_device_can_be_made(two):
    for line in (f"mkfifo {ROOT}/media/pipe", f"mknod {ROOT}/media/pipe p", "mknod /tmp/null c 1 3"):
        assert "not permitted" in two.attack(line)


@pytest.mark.parametrize(
    "target",
    ["/etc/passwd", "/var/lib/caddy", f"{ROOT}/.env", f"{BETA}/media", f"{ROOT}/current/release.env", "."],
)
@pytest.mark.parametrize("place", ["media", "current/static"])
def test_caddy_follows_no_link(two, target, place):
    name = "static" if "static" in place else "media"
    two.outside(f"ln -sfn {target} {ROOT}/{place}/link && echo here > {ROOT}/{place}/there", check=True)
    two.sh("echo neighbours > /srv/sum/beta/media/public")
    try:
        assert two.world.ask(f"/{name}/there") == (200, "here\n")
        for path in (
            "link",
            "link/",
            "link/there",
            "link/public",
            "link/.local/share/caddy/pki/authorities/local/root.key",
        ):
            code, body = two.world.ask(f"/{name}/{path}")
            assert code in (403, 404, 500) and "neighbours" not in body and "here" not in body, (path, code, body)
    finally:
        two.sh(f"rm {ROOT}/{place}/link {ROOT}/{place}/there")


def test_caddy_shows_no_hidden_file(two):
    two.outside(f"mkdir -p {ROOT}/media/.git && echo x | tee {ROOT}/media/.git/config > {ROOT}/media/.env", check=True)
    for path in (".env", ".git/config", ".git/", "%2egit/config", "./.env"):
        assert two.world.ask(f"/media/{path}")[0] in (403, 404), path
    two.sh(f"rm -r {ROOT}/media/.git {ROOT}/media/.env")


def test_a_neighbour_reads_nothing(two):
    two.sh("echo private > /srv/sum/beta/media/private")
    for line in (
        "ls /srv/sum", "ls /srv/sum/beta", "ls /srv/sum/beta/media", "cat /srv/sum/beta/media/private",
        "cat /opt/goldenpath/web/beta/media/private", "cat /srv/sum/beta/.env", "ls /srv/sum/beta/current/static/",
        "cat /etc/goldenpath/redis-password", "cat /etc/redis/goldenpath.conf", "ls /srv/sum/beta/releases",
        "ls /srv/sum/beta/tmp",
    ):  # fmt: skip
        for told in (two.attack(line), two.outside(line)):
            assert "ermission denied" in told or "No such file" in told, (line, told)


def test_limits_are_set(two):
    """Set, not shown: the lab's hosts have no controllers."""
    place = "sum-" + SLUG.replace("-", "\\x2d") + ".slice"
    told = two.sh(f"systemctl show '{place}' -p MemoryMax,MemoryHigh,TasksMax")
    values = dict(line.split("=") for line in told.splitlines())
    assert values["TasksMax"] == "1024" and 0 < int(values["MemoryHigh"]) < int(values["MemoryMax"])
    live = two.world.live()
    for unit in (f"{USER}-celery", f"{USER}-gunicorn@{live}"):
        told = two.sh(f"systemctl show {unit} -p Slice,LimitCORE,LimitNOFILE,LogRateLimitBurst,Restart")
        assert f"Slice={place}" in told and "LimitCORE=0\n" in told
        assert "LimitNOFILE=8192" in told and "LogRateLimitBurst=2000" in told


def test_a_statement_of_a_web_process_has_an_end_and_a_migration_has_none(two):
    live = two.world.live()
    told = two.sh(f"systemctl show {USER}-gunicorn@{live} -p Environment")
    assert "statement_timeout=300s" in told
    assert "statement_timeout" not in two.sh(f"systemctl show {USER}-celery -p Environment")
    asked = "c = connection.cursor(); c.execute('SHOW statement_timeout'); print(c.fetchone())"
    code = f"from django.db import connection; {asked}"
    assert "('0',)" in two.sh(f"goldenpath manage {SLUG} shell -c {shlex.quote(code)}")


def test_the_site_is_none_the_worse(two):
    """After all of that, and its own domain answers."""
    assert two.world.health() == (200, "ok"), DOMAIN
    assert two.neighbour() == 200
    assert two.sh("systemctl --failed --no-legend --plain", check=False) == ""
