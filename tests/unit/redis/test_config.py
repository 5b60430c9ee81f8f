"""
salt/redis: the configuration as each distribution gets it, and the trial before it is used.
"""

import contextlib
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

ROOT = pathlib.Path(__file__).resolve().parents[3]
TRY = ROOT / "salt/redis/files/redis-try-config.py"
DISTRIBUTIONS = {
    "jammy": {"os": "Ubuntu", "osrelease": "22.04"},
    "noble": {"os": "Ubuntu", "osrelease": "24.04"},
    "resolute": {"os": "Ubuntu", "osrelease": "26.04"},
    "bookworm": {"os": "Debian", "osrelease": "12"},
    "trixie": {"os": "Debian", "osrelease": "13"},
}


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
    text = environment.get_template("redis/files/goldenpath.conf").render(redis=values)
    return [line for line in text.splitlines() if line and not line.startswith("#")], text


def value(name, key, **more):
    found = [line.split(" ", 1)[1] for line in rendered(name, **more)[0] if line.split(" ")[0] == key]
    return found if len(found) != 1 else found[0]


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_what_every_redis_gets(name):
    lines, text = rendered(name)
    assert text.startswith("# Managed by Golden Path")
    # Whatever the distribution's file says, or what somebody wrote into it, ours comes later.
    assert lines[0] == "include /etc/redis/redis.conf"
    for line in ("port 6379", "protected-mode yes", 'requirepass ""', "maxmemory-policy volatile-lru",
                 "appendonly yes", "appendfsync everysec", "stop-writes-on-bgsave-error yes"):  # fmt: skip
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
        yield pathlib.Path(name)


def tried(folder, text, **options):
    distribution = folder / "redis.conf"
    distribution.write_text("bind 127.0.0.1 -::1\nport 6379\n")
    distribution.chmod(0o644)
    config = folder / "goldenpath.conf"
    config.write_text(text.replace("/etc/redis/redis.conf", str(distribution)))
    config.chmod(0o600)  # as Salt's own temporary files
    return subprocess.run([sys.executable, TRY, config], capture_output=True, text=True, timeout=30, **options)


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
    result = tried(folder, rendered("bookworm")[1])
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
    result = tried(folder, rendered("bookworm")[1] + line + "\n")
    assert result.returncode == 1
    assert result.stdout.startswith("Redis does not start with this configuration: ")
    assert reason in result.stdout
    assert len(result.stdout.splitlines()) == 1
    assert leftovers() == []


def test_a_server_that_asks_for_a_password_is_no_pong(folder, monkeypatch):
    script = folder / "try.py"
    script.write_text(TRY.read_text().replace("SECONDS = 10", "SECONDS = 1"))
    monkeypatch.setitem(globals(), "TRY", script)
    result = tried(folder, rendered("bookworm")[1] + "requirepass x\n")
    assert result.returncode == 1
    assert "no PONG within 1 s" in result.stdout
    assert leftovers() == []


def test_the_trial_touches_no_port_and_no_data_of_the_real_one(folder):
    (folder / "data").mkdir()
    (folder / "data").chmod(0o777)
    text = rendered("bookworm")[1] + f"dir {folder}/data\n"
    assert tried(folder, text).returncode == 0
    assert list((folder / "data").iterdir()) == []


def test_an_interrupted_trial_cleans_up(folder):
    script = folder / "try.py"
    script.write_text(TRY.read_text())
    config = folder / "c.conf"
    config.write_text("requirepass x\n")
    process = subprocess.Popen([sys.executable, script, config])
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
    lines = [line for line in rendered("bookworm")[0] if not line.startswith(("include", "port"))]
    (folder / "c.conf").write_text("\n".join(lines))
    place = folder / "s"
    server = subprocess.Popen(
        ["redis-server", folder / "c.conf", "--supervised", "systemd", "--daemonize", "no",
         "--port", "0", "--unixsocket", place, "--dir", folder],
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        wait_for_pong(place)
        answer = subprocess.run(["redis-cli", "-s", place, "config", "get", "save"], capture_output=True, text=True)
    finally:
        server.kill()
        server.wait()
    assert answer.stdout.splitlines() == ["save", "3600 1 300 100 60 10000"]


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

    run(["--save", "60 1"], ["rpush", "celery", "a", "b"])
    subprocess.run(["/bin/sh", "-c", start_command().replace("/var/lib/redis", str(tmp_path))], check=True)
    assert run(["--appendonly", "yes"], ["llen", "celery"]) == ["2"]
    # Without that step it comes up empty: the guard is needed.
    for path in [*tmp_path.glob("append*")]:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert run(["--appendonly", "yes"], ["llen", "celery"]) == ["0"]
