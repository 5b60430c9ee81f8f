"""
What this tree patches of Salt: that it helps a command, leaves every daemon alone, and is still needed.

Where a test says that Salt no longer needs a patch, remove the patch from _controller/salt_3008.py.
"""

import contextlib
import inspect
import json
import logging
import os
import re
import shutil
import socket
import subprocess
import sys
import tarfile
import threading
import time
from types import SimpleNamespace

import pytest
import salt._process_role
import salt.client.ssh
import salt.client.ssh.shell
import salt.config
import salt.payload
import salt.pillar
import salt.utils.event
import salt.utils.minion
import salt.utils.resource_warnings
import salt.utils.vt
import salt.version
import yaml
from salt.client.ssh import wrapper

from tests.conftest import ROOT

PATCHED = [
    (salt.utils.event.SaltEvent, "connect_pull"),
    (salt.utils.vt.Terminal, "close"),
    (salt.utils.vt.Terminal, "recv"),
    (salt.utils.resource_warnings, "warn_until_close"),
    (salt.client.ssh.Single, "run"),
    (salt.utils.minion, "running"),
    (salt.pillar.Pillar, "render_pstate"),
]


@pytest.fixture
def patches(load, tmp_path, monkeypatch):
    """The file loaded and nothing patched yet; what it patches is undone. This process is a command of Salt's."""
    for owner, name in PATCHED:
        monkeypatch.setattr(owner, name, getattr(owner, name))
    monkeypatch.setattr(salt._process_role, "_IS_CLI", True)
    return load(
        "_controller/salt_3008.py",
        opts={"ext_pillar": [], "sock_dir": str(tmp_path), "id": "web1", "cachedir": str(tmp_path / "cache")},
    )


@pytest.fixture
def opts(tmp_path):
    return {**salt.config.master_config(None), "sock_dir": str(tmp_path)}


def over_tcp(opts):
    free = [socket.socket() for _ in range(2)]
    for each in free:
        each.bind(("127.0.0.1", 0))
    pub, pull = (each.getsockname()[1] for each in free)
    for each in free:
        each.close()
    return {**opts, "ipc_mode": "tcp", "tcp_master_pub_port": pub, "tcp_master_pull_port": pull}


def seconds_to_tell_nobody(opts):
    began = time.monotonic()
    with salt.utils.event.MasterEvent(opts["sock_dir"], opts=opts, listen=False) as event:
        assert not event.fire_event({}, "nobody/listens")
    return time.monotonic() - began


# ---- the event bus


@pytest.mark.parametrize("mode", ["ipc", "tcp"])
def test_no_second_is_lost_without_a_bus(patches, opts, mode):
    assert patches.__virtual__() is True
    assert patches.patch() == {}
    assert seconds_to_tell_nobody(opts if mode == "ipc" else over_tcp(opts)) < 0.9


def test_a_bus_that_died_costs_no_second(patches, opts, tmp_path):
    """A master that was killed leaves its socket."""
    with socket.socket(socket.AF_UNIX) as bus:
        bus.bind(str(tmp_path / "master_event_pull.ipc"))
    patches.patch()
    assert seconds_to_tell_nobody(opts) < 0.9


def test_salt_still_waits_for_a_bus(opts):
    assert seconds_to_tell_nobody(opts) > 0.9, "connect_pull: Salt no longer needs the patch"


@contextlib.contextmanager
def bus(opts):
    """What a master's bus is to others: a socket that takes whatever is sent; yields what arrived."""
    tcp = opts["ipc_mode"] == "tcp"
    address = ("127.0.0.1", opts["tcp_master_pull_port"]) if tcp else f"{opts['sock_dir']}/master_event_pull.ipc"
    arrived = []

    def read(connection):
        with connection:
            while data := connection.recv(4096):
                arrived.append(data)

    def accept(listener):
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=read, args=(listener.accept()[0],), daemon=True).start()

    with socket.socket(socket.AF_INET if tcp else socket.AF_UNIX) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen()
        threading.Thread(target=accept, args=(listener,), daemon=True).start()
        yield arrived
        listener.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("mode", ["ipc", "tcp"])
