"""A host's disk under a kernel of its own: in a virtual machine limits, swap and a cut power line are real.

By emulation, which every machine can do and which is slow: for what nothing else can show.
"""

import contextlib
import ipaddress
import pathlib
import shlex
import socket
import subprocess

from .common import CACHE, HOSTS, LabError, install, run, wait_for
from .host import ssh_words

NEEDED = {"qemu-system-x86_64": "qemu-system-x86", "mkfs.ext4": "e2fsprogs", "dpkg-deb": "dpkg"}
BUSYBOX = pathlib.Path("/bin/busybox")
KERNEL = "linux-image-cloud-amd64"
BOOT_SECONDS = 300
# What the kernel has built in is not among its files.
MODULES = ("virtio", "virtio_ring", "virtio_pci_legacy_dev", "virtio_pci_modern_dev", "virtio_pci", "virtio_blk",
           "failover", "net_failover", "virtio_net")  # fmt: skip
# One module needs another: what does not load yet does in a later turn. The host finds its link as it has it in the
# lab: without udev networkd waits for ever.
INIT = """#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /root
/bin/busybox mount -t proc none /proc
/bin/busybox mount -t sysfs none /sys
/bin/busybox mount -t devtmpfs none /dev
for turn in 1 2 3 4; do for module in /modules/*; do /bin/busybox insmod $module 2>/dev/null; done; done
n=0
while [ ! -b /dev/vda ] && [ $n -lt 100 ]; do /bin/busybox sleep 0.1; n=$((n + 1)); done
/bin/busybox ip link set eth0 name host0
/bin/busybox ip link set lo up
/bin/busybox ip link set host0 up
for word in $(/bin/busybox cat /proc/cmdline); do
    case $word in
        lab.address=*) /bin/busybox ip address add ${word#*=} dev host0 ;;
        lab.gateway=*) /bin/busybox ip route add default via ${word#*=} ;;
    esac
done
/bin/busybox mount -t ext4 /dev/vda /root || exec /bin/busybox sh
/bin/busybox mount --move /dev /root/dev
exec /bin/busybox switch_root /root /sbin/init
"""
# In a mount namespace of its own: the host's root as it would boot, with the kernel's modules, made a filesystem.
PACK = """
set -e
mount -t tmpfs tmpfs "$1"
mkdir "$1/root" "$1/upper" "$1/work"
mount -t overlay -o "lowerdir=$2:$3:$4,upperdir=$1/upper,workdir=$1/work" overlay "$1/root"
chroot "$1/root" depmod "$5"
truncate -s "$6" "$7"
mkfs.ext4 -q -F -E lazy_itable_init=1 -d "$1/root" "$7"
"""


def setup(say):
    """Install what this machine lacks for virtual machines.

    say
        what is told of it (function of a str)
    """
    install(NEEDED, {BUSYBOX: "busybox-static"}, say)


def kernel():
    """A kernel and its first root file system, from the machine's distribution, made once (pathlib.Path: its folder).

    Raises LabError where the distribution has none.
    """
    depends = run("apt-cache", "depends", KERNEL, check=False).stdout
    names = [line.split()[1] for line in depends.splitlines() if "Depends: linux-image" in line]
    if not names:
        raise LabError(f"This machine's distribution has no {KERNEL}. Try: a Debian machine")
    home = CACHE / f"vm-{names[0]}"
    if (home / ".complete").exists():
        return home
    run("rm", "-rf", home)
    home.mkdir(parents=True)
    run("apt-get", "download", "-q", "-o", "APT::Sandbox::User=root", names[0], cwd=home)
    (archive,) = home.glob("*.deb")
    run("dpkg-deb", "-x", archive, home / "files")
    archive.unlink()
    # Below /usr, to which a root's /lib is a link.
    run("mv", home / "files/lib", home / "files/usr/lib")
    first = home / "first"
    (first / "bin").mkdir(parents=True)
    (first / "modules").mkdir()
    run("cp", BUSYBOX, first / "bin/busybox")
    for name in MODULES:
        for found in (home / "files/usr/lib/modules").rglob(f"{name}.ko*"):
            run("cp", found, first / "modules")
    (first / "init").write_text(INIT)
    (first / "init").chmod(0o755)
    run("sh", "-c", "cd first && find . | /bin/busybox cpio -o -H newc | gzip > ../first.gz", cwd=home)
    (home / ".complete").touch()
    return home


