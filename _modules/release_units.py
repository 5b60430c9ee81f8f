"""
The systemd units that run a site's releases: one gunicorn instance per release, one Celery worker per site.
"""

import contextlib
import glob
import os
import re
import time

from salt.exceptions import CommandExecutionError

CGROUPS = "/sys/fs/cgroup"
UNITS = "/etc/systemd/system"
SITES = "/etc/goldenpath/sites"


def _systemctl(*argv, timeout=700):
    return __salt__["cmd.run_all"](["systemctl", *argv], python_shell=False, ignore_retcode=True, timeout=timeout)


def names(slug, release):
    """
    The socket and the service of one release.

    slug (str)
        The site.
    release (str)
        The release's id.

    Returns two unit names.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 release_units.names acme-kitchens 20261123T221500-1a2b3c4d
    """
    unit = f"sum-{slug}-gunicorn@{release}"
    return f"{unit}.socket", f"{unit}.service"


def journal(unit, since, lines=20):
    """
    The last lines that a unit wrote.

    unit (str)
        The unit.
    since (float)
        Seconds since the epoch; older lines are left out.
    lines (int)
        How many at the most.

    Returns the text.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 release_units.journal sum-acme-kitchens-celery.service 0
    """
    return __salt__["cmd.run_stdout"](
        ["journalctl", "--unit", unit, "--since", f"@{int(since)}", "--lines", str(lines), "--output", "cat",
         "--no-pager", "--quiet"],
        python_shell=False,
        ignore_retcode=True,
    )  # fmt: skip


def start(slug, release):
    """
    Start the gunicorn instance of a release, and wait until it says that it is ready.

    slug (str)
        The site.
    release (str)
        The release's id.

    Returns ``True``. Raises ``CommandExecutionError`` with one sentence and the unit's last lines.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 release_units.start acme-kitchens 20261123T221500-1a2b3c4d
    """
    since = time.time()
    socket, service = names(slug, release)
    if _systemctl("start", socket, service)["retcode"]:
        raise CommandExecutionError(
            f"gunicorn does not start on the new release. Try: journalctl -u {service}\n{journal(service, since)}"
        )
    return True


def running(slug):
    """
    The releases whose gunicorn socket or service is up or coming up.

    slug (str)
        The site.

    Returns a sorted list of release ids.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 release_units.running acme-kitchens
    """
    prefix = f"sum-{slug}-gunicorn@"
    listing = _systemctl(
        "list-units", "--plain", "--no-legend", "--full", "--all",
        "--state=active,activating,reloading,deactivating,failed", prefix + "*",
    )["stdout"]  # fmt: skip
    units = [line.split()[0] for line in listing.splitlines() if line.startswith(prefix)]
    return sorted({unit[len(prefix) :].rpartition(".")[0] for unit in units})


def enable(units):
    """
    Let units start at boot.

    units (list)
        Unit names.

    Returns ``True``. Raises ``CommandExecutionError`` when systemd refuses.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 release_units.enable '["sum-acme-kitchens-celery.service"]'
    """
    # Asking is cheap; enabling makes systemd read every unit again. The exit status tells of one of them only.
    told = _systemctl("is-enabled", *units)["stdout"].split()
    if told != ["enabled"] * len(units):
        done = _systemctl("enable", "--quiet", *units)
        if done["retcode"]:
            raise CommandExecutionError(f"{' '.join(units)} cannot be enabled: {done['stderr'].strip()}")
    return True


def disable(units):
    """
    Stop units and let them start at boot no more.

    units (list)
        Unit names.

    Returns ``True``.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 release_units.disable '["sum-acme-kitchens-celery.service"]'
    """
    if units:
        _systemctl("disable", "--now", "--quiet", *units)
    return True


def stop(slug, releases):
    """
    Stop the gunicorn instances of releases; each finishes the requests that it has begun.

    slug (str)
        The site.
    releases (list)
        Release ids.

    Returns ``True``.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 release_units.stop acme-kitchens '["20261123T221500-1a2b3c4d"]'
    """
    units = [unit for release in releases for unit in names(slug, release)]
    if units:
        # In one transaction: a socket that stayed would start its service again for the next connection.
        _systemctl("stop", *units)
        _systemctl("reset-failed", *units)
    return True


def background(slug, celery):
    """
    The units that run beside gunicorn, in the order in which they are started.

    slug (str)
        The site.
    celery (dict)
        The pillar's ``celery``.

    Returns a list of unit names.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 release_units.background acme-kitchens '{"worker": true, "beat": false}'
    """
    return [f"sum-{slug}-{unit}.service" for unit, key in (("celery", "worker"), ("celerybeat", "beat")) if celery[key]]


def restart_background(slug, celery):
    """
    Begin to stop Celery's worker and beat warmly and to start them on the live release.

    slug (str)
        The site.
    celery (dict)
        The pillar's ``celery``.

    Returns when it began, in seconds since the epoch, for ``await_background``.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 release_units.restart_background acme-kitchens '{"worker": true, "beat": false}'
    """
    since = time.time()
    units = background(slug, celery)
    if units:
        enable(units)
        _systemctl("reset-failed", *units)
        _systemctl("restart", "--no-block", *units)
    return since


