"""The lab itself, with real hosts."""

import concurrent.futures
import io
import json
import os
import pathlib
import subprocess
import sys
import tarfile

import pytest

from lab import Lab, LabError
from lab.common import KNOWN_HOSTS, STATE, kill, wait_for

REPOSITORY = pathlib.Path(__file__).parents[2]
LISTEN = "systemd-run --quiet --unit=listen-{port} python3 -m http.server --bind {address} {port}"


def name(text):
    """A host's name that no other run has."""
    return f"lab{os.getpid()}-{text}"


def cli(*words):
    command = [sys.executable, "-m", "lab", *words]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def lab():
    with Lab() as lab:
        yield lab


@pytest.fixture(scope="module")
def twelve(lab):
    return lab.up(name("twelve"), release="bookworm")


@pytest.fixture(scope="module")
def thirteen(lab):
    return lab.up(name("thirteen"), release="13")


@pytest.fixture(scope="module", params=["twelve", "thirteen"])
def host(request):
    return request.getfixturevalue(request.param)


class TestGuest:
    def test_runs_with_no_failed_unit(self, host):
        assert host.exec("systemctl is-system-running --wait").stdout.strip() == "running"
        assert host.exec("systemctl --failed --plain --no-legend").stdout == ""

    def test_is_the_release(self, twelve, thirteen):
        assert 'VERSION_ID="12"' in twelve.exec("cat /etc/os-release").stdout
        assert 'VERSION_ID="13"' in thirteen.exec("cat /etc/os-release").stdout

    @pytest.mark.parametrize("program", ["redis-server", "caddy", "git", "psql", "ufw", "curl", "pip3"])
    def test_is_bare(self, host, program):
        assert host.exec(["which", program], check=False).returncode == 1
        assert host.exec("python3 -m ensurepip --version", check=False).returncode == 1

    @pytest.mark.parametrize("user", ["root", "admin"])
    def test_ssh_lets_the_key_in_with_a_known_host_key(self, host, user):
        words = [*host.ssh_command(user), "sudo", "-n", "id", "-un"]
        assert subprocess.run(words, capture_output=True, text=True, timeout=20).stdout.strip() == "root"

    def test_no_two_have_the_same_identity(self, twelve, thirteen):
        for path in ("/etc/machine-id", "/etc/ssh/ssh_host_ed25519_key.pub"):
            assert twelve.exec(["cat", path]).stdout != thirteen.exec(["cat", path]).stdout

    def test_has_two_address_families_and_a_route(self, host):
        addresses = host.exec("ip -brief address show host0").stdout
        assert f"{host.address}/" in addresses
        assert f"{host.address6}/" in addresses
        assert "default via" in host.exec("ip route").stdout
        assert host.exec("getent ahosts localhost").stdout.splitlines()[0].split()[0] in ("::1", "127.0.0.1")

    def test_packages_are_in_reach(self, host):
        assert "Err:" not in host.exec("apt-get update 2>&1").stdout

    def test_settings_of_a_real_host_can_be_made(self, host):
        host.exec("sysctl -w vm.overcommit_memory=1 net.ipv4.conf.all.rp_filter=1 net.core.somaxconn=1024")
        assert host.exec("sysctl -n net.ipv4.ip_forward").stdout.strip() == "0"
        kernel = pathlib.Path("/proc/sys/kernel/pid_max").read_text()
        assert host.exec(f"sysctl -w kernel.pid_max={kernel}", check=False).returncode

    def test_units_of_a_user_can_be_run(self, host):
        assert host.exec("systemd-run --quiet --wait --pipe --uid=admin id -un").stdout.strip() == "admin"


@pytest.mark.parametrize(("release", "python"), [("bullseye", "3.9"), ("forky", "3.14")])
def test_other_releases_come_up(lab, release, python):
    """2 s each, once their base roots are built."""
    with lab.up(name(release), release=release) as host:
        assert host.exec("systemctl is-system-running --wait").stdout.strip() == "running"
        assert f"VERSION_CODENAME={release}\n" in host.exec("cat /etc/os-release").stdout
        assert f"Python {python}." in host.exec("python3 --version").stdout
        assert "Err:" not in host.exec("apt-get update 2>&1").stdout