class Vm:
    """A host of the lab, which is off meanwhile, in a virtual machine. As a context manager it ends at its end."""

    def __init__(self, host, folder, cpus=2, memory="2G", size="8G"):
        """Boot it.

        host
            the host, which is off (Host)
        folder
            where its disk and its console's log go (pathlib.Path)
        cpus, memory, size
            its processors (int), memory and disk (str, as qemu and truncate have them)

        Raises LabError when it does not come up.
        """
        self.host, self._record, self._folder = host, host._record, folder
        home = kernel()
        disk, place = folder / "disk.img", folder / "packing"
        place.mkdir()
        modules = home / "files"
        version = next((modules / "usr/lib/modules").iterdir()).name
        with host._off():
            run(
                "unshare", "--mount", "--propagation", "private", "sh", "-c", PACK, "sh", place,
                HOSTS / host.name / "disk/upper", modules, self._record["base"], version, size, disk,
            )  # fmt: skip
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        net = ipaddress.ip_interface(f"{self._record['gateway']}/{self._record['prefix']}").network
        argv = [
            "setpriv", "--pdeathsig", "KILL", "qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max",
            "-smp", str(cpus), "-m", memory, "-display", "none", "-no-reboot", "-serial", f"file:{folder}/console.log",
            "-kernel", str(next((modules / "boot").glob("vmlinuz-*"))), "-initrd", str(home / "first.gz"),
            "-append", f"console=ttyS0 net.ifnames=0 quiet lab.address={self._record['address']}/{net.prefixlen} "
            f"lab.gateway={self._record['gateway']} systemd.mask=systemd-networkd-wait-online.service "
            "systemd.mask=serial-getty@ttyS0.service",
            "-drive", f"file={disk},format=raw,if=virtio,cache=unsafe",
            "-netdev", f"user,id=n,restrict=on,net={net},host={self._record['gateway']},"
            f"hostfwd=tcp:127.0.0.1:{self._port}-{self._record['address']}:22",
            "-device", "virtio-net-pci,netdev=n,romfile=",
        ]  # fmt: skip
        with open(folder / "qemu.log", "w") as log:
            self._qemu = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            if not wait_for(self._up, BOOT_SECONDS, pause=2):
                said = (folder / "console.log").read_text(errors="replace")[-600:]
                raise LabError(f"The virtual machine of {host.name} does not answer: {said}")
        except BaseException:
            self.end()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end()

    def _up(self):
        if self._qemu.poll() is not None:
            raise LabError(f"qemu ended: {(self._folder / 'qemu.log').read_text()[-300:]}")
        with contextlib.suppress(subprocess.TimeoutExpired):
            return not self.sh("true", check=False, timeout=30).returncode
        return False

    def sh(self, line, check=True, timeout=600):
        """Run a line of shell in it as root, over ssh.

        line
            for its shell (str)
        check
            raise when it fails (bool)
        timeout
            seconds until it is given up (float)

        Returns a CompletedProcess (text). Raises LabError with its last line.
        """
        alias = ("-o", f"HostKeyAlias={self._record['address']}", "-o", "ConnectTimeout=10")
        command = ssh_words("root@127.0.0.1", self._port, *alias)
        return run(*command, f"sh -c {shlex.quote(line)}", check=check, timeout=timeout)

    def end(self):
        """Cut its power. What it wrote is gone."""
        self._qemu.kill()
        self._qemu.wait()
        (self._folder / "disk.img").unlink(missing_ok=True)
