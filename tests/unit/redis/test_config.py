"""
salt/redis: the configuration as each distribution gets it, and the trial before it is used.
"""

import contextlib
import hashlib
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import jinja2
import pytest
import yaml
from salt.utils.jinja import SerializerExtension

from tests.unit.redis_host import redis_version

ROOT = pathlib.Path(__file__).resolve().parents[3]
TRY = ROOT / "salt/redis/files/redis-try-config.py"
DISTRIBUTIONS = {
    "jammy": {"os": "Ubuntu", "osrelease": "22.04"},
    "noble": {"os": "Ubuntu", "osrelease": "24.04"},
    "resolute": {"os": "Ubuntu", "osrelease": "26.04"},
    "bookworm": {"os": "Debian", "osrelease": "12"},
    "trixie": {"os": "Debian", "osrelease": "13"},
}


SECRET = "s3cr3t-canary"
# As root's own user; on a socket.
CLI = ("redis-cli", "--no-auth-warning", "--user", "goldenpath", "--pass", SECRET, "-s")


def rendered(name, pillar=None, **grains):
    """
    goldenpath.conf as a list of its directives, and the map that made it.
    """
    loader = jinja2.FileSystemLoader(ROOT / "salt")
    environment = jinja2.Environment(
        loader=loader,
        keep_trailing_newline=True,
        extensions=[SerializerExtension, "jinja2.ext.do"],
    )
    context = {
        "grains": {"mem_total": 4000, "ipv6": ["::1"], **DISTRIBUTIONS[name], **grains},
        "pillar": pillar or {"redis": {}},
    }
    values = environment.get_template("redis/map.jinja").make_module(context).redis
    text = environment.get_template("redis/files/goldenpath.conf").render(
        redis=values,
        slug="",
        port=6379,
        maxmemory=values["maxmemory"],
        admin=hashlib.sha256(SECRET.encode()).hexdigest(),
    )
    return [line for line in text.splitlines() if line and not line.startswith("#")], text


def value(name, key, **more):
    found = [line.split(" ", 1)[1] for line in rendered(name, **more)[0] if line.split(" ")[0] == key]
    return found if len(found) != 1 else found[0]


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_what_every_redis_gets(name):
    lines, text = rendered(name)
    assert text.startswith("# Managed by Golden Path")
    # Whatever the package's file says, or what somebody wrote into it.
    assert not any(line.startswith("include") for line in lines)
    for line in ("port 6379", "protected-mode yes", 'requirepass ""', "maxmemory-policy volatile-lru",
                 "appendonly yes", "appendfsync everysec", "stop-writes-on-bgsave-error yes",
                 "pidfile /run/redis/redis-server.pid", "logfile /var/log/redis/redis-server.log"):  # fmt: skip
        assert line in lines


@pytest.mark.parametrize("name", ["noble", "resolute", "bookworm", "trixie"])
def test_redis_since_6_2(name):
    for ipv6 in (["::1"], []):
        assert value(name, "bind", ipv6=ipv6) == "127.0.0.1 -::1"
    assert value(name, "disable-thp") == "yes"
    assert value(name, "save") == "3600 1 300 100 60 10000"


def test_redis_6_0():
    assert value("jammy", "bind") == "127.0.0.1 ::1"
    # Where IPv6 is switched off, 6.0 does not start with it.
    assert value("jammy", "bind", ipv6=[]) == "127.0.0.1"
    assert value("jammy", "disable-thp") == []
    assert value("jammy", "save") == ['""', "3600 1", "300 100", "60 10000"]


@pytest.mark.parametrize(
    "memory, limit",
    [(100, "64mb"), (480, "64mb"), (967, "192mb"), (1963, "448mb"), (8000, "1984mb"), (64000, "2048mb")],
)
def test_memory_limit_from_the_host(memory, limit):
    assert value("bookworm", "maxmemory", mem_total=memory) == limit


def test_memory_limit_from_the_pillar():
    assert value("bookworm", "maxmemory", pillar={"redis": {"maxmemory": "16mb"}}) == "16mb"


def test_a_few_pages_of_memory_do_not_matter():
    assert len({value("bookworm", "maxmemory", mem_total=total) for total in range(3930, 3990)}) == 1


def test_a_database_is_left_that_no_site_may_have():
    schema = yaml.safe_load((ROOT / "pillar/schema.yaml").read_text())
    site = schema["properties"]["sites"]["additionalProperties"]["properties"]["redis"]["properties"]
    highest = max(site["cache"]["maximum"], site["broker"]["maximum"])
    assert int(value("bookworm", "databases")) == highest + 2


