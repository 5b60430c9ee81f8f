"""
The flat roster, which also says so when a target matches no host: salt-ssh itself would do nothing and exit 0.
"""

import importlib.util
import pathlib
import sys

import salt.roster
from salt.exceptions import SaltClientError


def _patch():
    """Every command over ssh loads a roster first: the place for what Salt itself needs there."""
    name = "goldenpath_salt_3008"
    if name not in sys.modules:
        path = pathlib.Path(__file__).resolve().parent.parent / "_controller" / "salt_3008.py"
        spec = importlib.util.spec_from_file_location(name, path)
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    sys.modules[name].patch()


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
    _patch()
    flat = salt.roster.Roster(__opts__, "flat")
    found = flat.targets(tgt, tgt_type)
    if not found:
        known = ", ".join(sorted(flat.targets("*", "glob"))) or "none"
        raise SaltClientError(
            f"No host matches {tgt!r}. Known: {known}. Try: name it in {__opts__.get('roster_file') or 'config/roster'}"
        )
    return found