class TestExec:
    def test_status_and_output(self, host):
        done = host.exec("echo out; echo err >&2; exit 7", check=False)
        assert (done.returncode, done.stdout, done.stderr) == (7, "out\n", "err\n")

    def test_failure_names_host_and_reason(self, twelve):
        with pytest.raises(LabError, match=rf"{twelve.name}: `ls /nowhere` failed \(2\):\n.*No such file"):
            twelve.exec(["ls", "/nowhere"])

    def test_input(self, twelve):
        assert twelve.exec(["cat"], input="häh\n").stdout == "häh\n"

    def test_timeout_leaves_no_process(self, twelve):
        with pytest.raises(LabError, match=r"longer than 0\.5 s"):
            twelve.exec("sleep 4711; true", timeout=0.5)
        assert twelve.exec("pgrep -f 'sleep 471[1]'", check=False).returncode == 1

    def test_write(self, twelve):
        twelve.write("/etc/some/where/file", "secret\n", 0o600)
        assert twelve.exec("stat -c '%a %U' /etc/some/where/file; cat /etc/some/where/file").stdout == (
            "600 root\nsecret\n"
        )
        assert (twelve.root / "etc/some/where/file").read_text() == "secret\n"

    def test_command_line_keeps_status_and_streams(self, twelve):
        done = cli("exec", twelve.name, "--", "sh", "-c", "cat; exit 5")
        assert (done.returncode, done.stderr) == (5, "")


class TestPort:
    def test_from_the_machine_and_from_another_host(self, twelve, thirteen):
        twelve.exec(LISTEN.format(port=8000, address="0.0.0.0"))
        assert wait_for(lambda: twelve.port_open(8000), 5)
        assert twelve.port_open(8000, thirteen)
        assert cli("port", twelve.name, "22", "--from", thirteen.name).stdout == "open\n"
        assert twelve.port_open(22, thirteen, ipv6=True)
        assert not twelve.port_open(8001)
        assert not twelve.port_open(8001, thirteen)
        assert cli("port", twelve.name, "8001").returncode == 1

    def test_a_listener_on_loopback_is_closed(self, twelve):
        twelve.exec(LISTEN.format(port=8002, address="127.0.0.1"))
        listening = "ss -Hltn 'sport = :8002' | grep ."
        assert wait_for(lambda: not twelve.exec(listening, check=False).returncode, 5)
        assert not twelve.port_open(8002)


class TestBoot:
    def test_reboot_keeps_the_disk_and_nothing_else(self, host):
        host.write("/srv/kept", "kept")
        host.exec("touch /run/gone; systemd-run --quiet --unit=sleeper sleep 600")
        before = host.exec("cat /proc/sys/kernel/random/boot_id").stdout
        host.reboot()
        assert host.exec("cat /proc/sys/kernel/random/boot_id").stdout != before
        assert host.exec("cat /srv/kept").stdout == "kept"
        assert host.exec("ls /run/gone", check=False).returncode
        assert host.exec("systemctl is-active sleeper", check=False).returncode
        assert host.exec("systemctl is-system-running --wait").stdout.strip() == "running"

    def test_reboot_by_an_operator_inside(self, thirteen):
        pid = thirteen.pid
        subprocess.run([*thirteen.ssh_command(), "reboot"], capture_output=True, timeout=20)
        assert wait_for(lambda: thirteen.running and thirteen.pid != pid and thirteen.port_open(22), 30)
        assert thirteen.exec("systemctl is-system-running --wait").stdout.strip() == "running"

    def test_poweroff_warns_nobody_and_start_keeps_the_disk(self, lab):
        with lab.up(name("plug"), release="bookworm") as host:
            host.write("/srv/kept", "kept")
            unit = "sh -c 'trap \"echo warned > /srv/warned; exit\" TERM; while :; do sleep 0.1; done'"
            host.exec(f"systemd-run --quiet --unit=trap {unit}")
            host.poweroff()
            assert not host.running
            assert host.info()["state"] == "off"
            with pytest.raises(LabError, match=rf"{host.name} is off\. Try: python -m lab start {host.name}"):
                host.exec("true")
            host.start()
            assert host.exec("ls /srv").stdout == "kept\n"
            with pytest.raises(LabError, match="is running"):
                host.start()

    def test_poweroff_from_inside(self, lab):
        with lab.up(name("halt"), release="trixie") as host:
            host.exec("systemctl poweroff", check=False)
            assert wait_for(lambda: host.info()["state"] == "off", 30)
            host.start()
            assert host.running

    def test_a_supervisor_that_was_killed(self, lab):
        with lab.up(name("orphan"), release="bookworm") as host:
            state = json.loads((host._folder / "run.json").read_text())
            kill(state["supervisor"])
            assert host.running
            host.start()
            assert host.exec("uptime").returncode == 0

    def test_state_of_before_the_machine_restarted(self, lab):
        with lab.up(name("stale"), release="bookworm") as host:
            path = host._folder / "run.json"
            state = path.read_text()
            host.poweroff()
            # Its numbers may belong to others by now.
            stale = json.loads(state)
            for role in ("supervisor", "leader"):
                stale[role] = {"pid": os.getpid(), "start": stale[role]["start"], "boot_id": "of-before"}
            path.write_text(json.dumps(stale))
            assert not host.running
            host.start()
            assert host.running


