"""A site goes with everything of it, after a last backup. What was backed up stays in the repository."""

import contextlib
import glob
import os
import re
import time

from . import files, host, jobs, journal, lock, maintenance, postgres, process, redis_gate, signs, text, units
from . import site as sites
from .errors import Failed, Refused

USERDEL = "/usr/sbin/userdel"
CADDY = "/etc/caddy/sites"
CERTIFICATES = "/var/lib/caddy/.local/share/caddy/certificates"
STATE, RUN = "/var/lib", "/run"
WAIT = 900
# Databases that drills and restores made.
_ENDS = (postgres.DRILL, postgres.NEW, postgres.OLD)


def found(slug):
    """
    What there is of a site, whether it is still provisioned or not.

    Returns a dictionary: ``live`` (release or None), ``databases``, ``roles``, ``users``, ``paths``, ``redis`` (numbers
    of the shared Redis, or ``own``). Raises Refused for a name that nothing here is called by.
    """
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", slug):
        raise Refused(f"{slug!r:.60} is no site's name. Known: {', '.join(host.slugs()) or 'none'}. Try: one of them")
    facts = files.read_json(f"{host.SITES}/{slug}.json")
    site = sites.Site(slug, facts)
    names = (site.name, f"dmp-{slug}")
    own = bool((facts.get("redis") or {}).get("own"))
    answer = {
        "live": site.current,
        "databases": [name for name in (site.name, *(site.name + end for end in _ENDS)) if postgres.exists(name)],
        "roles": [name for name in names if postgres.sql(f"SELECT 1 FROM pg_roles WHERE rolname = '{name}';") == "1"],  # noqa: S608  checked above
        "users": [name for name in names if process.known(name)],
        "paths": _places(site),
        "redis": "own" if own else [(facts.get("redis") or {}).get(kind) for kind in ("cache", "broker")],
    }
    if not any(answer[key] for key in ("databases", "roles", "users", "paths")):
        raise Refused(
            f"{host.name()} has nothing of a site {slug}. Known: {', '.join(host.slugs()) or 'none'}. Try: one of them"
        )
    return answer


def _places(site):
    """What of a site lies on the disk, but for its backups."""
    slug = site.slug
    places = [
        site.root, f"{STATE}/{site.name}", f"{host.REPOSITORIES}/{slug}", f"{CADDY}/{slug}.caddy",
        f"/etc/redis/goldenpath-{slug}.conf", f"{redis_gate.PASSWORD}-{slug}", f"{STATE}/redis/{slug}",
        *journal.files_of(site), f"{host.RUN}/{slug}.progress", f"{RUN}/{site.name}",
        f"{RUN}/goldenpath-buffer/{slug}.sock", *glob.glob(f"/var/log/redis/redis-server-{slug}.log*"),
        # Last: whoever goes on after a kill finds its names and numbers there.
        *_certificates(site), f"{host.SITES}/{slug}.json",
    ]  # fmt: skip
    return [place for place in places if os.path.lexists(place)]


def _certificates(site):
    """Caddy's, with their keys, for names that no other site has."""
    others = {name for each in sites.every() if each.slug != site.slug for name in each.facts.get("domains", ())}
    names = set(site.facts.get("domains", ())) - others
    return [path for path in glob.glob(f"{CERTIFICATES}/*/*") if os.path.basename(path) in names]


def told(slug, what):
    """The same in words: what would go."""
    site = sites.Site(slug, {})
    size = sum(postgres.size_of(name) for name in what["databases"])
    disk = sum(signs.counted([site.root] if os.path.isdir(site.root) else [], 60).values())
    last = (journal.recorded(slug).get("good") or {}).get("at")
    kept = f"a backup of {text.duration(text.age(last))} ago" if last else "no backup"
    return (
        f"{slug} on {host.name()} would go for good: {text.size(size)} of database, {text.size(disk)} of files and "
        f"media, its units, user, role and queue. There is {kept}, which stays; what is live is backed up once more"
    )


def remove(slug, backed_up=True):
    """
    Remove a site. backed_up: not without a last backup, where the site is live.

    Returns what went. Raises Failed, and removes nothing, where that backup does not succeed.
    """
    what = found(slug)
    site = sites.Site(slug, files.read_json(f"{host.SITES}/{slug}.json"))
    if _numbers(what):
        # What stays in a Redis that does not answer would be the next owner's of its number.
        answer = redis_gate.answer(host.name(), again=host.apply_again)
        if answer != "PONG":
            raise Failed(f"Nothing was removed: {answer}")
    snapshot = None
    if what["live"] and backed_up:
        try:
            snapshot = jobs.each("backup", slug, {"accept_smaller": False, "wait": jobs.BUSY})[slug].get("snapshot")
        except Failed as exc:
            raise Failed(f"Nothing was removed: {exc}") from None
    with contextlib.ExitStack() as stack:
        if os.path.isdir(site.root):
            stack.enter_context(lock.of_site(site, "its removal", WAIT))
        _visitors_first(site)
        maintenance.forget(site)
        gone = units.retire(site, forget=False)
        _empty(slug, _numbers(what))
        for name in what["databases"]:
            postgres.drop(name, live=True)
        for name in what["roles"]:
            # What a role was granted elsewhere, as a dump's keeper is.
            postgres.sql(f"DROP OWNED BY {postgres.quoted(name)}; DROP ROLE {postgres.quoted(name)};")
        for name in what["users"]:
            _userdel(name)
        # With what its last backup has written.
        for place in dict.fromkeys([*what["paths"], *_places(site)]):
            files.remove_tree(place) if os.path.isdir(place) and not os.path.islink(place) else files.remove(place)
        for place in glob.glob(f"{host.STATE}/alerts/{site.name}-*"):
            files.remove(place)
    units.systemctl("daemon-reload")
    units.systemctl("stop", site.slice)
    return {"removed": slug, "snapshot": snapshot, "units": gone, **what}


def _visitors_first(site):
    """Caddy serves it no more, before anything of it stops."""
    path = f"{CADDY}/{site.slug}.caddy"
    if os.path.exists(path):
        files.remove(path)
        units.systemctl("reload", "caddy")


def _numbers(what):
    return [number for number in what["redis"] if isinstance(number, int)] if what["redis"] != "own" else []


def _empty(slug, numbers):
    """The site's databases in the shared Redis: nobody else has these numbers (the pillar's judge)."""
    try:
        for number in numbers:
            redis_gate.ask(["SELECT", str(number)], ["FLUSHDB"])
    except ConnectionError as exc:
        raise Failed(
            f"{slug} is half removed: Redis on {host.name()} does not answer any more ({exc}), and keeps its queue. "
            f"Try: goldenpath redis, then goldenpath remove {slug} --confirm {slug}"
        ) from None


def _userdel(name):
    # What runs of it was stopped; a moment later the kernel knows.
    for _ in range(20):
        done = process.run([USERDEL, name])
        if not done.code or "does not exist" in done.output:
            return
        time.sleep(0.5)
    raise Failed(f"the user {name} cannot be removed: {text.reason(done.output)}. Try: ps -u {name}")