def test_a_running_master_is_told_everything(patches, opts, mode):
    """Whatever way its bus is reached, and though it was not there when the patch was made."""
    opts = opts if mode == "ipc" else over_tcp(opts)
    patches.patch()
    assert seconds_to_tell_nobody(opts) < 0.9
    with bus(opts) as arrived:
        with salt.utils.event.MasterEvent(opts["sock_dir"], opts=opts, listen=False) as event:
            assert event.fire_event({"n": 1}, "somebody/listens")
        end = time.monotonic() + 5
        while b"somebody/listens" not in b"".join(arrived) and time.monotonic() < end:
            time.sleep(0.01)
    assert b"somebody/listens" in b"".join(arrived)


# ---- the end of a connection


def closing(terminal):
    while terminal.has_unread_data:
        terminal.recv()
    began = time.monotonic()
    terminal.close(terminate=True, kill=True)
    return time.monotonic() - began


def ended():
    return salt.utils.vt.Terminal(["sh", "-c", "exit 3"], stream_stdout=False, stream_stderr=False)


def test_a_connection_that_has_ended_is_closed_at_once(patches):
    patches.patch()
    patches.patch()  # wrapped once
    terminal = ended()
    descriptors = [each for each in (terminal.child_fd, terminal.child_fde) if each is not None]
    assert closing(terminal) < 0.15
    assert (terminal.exitstatus, terminal.closed) == (3, True)
    for descriptor in descriptors:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)
    terminal.close()


def test_one_that_runs_is_ended_as_before(patches):
    patches.patch()
    terminal = salt.utils.vt.Terminal(["sleep", "60"], stream_stdout=False, stream_stderr=False)
    pid = terminal.pid
    terminal.close(terminate=True, kill=True)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


LONG = 'for i in $(seq 4000); do echo "$i äöü$i"; done'


def received(script, answer=None):
    """What salt-ssh's loop over a connection gives: the text, standard error, the exit status, how often it slept."""
    shell = salt.client.ssh.shell.Shell({"_ssh_version": ""}, "web1", mods={"mods": "m" * 200})
    slept = []
    sleep = time.sleep
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shell, "_split_cmd", lambda _: ["sh", "-c", script])
        patch.setattr(salt.client.ssh.shell.time, "sleep", lambda seconds: slept.append(seconds) or sleep(seconds))
        return (*shell._run_cmd("x"), len(slept))


@pytest.mark.parametrize(
    "script",
    [
        f"{LONG}; exit 3",
        f"{LONG}; echo oh >&2; kill -9 $$",
        "exit 0",
        # What is sent in between, as modules are: asked for behind much text, and answered.
        f"stty -echo; {LONG}; printf '_||ext_mods||_'; read -r it; echo \"got $it\"; {LONG} >&2",
        f"{LONG}; printf '[sudo] password for x: '; read -r it; echo never",
    ],
)
def test_an_answer_is_taken_as_a_whole_and_is_the_same(prompts, patches, script):
    slow = received(script)
    patches.patch()
    quick = received(script)
    # Salt leaves a \r where its kilobyte ends in the middle of a line's end.
    clean = [[text.replace("\r", "") for text in told[:2]] for told in (slow, quick)]
    assert clean[0] == clean[1] and quick[2] == slow[2]
    assert quick[0].count("\r") <= slow[0].count("\r")
    # Where Salt takes as much by itself, the patch can go.
    assert slow[3] < 20 or quick[3] < slow[3] / 2


PROMPTS = ["SSH_PASSWORD_PROMPT_RE", "KEY_VALID_RE"]


@pytest.fixture
def prompts(monkeypatch, patches):
    """Salt's own, as its source has them, whatever other tests patched; put back afterwards."""
    source = inspect.getsource(salt.client.ssh.shell)
    for name in PROMPTS:
        pattern = patches._PROMPTS[name][0]
        assert f'{name} = re.compile(r"{pattern}"' in source
        monkeypatch.setattr(salt.client.ssh.shell, name, re.compile(pattern, re.MULTILINE))
    return {name: getattr(salt.client.ssh.shell, name) for name in PROMPTS}


@pytest.mark.parametrize(
    "text",
    [
        "root@web1's password: ", "Password:", "x\nroot@web1's password:\r\n", "Password for root@web1:",
        "password: no\n",
        "Are you sure you want to continue connecting (yes/no)? ", "(yes/no/[fingerprint])", "(yes/no/", "yes/no",
        '{"a": "password:"}', "a password: \nb", "", "\n",
    ],
)  # fmt: skip
def test_prompts_are_found_as_salt_finds_them(prompts, patches, text):
    patches.patch()
    for name, theirs in prompts.items():
        ours = getattr(salt.client.ssh.shell, name)
        assert ours is not theirs and bool(ours.search(text)) == bool(theirs.search(text))


