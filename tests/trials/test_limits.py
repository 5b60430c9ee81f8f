"""What a site may have of a host, tried to its end in a virtual machine, where limits bite.

The host is provisioned in the lab, then its disk goes on under a kernel of its own; the neighbour is asked meanwhile.
"""

import copy
import os
import re
import shlex

import pytest

from lab import vm
from tests.hosts.conftest import SLUG, World

NEIGHBOUR = "neighbour"
SLICES = {SLUG: r"sum-acme\x2dkitchens.slice", NEIGHBOUR: "sum-neighbour.slice"}
GROUPS = {slug: f"/sys/fs/cgroup/sum.slice/{slice}" for slug, slice in SLICES.items()}
EATS = """
import time
kept = []
while True:
    kept.append(bytearray(b"x" * (16 << 20)))
    time.sleep(0.01)
"""
FORKS = """
import os, time
n = 0
try:
    while n < 5000:
        if os.fork() == 0:
            time.sleep(30)
            os._exit(0)
        n += 1
except OSError as error:
    print("stopped at", n, error.errno)
"""
BURNS = """
import os, sys, time
for _ in range(int(sys.argv[1]) - 1):
    if os.fork() == 0:
        break
end = time.time() + 60
while time.time() < end:
    pass
"""
OPENS = """
import socket
kept = []
try:
    while True:
        kept.append(socket.socket())
except OSError as error:
    print(len(kept), error.errno)
"""
DIES = "import os; os.chdir('/var/tmp'); os.kill(os.getpid(), 11)"
FILLS = """
with open("/tmp/x", "wb") as stream:
    for n in range(400):
        stream.write(bytes(1 << 20))
        stream.flush()
"""
# Each answer's status and milliseconds, until the file that says so is gone.
ASK = """touch /run/asking; rm -f /run/asked
while [ -e /run/asking ]; do
  curl -sk -o /dev/null -m 30 -w '%{http_code} %{time_total}\\n' --resolve neighbour.example:443:127.0.0.1 \
    https://neighbour.example/health/ >> /run/asked; sleep 0.5
done"""


@pytest.fixture(scope="module")
def box(lab, tmp_path_factory):
    vm.setup(print)
    folder = tmp_path_factory.mktemp("limits")
    world = World(lab, f"vm{os.getpid() % 100000}", "bookworm", folder)
    second = copy.deepcopy(world.pillar["sites"][SLUG])
    second.update(domains=["neighbour.example"], redis={"cache": 2, "broker": 3})
    world.pillar["sites"][NEIGHBOUR] = second
    world.write_pillar()
    world.repository.publish(world.host)
    assert {key: state for key, state in world.apply().items() if state[0] is not True} == {}
    status, output = world.deploy()
    assert status == 0, output
    world.host.shutdown()
    with vm.Vm(world.host, folder) as box:
        box.sh("systemctl is-system-running --wait", check=False)
        box.sh("for n in $(seq 60); do goldenpath health neighbour && exit; sleep 2; done; exit 1")
        yield box


class Neighbour:
    """Asks the neighbour while something goes on; every answer must be a 200."""

    def __init__(self, box):
        self.box = box

    def __enter__(self):
        self.box.sh(f"systemd-run -q --collect --unit=asking sh -c {shlex.quote(ASK)}")
        return self

    def __exit__(self, kind, *_):
        self.box.sh("sleep 3; rm -f /run/asking; systemctl stop asking", check=False)
        if kind is None:
            rows = [line.split() for line in self.box.sh("cat /run/asked").stdout.splitlines()]
            times = sorted(float(row[1]) for row in rows)
            print(f"\n{len(rows)} answers of the neighbour, the slowest after {times[-1]:.2f} s")
            assert len(rows) >= 3 and {row[0] for row in rows} == {"200"}, rows


def python(box, program):
    """A program of the site's, in its sandbox, by what a person types."""
    return box.sh(f"goldenpath run {SLUG} /usr/bin/python3 -c {shlex.quote(program)} 2>&1", check=False)


def killed(box):
    return int(re.search(r"oom_kill (\d+)", box.sh(f"cat {shlex.quote(GROUPS[SLUG])}/memory.events").stdout)[1])


def test_memory(box):
    before = killed(box)
    with Neighbour(box):
        done = python(box, EATS)
        assert done.returncode != 0 and killed(box) > before, done.stdout
        told = box.sh("goldenpath ps").stdout
        assert f"{SLUG} on {box.host.name} was beyond its memory" in told, told
    box.sh(f"for n in $(seq 30); do goldenpath health {SLUG} && exit; sleep 2; done; exit 1")


def test_processes(box):
    with Neighbour(box):
        done = python(box, FORKS)
    at = re.search(r"stopped at (\d+) 11", done.stdout)
    assert at and int(at[1]) < 512, done.stdout


def test_time_of_processors_is_shared(box):
    """Each of two that want all has half of it, whoever has more processes."""
    with Neighbour(box):
        for slug, number in ((SLUG, 7), (NEIGHBOUR, 2)):
            box.sh(
                f"systemd-run -q --collect --slice={shlex.quote(SLICES[slug])} --unit=burns-{number} "
                f"/usr/bin/python3 -c {shlex.quote(BURNS)} {number}"
            )
        asked = " ".join(f"{shlex.quote(group)}/cpu.stat" for group in GROUPS.values())
        told = box.sh(f"sleep 5; grep -h usage_usec {asked}; sleep 20; grep -h usage_usec {asked}").stdout
        box.sh("systemctl stop burns-7 burns-2")
    used = [int(line.split()[-1]) for line in told.splitlines()]
    mine, other = used[2] - used[0], used[3] - used[1]
    print(f"\n7 processes had {mine / (mine + other):.2f}, 2 had the rest")
    assert 0.35 < mine / (mine + other) < 0.65, told


def test_open_files_and_cores(box):
    count, number = python(box, OPENS).stdout.split()[:2]
    assert int(count) < 8192 and number == "24"
    python(box, DIES)
    left = box.sh(
        f"find /srv/sum/{SLUG} /var/lib/systemd -type f '(' -name core -o -name 'core.[0-9]*' ')' 2>/dev/null",
        check=False,
    ).stdout
    assert left == ""


def test_temporary_space(box):
    done = python(box, FILLS)
    assert "No space left on device" in done.stdout and done.returncode != 0


def test_a_flood_of_log_lines(box):
    """journald takes more of it where the disk has room (journald.conf(5), RateLimitBurst), and never all."""
    with Neighbour(box):
        box.sh(
            f"systemd-run -q --wait --collect --slice={shlex.quote(SLICES[SLUG])} --unit=sum-{SLUG}-flood "
            # journald tells what it left out with the next line that it takes (LogRateLimitIntervalSec=30s).
            "sh -c 'for n in $(seq 20000); do echo flood $n; done; sleep 35; echo over'"
        )
    kept = int(box.sh(f"journalctl -q --no-pager -u sum-{SLUG}-flood | grep -c 'flood [0-9]'", check=False).stdout)
    assert 0 < kept < 10000, kept
    assert f"messages from sum-{SLUG}-flood.service" in box.sh("journalctl -q --no-pager --grep=Suppressed").stdout
