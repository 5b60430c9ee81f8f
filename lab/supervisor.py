"""The process behind a running host: mounts its root, boots it, and boots it again when it reboots itself.

It runs in a mount namespace and a cgroup of its own, so that nothing of a host outlives it on the machine.
"""

import contextlib
import fcntl
import json
import os
import pathlib
import signal
import subprocess
import sys

from . import guest
from .common import (
    HOSTS,
    LabError,
    boot_id,
    filesystem,
    identity,
    is_locked,
    kill,
    read_json,
    run,
    wait_for,
    write,
)

CGROUP = pathlib.Path("/sys/fs/cgroup")
SLICE = "goldenpath-lab"
REBOOT = 133
# In a guest that begins to boot: it does not forward because the machine does, and may set vm.*, as Redis's
# overcommit setting. That is the machine's own, and put back when the last host goes.
ADJUST = """
echo 0 > /proc/sys/net/ipv4/ip_forward
mount --bind /proc/sys/vm /proc/sys/vm && mount -o remount,bind,rw /proc/sys/vm
"""
# Kills all that runs in a cgroup, at once, and removes it. In a namespace where /sys/fs/cgroup is cgroup2.
END_CGROUP = """
[ "$(stat -f -c %T /sys/fs/cgroup)" = cgroup2fs ] || mount -t cgroup2 none /sys/fs/cgroup
cd "/sys/fs/cgroup$1" 2>/dev/null || exit 0
echo 1 > cgroup.kill
n=0
while grep -q "populated 1" cgroup.events 2>/dev/null; do
    n=$((n + 1)); [ $n -gt 1000 ] && exit 1
    sleep 0.01
done
cd /sys/fs/cgroup
find ".$1" -depth -type d -exec rmdir {} ';' 2>/dev/null
rmdir "/sys/fs/cgroup/$2" 2>/dev/null
exit 0
"""


def launch(name):
    """Start the supervisor of a host in the background.

    name
        the host (str)

    Raises LabError when it does not come up.
    """
    folder = HOSTS / name
    (folder / "run.json").unlink(missing_ok=True)
    command = [sys.executable, "-m", "lab", "supervise", name]
    command = ["unshare", "--mount", "--propagation", "slave", "--", *command]
    if pathlib.Path("/run/systemd/system").is_dir():
        unit = f"--unit={SLICE}-{name}-{os.getpid()}-{os.urandom(3).hex()}"
        # When the machine shuts down it must not wait for the guest.
        properties = ["--property=Delegate=yes", "--property=KillSignal=SIGKILL"]
        command = ["systemd-run", "--scope", "--quiet", "--collect", unit, *properties, *command]
    package = pathlib.Path(__file__).resolve().parent.parent
    with open(folder / "supervisor.log", "a") as log:
        subprocess.run(
            ["setsid", "--fork", *command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            env={
                "PATH": os.environ.get("PATH", os.defpath),
                "PYTHONPATH": str(package),
                "PYTHONDONTWRITEBYTECODE": "1",  # nothing of root's in the checkout of an ordinary user
                "LC_ALL": "C.UTF-8",
            },
            check=True,
        )
    if not wait_for(lambda: read_json(folder / "run.json").get("supervisor"), 15):
        raise LabError(f"Host {name} cannot be started: {last_words(name)}")


def end(name):
    """Kill a host and its supervisor at once, without warning, and remove its cgroup.

    name
        the host (str)
    """
    folder = HOSTS / name
    # One that has only just begun is about to say who it is.
    wait_for(lambda: read_json(folder / "run.json") or not is_locked(folder / "supervisor.lock"), 10)
    state = read_json(folder / "run.json")
    if not state:
        return
    kill(state["supervisor"])
    if state["supervisor"]["boot_id"] == boot_id():
        script = ["sh", "-c", END_CGROUP, "sh", state["cgroup"], SLICE]
        if run("unshare", "--mount", "--propagation", "private", *script, check=False).returncode:
            raise LabError(f"Processes of {name} do not end. Try: systemd-cgls {state['cgroup']}")
    kill(state.get("leader"))
    (folder / "run.json").unlink(missing_ok=True)


def last_words(name):
    """The end of what a host's supervisor and console said, for an error message.

    name
        the host (str)
    """
    lines = []
    for log in ("supervisor.log", "console.log"):
        path = HOSTS / name / log
        if path.exists():
            lines += [line for line in path.read_text(errors="replace").splitlines() if line.strip()][-4:]
    return "\n  ".join(["no output" if not lines else "it said:", *lines])


def supervise(name):
    """Be the supervisor of a host, until it powers off or is killed.

    name
        the host (str)

    Returns an exit status (int).
    """
    folder = HOSTS / name
    lock = open(folder / "supervisor.lock", "a")  # noqa: SIM115 held until this process ends
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print(f"Host {name} is being run by another process.", file=sys.stderr)
        return 1
    host = read_json(folder / "host.json")
    cgroup = _own_cgroup(name)
    state = {"supervisor": identity(os.getpid()), "cgroup": cgroup, "boots": 0}
    write(folder / "run.json", json.dumps(state))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        root = _mount_root(folder, host)
        if not host.get("seeded"):
            guest.seed(root, host, folder / "keys")
            write(folder / "host.json", json.dumps({**host, "seeded": True}, indent=2))
        while True:
            code = _boot(folder, root, host, state)
            if code != REBOOT:
                break
    except LabError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"Host {name} ended with status {code}.", file=sys.stderr)
    return 0