def test_a_long_line_costs_no_seconds(prompts, patches):
    patches.patch()
    began = time.process_time()
    for name in PROMPTS:
        assert not getattr(salt.client.ssh.shell, name).search("x" * 500_000)
    assert time.process_time() - began < 1
    # Where Salt does it in one pass by itself, the patch can go.
    began = time.process_time()
    assert not prompts["KEY_VALID_RE"].search("x" * 20_000)
    assert time.process_time() - began > 0.1


def test_another_prompt_of_salts_is_left_as_it_is(prompts, patches, monkeypatch):
    other = re.compile("other")
    monkeypatch.setattr(salt.client.ssh.shell, "KEY_VALID_RE", other)
    patches.patch()
    assert salt.client.ssh.shell.KEY_VALID_RE is other


def test_an_answer_that_never_ends_is_given_in_parts(patches):
    patches.patch()
    terminal = salt.utils.vt.Terminal(["sh", "-c", "yes"], stream_stdout=False, stream_stderr=False)
    time.sleep(0.2)
    assert 0 < len(terminal.recv()[0]) <= patches._AT_ONCE + (1 << 16)
    assert len(terminal.recv(10)[0]) <= 10
    terminal.close(kill=True)


def test_salt_still_sleeps_at_the_end_of_a_connection():
    assert closing(ended()) > 0.19, "Terminal.close: Salt no longer needs the patch"


# ---- unclosed objects


@pytest.fixture
def checkout(tmp_path):
    """This tree, with a configuration whose `grains_dirs` a test may change."""
    for name in ("_controller", "_modules", "_pillar", "_roster", "_runners", "_states", "pillar", "salt", "Saltfile"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "config").mkdir()
    (tmp_path / ".salt/cache/proc").mkdir(parents=True)
    shutil.copy(ROOT / "config/master", tmp_path / "config/master")
    (tmp_path / "config/roster").write_text("web1: {host: 203.0.113.10}\n")
    return tmp_path


def salt_run(checkout, **changed):
    config = yaml.safe_load((checkout / "config/master").read_text())
    (checkout / "config/master").write_text(yaml.safe_dump({**config, **changed}))
    program = os.path.join(os.path.dirname(sys.executable), "salt-run")
    done = subprocess.run(
        [program, "test.arg", "a"], cwd=checkout, capture_output=True, text=True, timeout=60, check=True
    )
    return done.stderr


def test_a_command_is_quiet_at_the_end(checkout):
    assert salt_run(checkout) == ""


def test_salt_still_warns_of_its_own_unclosed_objects(checkout):
    said = salt_run(checkout, grains_dirs=[])
    assert "unclosed " in said, "warn_until_close: Salt no longer needs the patch"


# ---- where it acts


def test_a_daemon_has_none_of_it(patches, opts, monkeypatch, caplog):
    """It is decided on each call: a daemon may have loaded the file, and have been a command's child."""
    patches.patch()
    assert seconds_to_tell_nobody(opts) < 0.9
    monkeypatch.setattr(salt._process_role, "_IS_CLI", False)
    assert seconds_to_tell_nobody(opts) > 0.9
    assert closing(ended()) > 0.19
    with pytest.warns(ResourceWarning, match="unclosed x"), caplog.at_level(logging.WARNING):
        salt.utils.resource_warnings.warn_until_close("unclosed x", source=None)
    assert "unclosed x" in caplog.text


