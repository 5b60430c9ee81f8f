"""Hosts on which Salt cannot work: each is one sentence within seconds, and never green. Costs about 20 s."""

import contextlib
import time

import pytest

from .conftest import SLUG

THIN = "/var/lib/goldenpath/thin"
ASIDE = f"mv {THIN} {THIN}.aside"
BACK = f"rm -rf {THIN}; mv {THIN}.aside {THIN}"
HOSTS = {
    "noisy": ("echo 'echo hello there' > /root/.bashrc", "rm /root/.bashrc", "greets every command with 'hello there'"),
    "full": (
        f"{ASIDE}; mkdir {THIN}; mount -t tmpfs -o size=64k none {THIN}; head -c 1M /dev/zero > {THIN}/x || true",
        f"umount {THIN}; {BACK}",
        f"has no room in {THIN}: No space left on device",
    ),
    "read-only": (
        f"mount --bind {THIN} {THIN}; mount -o remount,ro,bind {THIN}", f"umount {THIN}", "on a read-only filesystem",
    ),
    "no Python": ("mv /usr/bin/python3 /root/python3", "mv /root/python3 /usr/bin/python3", "has no python3"),
    "no sftp": (
        f"{ASIDE}; sed -i 's/^Subsystem/#Subsystem/' /etc/ssh/sshd_config; systemctl reload ssh",
        f"sed -i 's/^#Subsystem/Subsystem/' /etc/ssh/sshd_config; systemctl reload ssh; {BACK}",
        "has an sshd without sftp",
    ),
    "forced command": (
        "sed -i 's/^ssh-/command=\"uptime\" ssh-/' /root/.ssh/authorized_keys",
        "sed -i 's/^command=\"uptime\" //' /root/.ssh/authorized_keys",
        "lets ssh in and runs no command of ours",
    ),
}  # fmt: skip


@contextlib.contextmanager
def broken(world, name):
    breaks, mends, sentence = HOSTS[name]
    world.sh(breaks)
    # What ssh keeps open was let in before, and after.
    closed = "pkill -f 'sshd.*notty' || true"
    world.sh(closed, check=False)
    try:
        yield sentence
    finally:
        world.sh(f"{mends}; {closed}", check=False)


@pytest.mark.parametrize("name", HOSTS)
def test_a_host_that_salt_cannot_work_on(trixie, name):
    with broken(trixie, name) as sentence:
        began = time.monotonic()
        for words in (["test.ping"], ["state.apply", "host"]):
            done = trixie.controller.salt_ssh(trixie.name, *words)
            said = done.stdout + done.stderr
            assert done.returncode != 0 and sentence in said and "Traceback" not in said, said
            assert f"{trixie.name} " in said and "Try: " in said
        status, output = trixie.deploy(site=SLUG)
        assert status != 0 and sentence in output and "Traceback" not in output and "KeyError" not in output, output
        assert time.monotonic() - began < 40
    assert trixie.controller.salt_ssh(trixie.name, "test.ping").returncode == 0
