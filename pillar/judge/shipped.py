"""The modules and states of a checkout, as minions are sent them."""

import hashlib
import pathlib


def shipped(roots):
    """
    What ``saltutil.sync_all`` would send a minion, as its ``goldenpath.synced`` tells it.

    roots : list of str
        The folders of ``file_roots``.

    Returns ``{"modules/goldenpath.py": SHA-256, …}``.
    """
    found = {}
    for root in roots:
        for kind in ("modules", "states"):
            for path in sorted(pathlib.Path(root, f"_{kind}").glob("*.py")):
                # Of two roots that have it the first one's is sent.
                found.setdefault(f"{kind}/{path.name}", hashlib.sha256(path.read_bytes()).hexdigest())
    return found
