"""
The states over goldenpath: what they answer, and that a dry run changes nothing.
"""

import importlib.util
import pathlib

import pytest
from salt.exceptions import CommandExecutionError

from tests.conftest import load_module

ROOT = pathlib.Path(__file__).resolve().parents[3]
GOOD = [
    {"check": "pong", "ok": True, "message": "PONG"},
    {"check": "firewall", "ok": None, "message": "not asked"},
]


class States:
    """
    The state module as a host loads it; what the execution module answers is set by each test.
    """

    def __init__(self):
        spec = importlib.util.spec_from_file_location("goldenpath_state", ROOT / "_states/goldenpath.py")
        self.module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(self.module)
        self.calls = []
        self.module.__opts__ = {"test": False}
        self.module.__grains__ = {"id": "web1"}
        self.module.__salt__ = {
            "cmd.has_exec": lambda name: True,
            "redis_gate.failed": load_module("_modules/redis_gate.py").failed,
        }

    def __getattr__(self, name):
        return getattr(self.module, name)

    def answers(self, name, answer, module="goldenpath"):
        def function(*args, **kwargs):
            self.calls.append((name, args, kwargs))
            if isinstance(answer, Exception):
                raise answer
            return answer

        self.module.__salt__[f"{module}.{name}"] = function

    def dry_run(self, installed=True):
        self.module.__opts__["test"] = True
        self.module.__salt__["cmd.has_exec"] = lambda name: installed


@pytest.fixture
def states():
    return States()


@pytest.mark.parametrize("dry", [False, True])
def test_pong(states, dry):
    states.answers("redis_answer", "PONG")
    if dry:
        states.dry_run()
    assert states.redis_ping("127.0.0.1") == {
        "name": "127.0.0.1", "result": True, "comment": "PONG", "changes": {},
    }  # fmt: skip
    assert states.calls == [("redis_answer", (), {"site": None})]


@pytest.mark.parametrize("dry", [False, True])
def test_no_pong(states, dry):
    states.answers("redis_answer", "Redis on web1 did not answer PONG: why. Try: this")
    if dry:
        states.dry_run()
    ret = states.redis_ping("redis")
    assert ret["result"] is False
    assert ret["comment"] == "Redis on web1 did not answer PONG: why. Try: this"
    assert ret["changes"] == {}
    assert states.calls == [("redis_answer", (), {"site": None})]


@pytest.mark.parametrize("name", ["redis_ping", "redis_ready", "redis_settings"])
def test_dry_run_before_redis_is_installed(states, name):
    states.dry_run(installed=False)
    ret = getattr(states, name)("redis")
    assert ret["result"] is None
    assert ret["comment"].startswith("Redis is not installed yet; ")
    assert ret["changes"] == {}


def test_missing_redis_is_a_fault_when_applied(states):
    states.module.__salt__["cmd.has_exec"] = lambda name: False
    states.answers("redis_answer", "Redis on web1 did not answer PONG: refused. Try: x")
    assert states.redis_ping("redis")["result"] is False


def test_ready(states):
    states.answers("redis_checks", GOOD)
    assert states.redis_ready("redis")["result"] is True
    assert states.calls == [("redis_checks", (), {"site": None})]


def test_not_ready_tells_every_reason(states):
    bad = [{"check": name, "ok": False, "message": f"{name} is bad. Try: x"} for name in ("memory", "policy")]
    states.answers("redis_checks", GOOD + bad)
    ret = states.redis_ready("redis")
    assert ret["result"] is False
    assert ret["comment"] == "memory is bad. Try: x\npolicy is bad. Try: x"


DRIFT = {"maxmemory": {"old": "1", "new": "2"}}


def test_settings(states):
    states.answers("mend", {}, module="redis_server")
    assert states.redis_settings("redis")["result"] is True
    states.answers("mend", DRIFT, module="redis_server")
    ret = states.redis_settings("redis")
    assert (ret["result"], ret["changes"], ret["comment"]) == (True, DRIFT, "Redis was set back: maxmemory")
    states.answers("mend", CommandExecutionError("no"), module="redis_server")
    assert states.redis_settings("redis")["result"] is False


def test_settings_in_a_dry_run(states):
    states.dry_run()
    states.answers("drift", DRIFT, module="redis_server")
    ret = states.redis_settings("redis")
    assert (ret["result"], ret["changes"]) == (None, DRIFT)
    assert ret["comment"] == "Redis would be set back: maxmemory"
    assert [call[0] for call in states.calls] == ["drift"]