# --- the trial ---------------------------------------------------------------------------------------------


@pytest.fixture
def folder():
    """
    One that the user redis can look into, unlike pytest's own.
    """
    with tempfile.TemporaryDirectory(prefix="gp-") as name:
        os.chmod(name, 0o755)
        log = pathlib.Path(name, "log")
        log.mkdir()
        log.chmod(0o777)
        yield pathlib.Path(name)


def here():
    """
    The distribution with the Redis that this machine has.
    """
    return {"6.0": "jammy", "7.0": "bookworm", "8.0": "trixie"}[redis_version()]


def program(folder, **constants):
    """
    The trial, with other constants.
    """
    script, text = folder / "try.py", TRY.read_text()
    (folder / "password").write_text(f"{SECRET}\n")
    places = {"IN_USE": "in-use.conf", "PACKAGED": "redis.conf", "PASSWORD": "password"}
    for name, value in {**{name: f"{folder}/{place}" for name, place in places.items()}, **constants}.items():
        text, found = re.subn(rf"^{name} = .*$", f"{name} = {value!r}", text, flags=re.MULTILINE)
        assert found == 1
    script.write_text(text)
    return script


def tried(folder, text, **constants):
    config = folder / "goldenpath.conf"
    config.write_text(text.replace("/var/log/redis", f"{folder}/log"))
    config.chmod(0o600)  # as Salt's own temporary files
    command = [sys.executable, program(folder, **constants), config]
    return subprocess.run(command, capture_output=True, text=True, timeout=30)


def wait_for_pong(place):
    end = time.monotonic() + 10
    while subprocess.run(["redis-cli", "-s", place, "ping"], capture_output=True, text=True).stdout != "PONG\n":
        assert time.monotonic() < end
        time.sleep(0.02)


def leftovers():
    """
    Folders of a trial, and processes that still work in one.
    """
    found = [str(path) for path in pathlib.Path(tempfile.gettempdir()).glob("goldenpath-redis-*")]
    for link in pathlib.Path("/proc").glob("[0-9]*/cwd"):
        with contextlib.suppress(OSError):
            found.append(os.readlink(link))
    return [place for place in found if "goldenpath-redis-" in place]


def test_the_configuration_of_this_tree_starts(folder):
    result = tried(folder, rendered(here())[1])
    assert (result.returncode, result.stdout) == (0, "")
    assert leftovers() == []


@pytest.mark.parametrize(
    "line, reason",
    [
        ("maxmemory lots", "'maxmemory lots' argument must be a memory value"),
        ("maxmemory-policy keep-all", "'maxmemory-policy keep-all'"),
        ("no-such-thing yes", "'no-such-thing yes' Bad directive"),
        ("include /no/such/file", "No such file or directory"),
        # Nothing but a real start finds this one.
        ("bind 192.0.2.1", "Could not create server TCP listening socket 192.0.2.1"),
        ("databases 0", "'databases 0'"),
    ],
)
def test_a_bad_value_is_refused_with_redis_own_reason(folder, line, reason):
    result = tried(folder, rendered(here())[1] + line + "\n")
    assert result.returncode == 1
    assert result.stdout.startswith("Redis does not start with this configuration: ")
    assert reason in result.stdout
    assert len(result.stdout.splitlines()) == 1
    assert leftovers() == []


def test_a_server_that_asks_for_a_password_is_no_pong(folder):
    result = tried(folder, rendered(here())[1].replace("default on nopass", "default on >x"), SECONDS=1)
    assert result.returncode == 1
    assert "no PONG within 1 s" in result.stdout
    assert leftovers() == []


def test_the_trial_touches_no_port_and_no_data_of_the_real_one(folder):
    (folder / "data").mkdir()
    (folder / "data").chmod(0o777)
    text = rendered(here())[1] + f"dir {folder}/data\n"
    assert tried(folder, text).returncode == 0
    assert list((folder / "data").iterdir()) == []


def test_an_interrupted_trial_cleans_up(folder):
    config = folder / "c.conf"
    config.write_text("requirepass x\n")
    process = subprocess.Popen([sys.executable, program(folder), config])
    end = time.monotonic() + 5
    while len(leftovers()) < 2:  # the folder, and the server in it
        assert time.monotonic() < end
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(5) == 1
    assert leftovers() == []


