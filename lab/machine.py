"""All hosts of this machine, as code uses them."""

import contextlib
import json
import os

from . import base, keys, network
from .common import HOSTS, LabError, filesystem, run, state_lock, write
from .host import Host, check_name


class Lab:
    """The machine's hosts. As a context manager it takes down those that it brought up."""

    def __init__(self, say=lambda line: None):
        if os.geteuid():
            raise LabError("The lab needs root. Try: sudo python3 -m lab list")
        self._say = say
        self._made = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with contextlib.ExitStack() as stack:
            # All of them, also when one does not go; the first failure is raised in the end.
            for host in self._made:
                stack.callback(host.down)

    def up(self, name, release="bookworm"):
        """Make a host and boot it.

        name
            lower-case letters, digits and hyphens, at most 32 (str)
        release
            bullseye, bookworm, trixie or forky, or its number (str)

        Returns the Host, with ssh ready. Raises LabError when the name is taken or it does not boot.
        """
        check_name(name)
        network.resolv_conf()  # before the minutes that a base root takes: without a resolver a host is of no use
        root = base.ensure(base.release_name(release), self._say)
        return self._make(name, {"release": base.release_name(release), "base": str(root)})

    def clone(self, source, name):
        """Make a host with a copy of another one's disk, and boot it. Name, addresses and identity are its own.

        source
            a host that is off (Host)
        name
            the new host's (str)

        Returns the new Host, with ssh ready. Raises LabError as `up`, and when the other one runs.
        """
        check_name(name)
        record = source._record
        with source._off():
            return self._make(
                name,
                {"release": record["release"], "base": record["base"]},
                lambda disk: run("cp", "--archive", "--reflink=auto", source._folder / "disk/upper", disk / "upper"),
            )

    def _make(self, name, record, fill=lambda disk: None):
        folder = HOSTS / name
        with state_lock():
            if folder.exists():
                raise LabError(f"Host {name} exists. Try: python -m lab down {name}")
            folder.mkdir(parents=True, mode=0o755)
            record = {"name": name, **record}
            host = Host(name)
            try:
                record.update(network.allocate())
                write(folder / "host.json", json.dumps(record, indent=2))
                keys.ensure()
                keys.make(folder / "keys", record)
            except BaseException:
                host._remove()
                raise
        try:
            (folder / "disk").mkdir()
            if filesystem(folder) == "overlayfs":
                # An overlay cannot lie on an overlay.
                run("mount", "-t", "tmpfs", "-o", "mode=755", "goldenpath-lab", folder / "disk")
            fill(folder / "disk")
            host.start()
        except BaseException:
            host.down()
            raise
        self._made.append(host)
        return host

    def get(self, name):
        """A host that exists.

        name
            its name (str)

        Returns the Host. Raises LabError for an unknown one.
        """
        if not (HOSTS / check_name(name)).exists():
            raise LabError(f"Host {name} does not exist. Try: python -m lab list")
        return Host(name)

    def hosts(self):
        """All hosts there are, running or not (list of Host)."""
        return [Host(path.parent.name) for path in sorted(HOSTS.glob("*/host.json"))]

    def down(self, *names):
        """Take hosts down, with whatever they left.

        names
            the hosts (str)

        Raises LabError for an unknown one, before any is taken down.
        """
        for host in [self.get(name) for name in names]:
            host.down()

    def down_all(self):
        """Take every host of the machine down, also what was left half made."""
        for path in sorted(HOSTS.glob("*")):
            Host(path.name).down()
        with state_lock():
            if not any(HOSTS.glob("*")):
                network.remove()
