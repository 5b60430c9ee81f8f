"""
Releases of a site: deploy, rollback, history. A façade of the host's engine, which does the work
(``salt/host/files/lib/goldenpath/release.py`` and its like): what it knew of a site would be written twice.
"""

import os

from salt.exceptions import CommandExecutionError

SITES = "/etc/goldenpath/sites"
ROOT = "/srv/sum"


def _ask(verb, slug, site=None, **request):
    asked = {"pillar": site, **{key: value for key, value in request.items() if value is not None}}
    follow = slug if verb in ("deploy", "rollback") else None
    return __salt__["engine.call"]("call", verb, slug, request=asked, follow=follow)


def live(slug):
    """
    The release that ``current`` names; asks no engine, so that a host without one has an answer.

    slug (str)
        The site.

    Returns its id, or ``None`` before the first release.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 release.live acme-kitchens
    """
    try:
        return os.path.basename(os.readlink(f"{ROOT}/{slug}/current"))
    except OSError:
        return None


def _began(slug):
    return live(slug) is not None or os.path.exists(f"{ROOT}/{slug}/releases.jsonl")


def report(limit=10):
    """
    What is live on this host, and how it came to be.

    limit (int)
        The last so many records of each site.

    Returns a dictionary of sites, each with ``live`` (release id or ``None``), ``good`` (release ids) and
    ``history``. Raises ``CommandExecutionError`` where the host has no engine.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 release.report
    """
    return __salt__["engine.call"]("releases", f"--limit={int(limit)}")


def deploy(slug, site, ref=None, who="unknown", wait=0, migrations=None):
    """
    Release one ref of a site: fetch, build, prove beside the old release, switch, prove again, drain. It is a unit of
    its own on the host, which outlives this connection.

    slug (str)
        The site.
    site (dict)
        Its pillar, with the defaults filled in.
    ref (str)
        Tag, branch or commit; the pillar's ``ref`` where it is left out.
    who (str)
        Who asked for it, for the history.
    wait (int)
        Seconds to wait for another deploy of this site.
    migrations (str)
        ``refuse``, ``maintenance`` or ``accept``, for this deploy alone; the pillar's where it is left out.

    Returns the record that went into the history. Raises ``CommandExecutionError`` with one sentence (and the
    last lines of the log) when it failed; the old release is serving then.

    CLI Example:

    .. code-block:: bash

        salt-run state.orchestrate deploy pillar='{"site": "acme-kitchens", "ref": "v1.5.0"}'
    """
    site = {**site, "migrations": migrations} if migrations else site
    return _ask("deploy", slug, site, ref=ref, who=who, wait=int(wait))


def rollback(slug, site, release=None, who="unknown", wait=0, restore_database=False):
    """
    Go back to a release that was good: no rebuild, proven before visitors reach it, as in a deploy.

    slug (str)
        The site.
    site (dict)
        Its pillar, with the defaults filled in.
    release (str)
        The id of the release; the last good one before the live one where it is left out.
    who (str)
        Who asked for it, for the history.
    wait (int)
        Seconds to wait for a deploy of this site.
    restore_database (bool)
        Go back to the dump that was made before the first migration since that release, too: what visitors
        wrote since is lost, the database of now is kept as a dump.

    Returns the record that went into the history; ``moved`` lists the migrations that the database has had
    since that release. The release that was left is marked bad and never chosen again. Raises
    ``CommandExecutionError`` with one sentence.

    CLI Example:

    .. code-block:: bash

        salt-run state.orchestrate rollback pillar='{"target": "web1", "site": "acme-kitchens"}'
    """
    return _ask(
        "rollback", slug, site, release=release, who=who, wait=int(wait), restore_database=bool(restore_database)
    )


def settle(slug, site, restart=False):
    """
    The live release, and what belongs to it, is up; what is not live is left alone.

    slug (str)
        The site.
    site (dict)
        Its pillar, with the defaults filled in.
    restart (bool)
        Restart it too, because its environment or its units changed.

    Returns a list of what had to be done, empty where nothing had. Nothing is done before the first release. Raises
    ``CommandExecutionError`` with one sentence.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 state.apply site
    """
    return _ask("settle", slug, site, restart=restart) if _began(slug) else []


def unsettled(slug, site):
    """
    What ``settle`` would do.

    slug (str)
        The site.
    site (dict)
        Its pillar, with the defaults filled in.

    Returns a list such as ``["start sum-acme-celery.service"]``. Raises ``CommandExecutionError`` with one sentence.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 state.apply site test=True
    """
    return _ask("unsettled", slug, site) if _began(slug) else []


def maintenance(slug, on=None):
    """
    The maintenance page: visitors read it with status 503 and ``Retry-After``, the health path is still the
    site's own.

    slug (str)
        The site.
    on (bool)
        Switch it on or off; only ask where it is left out.

    Returns who switched it on, or an empty string where it is off. Raises ``CommandExecutionError`` for a site that
    the host does not know.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 release.maintenance acme-kitchens True
    """
    return _ask("maintenance", slug, on=on)


def strangers(slugs):
    """
    Sites that this host still runs and nobody asks for any more.

    slugs (list)
        The pillar's sites.

    Returns a sorted list of slugs.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 release.strangers '["acme-kitchens"]'
    """
    known = os.listdir(SITES) if os.path.isdir(SITES) else []
    return sorted({name[: -len(".json")] for name in known if name.endswith(".json")} - set(slugs))


def retire(slug):
    """
    Stop a site for good: its units go, also at boot. Its folder, database and backups stay.

    slug (str)
        The site.

    Returns the units that were removed. Raises ``CommandExecutionError`` with one sentence.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 release.retire old-site
    """
    return _ask("retire", slug)


def restart_postgres(unit):
    """
    Restart Postgres, under the maintenance pages of the sites that are live on this host.

    unit (str)
        Its unit, such as ``postgresql@17-main``.

    Returns a sentence. Raises ``CommandExecutionError`` with one where it does not come back.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 release.restart_postgres postgresql@17-main
    """
    known = os.listdir(SITES) if os.path.isdir(SITES) else []
    if any(live(name.removesuffix(".json")) for name in known):
        return __salt__["engine.call"]("restart-postgres", unit)["told"]
    # A bare host has no engine yet, and nobody to show a page to.
    if not __salt__["service.restart"](unit):
        raise CommandExecutionError(
            f"{unit} does not start on {__grains__['id']}. Try: journalctl -u {unit} -n 50 on the host"
        )
    return f"{unit} was restarted"