def test_options_on_the_command_line_do_not_take_settings_away(folder):
    """
    As the unit starts it. Redis 7 with options kept the last of several save lines only.
    """
    mine = ("port", "pidfile", "logfile")
    lines = [line for line in rendered(here())[0] if not line.startswith(mine)]
    (folder / "c.conf").write_text("\n".join(lines))
    place = folder / "s"
    server = subprocess.Popen(
        ["redis-server", folder / "c.conf", "--supervised", "systemd", "--daemonize", "no",
         "--port", "0", "--unixsocket", place, "--dir", folder],
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        wait_for_pong(place)
        answer = subprocess.run([*CLI, place, "config", "get", "save"], capture_output=True, text=True)
    finally:
        server.kill()
        server.wait()
    assert answer.stdout.splitlines() == ["save", "3600 1 300 100 60 10000"]


# --- the whole file, and what a file of before included -----------------------------------------------------


PACKAGED = pathlib.Path(__file__).parent / "packaged"  # what the lines of Debian's redis.conf say, by version


def before(folder, edit=""):
    """
    The file of a host whose Redis includes the package's, and that one, perhaps edited; returns the new file.
    """
    new = rendered(here())[1].replace("/var/log/redis", f"{folder}/log")
    packaged = folder / "redis.conf"
    text = (PACKAGED / f"redis-{redis_version()}.conf").read_text() + edit
    packaged.write_text(text.replace("/var/log/redis", f"{folder}/log"))
    packaged.chmod(0o644)
    own = [line for line in new.splitlines() if not line.startswith(("pidfile", "logfile", "always-show-logo", "user"))]
    (folder / "in-use.conf").write_text(f"include {packaged}\n" + "\n".join(own) + "\n")
    return new


def effective(folder, config):
    """
    CONFIG GET * of a Redis that is started with a file, but for where it puts what it writes.
    """
    place = folder / "s"
    server = subprocess.Popen(
        ["redis-server", config, "--port", "0", "--unixsocket", place, "--dir", folder, "--daemonize", "no",
         "--logfile", "", "--pidfile", folder / "pid"],
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        wait_for_pong(place)
        words = subprocess.run([*CLI, place, "config", "get", "*"], capture_output=True, text=True)
    finally:
        server.kill()
        server.wait()
    lines = words.stdout.splitlines()
    return dict(zip(lines[::2], lines[1::2], strict=True))


def test_nothing_is_lost_with_the_include(folder):
    """
    The whole CONFIG GET * of the file with the package's redis.conf, and of the one that includes nothing.
    """
    new = before(folder)
    (folder / "new.conf").write_text(new)
    was, is_now = (effective(folder, folder / name) for name in ("in-use.conf", "new.conf"))
    assert len(was) > 140 and is_now == was


@pytest.mark.parametrize("version", ["6.0", "7.0", "8.0"])
def test_where_the_package_has_its_log_and_pid(version):
    said = dict(line.split(" ", 1) for line in (PACKAGED / f"redis-{version}.conf").read_text().splitlines())
    name = {"6.0": "jammy", "7.0": "bookworm", "8.0": "trixie"}[version]
    assert value(name, "logfile") == said["logfile"]
    assert value(name, "pidfile") == said["pidfile"].removeprefix("/var")  # where /run is /var/run


def test_a_file_that_includes_the_packages_gives_way(folder):
    result = tried(folder, before(folder))
    assert (result.returncode, result.stdout) == (0, "")
    assert leftovers() == []


@pytest.mark.parametrize(
    "edit, name",
    [
        ("timeout 300\n", "timeout"),
        ("Timeout 300\n", "timeout"),
        ("slave-priority 7\n", "replica-priority, slave-priority"),
        ("unixsocket /run/redis/redis.sock\n", "unixsocket"),
        ("logfile /var/log/redis/mine.log\n", "logfile"),
        ("user site on nopass ~* +@all\n", "user"),
        ('rename-command FLUSHALL ""\n', "rename-command"),
        ("timeout 300\nmasterauth s3cret\n", "masterauth, timeout"),
        ("include {folder}/more-1.conf\n", "tcp-keepalive"),
    ],
)
def test_what_only_the_include_set_is_named_and_refused(folder, edit, name):
    (folder / "more-1.conf").write_text("tcp-keepalive 33\n")
    (folder / "more-1.conf").chmod(0o644)
    result = tried(folder, before(folder, edit.format(folder=folder)))
    assert result.returncode == 1
    assert f"redis.conf, which is no longer included, is the only one to set {name}. Try: " in result.stdout
    assert len(result.stdout.splitlines()) == 1 and "s3cret" not in result.stdout
    assert leftovers() == []


def test_what_it_says_to_type_is_enough(folder):
    new = before(folder, "timeout 300\n  tcp-keepalive 60\n")
    line = tried(folder, new).stdout.split("out of it: ")[1]
    subprocess.run(["/bin/sh", "-c", line], check=True)
    assert tried(folder, new).returncode == 0


@pytest.mark.parametrize(
    "edit",
    [
        "bind 0.0.0.0\n",  # which our own file said over it
        "timeout 0\n",  # the default
        "daemonize no\nsupervised systemd\n",  # the unit's
    ],
)
def test_what_is_not_lost_is_not_refused(folder, edit):
    assert tried(folder, before(folder, edit)).returncode == 0


def test_what_the_new_file_says_as_well_is_not_refused(folder):
    assert tried(folder, before(folder, "timeout 300\n") + "timeout 300\n").returncode == 0


def test_what_the_new_file_says_otherwise_is_refused(folder):
    result = tried(folder, before(folder, "timeout 300\n") + "timeout 200\n")
    assert "is the only one to set timeout. Try: " in result.stdout


def test_an_include_that_redis_does_not_take_is_told(folder):
    for edit in ("no-such-thing yes\n", 'rename-command CONFIG ""\n'):
        result = tried(folder, before(folder, edit))
        assert result.returncode == 1 and len(result.stdout.splitlines()) == 1
        assert result.stdout.startswith("Nobody can tell what is lost of ")
    new = before(folder)
    (folder / "redis.conf").unlink()  # with which Redis did not start any more
    assert tried(folder, new).returncode == 0


def test_a_file_that_includes_nothing_is_not_compared(folder):
    new = before(folder, "timeout 300\n")
    (folder / "in-use.conf").write_text(new)
    assert tried(folder, new).returncode == 0


# --- the unit's drop-in ------------------------------------------------------------------------------------


def start_command():
    unit = (ROOT / "salt/redis/files/redis-server.service.conf").read_text().replace("\\\n", " ")
    return re.search(r"/bin/sh -c '(.*?)'", unit)[1]


@pytest.mark.parametrize(
    "before, after",
    [
        ({"dump.rdb": "R"}, {"dump.rdb": "R", "appendonly.aof": "R"}),
        ({"dump.rdb": ""}, {"dump.rdb": ""}),
        ({}, {}),
        ({"dump.rdb": "R", "appendonly.aof": "A"}, {"dump.rdb": "R", "appendonly.aof": "A"}),
        ({"dump.rdb": "R", "appendonlydir/x": "A"}, {"dump.rdb": "R", "appendonlydir/x": "A"}),
    ],
)
def test_a_first_append_only_file_begins_as_the_snapshot(tmp_path, before, after):
    for name, text in before.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    command = start_command().replace("/var/lib/redis", str(tmp_path))
    subprocess.run(["/bin/sh", "-c", command], check=True)
    found = {str(path.relative_to(tmp_path)): path.read_text() for path in tmp_path.rglob("*") if path.is_file()}
    assert found == after


def test_queue_of_a_host_that_kept_snapshots_only_survives(tmp_path):
    """
    The whole way with a real server: snapshot only, then our start with an append-only file.
    """
    place = tmp_path / "s"

    def run(options, *commands):
        server = subprocess.Popen(
            ["redis-server", "--port", "0", "--unixsocket", place, "--dir", tmp_path, *options],
            stdout=subprocess.DEVNULL,
        )
        answers = []
        try:
            wait_for_pong(place)
            for words in commands:
                command = ["redis-cli", "-s", place, *words]
                answers.append(subprocess.run(command, capture_output=True, text=True).stdout.strip())
        finally:
            server.terminate()
            server.wait()
        return answers

    run(["--save", "60", "1"], ["rpush", "celery", "a", "b"])
    subprocess.run(["/bin/sh", "-c", start_command().replace("/var/lib/redis", str(tmp_path))], check=True)
    assert run(["--appendonly", "yes"], ["llen", "celery"]) == ["2"]
    # Without that step it comes up empty: the guard is needed.
    for path in [*tmp_path.glob("append*")]:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert run(["--appendonly", "yes"], ["llen", "celery"]) == ["0"]
