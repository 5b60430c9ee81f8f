"""
Backups of a host's sites: made, listed, drilled and restored by the host's engine, which its timers run too.
"""

import json
import os
import secrets
import subprocess
import time

from salt.exceptions import CommandExecutionError

FOLDER = "/etc/goldenpath"
CONFIG = "/etc/goldenpath/backup.json"
SINCE = "/var/lib/goldenpath/backup/since.state"
SENDMAIL = "/usr/sbin/sendmail"


def _bare(*argv):
    """
    For a person: a failure is its sentence, and the command's exit status tells it.
    """
    try:
        return __salt__["engine.call"](*argv)
    except CommandExecutionError as exc:
        __context__["retcode"] = 1
        return str(exc)


def _words(site, *more):
    # Whatever it is called, it is no option.
    return [*more, *(["--", str(site)] if site is not None else [])]


def run(site=None, accept_smaller=False):
    """
    Back up now: one site, or every site of the host.

    site (str)
        The site; all of them where it is left out.
    accept_smaller (bool)
        Take a backup that is less than half of the last one.

    Returns, for each site, the snapshot and what is in it; or one sentence, and the command exits non-zero.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 backup.run acme-kitchens
    """
    return _bare("backup", *_words(site, *(["--accept-smaller"] if accept_smaller else [])))


def drill(site=None, snapshot=None):
    """
    Prove that the newest snapshot can be restored: beside the live site, which is not touched.

    site (str)
        The site; all of them where it is left out.
    snapshot (str)
        Another snapshot than the newest.

    Returns, for each site, age, duration, counts and verdict; or one sentence, and the command exits non-zero.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 backup.drill acme-kitchens
    """
    return _bare("drill", *_words(site, *([f"--snapshot={snapshot}"] if snapshot is not None else [])))


def snapshots(site=None):
    """
    Snapshots with their sizes and ages, the last backup, the last drill.

    site (str)
        The site; all of them where it is left out.

    Returns a dictionary; or one sentence, and the command exits non-zero.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 backup.snapshots
    """
    return _bare("list", *_words(site))


def freshness(slug):
    """
    What a deploy should know about a site's backups before it begins. Asks no network.

    slug (str)
        The site.

    Returns ``{"warnings": [sentence, …], "refusals": [sentence, …]}``: what is older than the pillar's
    ``backup:warn_after``, and than its ``backup:refuse_after``. A host that makes no backups yet has neither.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 backup.freshness acme-kitchens
    """
    if not os.path.exists(CONFIG):
        return {"warnings": [], "refusals": []}
    try:
        return __salt__["engine.call"]("fresh", *_words(slug))
    except CommandExecutionError as exc:
        return {"warnings": [str(exc)], "refusals": []}


def plan(slug, snapshot=None, wait=0):
    """
    What a restore of a site would do.

    slug (str)
        The site.
    snapshot (str)
        The snapshot; the newest where it is left out.
    wait (int)
        Seconds to wait for a backup that is under way.

    Returns a dictionary of facts, ``told`` being their sentence. Raises ``CommandExecutionError``.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 backup.plan acme-kitchens
    """
    more = [f"--snapshot={snapshot}"] if snapshot is not None else []
    return __salt__["engine.call"]("plan", *_words(slug, *more, *([f"--wait={int(wait)}"] if wait else [])))


def restore(slug, snapshot=None, keep_secret_key=False, wait=0):
    """
    Restore a site's database and media, in a unit of its own that outlives this connection.

    slug (str)
        The site.
    snapshot (str)
        The snapshot; the newest where it is left out.
    keep_secret_key (bool)
        Leave ``DJANGO_SECRET_KEY`` as it is, because the pillar names it.
    wait (int)
        Seconds to wait for a backup or a deploy that is under way.

    Returns what was done. Raises ``CommandExecutionError`` with one sentence; the site is then as before.

    CLI Example:

    .. code-block:: bash

        salt-run state.orchestrate restore pillar='{"target": "web1", "site": "acme-kitchens"}'
    """
    return __salt__["engine.call"](
        "call", "restore", slug,
        request={"snapshot": snapshot, "keep_secret_key": bool(keep_secret_key), "wait": int(wait)},
    )  # fmt: skip


