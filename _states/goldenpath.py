"""
Checks that a host passes before anything relies on it, and what keeps its Redis as the tree wrote it: a thin
layer over ``goldenpath`` and ``redis_server``, the execution modules.

The checks ask for real under ``test=True`` as well; only where Redis is not installed yet do they say what
would be asked.
"""

import os

from salt.exceptions import CommandExecutionError


def _ret(name, result=True, comment="", changes=None):
    return {"name": name, "result": result, "comment": comment, "changes": changes or {}}


def _not_yet(name, what):
    """
    The answer of a dry run on a host which Redis would only be installed on.
    """
    if __opts__["test"] and not __salt__["cmd.has_exec"]("redis-server"):
        return _ret(name, None, f"Redis is not installed yet; {what}")
    return None


def ours(name, sites=()):
    """
    This host, and its sites, are ours or nobody's: what is somebody else's is never run over. Comes before everything
    else, and the first time it is so it leaves a mark. All findings are told at once.

    name (str)
        Only names the state.
    sites (list)
        The pillar's sites.

    .. code-block:: yaml

        base-look:
          goldenpath.ours:
            - name: host
            - sites: [acme-kitchens]
            - order: first
            - failhard: True
    """
    unmarked = __salt__["foreign.unmarked"](sites)
    if not unmarked:
        return _ret(name, comment="This host and its sites are ours")
    found = __salt__["foreign.findings"](sites)
    if found:
        told = "\n".join(f"- {sentence}" for sentence in found)
        return _ret(name, False, f"{__grains__['id']} is in use by somebody else, and nothing was changed:\n{told}")
    changes = {"ours": {"old": "", "new": ", ".join(unmarked)}}
    if __opts__["test"]:
        return _ret(name, None, "Nothing of somebody else's is there; it would be marked as ours", changes)
    try:
        __salt__["foreign.mark"](sites)
    except OSError as exc:
        return _ret(name, False, f"{exc}. Try: df -h /var")
    return _ret(name, True, "Nothing of somebody else's is there; it is marked as ours", changes)


def modules(name, shipped):
    """
    A minion uses the modules and states of its master's checkout, and no older ones. Nothing is changed.

    name (str)
        Only names the state.
    shipped (dict)
        The SHA-256 of each, as ``goldenpath.synced`` tells them.

    .. code-block:: yaml

        base-modules:
          goldenpath.modules:
            - name: modules
            - shipped: {"modules/goldenpath.py": …}
            - order: first
            - failhard: True
    """
    have = __salt__["goldenpath.synced"]()
    other = [each for each, digest in sorted(shipped.items()) if have.get(each) != digest]
    if not other:
        return _ret(name, comment="The modules are those of the master")
    host = __grains__["id"]
    more = f" and {len(other) - 1} more" if other[1:] else ""
    return _ret(
        name, False,
        f"{host} has the modules of another checkout ({other[0]}{more}), and nothing was done. "
        f"Try: salt {host} saltutil.sync_all; then this again",
    )  # fmt: skip


