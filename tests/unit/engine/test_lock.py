"""One at a time, and who it is."""

import json
import os
import pathlib
import signal
import subprocess
import sys

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
