"""
What backups, drills and restores write down on the host: a record and a list of media for each site, no secrets; and
the journal of a restore, which says how far it is.
"""

import glob
import os

from . import files, host, text
from .errors import Failed


def folder():
    """Where the records lie."""
    return f"{host.STATE}/backup"


def recorded(name):
    """A site's record: the last good backup, the last drill, the last failure."""
    return files.read_json(_record(name))


def _record(name):
    return f"{folder()}/{name}.json"


def record(name, **changes):
    """Change a site's record; all may read it."""
    files.write_json(_record(name), {**recorded(name), **changes}, mode=0o644)


def loss(name):
    """Minutes of a database's life that a loss of it now would cost; None where it was never backed up."""
    known = recorded(name)
    ages = [text.age(each["at"]) for each in (known.get("good"), known.get("dumped")) if each]
    return int(min(ages) // 60) if ages else None


def at_stake(name):
    """The same as the end of a sentence; empty where no backup was made yet."""
    minutes = loss(name)
    if minutes is None:
        return ""
    return f"a loss now would cost {f'{minutes} minutes' if minutes else 'less than a minute'}"


def since():
    """When this host began to make backups, or None."""
    return files.read_json(f"{folder()}/since.state").get("at")


def media(site):
    """Where the list of a site's media at its last backup lies."""
    return f"{folder()}/{site.slug}.media"


def files_of(site):
    """All that is written down of a site."""
    return [_record(site.slug), media(site), path(site)]


# A restore, or a rollback with its database, under way or interrupted.


def path(site):
    """Where a restore of a site writes down how far it is."""
    return f"{folder()}/{site.slug}.restore"


def note(site, **facts):
    """Write down how far a restore is."""
    files.write_json(path(site), {**files.read_json(path(site)), **facts})


def noted(site):
    """How far a restore is; empty where there is none. Raises Failed where nobody can tell."""
    found = files.read_json(path(site))
    if not found and os.path.exists(path(site)):
        raise Failed(
            f"{path(site)} cannot be read. Try: look at the databases and media of {site.slug}, then remove the file"
        )
    return found


def forget(site):
    """There is no restore any more."""
    os.unlink(path(site))
    files.settle(folder())


def interrupted():
    """The slugs of sites with a restore under way, or one that was interrupted."""
    return sorted(os.path.basename(each)[: -len(".restore")] for each in glob.glob(f"{folder()}/*.restore"))
