"""
Keep this host's Redis as ``/etc/redis/goldenpath.conf`` says, and a site's own as its ``goldenpath-SLUG.conf`` does:
with nothing lost and no restart that is not needed. What they are asked goes through ``redis_gate``.
"""

import contextlib
import hashlib
import os
import secrets
import shlex
import time

from salt.exceptions import CommandExecutionError

PASSWORD = "/etc/goldenpath/redis-password"  # noqa: S105  a path


def _about(slug):
    return __salt__["redis_gate.about"](__grains__["id"], slug)


def _error(fault, slug=None, what=":"):
    hint = fault.hint or __salt__["goldenpath.command"]("state.apply", "redis")
    return CommandExecutionError(f"{_about(slug)['name']}{what} {fault.reason}. Try: {hint}")


def _ask(*command, slug=None):
    (reply,) = __salt__["redis_gate.ask"](command, slug=slug)
    return reply


def admin():
    """
    What the tree's own user of Redis is known by; the password is made on the host when it is absent.

    Returns the SHA-256 of the password, in hexadecimal digits; under ``test=True``, where there is none yet, of a
    random one.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 redis_server.admin
    """
    return _digest(_password(PASSWORD))


def site(slug):
    """
    What a site is known by in its own instance; the password is made on the host when it is absent.

    slug (str)
        The site.

    Returns the SHA-256 of the password, as ``admin`` does.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 redis_server.site acme-kitchens
    """
    return _digest(_password(f"{PASSWORD}-{slug}"))


def url(slug):
    """
    Where a site finds its own instance, with its password: a secret, for modules and states.

    slug (str)
        The site.

    Returns the URL without a database; under ``test=True``, before there is one, without the port.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 state.apply site
    """
    try:
        port = __salt__["redis_gate.port"](slug)
    except ConnectionError as fault:
        if not __opts__["test"]:
            raise _error(fault, slug) from None
        port = ""
    return f"redis://:{_password(f'{PASSWORD}-{slug}')}@127.0.0.1:{port}"


def _digest(password):
    return hashlib.sha256(password.encode()).hexdigest()


