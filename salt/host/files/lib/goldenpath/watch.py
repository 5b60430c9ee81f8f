"""What fails by not happening: overdue backups and drills, services that start again and again, restores unhealed."""

import re
import time

from . import files, host, journal, text, units
from . import site as sites
from .errors import Failed

# An alert about the same thing that is overdue.
AGAIN = 6 * 3600
HEAL = "goldenpath-heal.service"
WATCHED = (
    "sum-*.service",
    "caddy.service",
    "goldenpath-buffer.service",
    "redis-server*.service",
    "postgresql@*.service",
    HEAL,
)


def freshness(found):
    """
    What a deploy should know about the backups of sites before it begins; asks no network.

    Returns ``warnings`` and ``refusals``: sentences about what is older than the pillar's ``backup:warn_after``, and
    than its ``backup:refuse_after``.
    """
    answer = {"warnings": [], "refusals": []}
    for site in found:
        for sentence, refused in _overdue(site):
            answer["refusals" if refused else "warnings"].append(sentence)
    return answer


def look():
    """Raise Failed with a sentence for each thing that is wrong, once in a while. Returns what was told before."""
    path = f"{journal.folder()}/watch.state"
    last, faults, known, told = files.read_json(path), [], [], {}
    overdue = [sentence for site in sites.backed_up() if site.current for sentence, _ in _overdue(site)]
    for sentence in overdue + _unhealed():
        key = re.sub(r"\d+", "", sentence)
        before = last.get("told", {}).get(key, 0)
        # A clock that was set back does not silence anything.
        fresh = not 0 <= time.time() - before < AGAIN
        told[key] = time.time() if fresh else before
        (faults if fresh else known).append(sentence)
    restarts = _restarts()
    for unit, count in sorted(restarts.items()):
        before = last.get("restarts", {}).get(unit, 0)
        # systemd counts from nothing after a boot, and when somebody starts the unit.
        risen = count - before if count >= before else count
        if risen:
            faults.append(
                f"{unit} on {host.name()} failed and was started again, {risen} times since the last look. "
                f"Try: journalctl -u {unit}"
            )
    files.write_json(path, {"restarts": restarts, "told": told})
    if faults:
        raise Failed("\n".join(faults))
    return {"watched": text.now(), "told_before": known}


def _overdue(site):
    """Sentences about what is older than the pillar allows, and whether a deploy is refused for it."""
    config, known = host.backup(), journal.recorded(site.slug)
    since = journal.since() or text.now()
    for what, key, command in (
        ("backup", "good", "goldenpath.backup"),
        ("restore drill", "drilled", "goldenpath.restore_drill"),
    ):
        name = what.rpartition(" ")[2]
        last = (known.get(key) or {}).get("at")
        hours = text.age(last or since) / 3600
        length = text.duration(hours * 3600)
        word = f"is {length} old" if last else f"has never been, in {length}"
        for limit, refused in ((config["refuse_after"].get(name), True), (config["warn_after"].get(name), False)):
            if limit and hours > limit:
                sentence = (
                    f"The last good {what} of {site.slug} on {host.name()} {word}, more than {limit} hours. "
                    f"Try: {host.command(command, site.slug)}"
                )
                yield sentence, refused
                break


def _restarts():
    """How often systemd itself has started each of the watched services again."""
    found = units.facts(("Id", "NRestarts"), *WATCHED)
    return {each["Id"]: int(each["NRestarts"]) for each in found if each.get("NRestarts", "0") != "0"}


def _unhealed():
    """Interrupted restores that nobody heals: the unit that watches for them has given up."""
    if units.show(HEAL, "ActiveState") in ("activating", "active"):
        return []
    return [
        f"A restore of {slug} on {host.name()} was interrupted and is not healed. "
        f"Try: systemctl reset-failed {HEAL}; systemctl restart goldenpath-heal.path"
        for slug in journal.interrupted()
    ]