def sysctl(name, value, config, without):
    """
    A setting of the kernel, now and after a boot. A guest that shares its kernel, as in LXC or OpenVZ, may not set it:
    that is a remark with what follows from it, and keeps nothing else from its turn.

    name (str)
        The setting, such as ``vm.overcommit_memory``.
    value (int)
        Its value.
    config (str)
        The file under ``/etc/sysctl.d`` that says so at boot.
    without (str)
        What follows where it cannot be set, as the end of a sentence.

    .. code-block:: yaml

        redis-memory-overcommit:
          goldenpath.sysctl:
            - name: vm.overcommit_memory
            - value: 1
            - config: /etc/sysctl.d/60-goldenpath-redis.conf
            - without: Redis may fail to save while memory is short
    """
    text, changes = f"{name} = {value}\n", {}
    live, known = __salt__["sysctl.get"](name), ""
    if __salt__["file.file_exists"](config):
        known = __salt__["file.read"](config)
    if known != text:
        changes[config] = {"old": known, "new": text}
    if str(live) != str(value):
        changes[name] = {"old": live, "new": value}
    if not changes:
        return _ret(name, comment=f"{name} is {value}")
    if __opts__["test"]:
        return _ret(name, None, f"{name} would be set to {value}", changes)
    try:
        if config in changes:
            __salt__["file.write"](config, args=[text.rstrip()])
        if name in changes:
            __salt__["sysctl.assign"](name, value)
    except CommandExecutionError as exc:
        if config in changes and not __salt__["file.file_exists"](config):
            return _ret(name, False, f"{config} cannot be written: {exc}. Try: df -h /etc")
    now = __salt__["sysctl.get"](name)
    if str(now) != str(value):
        # Not a change: it would be one at every run.
        changes.pop(name, None)
        return _ret(name, True, f"{name} stays {now}: the kernel of this guest is its node's. {without}", changes)
    return _ret(name, True, f"{name} was set to {value}", changes)


def redis_ping(name, site=None):
    """
    Redis answers PONG. Nothing is changed.

    name (str)
        Only names the state.
    site (str)
        The site whose own instance is asked; left out, the shared one.

    .. code-block:: yaml

        redis-pong:
          goldenpath.redis_ping:
            - name: 127.0.0.1
    """
    if answer := _not_yet(name, "it would be asked for PONG"):
        return answer
    answer = __salt__["goldenpath.redis_answer"](site=site)
    return _ret(name, answer == "PONG", answer)


def redis_ready(name, site=None):
    """
    Redis can carry the sites of this host: every check of ``goldenpath.redis_checks`` passes. The comment has
    one line for each that does not. Nothing is changed.

    name (str)
        Only names the state.
    site (str)
        Of the instances that sites have of their own, this site's alone; left out, all of them.

    .. code-block:: yaml

        redis-ready:
          goldenpath.redis_ready:
            - name: redis
    """
    if answer := _not_yet(name, "it would be asked whether it can carry the sites"):
        return answer
    failed = __salt__["redis_gate.failed"](__salt__["goldenpath.redis_checks"](site=site))
    return _ret(name, not failed, "\n".join(failed) or "Redis is ready")


def redis_settings(name, site=None):
    """
    The running Redis is set as its file says. What can be set while it runs is; it is restarted only for what
    cannot.

    name (str)
        Only names the state.
    site (str)
        The site whose own instance it is; left out, the shared one.

    .. code-block:: yaml

        redis-settings:
          goldenpath.redis_settings:
            - name: redis
    """
    if answer := _not_yet(name, "its settings would be compared with the file"):
        return answer
    try:
        changes = __salt__["redis_server.drift" if __opts__["test"] else "redis_server.mend"](site)
    except CommandExecutionError as exc:
        return _ret(name, False, str(exc))
    if not changes:
        return _ret(name, comment="Redis runs as its file says")
    told = ", ".join(changes)
    if __opts__["test"]:
        return _ret(name, None, f"Redis would be set back: {told}", changes)
    return _ret(name, True, f"Redis was set back: {told}", changes)


def redis_append_only(name):
    """
    A Redis that runs writes an append-only file, so that a restart with our configuration, which reads that
    file alone, finds everything in it. Must come before anything that restarts Redis.

    name (str)
        Only names the state.

    .. code-block:: yaml

        redis-append-only:
          goldenpath.redis_append_only:
            - name: redis
    """
    try:
        changes = __salt__["redis_server.append_only"](test=__opts__["test"])
    except CommandExecutionError as exc:
        return _ret(name, False, str(exc))
    if not changes:
        return _ret(name, comment="No running Redis is without its append-only file")
    if __opts__["test"]:
        return _ret(name, None, "The append-only file would be written", changes)
    return _ret(name, True, "The append-only file was written", changes)


