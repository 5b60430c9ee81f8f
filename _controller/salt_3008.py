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
``Terminal.recv``                takes 1 KiB of an answer, then sleeps for 0.01 s          3008.3
prompts in ``salt.client.ssh``   looks for them in time that grows with the square of a   3008.3
                                 line's length: seconds for one of 60 KiB
``warn_until_close``             Salt warns about its own unclosed objects, after the     3008.3
                                 operator's answer and without any means to act on it
``salt.utils.minion.running``    one command of a checkout refuses another one for a     3008.3
                                 whole other host; a site's own lock says who holds it
``Pillar.render_pstate``         a mistake in a pillar file is a traceback with what      3008.3
                                 stands around it, secrets among it, and names no file
``Single.run`` of salt-ssh       a host that cannot be worked on ends in a traceback, or  3008.3
                                 after minutes; a run without a state is green
===============================  =======================================================  ==============

A test for each fails when Salt no longer needs it. No grain, in spite of ``grains_dirs``: that is the place which
every salt-run loads first; every command over ssh loads the roster first (``_roster/goldenpath.py``).

A daemon can load both places as well. Each patch decides on each call, and in a running master or minion, and with
any other Salt than 3008, all stays as Salt has it.
"""

import contextlib
import fcntl
import functools
import getpass
import json
import logging
import os
import pathlib
import re
import runpy
import select
import shlex
import socket
import sys
import time

import salt.client.ssh
import salt.client.ssh.shell
import salt.client.ssh.wrapper
import salt.pillar
import salt.transport.base
import salt.utils.event
import salt.utils.json
import salt.utils.minion
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
    opts = globals().get("__opts__") or {}
    if "ext_pillar" in opts:
        # Of a checkout in which nobody ran anything yet; Salt makes it too late.
        os.makedirs(os.path.join(opts["cachedir"], "proc"), exist_ok=True)
    if salt.version.__version__.startswith("3008."):
        _wrap(salt.utils.event.SaltEvent, "connect_pull", _connect_pull)
        _wrap(salt.utils.vt.Terminal, "close", _close)
        _wrap(salt.utils.vt.Terminal, "recv", _recv)
        _wrap(salt.utils.resource_warnings, "warn_until_close", _warn_until_close)
        if _in_a_command():
            for name, (theirs, ours) in _PROMPTS.items():
                if getattr(salt.client.ssh.shell, name).pattern == theirs:
                    setattr(salt.client.ssh.shell, name, re.compile(ours, re.MULTILINE))
        _wrap(salt.client.ssh.Single, "run", _run)
        _wrap(salt.utils.minion, "running", _running)
        _wrap(salt.pillar.Pillar, "render_pstate", _render_pstate)
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


# What Salt looks for, and what finds the same in one pass: whatever stands before it may also be nothing.
_PROMPTS = {
    "SSH_PASSWORD_PROMPT_RE": (r"(?:.*)[Pp]assword(?: for .*)?:\s*$", r"[Pp]assword(?: for .*)?:\s*$"),
    "KEY_VALID_RE": (r".*\(yes\/no(/\[fingerprint\])?\).*", r"\(yes\/no(/\[fingerprint\])?\)"),
}

# Characters of an answer that are taken at once, at the most.
_AT_ONCE = 1 << 20


def _recv(theirs, self, maxsize=None):
    """What is there already is taken as a whole; what a prompt waits for comes no sooner and no later."""
    if maxsize is not None:
        return theirs(self, maxsize)
    stdout, stderr = theirs(self, 1 << 16)
    while stdout and len(stdout) < _AT_ONCE and self.child_fd and select.select([self.child_fd], [], [], 0)[0]:
        more, errors = theirs(self, 1 << 16)
        stdout, stderr = stdout + (more or ""), (stderr or "") + (errors or "")
        if not more:
            break
    return stdout, stderr


def _render_pstate(theirs, self, sls, *args, **kwargs):
    real, faults, paths = salt.pillar.compile_template, [], []

    def noting(path, *more, **options):
        paths.append(path)
        try:
            return real(path, *more, **options)
        except Exception as exc:
            faults.append(_mistake(path, exc))
            raise

    # They would tell the text around the mistake.
    loggers = [logging.getLogger(name) for name in ("salt.pillar", "salt.utils.templates", "salt.template")]
    salt.pillar.compile_template = noting
    for logger in loggers:
        logger.disabled = True
    try:
        state, mods, errors = theirs(self, sls, *args, **kwargs)
    finally:
        salt.pillar.compile_template = real
        for logger in loggers:
            logger.disabled = False
    if faults and errors:
        errors[-1:] = faults[-1:]
    elif errors and paths and "does not render to a dictionary" in errors[-1]:
        errors[-1:] = [
            f"{_short(paths[-1])}: is no mapping. Try: names and colons, as pillar/hosts/example.sls has them"
        ]
    return state, mods, errors


# What YAML says, and what it is most often.
_HINTS = {
    "cannot start any token": " (a tab, where YAML takes blanks alone?)",
    "mapping values are not allowed": " (no blank behind a colon, here or on the line before?)",
    "could not find expected ':'": " (no blank behind a colon?)",
    "unexpected end of stream": " (a quote that is not closed?)",
}


def _short(path):
    short = os.path.relpath(path)
    return path if short.startswith("..") else short


def _mistake(path, exc):
    """A mistake in a pillar's file: where it is, what it is, and nothing of what stands there."""
    line = getattr(exc, "line_num", None)
    cause = exc.__cause__ or exc.__context__
    if (mark := getattr(cause, "problem_mark", None)) is not None:
        line = mark.line + 1
    what = str(getattr(cause, "problem", None) or getattr(exc, "error", None) or exc).splitlines()[0].rstrip(".")
    hint = next((hint for words, hint in _HINTS.items() if words in what), "")
    return f"{_short(path)}{f', line {line}' if line else ''}: {what}{hint}. Try: mend that line"


