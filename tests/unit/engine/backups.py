"""What the tests of backups share: a host's configuration, its site, and a restic that answers as a test says."""

import time

from goldenpath import process, repository
from goldenpath import site as sites

CANARY = "s3cr3t-canary"
CONFIG = {
    "host": "web1",
    "sites": ["acme"],
    "repository": "/var/backups/goldenpath/restic",
    "env": {"AWS_SECRET_ACCESS_KEY": CANARY},
    "keep": {"daily": 7, "weekly": 4, "monthly": 6},
    "heartbeat": {},
    "warn_after": {"backup": 36, "drill": 216},
    "refuse_after": {},
    "known_hosts": False,
}
# What restic says where there is no repository.
MISSING = (10, "Is there a repository at the following location?")


def acme():
    """The site, as the host knows it now."""
    return sites.load("acme")


def ago(hours):
    """A time of the past, as records write it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - hours * 3600))


def fake_restic(monkeypatch, *answers):
    """restic answers these (code, output) in turn, and then nothing. Returns the list of what it is asked."""
    calls, left = [], list(answers)

    def run(argv, env=None, **_):
        calls.append(argv)
        assert CANARY not in " ".join(argv) and env["RESTIC_PASSWORD_FILE"]
        code, said = left.pop(0) if left else (0, "")
        return process.Done(code, said, "")

    monkeypatch.setattr(repository.process, "run", run)
    monkeypatch.setattr(repository.time, "sleep", lambda _: None)
    return calls
