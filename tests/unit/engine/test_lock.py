"""One at a time, and who it is."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile

import pytest
from goldenpath import lock
from goldenpath.errors import Busy, Refused

HOLD = """
import sys, time
sys.path.insert(0, sys.argv[1])
from goldenpath import lock, site
site.SRV = sys.argv[2]
with lock.of_site(site.Site(sys.argv[3], {}), "anna@laptop") as held:
    held.step("migrate")
    print("held", flush=True)
    time.sleep(60)
"""


def note(site):
    """What stands in the lock's file."""
    return json.loads(pathlib.Path(site.path("deploy.lock")).read_text())


@pytest.fixture
def other(site, tmp_path):
    """Another process that has the site's lock."""
    os.makedirs(site.root, exist_ok=True)
    package = os.path.dirname(os.path.dirname(lock.__file__))
    argv = [sys.executable, "-c", HOLD, package, os.path.dirname(site.root), site.slug]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_who_holds_it_is_told(site, other):
    with pytest.raises(Busy) as refused, lock.of_site(site, "me"):
        pass
    assert isinstance(refused.value, Refused), "nothing was begun"
    sentence = str(refused.value)
    assert "is held by anna@laptop since 20" in sentence and "at step migrate" in sentence
    assert f"kill {other.pid}" in sentence


def test_it_dies_with_its_process(site, other):
    other.send_signal(signal.SIGKILL)
    with lock.of_site(site, "me", wait=5):
        written = note(site)
    assert written["who"] == "me" and written["pid"] == os.getpid()


def test_a_lock_of_an_older_checkout_is_respected(site, other):
    # What 73fc9d5 writes into it has the same keys.
    written = note(site)
    assert {"who", "since", "step", "pid"} <= set(written)


def test_waiting_takes_its_turn(site, other):
    other.send_signal(signal.SIGKILL)
    with lock.of_site(site, "me", wait=10) as held:
        held.step("fetch")
        assert note(site)["step"] == "fetch"


def test_a_site_does_not_wait_for_another(site, other):
    from goldenpath.site import Site

    another = Site("another", {})
    os.makedirs(another.root)
    with lock.of_site(another, "me"):
        pass


# A lock that somebody else could hold


def as_nobody(path):
    """A process of another user that holds a file by flock, as long as it may read it."""
    lines = ("import fcntl, sys, time", "f = open(sys.argv[1])", "fcntl.flock(f, fcntl.LOCK_EX)",
             "print('held', flush=True)", "time.sleep(60)")  # fmt: skip
    code = "; ".join(lines)
    who = {"user": 65534, "group": 65534, "extra_groups": []}
    return subprocess.Popen(["/usr/bin/python3", "-c", code, path], stdout=subprocess.PIPE, text=True, cwd="/", **who)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another user")
def test_who_can_read_a_lock_of_before_holds_nothing(site):
    with tempfile.TemporaryDirectory(prefix="gp-", dir="/tmp") as folder:
        os.chmod(folder, 0o755)
        site.root = folder
        pathlib.Path(site.path("deploy.lock")).write_text("")
        os.chmod(site.path("deploy.lock"), 0o644)
        stranger = as_nobody(site.path("deploy.lock"))
        try:
            assert stranger.stdout.readline() == "held\n"
            with lock.of_site(site, "anna@laptop"):
                assert os.stat(site.path("deploy.lock")).st_mode & 0o777 == 0o600
            # From here on it cannot even be opened.
            again = as_nobody(site.path("deploy.lock"))
            assert again.wait(10) == 1
        finally:
            stranger.kill()
            stranger.wait()


def test_a_lock_of_before_that_root_holds_is_a_lock(site, other):
    """A deploy of an older engine: its file is made root's alone, and is not taken from it."""
    if os.geteuid() != 0:
        pytest.skip("who holds it must be root")
    os.chmod(site.path("deploy.lock"), 0o644)
    with pytest.raises(Busy, match="is held by anna@laptop"), lock.of_site(site, "bert@laptop"):
        pass
    assert os.stat(site.path("deploy.lock")).st_mode & 0o777 == 0o600
