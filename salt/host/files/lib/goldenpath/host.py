"""What the host knows of itself without a pillar: ``/etc/goldenpath/host.json``, which Salt and each deploy write."""

import os
import re
import socket

from . import files
from .errors import Failed

ETC = "/etc/goldenpath"
STATE = "/var/lib/goldenpath"
RUN = "/run/goldenpath"
SITES = f"{ETC}/sites"
# Addresses of repositories with their credentials, root's alone.
REPOSITORIES = f"{ETC}/repositories"
HOST = f"{ETC}/host.json"
BACKUP = f"{ETC}/backup.json"


def facts():
    """``host`` (its id), ``salt`` (``salt-ssh`` or ``salt``), ``uv``; of an older host, what can be known."""
    known = files.read_json(HOST) or files.read_json(BACKUP)
    return {"salt": "salt-ssh", "host": socket.gethostname(), **known}


def name():
    """The host's id in the roster."""
    return facts()["host"]


def command(*words):
    """What an operator types on the controller about this host."""
    known = facts()
    return " ".join([known["salt"], known["host"], *words])


def apply_again(sls="redis"):
    """The same, for what Redis lacks: the command that mends it."""
    return command("state.apply", sls)


def slugs():
    """The sites that provisioning has written down."""
    try:
        found = os.listdir(SITES)
    except OSError:
        return []
    return sorted(each[: -len(".json")] for each in found if re.fullmatch(r"[a-z0-9][a-z0-9-]*\.json", each))


def backup():
    """The host's configuration of backups: it holds secrets, and is root's alone. Raises Failed where there is none."""
    known = files.read_json(BACKUP)
    if not known:
        raise Failed(f"{BACKUP} cannot be read. Try: {command('state.apply backup')}")
    return known