@pytest.mark.parametrize(
    ("entry", "acts"),
    [
        ("import salt.cli.daemons", False),  # what salt-master and salt-minion import
        ("import salt.client.ssh, salt.runner, salt.master, salt.minion", False),
        ("import salt.cli.ssh", True),  # what salt-ssh imports
        ("salt.scripts.mark_as_cli()", True),  # what salt-run and salt call
    ],
)
def test_which_programs_are_commands(entry, acts):
    program = f"""
import importlib.util, salt.scripts
{entry}
spec = importlib.util.spec_from_file_location("salt_3008", {str(ROOT / "_controller/salt_3008.py")!r})
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
print(module._in_a_command())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == str(acts)


@pytest.mark.parametrize("version", ["3007.9", "3009.0", "30080.1"])
def test_another_salt_stays_as_it_is(patches, monkeypatch, version):
    monkeypatch.setattr(salt.version, "__version__", version)
    before = [getattr(owner, name) for owner, name in PATCHED]
    patches.patch()
    assert [getattr(owner, name) for owner, name in PATCHED] == before


def test_a_minion_has_none_of_it(load):
    assert load("_controller/salt_3008.py", opts={"id": "web1"}).__virtual__()[0] is False


def test_every_salt_run_loads_it():
    assert "grains_dirs: [_controller]" in (ROOT / "config/master").read_text()


def test_what_is_patched_stands_in_the_table(patches):
    for owner, name in PATCHED:
        shown = f"``{name}``" if owner is salt.utils.resource_warnings else f"``{owner.__name__}.{name}``"
        assert shown in patches.__doc__
    before = [getattr(owner, name) for owner, name in PATCHED]
    patches.patch()
    assert all(getattr(owner, name) is not was for (owner, name), was in zip(PATCHED, before, strict=True))


# salt-ssh


class Single:
    """As much of Salt's as the patch asks for: a command to a host that answers what a test says."""

    def __init__(self, folder, fun="state.apply", answer=None, fails=None):
        self.opts, self.winrm, self.id, self.fun = {"cachedir": str(folder)}, False, "web1", fun
        self.target, self.thin_dir, self.answer, self.fails = {}, "/thin", answer, fails

    def run(self, deploy_attempted=False):
        if self.fails:
            raise self.fails
        return self.answer


@pytest.fixture
def ssh(patches, tmp_path, monkeypatch):
    monkeypatch.setattr(patches, "_look", lambda single: "")

    def ask(**options):
        stdout, _, code = patches._run(Single.run, Single(tmp_path, **options))
        local = json.loads(stdout)["local"]
        return local["return"] if isinstance(local, dict) else local, code

    return ask


def answered(value, code=0):
    return json.dumps({"local": {"return": value, "retcode": code}}), "", code


STATE = {"file_|-x_|-x_|-managed": {"result": True}}


@pytest.mark.parametrize("value", [{}, [], None])
@pytest.mark.parametrize("fun", ["state.apply", "state.sls", "state.highstate", "state.single"])
def test_a_run_without_a_state_is_never_green(ssh, fun, value):
    told, code = ssh(fun=fun, answer=answered(value))
    assert "No state was run on web1: nothing was done. Try: " in told and code == 1


def test_what_did_something_stays_as_it_is(ssh):
    assert ssh(answer=answered(STATE)) == (STATE, 0)
    assert ssh(fun="goldenpath.backups", answer=answered({})) == ({}, 0)
    assert ssh(fun="state.show_top", answer=answered({})) == ({}, 0)
    assert ssh(answer=answered(["Rendering SLS failed"], 1)) == (["Rendering SLS failed"], 1)


@pytest.mark.parametrize(
    "options",
    [
        {"answer": ("", "Traceback (most recent call last):\n  File x\ntarfile.ReadError: not a gzip file\n", 1)},
        {"fails": wrapper.SSHCommandExecutionError("", "File x\ntarfile.ReadError: not a gzip file\n", 1)},
        {"fails": tarfile.ReadError("not a gzip file")}, {"fails": RecursionError("x\ny: not a gzip file")},
    ],
)  # fmt: skip
def test_a_host_that_answers_nonsense_is_one_sentence(ssh, options):
    told, code = ssh(**options)
    assert told.startswith("web1 gave no answer that Salt understands: ") and "\n" not in told and code == 1
    assert "not a gzip file. Try: " in told


def test_a_state_that_failed_is_salts_own_affair(ssh):
    parsed = {"local": {"return": {**STATE, "x": {"result": False}}, "retcode": 2}}
    with pytest.raises(wrapper.SSHCommandExecutionError):
        ssh(fails=wrapper.SSHCommandExecutionError(json.dumps(parsed), "", 2, parsed=parsed))


def test_nothing_is_no_success(ssh):
    told, code = ssh(answer=("", "", 0))
    assert "it said nothing" in told and code == 1


def test_a_second_command_to_a_host_waits_and_is_told_for_whom(ssh, patches, tmp_path, capsys):
    single, began = Single(tmp_path), threading.Event()

    def slow(*_):
        began.set()
        time.sleep(0.5)
        return answered(STATE)

    thread = threading.Thread(target=lambda: patches._run(slow, single))
    # Another process has locks of its own; here the thread stands for one.
    patches._HELD = type("Nobody", (set,), {"__contains__": lambda self, _: False})()
    thread.start()
    began.wait(5)
    asked = time.monotonic()
    assert ssh(answer=answered(STATE)) == (STATE, 0)
    assert time.monotonic() - asked > 0.3
    thread.join(5)
    assert "web1 is busy: " in (told := capsys.readouterr().err) and " runs state.apply since " in told


