"""
No grain, but a place that every salt-run loads first: two habits of Salt 3008 on a controller.

Without a master daemon it tries for a second to reach the event bus, for each event, two of them before a runner
begins (``salt.utils.event.SaltEvent.connect_pull``). And it warns about its own unclosed objects, at the very end also
when logging is shut down already.
"""

import atexit
import logging
import os

import salt.utils.event


def __virtual__():
    # An option that only a controller's configuration has.
    return "ext_pillar" in __opts__ or (False, "it is for a controller")


def calm():
    """
    Be quick without a bus, and quiet at the end.

    Returns no grain.

    CLI Example:

    .. code-block:: bash

        salt-run state.orchestrate deploy
    """
    if not os.path.exists(os.path.join(__opts__["sock_dir"], "master_event_pull.ipc")):
        salt.utils.event.SaltEvent.connect_pull = lambda self, timeout=1: False
    for name in ("salt.runner", "salt.utils.event"):
        logging.getLogger(name).setLevel(logging.ERROR)
    atexit.register(setattr, logging, "lastResort", logging.NullHandler())
    return {}