@pytest.mark.parametrize("dry", [False, True])
def test_append_only(states, dry):
    if dry:
        states.dry_run()
    states.answers("append_only", {}, module="redis_server")
    assert (states.redis_append_only("redis")["result"], states.redis_append_only("redis")["changes"]) == (
        True,
        {},
    )
    change = {"appendonly": {"old": "no", "new": "yes"}}
    states.answers("append_only", change, module="redis_server")
    ret = states.redis_append_only("redis")
    assert (ret["result"], ret["changes"]) == (None if dry else True, change)
    assert states.calls[-1] == ("append_only", (), {"test": dry})
    states.answers("append_only", CommandExecutionError("no"), module="redis_server")
    assert states.redis_append_only("redis")["result"] is False


@pytest.mark.parametrize(
    "status, result",
    [("ok", True), ("degraded", True), ("unhealthy", False), ("broken", False), ("unreachable", False)],
)
def test_healthy(states, status, result):
    states.answers("call", {"status": status, "message": "/health/ answered", "hint": "this"}, "engine")
    ret = states.healthy("acme", via="front")
    assert ret["result"] is result
    assert ret["comment"].startswith(f"acme on web1 is {status}: /health/ answered.")
    assert ret["comment"].endswith("Try: this") is not result
    request = {"front": True, "path": None, "timeout": 5}
    assert states.calls == [("call", ("call", "health", "acme"), {"request": request})]


def test_a_host_that_cannot_be_asked_for_its_health(states):
    states.answers("call", CommandExecutionError("web1 has no engine yet. Try: x"), "engine")
    assert (states.healthy("acme")["result"], states.healthy("acme")["comment"]) == (
        False,
        "web1 has no engine yet. Try: x",
    )


class Kernel:
    """Settings of a kernel, and whether a guest may set them."""

    def __init__(self, load, live, may=True):
        self.live, self.may, self.files = {"vm.overcommit_memory": live}, may, {}
        self.load = load

    def assign(self, name, value):
        if not self.may:
            raise CommandExecutionError("read-only file system")
        self.live[name] = str(value)

    def apply(self, test=False):
        state = self.load("_states/goldenpath.py", opts={"test": test}, salt={
            "sysctl.get": self.live.get, "sysctl.assign": self.assign, "file.file_exists": self.files.__contains__,
            "file.read": self.files.get, "file.write": lambda path, args: self.files.update({path: args[0] + "\n"}),
        })  # fmt: skip
        return state.sysctl("vm.overcommit_memory", 1, "/etc/sysctl.d/x.conf", "Redis may fail to save")


def test_a_setting_of_the_kernel(load):
    kernel = Kernel(load, "0")
    assert kernel.apply(test=True)["result"] is None and kernel.live["vm.overcommit_memory"] == "0"
    done = kernel.apply()
    assert done["result"] is True and set(done["changes"]) == {"vm.overcommit_memory", "/etc/sysctl.d/x.conf"}
    assert kernel.files == {"/etc/sysctl.d/x.conf": "vm.overcommit_memory = 1\n"}
    assert kernel.apply()["changes"] == {}
    kernel.live["vm.overcommit_memory"] = "0"
    assert set(kernel.apply()["changes"]) == {"vm.overcommit_memory"}


def test_a_guest_that_may_not_set_it_goes_on(load):
    kernel = Kernel(load, "0", may=False)
    done = kernel.apply()
    assert done["result"] is True and set(done["changes"]) == {"/etc/sysctl.d/x.conf"}
    assert done["comment"] == (
        "vm.overcommit_memory stays 0: the kernel of this guest is its node's. Redis may fail to save"
    )
    again = kernel.apply()
    assert again["result"] is True and again["changes"] == {} and "stays 0" in again["comment"]


@pytest.mark.parametrize("dry", [False, True])
@pytest.mark.parametrize(
    ("have", "told"),
    [
        ({"modules/a.py": "1", "states/b.py": "2", "modules/own.py": "3"}, None),
        ({"modules/a.py": "0", "states/b.py": "2"}, "modules/a.py"),
        ({}, "modules/a.py and 1 more"),
    ],
)
def test_a_minion_with_older_modules_refuses(states, dry, have, told):
    states.answers("synced", have)
    states.module.__opts__["test"] = dry
    ret = states.modules("modules", {"modules/a.py": "1", "states/b.py": "2"})
    assert (ret["result"], ret["changes"]) == (told is None, {})
    assert ret["comment"] == (
        f"web1 has the modules of another checkout ({told}), and nothing was done. "
        "Try: salt web1 saltutil.sync_all; then this again"
        if told
        else "The modules are those of the master"
    )