def test_the_look_asks_nobody_and_what_is_typed_is_not_looked_at(patches, tmp_path, monkeypatch):
    single, asked = Single(tmp_path), []
    single.shell = SimpleNamespace(_cmd_str=lambda _: "/usr/bin/ssh web1.example -o Port=22 ")
    look = {"SECONDS": 7, "LOOKED": "LOOKED_AT", "fault": lambda *words: asked.append(words) or "no"}
    monkeypatch.setattr(patches, "_reach", lambda: look)
    assert patches._look(single) == "no"
    host, argv, thin, sudo = asked[0]
    # A prompt would go to the operator's terminal, past Salt.
    assert argv[:5] == ["/usr/bin/ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=7"]
    assert (host, thin, sudo, argv[5]) == ("web1", "/thin", False, "web1.example")
    monkeypatch.setenv("LOOKED_AT", "web0 web1")
    assert patches._look(single) == ""
    monkeypatch.delenv("LOOKED_AT")
    for typed in ("passwd", "priv_passwd"):
        single.target = {typed: "x"}
        assert patches._look(single) == ""


def test_commands_of_one_checkout_refuse_no_other(patches, tmp_path):
    """Salt still does: a file of a running job is enough."""
    folder = tmp_path / "cache/proc"
    folder.mkdir(parents=True)
    job = {"jid": "1", "fun": "state.apply", "pid": os.getpid(), "tgt": "web2"}
    (folder / "1").write_bytes(salt.payload.dumps(job))
    monkey = {"cachedir": str(tmp_path / "cache"), "id": "x", "__role": "master", "pki_dir": ""}
    assert "proc" in inspect.getsource(salt.utils.minion.running)
    patches.patch()
    assert salt.utils.minion.running(monkey) == []
    assert (tmp_path / "cache/proc").is_dir()


# Pillars


@pytest.fixture
def compiled(patches, tmp_path, caplog):
    """What Salt says of a pillar file's text, and everything that it logs."""

    def render(text):
        files = tmp_path / "pillar"
        (files / "hosts").mkdir(parents=True, exist_ok=True)
        (files / "top.sls").write_text("base: {'*': [hosts.web1]}\n")
        (files / "hosts/web1.sls").write_text(text)
        opts = salt.config.master_config(None)
        opts.update(
            root_dir=str(tmp_path), cachedir=str(tmp_path / "cache"), extension_modules=str(tmp_path / "ext"),
            pillar_roots={"base": [str(files)]}, file_client="local", ext_pillar=[], pillar={}, id="web1",
        )  # fmt: skip
        patches.patch()
        found = salt.pillar.Pillar(opts, {"id": "web1"}, "web1", "base").compile_pillar()
        return found.get("_errors", []), caplog.text

    return render


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: 1\nsecret: s3cr3t-canary\nsites:\n\tx: 1\n", "line 4: found character that cannot start any token (a tab"),
        ("a: 1\nsites:\n  project:x\n  secret: s3cr3t-canary\n", "line 4: mapping values are not allowed"),
        ('a: 1\nsecret: "s3cr3t-canary\n', "found unexpected end of stream (a quote that is not closed?)"),
        ("secret: s3cr3t-canary\na: {{ nobody.x }}\n", "line 2: Jinja variable 'nobody' is undefined"),
        ("secret: s3cr3t-canary\na: {% if %}\n", "line 2: Jinja syntax error"),
        ("a: 1\na: s3cr3t-canary\n", "line 2: found conflicting ID 'a'"),
        ("- s3cr3t-canary\n", "web1.sls: is no mapping. Try: "),
    ],
)
def test_a_mistake_in_a_pillar_file_is_its_place_and_no_secret(compiled, text, told):
    (error,), logged = compiled(text)
    assert "pillar/hosts/web1.sls" in error and told in error and "Try: " in error and "\n" not in error
    assert "canary" not in error and "canary" not in logged and "Traceback" not in logged


def test_a_pillar_without_a_mistake(compiled):
    assert compiled("a: 1\n")[0] == []
