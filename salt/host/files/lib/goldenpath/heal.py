"""
What a restore left when it ended: everything is put back where the restored site was not proven, the rest is tidied up
where it was. Whoever finds a journal without its writer heals, with the site's lock.
"""

import contextlib
import glob
import os
import time

from . import files, health, journal, postgres, text, units
from . import site as sites
from .errors import Failed

_BACK = "Database and media are back as they were before"


def heal(site):
    """Finish what a restore left. Returns what was found, as part of a sentence. Raises Failed."""
    found = journal.noted(site)
    if not found:
        return "There was nothing to heal"
    aside = site.path("backups")
    if found["phase"] == "proven":
        state = _finished(site, found, aside)
    elif found["phase"] == "stopped":
        state = _put_back(site, found, aside)
    else:
        state = "The site was not touched and goes on serving"
    postgres.drop(site.name + postgres.NEW)
    files.remove_tree(f"{aside}/restore")
    half = [f"{aside}/before-restore-*.partial", *(f"{kept(site, path)}.new" for path in site.every_variables())]
    for path in (path for pattern in half for path in glob.glob(pattern)):
        os.unlink(path)
    journal.forget(site)
    return state


def kept(site, path):
    """Where a file of variables of before lies until the restored site is proven."""
    return site.path("backups/env.old") if path == site.path(".env") else f"{path}.old"


def state_after(site):
    """How it stands after a failure, in words; what cannot be healed now is by the unit that goes on trying."""
    try:
        return heal(site)
    except (Failed, OSError) as exc:
        return f"It is not put back yet ({str(exc).rstrip('.')}), goldenpath-heal.service goes on trying"


def stop(site):
    """The maintenance page, and nothing of the site that could write."""
    site.maintenance_on(sites.OURS)
    units.halt(site)


def _finished(site, found, aside):
    site.maintenance_off(sites.OURS)
    if not found.get("keep"):
        postgres.drop(site.name + postgres.OLD)
    with contextlib.suppress(FileNotFoundError):
        os.rename(f"{aside}/media.old", f"{aside}/media-{text.stamp()}")
    # The last two of each stay.
    for path in sorted(glob.glob(f"{aside}/media-2*"))[:-2]:
        files.remove_tree(path)
    for path in sorted(glob.glob(f"{aside}/before-restore-*.dump"))[:-2]:
        os.unlink(path)
    for path in site.every_variables():
        files.remove(kept(site, path))
    return "The restored site serves"


def _put_back(site, found, aside):
    stop(site)
    if postgres.exists(site.name + postgres.OLD):
        postgres.drop(site.name + postgres.NEW)
        postgres.swap(site, back=True)
    if os.path.isdir(f"{aside}/media.old"):
        files.remove_tree(f"{aside}/restore/media.undone")
        if os.path.isdir(site.path("media")):
            os.makedirs(f"{aside}/restore", exist_ok=True)
            os.rename(site.path("media"), f"{aside}/restore/media.undone")
        os.rename(f"{aside}/media.old", site.path("media"))
    for path in site.every_variables():
        with contextlib.suppress(FileNotFoundError):
            os.rename(kept(site, path), path)
    if not found["release"]:
        site.maintenance_off(sites.OURS)
        return f"{_BACK}, and there is no live release"
    # A rollback may have switched to the release that it wanted.
    site.point(found["release"])
    began = time.time()
    units.resume(site, found["release"])
    with contextlib.suppress(Failed):
        health.prove(site, found["release"], "The site of before", began)
    site.maintenance_off(sites.OURS)
    try:
        health.front(site, verify=False)
    except Failed as exc:
        return f"{_BACK}, but {exc}"
    return f"{_BACK}, and the site serves"