def _own_cgroup(name):
    """Move into a cgroup with a leaf for this process and one for the guest, with all controllers there are."""
    if filesystem(CGROUP) != "cgroup2":
        run("mount", "-t", "cgroup2", "none", CGROUP)
    lines = pathlib.Path("/proc/self/cgroup").read_text().splitlines()
    own = next(line.removeprefix("0::") for line in lines if line.startswith("0::"))
    if own.endswith(".scope") and f"/{SLICE}-" in own:
        above = []  # the machine's systemd passes its controllers on down to a delegated scope
    else:
        own = f"/{SLICE}/{name}"
        above = [CGROUP, CGROUP / SLICE]
    top = CGROUP / own[1:]
    for leaf in ("supervisor", "guest"):
        (top / leaf).mkdir(parents=True, exist_ok=True)
    (top / "supervisor/cgroup.procs").write_text(str(os.getpid()))
    for level in (*above, top):
        for controller in (level / "cgroup.controllers").read_text().split():
            with contextlib.suppress(OSError):
                (level / "cgroup.subtree_control").write_text(f"+{controller}")
    return own


def _mount_root(folder, host):
    root, disk = folder / "root", folder / "disk"
    for path in (root, disk / "upper", disk / "work"):
        path.mkdir(parents=True, exist_ok=True)
    options = f"lowerdir={host['base']},upperdir={disk / 'upper'},workdir={disk / 'work'}"
    run("mount", "-t", "overlay", "-o", options, "overlay", root)
    # nspawn's own files in /run go with this namespace.
    pathlib.Path("/run/systemd/nspawn").mkdir(parents=True, exist_ok=True)
    run("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run/systemd/nspawn")
    return root


def _boot(folder, root, host, state):
    leaf = CGROUP / state["cgroup"][1:] / "guest"
    for old in sorted((p for p in leaf.rglob("*") if p.is_dir()), reverse=True):
        old.rmdir()
    command = [
        "systemd-nspawn",
        "--quiet",
        "--register=no",
        "--keep-unit",
        f"--directory={root}",
        f"--machine={host['name']}",
        "--network-bridge=gplab0",
        "--resolv-conf=off",
        "--timezone=off",
        "--link-journal=no",
        "--settings=no",
        "--capability=all",
        "--console=read-only",
        "--boot",
    ]
    # The kernel takes a dead host's link away when it has time: the next boot under that name must not meet it.
    if link := own_link(host["name"]):
        run("ip", "link", "del", link, check=False)
    enter = f'echo $$ > {leaf}/cgroup.procs && exec "$@"'
    with open(folder / "console.log", "a") as console:
        nspawn = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "sh", "-c", enter, "sh", *command],
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=console,
            env={
                "PATH": os.environ["PATH"] + ":/usr/sbin:/sbin",
                "LC_ALL": "C.UTF-8",
                # Its own network settings only; kernel.* and fs.* are the machine's.
                "SYSTEMD_NSPAWN_API_VFS_WRITABLE": "network",
            },
        )
        try:
            wait_for(lambda: nspawn.poll() is not None or _leader(nspawn.pid), 15, pause=0.003)
            leader = _leader(nspawn.pid)
            if leader:
                run("nsenter", "-t", leader, "--mount", "--net", "sh", "-c", ADJUST, check=False)
                state.update(leader=identity(leader), boots=state["boots"] + 1)
                write(folder / "run.json", json.dumps(state))
            return nspawn.wait()
        finally:
            nspawn.kill()
            kill(state.get("leader"))


def own_link(name):
    """The machine's end of a host's link, as nspawn names it; None where it makes up a shorter name.

    name
        the host (str)
    """
    link = f"vb-{name}"
    return link if len(link) < 16 else None


def _leader(parent):
    """The guest's PID 1 as the machine numbers it, once it is systemd; None before."""
    try:
        children = pathlib.Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
        for child in children:
            status = pathlib.Path(f"/proc/{child}/status").read_text().splitlines()
            fields = dict(line.split(":", 1) for line in status if ":" in line)
            numbers = fields["NSpid"].split()
            if len(numbers) > 1 and numbers[-1] == "1" and fields["Name"].strip() == "systemd":
                return int(child)
    except (FileNotFoundError, ProcessLookupError, KeyError):
        return None  # it ended while it was looked at
    return None