def _password(path):
    with contextlib.suppress(FileNotFoundError), open(path, encoding="ascii") as stream:
        if password := stream.read().strip():
            return password
    password = secrets.token_hex(32)
    if not __opts__.get("test"):
        os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
        with open(os.open(f"{path}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as stream:
            stream.write(f"{password}\n")
            stream.flush()
            os.fsync(stream.fileno())
        os.rename(f"{path}.new", path)
    return password


def _users(slug):
    """
    The users that our file has, each with its rules; the one of the tree's own questions first, because only it may
    make the others.
    """
    found = {}
    with contextlib.suppress(OSError), open(_about(slug)["config"], encoding="utf-8") as stream:
        for line in stream:
            words = shlex.split(line) if line.startswith("user ") else []
            if len(words) > 2:
                found[words[1]] = words[2:]
    return dict(sorted(found.items(), key=lambda each: each[0] == "default"))


def _user_differences(slug):
    """
    Users of Redis that are not as our file has them; what a rule comes to is asked of Redis, by a user that is made for
    that and goes at once. Rules are ``None`` for a user that the file does not have.
    """
    wanted, found = _users(slug), {}
    if not wanted:
        return found
    (there,) = __salt__["redis_gate.ask"](("ACL", "USERS"), slug=slug)
    for name, rules in wanted.items():
        trial = f"goldenpath-{secrets.token_hex(8)}"
        _, known, _, live = __salt__["redis_gate.ask"](
            ("ACL", "SETUSER", trial, "reset", *rules),
            ("ACL", "GETUSER", trial),
            ("ACL", "DELUSER", trial),
            ("ACL", "GETUSER", name),
            slug=slug,
        )
        if _comparable(known) != _comparable(live):
            found[name] = rules
    found.update((name, None) for name in there if name not in wanted)
    return found


def _comparable(user):
    fields = dict(zip(user[::2], user[1::2], strict=True)) if user else {}
    # Redis 7.0 gives the first of these flags to users of ACL SETUSER and not to those of a file; it is the default.
    fields["flags"] = sorted({*fields.get("flags", ())} - {"sanitize-payload"})
    fields["passwords"] = sorted(fields.get("passwords", ()))
    return fields


def _differences(slug):
    """
    What ``redis_gate.differences`` tells; of a server that does not let itself be asked, of which only a restart
    frees, the setting ``access``.
    """
    try:
        config, info = __salt__["redis_gate.ask"](("CONFIG", "GET", "*"), ("INFO", "replication"), slug=slug)
        found = __salt__["redis_gate.differences"](config, info, slug)
        for name, rules in _user_differences(slug).items():
            told = {"old": "another" if rules else "there", "new": "as the file says" if rules else "gone"}
            found[f"user {name}"] = {**told, "rules": rules}
        return found
    except ConnectionRefusedError as fault:
        return {"access": {"old": fault.reason, "new": "open on loopback"}}
    except PermissionError as refused:
        if refused.word not in ("NOAUTH", "NOPERM") and not refused.hidden:
            raise
        return {"access": {"old": "CONFIG is hidden" if refused.hidden else refused.word, "new": "open on loopback"}}


def _shown(differences):
    return {name: {"old": each["old"], "new": each["new"]} for name, each in differences.items()}


def drift(slug=None):
    """
    Where the running server differs from its file, such as ``/etc/redis/goldenpath.conf``.

    slug (str)
        The site whose own instance it is; left out, the shared one.

    Returns ``{setting: {"old": live value, "new": value in the file}}``; of a password only whether one is
    set. A server that does not let itself be asked (NOAUTH, NOPERM, or it listens elsewhere) is told as the
    setting ``access``. Raises ``CommandExecutionError`` when Redis does not answer.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 redis_server.drift
    """
    try:
        return _shown(_differences(slug))
    except ConnectionError as fault:
        raise _error(fault, slug) from None


def mend(slug=None):
    """
    Bring the running server back to its file: by CONFIG SET, and by a restart only for what Redis does not change
    while it runs.

    slug (str)
        The site whose own instance it is; left out, the shared one.

    Returns what was changed as ``drift`` tells it, with the key ``restart`` where one was needed. Raises
    ``CommandExecutionError`` when Redis does not answer, or still differs afterwards.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 redis_server.mend
    """
    stuck = []
    try:
        differences = _differences(slug)
        for name, each in differences.items():
            try:
                if name == "access":
                    stuck.append(name)
                elif name.startswith("user "):
                    _set_user(name.partition(" ")[2], each["rules"], slug)
                elif name == "replicaof":
                    _ask("REPLICAOF", "NO", "ONE", slug=slug)
                else:
                    _ask("CONFIG", "SET", name, each["value"], slug=slug)
            except PermissionError:
                stuck.append(name)
        if "appendonly" in differences:
            _wait_for_append_only_file(slug)
    except ConnectionError as fault:
        raise _error(fault, slug) from None
    changes = _shown(differences)
    about = _about(slug)
    if stuck:
        if not __salt__["service.restart"](about["unit"]):
            raise CommandExecutionError(f"{about['name']} did not restart. Try: systemctl status {about['unit']}")
        changes["restart"] = {"old": "", "new": f"for {', '.join(stuck)}"}
    if changes and (left := drift(slug)):
        raise CommandExecutionError(
            f"{about['name']} still differs from {about['config']} in {', '.join(left)}. Try: tail -n 20 {about['log']}"
        )
    return changes


def _set_user(name, rules, slug):
    if rules is None:
        _ask("ACL", "DELUSER", name, slug=slug)
    else:
        _ask("ACL", "SETUSER", name, "reset", *rules, slug=slug)


def append_only(test=False):
    """
    Have a running Redis write its append-only file, before anything restarts it: started with
    ``appendonly yes`` it reads that file alone, and would come up empty without one, or with what an old one
    says.

    test (bool)
        Only tell what would be done.

    Returns ``{}`` where nothing was to do, also for a Redis that does not run or does not let itself be
    asked; else ``{"appendonly": {"old": "no", "new": "yes"}}``, once the file is complete. Raises
    ``CommandExecutionError`` when it cannot be written.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 redis_server.append_only test=True
    """
    try:
        if _ask("CONFIG", "GET", "appendonly") != ["appendonly", "no"]:
            return {}
    except ConnectionError:
        return {}
    if not test:
        try:
            _ask("CONFIG", "SET", "appendonly", "yes")
            _wait_for_append_only_file(None)
        except ConnectionError as fault:
            raise _error(fault, None, " cannot write an append-only file:") from None
    return {"appendonly": {"old": "no", "new": "yes"}}


def _wait_for_append_only_file(slug):
    """
    An append-only file that was just switched on is complete once its first rewrite is; a restart before
    that would come up empty.
    """
    end = time.monotonic() + 120
    while time.monotonic() < end:
        lines = _ask("INFO", "persistence", slug=slug).splitlines()
        if {"aof_rewrite_in_progress:0", "aof_rewrite_scheduled:0"} <= set(lines):
            if "aof_last_bgrewrite_status:ok" in lines:
                return
            reason = "the first rewrite failed"
            break
        time.sleep(0.1)
    else:
        reason = "the append-only file is still being written"
    about = _about(slug)
    raise CommandExecutionError(
        f"{about['name']} cannot write an append-only file: {reason}. Try: tail -n 20 {about['log']}"
    )