class TestClone:
    def test_has_the_disk_and_an_identity_of_its_own(self, lab):
        with lab.up(name("first"), release="trixie") as first:
            first.write("/srv/data/kept", "kept")
            identity = "cat /etc/machine-id /etc/hostname /etc/ssh/ssh_host_ed25519_key.pub; hostname"
            before = first.exec(identity).stdout.splitlines()
            with pytest.raises(LabError, match=rf"{first.name} is running\. Try: python -m lab poweroff {first.name}"):
                lab.clone(first, name("second"))
            assert name("second") not in [host.name for host in lab.hosts()]
            first.shutdown()
            assert first.info()["state"] == "off"
            with lab.clone(first, name("second")) as second:
                assert second.release == "trixie" and second.address != first.address
                assert second.exec("cat /srv/data/kept").stdout == "kept"
                assert not set(before) & set(second.exec(identity).stdout.splitlines())
                assert second.exec("systemctl is-system-running --wait").stdout.strip() == "running"
                words = [*second.ssh_command("admin"), "sudo", "mv", "/srv/data", "/srv/gone"]
                assert subprocess.run(words, capture_output=True, timeout=20).returncode == 0
                first.start()
                assert first.exec("cat /srv/data/kept").stdout == "kept"
                assert first.exec(identity).stdout.splitlines() == before
                assert second.exec(["ping", "-c1", "-W2", first.address]).returncode == 0

    def test_shutdown_warns_what_runs(self, lab):
        with lab.up(name("warned"), release="bookworm") as host:
            unit = "sh -c 'trap \"echo warned > /srv/warned; exit\" TERM; while :; do sleep 0.1; done'"
            host.exec(f"systemd-run --quiet --unit=trap {unit}")
            host.shutdown()
            host.start()
            assert host.exec("cat /srv/warned").stdout == "warned\n"

    def test_a_source_stays_off_while_it_is_copied(self, lab):
        with lab.up(name("held"), release="bookworm") as host:
            host.poweroff()
            with host._off(), host._off(), pytest.raises(LabError, match=f"{host.name} is running"):
                host.start()
            host.start()


class TestDown:
    def traces(self, host_name):
        found = [line for line in pathlib.Path("/proc/self/mounts").read_text().splitlines() if host_name in line]
        found += [link.name for link in pathlib.Path("/sys/class/net").iterdir() if host_name[:11] in link.name]
        found += [str(path) for path in STATE.rglob(f"*{host_name}*")]
        found += [str(path) for path in pathlib.Path("/sys/fs/cgroup").rglob(f"*{host_name}*")]
        found += [line for line in KNOWN_HOSTS.read_text().splitlines() if host_name in line]
        for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
            try:
                command = path.read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
            if host_name in command:
                found.append(command)
        return found

    def test_leaves_nothing(self, lab):
        host_name = name("gone")
        host = lab.up(host_name, release="bookworm")
        before = self.traces(host_name)
        assert before
        assert {"supervise", "--machine"} <= {word for trace in before for word in trace.replace("=", " ").split()}
        leader = pathlib.Path(f"/proc/{host.pid}")
        host.down()
        assert self.traces(host_name) == []
        assert not leader.exists() or "Z (zombie)" in (leader / "status").read_text()
        with pytest.raises(LabError, match="does not exist"):
            host.exec("true")

    def test_a_start_that_fails_leaves_nothing(self, lab, monkeypatch):
        monkeypatch.setattr("lab.host.READY_SECONDS", 0)
        with pytest.raises(LabError, match="did not answer in 0 s"):
            lab.up(name("late"))
        assert not [host for host in lab.hosts() if host.name == name("late")]

    def test_a_name_that_is_taken(self, lab, twelve):
        with pytest.raises(LabError, match=rf"{twelve.name} exists\. Try: python -m lab down {twelve.name}"):
            lab.up(twelve.name)
        assert twelve.running


