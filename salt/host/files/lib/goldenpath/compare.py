"""What a deploy would bring, before it is one: commits, migrations, requirements; and which way it leads."""

import re

from . import history, source, text
from .errors import Refused

MOST = 20
_MIGRATION = re.compile(r"(^|/)migrations/\d\w*\.py$")
_REQUIREMENTS = re.compile(
    r"(^|/)(requirements[^/]*\.(txt|in)|requirements/[^/]+|(uv|poetry|Pipfile)\.lock|pylock\.toml|pyproject\.toml"
    r"|Pipfile|\.python-version)$"
)


def difference(site, ref=None):
    """
    Compare a ref with the live release. ref: tag, branch or commit; the pillar's where it is left out.

    Returns a dictionary: ``live`` and ``new`` (commit and ref), ``way`` (``same``, ``forward``, ``back``, ``aside``),
    ``commits`` (of what comes), ``leaves`` (of what goes), ``migrations``, ``requirements``. Raises Refused where
    nothing is live.
    """
    ref = ref or site.facts["ref"]
    built = history.built(site, site.current) if site.current else None
    if not (built and built.get("sha")):
        raise Refused(f"{site.slug} has no release yet, so there is nothing to compare with. Try: deploy it first")
    old, new = built["sha"], source.fetch(site, ref)
    found = source.between(site, old, new) if old != new else {"ahead": [], "behind": [], "files": []}
    way = "same" if old == new else "back" if not found["ahead"] else "aside" if found["behind"] else "forward"
    return {
        "site": site.slug,
        "live": {"ref": built["ref"], "sha": old},
        "new": {"ref": ref, "sha": new},
        "way": way,
        "commits": found["ahead"],
        "leaves": found["behind"],
        "migrations": _paths(found["files"], _MIGRATION),
        "requirements": _paths(found["files"], _REQUIREMENTS),
    }


def _paths(changed, pattern):
    words = {"A": "new", "D": "gone"}
    return [f"{path} ({words.get(status[:1], 'changed')})" for status, path in changed if pattern.search(path)]


def table(found):
    """The same as lines for a person."""
    live, new = found["live"], found["new"]
    head = f"{found['site']}: live is {live['ref']} ({live['sha'][:8]}), {new['ref']} is {new['sha'][:8]}"
    told = {
        "same": f"{head}: the same commit, a deploy would change no code",
        "forward": f"{head}: {_number(found['commits'])} ahead",
        "back": f"{head}: BACK by {_number(found['leaves'])}; a deploy takes them out of production",
        "aside": f"{head}: ASIDE, with {_number(found['commits'])} more and {_number(found['leaves'])} less",
    }
    lines = [told[found["way"]]]
    for title, key in (("Comes", "commits"), ("Goes", "leaves"), ("Migrations", "migrations"),
                       ("Requirements", "requirements")):  # fmt: skip
        if found[key]:
            more = len(found[key]) - MOST
            lines += [f"{title}:", *(f"  {each}" for each in found[key][:MOST])]
            lines += [f"  and {more} more"] if more > 0 else []
    return "\n".join(map(text.printable, lines))


def _number(commits):
    return f"{len(commits)} commit{'' if len(commits) == 1 else 's'}"