def _running(_theirs, _opts):
    return []


def _warn_until_close(_theirs, *_args, **_kwargs):
    return None


# Functions whose answer is states; none of them is never well.
_STATES = ["apply", "highstate", "sls", "sls_id", "single", "high", "low", "template", "template_str", "top"]


@functools.cache
def _reach():
    """``reach.py`` beside this file, which Salt's loaders do not load."""
    return runpy.run_path(str(pathlib.Path(__file__).with_name("reach.py")))


def _run(theirs, self, deploy_attempted=False):
    if deploy_attempted or self.opts.get("raw_shell") or self.winrm:
        return theirs(self, deploy_attempted)
    fault = _look(self)
    if fault:
        return _answer(fault)
    with _turn(self):
        try:
            stdout, stderr, code = theirs(self, deploy_attempted)
        except salt.client.ssh.wrapper.SSHException as exc:
            # What a host answered, as Salt has it: a state that failed, say. Its noise is no answer.
            if exc.parsed and "local" in exc.parsed:
                raise
            return _judged(self, None, "", 1, f"{exc.stdout}\n{exc.stderr}")
        except Exception as exc:
            return _judged(self, None, "", 1, f"{type(exc).__name__}: {exc}")
    return _judged(self, stdout, stderr, code, f"{stdout}\n{stderr}")


_HELD = set()


@contextlib.contextmanager
def _turn(single):
    """
    One command with states at a time for each host: Salt sends modules and states to one place there, and the second
    command would find another's, or none. Who waits is told for whom.
    """
    if not (single.fun or "").startswith("state.") or single.id in _HELD:
        yield
        return
    folder = os.path.join(single.opts["cachedir"], "busy")
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, single.id), "a+", encoding="utf-8") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            stream.seek(0)
            print(f"{single.id} is busy: {stream.read().strip() or 'another command'}. Waiting.", file=sys.stderr)
            fcntl.flock(stream, fcntl.LOCK_EX)
        stream.truncate(0)
        stream.write(f"{getpass.getuser()} runs {single.fun} since {time.strftime('%H:%M:%S')} (process {os.getpid()})")
        stream.flush()
        _HELD.add(single.id)
        try:
            yield
        finally:
            _HELD.discard(single.id)


def _look(single):
    """Why a host cannot be worked on; where a password is typed, ssh cannot be asked on the side."""
    typed = single.target.get("passwd") or single.target.get("priv_passwd")
    if typed or single.id in os.environ.get(_reach()["LOOKED"], "").split():
        return ""
    ssh, *words = shlex.split(single.shell._cmd_str(""))
    # It asks nobody: what it would ask is told.
    argv = [ssh, "-o", "BatchMode=yes", "-o", f"ConnectTimeout={_reach()['SECONDS']}", *words]
    return _reach()["fault"](single.id, argv, single.thin_dir, bool(single.target.get("sudo")))


def _answer(sentence):
    """As a host would answer: salt-ssh prints it, an orchestration's step fails by it."""
    return json.dumps({"local": {"return": sentence, "retcode": 1}}), "", 1


def _local(stdout):
    try:
        return salt.utils.json.find_json(stdout or "")["local"]
    except (ValueError, KeyError, TypeError):
        return None


def _nothing(single, stdout):
    """Whether states were asked for and none was run."""
    kind, _, name = (single.fun or "").partition(".")
    local = _local(stdout)
    return kind == "state" and name in _STATES and isinstance(local, dict) and local.get("return") in ({}, None, [])


def _judged(single, stdout, stderr, code, said):
    if "Permission denied" in stderr:
        return stdout, stderr, code
    local = _local(stdout)
    if local is None or (isinstance(local, str) and "Exception" in local):
        lines = [line.strip() for line in (local or said).splitlines() if line.strip()]
        last = (lines or ["it said nothing"])[-1][:300].rstrip(".")
        return _answer(f"{single.id} gave no answer that Salt understands: {last}. Try: again, with --log-level=debug")
    if _nothing(single, stdout):
        return _answer(
            f"No state was run on {single.id}: nothing was done. Try: again; where that does not help, salt-ssh -w "
            f"{single.id} test.ping sends everything anew"
        )
    return stdout, stderr, code
