"""
The flat roster, which also says so when a target matches no host: salt-ssh itself would do nothing and exit 0.
"""

import os

import salt.roster
import salt.utils.vt
from salt.exceptions import SaltClientError


def _swift():
    """
    Salt 3008 sleeps 0.2 s at the end of every connection (``salt.utils.vt.Terminal.close``), also of one whose
    process has ended: more than a second of a deploy. Every command over ssh loads a roster first.
    """
    slow = salt.utils.vt.Terminal.close
    if getattr(slow, "swift", False):
        return

    def close(self, terminate=True, kill=False):
        # isalive() reaps the process, as terminate() would.
        if self.closed or self.isalive():
            return slow(self, terminate, kill)
        for name in ("child_fd", "child_fde"):
            if getattr(self, name) is not None:
                os.close(getattr(self, name))
                setattr(self, name, None)
        self.closed = True
        return None

    close.swift = True
    salt.utils.vt.Terminal.close = close


def targets(tgt, tgt_type="glob"):
    """
    The hosts of ``roster_file`` that a target matches.

    tgt (str)
        The target.
    tgt_type (str)
        How it is written: ``glob``, ``list``, …

    Returns their roster entries by id. Raises ``SaltClientError`` with one sentence where there are none.

    CLI Example:

    .. code-block:: bash

        salt-ssh 'web*' test.ping
    """
    _swift()
    flat = salt.roster.Roster(__opts__, "flat")
    found = flat.targets(tgt, tgt_type)
    if not found:
        known = ", ".join(sorted(flat.targets("*", "glob"))) or "none"
        raise SaltClientError(
            f"No host matches {tgt!r}. Known: {known}. Try: name it in {__opts__.get('roster_file') or 'config/roster'}"
        )
    return found
