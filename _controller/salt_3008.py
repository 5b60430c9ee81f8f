"""
What this tree patches of Salt, all of it, and only inside a command of a controller.

===============================  =======================================================  ==============
what                             why                                                      seen in
===============================  =======================================================  ==============
``SaltEvent.connect_pull``       without a master daemon it tries for a second to reach   3008.3
                                 the event bus, for each event, two of them before a
                                 runner begins
``Terminal.close``               sleeps 0.2 s at the end of every connection of salt-ssh  3008.3
                                 also of one whose process has ended: more than a second
                                 of a deploy
``warn_until_close``             Salt warns about its own unclosed objects, after the     3008.3
                                 operator's answer and without any means to act on it
===============================  =======================================================  ==============

A test for each fails when Salt no longer needs it. No grain, in spite of ``grains_dirs``: that is the place which
every salt-run loads first; every command over ssh loads the roster first (``_roster/goldenpath.py``).

A daemon can load both places as well. Each patch decides on each call, and in a running master or minion, and with
any other Salt than 3008, all stays as Salt has it.
"""

import functools
import os
import socket
import sys

import salt.transport.base
import salt.utils.event
import salt.utils.resource_warnings
import salt.utils.vt
import salt.version


def __virtual__():
    # An option that only a controller's configuration has.
    return "ext_pillar" in __opts__ or (False, "it is for a controller")


def patch():
    """
    Be quick without a bus and at a connection's end, and quiet at the very end.

    Returns no grain.

    CLI Example:

    .. code-block:: bash

        salt-run state.orchestrate deploy
    """
    if salt.version.__version__.startswith("3008."):
        _wrap(salt.utils.event.SaltEvent, "connect_pull", _connect_pull)
        _wrap(salt.utils.vt.Terminal, "close", _close)
        _wrap(salt.utils.resource_warnings, "warn_until_close", _warn_until_close)
    return {}


def _wrap(owner, name, ours):
    theirs = getattr(owner, name)
    if getattr(theirs, "goldenpath", False):
        return

    @functools.wraps(theirs)
    def wrapped(*args, **kwargs):
        return ours(theirs, *args, **kwargs) if _in_a_command() else theirs(*args, **kwargs)

    wrapped.goldenpath = True
    setattr(owner, name, wrapped)


def _in_a_command():
    """Salt marks its commands itself, but for salt-ssh, whose own module no daemon loads."""
    role = sys.modules.get("salt._process_role")
    return bool(role and role.is_cli()) or "salt.cli.ssh" in sys.modules


def _connect_pull(theirs, self, timeout=1):
    return False if _no_bus(self) else theirs(self, timeout)


def _no_bus(event):
    """Whether nobody listens on the master's bus. What cannot be told is left to Salt's own way."""
    if event.node != "master" or event.cpush or not event._run_io_loop_sync:
        return False
    opts = event.opts
    if opts["ipc_mode"] == "tcp":
        host = salt.transport.base._ipc_loopback(opts)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        address = (host, int(opts["tcp_master_pull_port"]))
    else:
        family, address = socket.AF_UNIX, os.path.join(opts["sock_dir"], "master_event_pull.ipc")
    with socket.socket(family) as probe:
        probe.settimeout(0.5)
        try:
            probe.connect(address)
        except (FileNotFoundError, ConnectionRefusedError):
            return True
        except OSError:
            return False
    return False


def _close(theirs, self, terminate=True, kill=False):
    # isalive() reaps the process, as terminate() would.
    if self.closed or self.isalive():
        return theirs(self, terminate, kill)
    for name in ("child_fd", "child_fde"):
        if getattr(self, name) is not None:
            os.close(getattr(self, name))
            setattr(self, name, None)
    self.closed = True
    return None


def _warn_until_close(_theirs, *_args, **_kwargs):
    return None