def await_background(slug, celery, since):
    """
    Wait until Celery's worker and beat are up; the old ones may take until their stop timeout.

    slug (str)
        The site.
    celery (dict)
        The pillar's ``celery``.
    since (float)
        What ``restart_background`` returned.

    Returns ``True``. Raises ``CommandExecutionError`` with one sentence and the unit's last lines.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 release_units.await_background acme-kitchens '{"worker": true, "beat": false}' 0
    """
    for unit in background(slug, celery):
        # Joins the job that restart_background queued, and waits for it.
        if _systemctl("start", unit)["retcode"] or main_pid(unit) == 0:
            raise CommandExecutionError(
                f"{unit} does not start on the new release. Try: journalctl -u {unit}\n{journal(unit, since)}"
            )
    return True


def steady_background(slug, celery, since):
    """
    Celery's worker and beat are still up: a beat that cannot read its schedule ends a moment after its start.

    slug (str)
        The site.
    celery (dict)
        The pillar's ``celery``.
    since (float)
        What ``restart_background`` returned.

    Returns ``True``. Raises ``CommandExecutionError`` with one sentence and the unit's last lines.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 release_units.steady_background acme-kitchens '{"worker": true, "beat": true}' 0
    """
    for unit in background(slug, celery):
        shown = _systemctl("show", "--property=ActiveState,NRestarts", unit)["stdout"]
        facts = dict(line.split("=", 1) for line in shown.splitlines() if "=" in line)
        if facts.get("ActiveState") != "active" or facts.get("NRestarts", "0") != "0":
            raise CommandExecutionError(
                f"{unit} does not stay up on the new release. Try: journalctl -u {unit}\n{journal(unit, since)}"
            )
    return True


def main_pid(unit):
    """
    The main process of a unit.

    unit (str)
        The unit.

    Returns its process id, 0 where it does not run.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 release_units.main_pid sum-acme-kitchens-celery.service
    """
    return int(_systemctl("show", "--property=MainPID", "--value", unit)["stdout"].strip() or 0)


def restarts(slug, release):
    """
    How often systemd had to start the gunicorn instance of a release again: one that cannot import its
    project ends at once, each time.

    slug (str)
        The site.
    release (str)
        The release's id.

    Returns a number.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 release_units.restarts acme-kitchens 20261123T221500-1a2b3c4d
    """
    shown = _systemctl("show", "--property=NRestarts", "--value", names(slug, release)[1])["stdout"].strip()
    return int(shown) if shown.isdigit() else 0


def memory(slug, release):
    """
    What the gunicorn instance of a release needs: its processes' own memory, without the files that the kernel
    caches for them and gives back.

    slug (str)
        The site.
    release (str)
        The release's id.

    Returns bytes, 0 where the kernel does not account for memory.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 release_units.memory acme-kitchens 20261123T221500-1a2b3c4d
    """
    group = _systemctl("show", "--property=ControlGroup", "--value", names(slug, release)[1])["stdout"].strip()
    # cgroup v2, and v1 beside it; docs.kernel.org/admin-guide/cgroup-v2.html: anon.
    for path, key in ((f"{CGROUPS}{group}/memory.stat", "anon"), (f"{CGROUPS}/memory{group}/memory.stat", "rss")):
        with contextlib.suppress(OSError, ValueError), open(path, encoding="ascii") as stream:
            return int(dict(line.split() for line in stream)[key]) if group else 0
    return 0


def strangers(slugs):
    """
    Sites that this host still runs and nobody asks for any more.

    slugs (list)
        The pillar's sites.

    Returns a sorted list of slugs.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 release_units.strangers '["acme-kitchens"]'
    """
    known = {os.path.basename(path)[: -len(".json")] for path in glob.glob(f"{SITES}/*.json")}
    return sorted(known - set(slugs))


def retire(slug):
    """
    Stop a site for good: its units go, also at boot. Its folder, database and backups stay.

    slug (str)
        The site.

    Returns the units that were removed.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 release_units.retire old-site
    """
    stop(slug, running(slug))
    # Not those of a longer slug that begins with this one.
    own = re.compile(rf"sum-{re.escape(slug)}-(gunicorn|celery|celerybeat)@?\.(service|socket)")
    names = sorted(name for name in os.listdir(UNITS) if own.fullmatch(name))
    disable([name for name in names if "@" not in name])
    for name in names:
        os.unlink(f"{UNITS}/{name}")
    _systemctl("daemon-reload")
    os.unlink(f"{SITES}/{slug}.json")
    return names


def live(slug):
    """
    The release that ``current`` names.

    slug (str)
        The site.

    Returns its id, or ``None`` before the first release.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 release_units.live acme-kitchens
    """
    try:
        return os.path.basename(os.readlink(f"/srv/sum/{slug}/current"))
    except FileNotFoundError:
        return None