def wanted(part, pillar):
    """
    The files that tell the host where its backups go and who hears of failures. They hold secrets.

    part (str)
        ``backup`` or ``alert``.
    pillar (dict)
        The host's pillar, with the defaults filled in.

    Returns a dictionary of paths and texts; a text of ``None`` is made on the host when it is absent.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 state.apply backup
    """
    backup, alerts = pillar["backup"], pillar["alerts"]
    if part == "alert":
        # By the schema's word: a new secret is hidden without a list here.
        config = {"host": __grains__["id"], **alerts, "secrets": pillar["goldenpath_secrets"]}
        return {f"{FOLDER}/alert.json": json.dumps(config, indent=1) + "\n"}
    config = {
        "host": __grains__["id"],
        "sites": sorted(pillar["sites"]),
        **{key: backup[key] for key in ("repository", "env", "keep", "heartbeat", "warn_after", "refuse_after")},
        **{key: backup[key] for key in ("every",) if key in backup},
        "known_hosts": bool(backup.get("known_hosts")),
    }
    files = {
        f"{FOLDER}/backup.json": json.dumps(config, indent=1) + "\n",
        f"{FOLDER}/restic-password": backup["password"].strip() + "\n" if "password" in backup else None,
    }
    if backup["repository"].startswith("sftp:"):
        files[f"{FOLDER}/backup-ssh"] = backup["ssh_key"].strip() + "\n" if "ssh_key" in backup else None
        if backup.get("known_hosts"):
            files[f"{FOLDER}/backup-known-hosts"] = backup["known_hosts"].strip() + "\n"
    return files


def difference(part, pillar):
    """
    Which of those files are not as they should be.

    part (str)
        ``backup`` or ``alert``.
    pillar (dict)
        The host's pillar, with the defaults filled in.

    Returns a dictionary of paths, each with two or three words. Raises ``CommandExecutionError`` for alerts by
    mail on a host that cannot send any.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 state.apply backup test=True
    """
    alerts = pillar["alerts"]
    if part == "alert" and alerts.get("mail") and not alerts.get("smtp") and not os.path.exists(SENDMAIL):
        raise CommandExecutionError(
            f"`alerts:mail` cannot be told from {__grains__['id']}: there is no {SENDMAIL}. "
            "Try: alerts:smtp in the pillar, or alerts:webhook"
        )
    changes = {}
    for path, text in wanted(part, pillar).items():
        try:
            with open(path, encoding="utf-8") as stream:
                have = stream.read()
        except FileNotFoundError:
            changes[path] = "made on this host" if text is None else "written"
            continue
        if text is not None and have != text:
            changes[path] = "changed"
        elif os.stat(path).st_mode & 0o777 != 0o600:
            changes[path] = "mode 0600"
    if part == "backup" and not os.path.exists(SINCE):
        changes[SINCE] = "written"
    return changes


def configure(part, pillar):
    """
    Write those files, each in one step and of mode 0600.

    part (str)
        ``backup`` or ``alert``.
    pillar (dict)
        The host's pillar, with the defaults filled in.

    Returns what ``difference`` returned. Raises ``CommandExecutionError`` when a file cannot be written.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 state.apply backup
    """
    changes = difference(part, pillar)
    texts = wanted(part, pillar)
    try:
        for path, what in changes.items():
            if path == SINCE:
                _write(path, json.dumps({"at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}))
            elif what == "mode 0600":
                os.chmod(path, 0o600)
            elif texts[path] is not None:
                _write(path, texts[path])
            elif path.endswith("-ssh"):
                subprocess.run(
                    ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"goldenpath@{__grains__['id']}", "-f",
                     path],
                    check=True, capture_output=True,
                )  # fmt: skip
            else:
                _write(path, secrets.token_urlsafe(48) + "\n")
    except (OSError, subprocess.CalledProcessError) as exc:
        raise CommandExecutionError(f"{path} on {__grains__['id']} cannot be written: {exc}. Try: df -h /etc") from exc
    return changes


def _write(path, text):
    with open(os.open(path + ".new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as stream:
        os.fchmod(stream.fileno(), 0o600)
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    os.rename(path + ".new", path)