NETWORK = """
import json, pathlib, shutil, subprocess, sys
sys.path.insert(0, sys.argv[1])
from lab import network

folder = pathlib.Path(sys.argv[2])
network.HOSTS, network.RECORD = folder / "hosts", folder / "network.json"
network.SYSCTLS = ("net/ipv4/ip_forward",)


def sh(line):
    return subprocess.run(line, shell=True, check=True, capture_output=True, text=True).stdout


def look():
    bridge = json.loads(sh("ip -j addr show gplab0"))[0]
    return bridge["ifindex"], [address["local"] for address in bridge["addr_info"] if address["scope"] == "global"]


programs = [program for program in ("iptables", "ip6tables") if shutil.which(program)]
record = network.ensure()
first = look()
assert len(first[1]) == 2, first
sh("nft flush ruleset; ip addr flush dev gplab0")
for program in programs:
    sh(f"{program} -P FORWARD DROP")
again = network.ensure()
assert look() == first, look()
assert again == record and record["sysctl"] == {"net/ipv4/ip_forward": "0"}, again
assert "masquerade" in sh("nft list table ip goldenpath_lab")
for _ in range(2):
    network.ensure()
    for program in programs:
        assert sh(f"{program} -S FORWARD").count("gplab0") == 2
network.RECORD.unlink()
(folder / "hosts/one").mkdir(parents=True)
(folder / "hosts/one/host.json").write_text(json.dumps({
    "address": "x", "gateway": first[1][0], "gateway6": first[1][1], "prefix": 24, "prefix6": 64}))
assert network.ensure()["subnet"] == record["subnet"] and look() == first
network.remove()
assert "gplab0" not in sh("ip link" + "".join(f"; {program} -S FORWARD" for program in programs))
"""


def test_network_of_a_machine_without_ipv6_and_with_its_rules_flushed(tmp_path):
    """In a network namespace of its own: the machine's is in use."""
    alone = (
        'mount -t sysfs sysfs /sys && sysctl -qw net.ipv4.ip_forward=0 net.ipv6.conf.all.disable_ipv6=1 && exec "$@"'
    )
    command = ["unshare", "--net", "--mount", "sh", "-c", alone, "sh", sys.executable, "-c", NETWORK]
    done = subprocess.run([*command, REPOSITORY, tmp_path], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_two_at_once_do_not_disturb_each_other():
    names = [name(f"at-once-{number}-{'x' * 10}") for number in range(2)]
    with concurrent.futures.ThreadPoolExecutor() as pool:
        made = list(pool.map(lambda one: cli("up", one, "--json"), names))
        assert [(done.returncode, done.stderr) for done in made] == [(0, "")] * 2
        one, two = (json.loads(done.stdout) for done in made)
        assert one["address"] != two["address"]
        assert cli("exec", one["name"], "--", "ping", "-c1", "-W2", two["address"]).returncode == 0
        assert [done.returncode for done in pool.map(lambda one: cli("down", one), names)] == [0, 0]
    assert not {host.name for host in Lab().hosts()} & set(names)


@pytest.mark.parametrize("release", ["bookworm", "trixie"])
def test_a_lab_inside_a_lab_host(lab, release):
    """An ordinary machine: systemd as PID 1, plain cgroup v2. And one without hosts besides the test's own."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        tar.add(REPOSITORY / "lab", "lab", filter=lambda one: None if "__pycache__" in one.name else one)
    with lab.up(name("outer"), release=release) as outer:
        unpack = outer.enter_command("mkdir -p /opt/tree && tar -x -C /opt/tree")
        subprocess.run(unpack, input=archive.getvalue(), check=True)

        def inside(*words, timeout=180):
            line = 'cd /opt/tree && exec python3 -m lab "$@"'
            return outer.exec(["sh", "-c", line, "sh", *words], timeout=timeout)

        links = outer.exec("ls /sys/class/net").stdout
        inside("setup")
        inside("up", "inner", "--release", release)
        assert inside("exec", "inner", "--", "systemctl", "is-system-running", "--wait").stdout == "running\n"
        assert "Err:" not in inside("exec", "inner", "--", "apt-get", "update").stdout
        address = json.loads(inside("info", "inner").stdout)["address"]
        assert address.rpartition(".")[0] != outer.address.rpartition(".")[0]
        inside("exec", "inner", "--", "touch", "/srv/kept")
        inside("reboot", "inner")
        inside("poweroff", "inner")
        inside("start", "inner")
        assert inside("exec", "inner", "--", "ls", "/srv").stdout == "kept\n"
        assert "goldenpath-lab-inner" in outer.exec("systemctl list-units --type=scope").stdout
        inside("down", "--all")
        assert outer.exec("ls /sys/class/net").stdout == links
        assert outer.exec("nft list ruleset").stdout == ""
        assert outer.exec("grep -c goldenpath-lab /proc/mounts").stdout == "1\n"  # its own root
        assert "goldenpath-lab" not in outer.exec("systemctl list-units --all").stdout
        assert outer.exec("ls /var/lib/goldenpath-lab/hosts; cat /var/lib/goldenpath-lab/known_hosts").stdout == ""
        assert outer.exec("systemctl is-system-running").stdout == "running\n"