def healthy(name, site=None, path=None, via="socket", timeout=5):
    """
    A site answers its health path with ``ok`` or ``degraded``. Nothing is changed.

    name (str)
        The site's name on this host.
    site (str)
        The same, for an id that names something else.
    path (str)
        Path to ask instead of the site's own health path.
    via (str)
        ``socket``: the live release's Unix socket. ``front``: HTTPS through Caddy on this host.
    timeout (float)
        Seconds for the whole exchange, up to 60.

    .. code-block:: yaml

        site-healthy-acme-kitchens:
          goldenpath.healthy:
            - name: acme-kitchens
    """
    slug = site or name
    request = {"front": via == "front", "path": path, "timeout": timeout}
    try:
        answer = __salt__["engine.call"]("call", "health", slug, request=request)
    except CommandExecutionError as exc:
        return _ret(name, False, str(exc))
    good = answer["status"] in ("ok", "degraded")
    comment = f"{slug} on {__grains__['id']} is {answer['status']}: {answer['message']}."
    return _ret(name, good, comment if good else f"{comment} Try: {answer['hint']}")


def postgres_restarted(name):
    """
    Postgres has read what it reads at its start alone. Where sites are live, they show the maintenance page meanwhile.

    name (str)
        Its unit.

    .. code-block:: yaml

        postgres-restart:
          goldenpath.postgres_restarted:
            - name: postgresql@17-main
            - onchanges:
                - file: postgres-config
    """
    if __opts__["test"]:
        return _ret(name, None, f"{name} would be restarted")
    try:
        told = __salt__["release.restart_postgres"](name)
    except CommandExecutionError as exc:
        return _ret(name, False, str(exc))
    return _ret(name, comment=told, changes={name: "restarted"})


def caddy_valid(name, validate):
    """
    Caddy's own parser takes its files with what the operator has put beside them. Nothing is changed.

    name (str)
        The folder of the operator's own files; without any, nothing is asked.
    validate (str)
        The program that asks the parser.

    .. code-block:: yaml

        caddy-local-valid:
          goldenpath.caddy_valid:
            - name: /etc/caddy/local
            - validate: /opt/goldenpath/caddy-validate
    """
    if not (os.path.isdir(name) and os.listdir(name)):
        return _ret(name, comment=f"{name} has no files of your own")
    done = __salt__["cmd.run_all"]([validate, "/etc/caddy/Caddyfile"], python_shell=False)
    if not done["retcode"]:
        return _ret(name, comment=f"Caddy takes its files with those in {name}")
    why = ([line for line in done["stdout"].splitlines() if line.strip()] or ["it said nothing"])[-1]
    return _ret(
        name,
        False,
        f"Caddy on {__grains__['id']} does not take its files, and would not start again: "
        f"{why.removeprefix('Error: ').rstrip('.')[:300]}. Try: mend what stands in {name}",
    )


def served(name):
    """
    Visitors of a site get through the front door what its live release answers, where it has one. Nothing is changed.
    A front door that nobody answers at, as before DNS points here, is told and fails nothing.

    name (str)
        The site's name on this host.

    .. code-block:: yaml

        caddy-served-acme-kitchens:
          goldenpath.served:
            - name: acme-kitchens
            - onchanges:
                - module: caddy-reload
    """
    try:
        if not __salt__["release.live"](name):
            return _ret(name, comment=f"{name} has no release yet")
        inside, front = (
            __salt__["engine.call"]("call", "health", name, request={"front": way}) for way in (False, True)
        )
    except CommandExecutionError as exc:
        return _ret(name, False, str(exc))
    told = f"{name} on {__grains__['id']} is {front['status']} at the front door: {front['message']}."
    wrong = inside["status"] in ("ok", "degraded") and front["status"] in ("broken", "unhealthy")
    return _ret(name, not wrong, f"{told} Try: {front['hint']}" if wrong else told)
