"""
Checks that a host passes before anything relies on it, and what keeps its Redis as the tree wrote it: a thin
layer over ``goldenpath`` the execution module.

The checks ask for real under ``test=True`` as well; only where Redis is not installed yet do they say what
would be asked.
"""

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


def redis_ping(name="127.0.0.1", host=None, port=6379, timeout=2):
    """
    Redis answers PONG. Nothing is changed.

    name (str)
        Name or address of Redis.
    host (str)
        The same, for an id that names something else.
    port (int)
        TCP port, 1 to 65535.
    timeout (float)
        Seconds for the whole exchange, up to 60.

    .. code-block:: yaml

        redis-pong:
          goldenpath.redis_ping:
            - name: 127.0.0.1
    """
    if answer := _not_yet(name, "it would be asked for PONG"):
        return answer
    answer = __salt__["goldenpath.redis_answer"](host or name, port, timeout)
    return _ret(name, answer == "PONG", answer)


def redis_ready(name, host="127.0.0.1", port=6379, timeout=2, databases=None, threshold=90):
    """
    Redis can carry the sites of this host: every check of ``goldenpath.redis_checks`` passes. The comment has
    one line for each that does not. Nothing is changed.

    name (str)
        Only names the state.
    host (str)
        Name or address of Redis.
    port (int)
        TCP port, 1 to 65535.
    timeout (float)
        Seconds for the whole conversation with Redis, up to 60.
    databases (int)
        How many databases the sites need; left out, as many as the sites of this host use.
    threshold (float)
        Per cent of ``maxmemory``, taken by what cannot be evicted, from which on the check fails.

    .. code-block:: yaml

        redis-ready:
          goldenpath.redis_ready:
            - name: redis
    """
    if answer := _not_yet(name, "it would be asked whether it can carry the sites"):
        return answer
    checks = __salt__["goldenpath.redis_checks"](host, port, timeout, databases, threshold)
    failed = [check["message"] for check in checks if check["ok"] is False]
    return _ret(name, not failed, "\n".join(failed) or "Redis is ready")


def redis_settings(name, host="127.0.0.1", port=6379, timeout=5):
    """
    The running Redis is set as its file says. What can be set while it runs is; it is restarted only for what
    cannot.

    name (str)
        Only names the state.
    host (str)
        Name or address of Redis.
    port (int)
        TCP port, 1 to 65535.
    timeout (float)
        Seconds for each exchange, up to 60.

    .. code-block:: yaml

        redis-settings:
          goldenpath.redis_settings:
            - name: redis
    """
    if answer := _not_yet(name, "its settings would be compared with the file"):
        return answer
    try:
        if __opts__["test"]:
            changes = __salt__["goldenpath.redis_drift"](host, port, timeout)
        else:
            changes = __salt__["goldenpath.redis_mend"](host, port, timeout)
    except CommandExecutionError as exc:
        return _ret(name, False, str(exc))
    if not changes:
        return _ret(name, comment="Redis runs as its file says")
    told = ", ".join(changes)
    if __opts__["test"]:
        return _ret(name, None, f"Redis would be set back: {told}", changes)
    return _ret(name, True, f"Redis was set back: {told}", changes)


def redis_append_only(name, host="127.0.0.1", port=6379, timeout=5):
    """
    A Redis that runs writes an append-only file, so that a restart with our configuration, which reads that
    file alone, finds everything in it. Must come before anything that restarts Redis.

    name (str)
        Only names the state.
    host (str)
        Name or address of Redis.
    port (int)
        TCP port, 1 to 65535.
    timeout (float)
        Seconds for each exchange, up to 60.

    .. code-block:: yaml

        redis-append-only:
          goldenpath.redis_append_only:
            - name: redis
    """
    try:
        changes = __salt__["goldenpath.redis_append_only"](host, port, timeout, test=__opts__["test"])
    except CommandExecutionError as exc:
        return _ret(name, False, str(exc))
    if not changes:
        return _ret(name, comment="No running Redis is without its append-only file")
    if __opts__["test"]:
        return _ret(name, None, "The append-only file would be written", changes)
    return _ret(name, True, "The append-only file was written", changes)


def redis_conffile(name):
    """
    The distribution's redis.conf, which our file includes, is as its package brought it; edits are undone.
    Redis is not restarted for it: what an edit may have changed in the running server is
    ``redis_settings``' concern.

    name (str)
        Only names the state.

    .. code-block:: yaml

        redis-conffile:
          goldenpath.redis_conffile:
            - name: /etc/redis/redis.conf
    """
    if answer := _not_yet(name, "redis.conf would come with it"):
        return answer
    try:
        if __opts__["test"]:
            found = __salt__["goldenpath.redis_conffile"]()
        else:
            found = __salt__["goldenpath.redis_conffile_restore"]()
    except CommandExecutionError as exc:
        return _ret(name, False, str(exc))
    if found["state"] == "pristine":
        return _ret(name, comment="redis.conf is as its package brought it")
    if found["state"] == "not installed":
        return _ret(name, False, "the redis-server package is not installed. Try: apt-get install redis-server")
    changes = {"redis.conf": {"old": ", ".join([found["state"], *found["edits"]]), "new": "as its package brought it"}}
    if __opts__["test"]:
        return _ret(name, None, f"redis.conf is {changes['redis.conf']['old']}, and would be restored", changes)
    return _ret(name, True, f"redis.conf was {changes['redis.conf']['old']}, and is restored", changes)


def healthy(name, site=None, path=None, via="socket", socket=None, timeout=5):
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
    socket (str)
        Another Unix socket, such as that of a release which is not live yet.
    timeout (float)
        Seconds for the whole exchange, up to 60.

    .. code-block:: yaml

        site-healthy-acme-kitchens:
          goldenpath.healthy:
            - name: acme-kitchens
    """
    slug = site or name
    answer = __salt__["goldenpath.site_health"](slug, path=path, via=via, socket=socket, timeout=timeout)
    good = answer["status"] in ("ok", "degraded")
    comment = f"{slug} on {__grains__['id']} is {answer['status']}: {answer['message']}."
    return _ret(name, good, comment if good else f"{comment} Try: {answer['hint']}")