@pytest.mark.parametrize("dry", [False, True])
def test_a_host_of_somebody_is_refused_with_everything_found(states, dry):
    states.answers("unmarked", ["host", "acme"], module="foreign")
    states.answers("findings", ["Port 80 is held. Try: a", "Redis holds 4 keys. Try: b"], module="foreign")
    states.answers("mark", True, module="foreign")
    states.module.__opts__["test"] = dry
    ret = states.ours("host", ["acme"])
    assert ret["result"] is False and ret["changes"] == {} and "mark" not in [call[0] for call in states.calls]
    assert ret["comment"] == (
        "web1 is in use by somebody else, and nothing was changed:\n"
        "- Port 80 is held. Try: a\n- Redis holds 4 keys. Try: b"
    )


def test_a_host_of_nobody_is_marked_once(states):
    states.answers("unmarked", ["host", "acme"], module="foreign")
    states.answers("findings", [], module="foreign")
    states.answers("mark", True, module="foreign")
    states.dry_run()
    assert states.ours("host", ["acme"])["result"] is None and "mark" not in [call[0] for call in states.calls]
    states.module.__opts__["test"] = False
    ret = states.ours("host", ["acme"])
    assert ret["result"] is True and ret["changes"]["ours"]["new"] == "host, acme"
    assert ("mark", (["acme"],), {}) in states.calls
    states.answers("unmarked", [], module="foreign")
    states.calls.clear()
    ret = states.ours("host", ["acme"])
    assert (ret["result"], ret["changes"]) == (True, {}) and [call[0] for call in states.calls] == ["unmarked"]


def test_a_mark_that_cannot_be_written(states):
    states.answers("unmarked", ["host"], module="foreign")
    states.answers("findings", [], module="foreign")
    states.answers("mark", OSError(28, "No space left on device"), module="foreign")
    ret = states.ours("host")
    assert ret["result"] is False and "No space left on device. Try: df -h /var" in ret["comment"]


@pytest.mark.parametrize(
    ("inside", "front", "result"),
    [
        ("ok", "ok", True), ("degraded", "degraded", True), ("ok", "broken", False), ("degraded", "unhealthy", False),
        # Before DNS points here there is no certificate; and what the site itself says is told elsewhere.
        ("ok", "unreachable", True), ("unhealthy", "unhealthy", True), ("unreachable", "broken", True),
    ],
)  # fmt: skip
def test_what_a_reload_broke_is_no_success(states, inside, front, result):
    states.answers("live", "20260101T000000-00000000", "release")
    told = {False: inside, True: front}
    states.module.__salt__["engine.call"] = lambda *_, request: {
        "status": told[request["front"]], "message": "/health/ answered 400", "hint": "this",
    }  # fmt: skip
    ret = states.served("acme")
    assert ret["result"] is result
    assert ret["comment"].startswith(f"acme on web1 is {front} at the front door: /health/ answered 400.")
    assert ret["comment"].endswith("Try: this") is not result


def test_a_site_without_a_release_is_not_asked(states):
    states.answers("live", None, "release")
    assert states.served("acme")["result"] is True
    states.answers("live", "20260101T000000-00000000", "release")
    states.answers("call", CommandExecutionError("web1 has no engine yet. Try: x"), "engine")
    assert (states.served("acme")["result"], states.served("acme")["comment"]) == (
        False,
        "web1 has no engine yet. Try: x",
    )


def test_files_of_the_operators_own_that_caddy_refuses(states, tmp_path):
    asked = []

    def run_all(argv, **_):
        asked.append(argv)
        return {"retcode": len(asked) % 2, "stdout": "info\nError: adapting config: x.caddy:1: unexpected EOF\n\n"}

    states.module.__salt__["cmd.run_all"] = run_all
    assert states.caddy_valid(str(tmp_path), "/validate")["result"] is True and asked == []
    (tmp_path / "x.caddy").write_text("broken {")
    ret = states.caddy_valid(str(tmp_path), "/validate")
    assert ret["result"] is False and asked == [["/validate", "/etc/caddy/Caddyfile"]]
    assert ret["comment"] == (
        "Caddy on web1 does not take its files, and would not start again: adapting config: x.caddy:1: unexpected EOF. "
        f"Try: mend what stands in {tmp_path}"
    )
    assert states.caddy_valid(str(tmp_path), "/validate")["result"] is True


def test_a_restart_of_postgres(states):
    states.answers("restart_postgres", "it was restarted in 1.2 s", "release")
    ret = states.postgres_restarted("postgresql@17-main")
    assert (ret["result"], ret["comment"], ret["changes"]) == (
        True, "it was restarted in 1.2 s", {"postgresql@17-main": "restarted"},
    )  # fmt: skip
    states.answers("restart_postgres", CommandExecutionError("no. Try: x"), "release")
    assert (states.postgres_restarted("p")["result"], states.postgres_restarted("p")["comment"]) == (
        False,
        "no. Try: x",
    )
    states.dry_run()
    assert states.postgres_restarted("p")["result"] is None
