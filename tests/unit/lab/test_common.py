import os
import signal
import subprocess
import sys
import time

import pytest

from lab import LabError, common


@pytest.fixture
def sleeper():
    process = subprocess.Popen(["sleep", "60"])
    yield process
    process.kill()
    process.wait()


class TestIdentity:
    def test_kill_ends_the_process(self, sleeper):
        common.kill(common.identity(sleeper.pid))
        assert sleeper.wait(1) == -9

    @pytest.mark.parametrize("change", [{"start": 1}, {"boot_id": "another"}])
    def test_another_process_of_that_number_is_left_alone(self, sleeper, change):
        common.kill({**common.identity(sleeper.pid), **change})
        assert sleeper.poll() is None

    def test_a_dead_one_is_not_alive(self, sleeper):
        identity = common.identity(sleeper.pid)
        assert common.alive(identity)
        sleeper.kill()
        sleeper.wait()
        assert not common.alive(identity)

    def test_nothing_to_kill(self):
        common.kill(None)
        assert not common.alive(None)


class TestRun:
    def test_a_missing_program_names_the_remedy(self):
        with pytest.raises(LabError, match=r"no-such-program is not installed.*lab setup"):
            common.run("no-such-program")

    def test_a_failed_one_shows_its_last_line(self):
        with pytest.raises(LabError, match=r"failed \(3\): second"):
            common.run("sh", "-c", "echo first >&2; echo second >&2; exit 3")


UNWIND = """
import signal, sys, time
from lab import common
if "ignored" in sys.argv:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
common.unwind_on_signals(lambda: map(int, sys.argv[2:]) if sys.argv[1] == "children" else ())
try:
    print("ready", flush=True)
    time.sleep(60)
finally:
    time.sleep(0.3)
    print("tidied", flush=True)
"""


class TestUnwindOnSignals:
    @pytest.fixture
    def process(self):
        processes = []

        def start(*words):
            command = [sys.executable, "-c", UNWIND, *words]
            processes.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True))
            assert processes[-1].stdout.readline() == "ready\n"
            return processes[-1]

        yield start
        for each in processes:
            each.kill()
            each.communicate()

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
    def test_a_process_tidies_up_and_once(self, process, number):
        one = process("alone")
        one.send_signal(number)
        time.sleep(0.1)
        one.send_signal(signal.SIGTERM)
        one.send_signal(signal.SIGHUP)
        assert one.communicate(timeout=10)[0] == "tidied\n"
        assert one.returncode != 0

    def test_what_nohup_ignores_stays_ignored(self, process):
        one = process("ignored")
        one.send_signal(signal.SIGHUP)
        with pytest.raises(subprocess.TimeoutExpired):
            one.wait(0.5)

    def test_children_are_told(self, process):
        child = process("alone")
        parent = process("children", str(child.pid))
        parent.send_signal(signal.SIGHUP)
        assert child.communicate(timeout=10)[0] == parent.communicate(timeout=10)[0] == "tidied\n"


def test_a_lock_dies_with_its_process(tmp_path):
    lock = tmp_path / "lock"
    code = f"import sys; sys.path.insert(0, {os.getcwd()!r})\nimport pathlib, time\nfrom lab import common\n"
    code += f"with common.locked(pathlib.Path({str(lock)!r})):\n    print('held', flush=True); time.sleep(60)\n"
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        assert common.is_locked(lock)
    finally:
        holder.kill()
        holder.communicate()
    assert not common.is_locked(lock)


def test_write_replaces_in_one_step(tmp_path):
    path = tmp_path / "file"
    common.write(path, "one", 0o600)
    assert (path.read_text(), path.stat().st_mode & 0o777) == ("one", 0o600)
    common.write(path, "two")
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_a_json_file_cut_short_counts_as_missing(tmp_path):
    (tmp_path / "state.json").write_text('{"pid": ')
    assert common.read_json(tmp_path / "state.json") == {}
