"""What a host gets of its own before its first boot: name, address, keys, resolver."""

import shutil
import uuid

from .common import KEY, write
from .network import resolv_conf

NETWORK = """\
[Match]
Name=host0

[Link]
MTUBytes={mtu}

[Network]
Address={address}/{prefix}
Gateway={gateway}
IPv6AcceptRA=no

[Address]
Address={address6}/{prefix6}
DuplicateAddressDetection=none
"""

HOSTS_FILE = """\
127.0.0.1 localhost
127.0.1.1 {name}
::1 localhost ip6-localhost ip6-loopback
"""


def seed(root, host, keys):
    """Write a host's own files into its root.

    root
        the mounted root (pathlib.Path)
    host
        the host's record (dict)
    keys
        the directory with its ssh host keys (pathlib.Path)
    """
    etc = root / "etc"
    write(etc / "hostname", host["name"] + "\n")
    write(etc / "hosts", HOSTS_FILE.format(**host))
    write(etc / "machine-id", uuid.uuid4().hex + "\n", 0o444)
    write(etc / "resolv.conf", resolv_conf())
    write(etc / "systemd/network/10-host0.network", NETWORK.format(**host))
    for key in keys.iterdir():
        write(etc / "ssh" / key.name, key.read_text(), 0o644 if key.suffix == ".pub" else 0o600)
    public = KEY.with_suffix(".pub").read_text()
    for home in ("root", "home/admin"):
        ssh = root / home / ".ssh"
        ssh.mkdir(exist_ok=True)
        ssh.chmod(0o700)
        write(ssh / "authorized_keys", public, 0o600)
        owner = (root / home).stat()
        for path in (ssh, ssh / "authorized_keys"):
            shutil.chown(path, owner.st_uid, owner.st_gid)
