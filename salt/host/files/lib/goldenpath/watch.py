"""What is told without anybody asking: what is overdue, restless, down, or would be soon."""

import os
import re
import time

from . import alert, files, host, journal, signs, text, units
from . import site as sites
from .errors import Failed

# An alert about the same thing that is overdue.
AGAIN = 6 * 3600
# About what waits for a person; and how often what comes in days is looked at.
RARELY, SLOW = 7 * 86400, 900
# So many of the pillar's intervals without a dump.
LATE = 3
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
    """
    Raise Failed with a sentence for each thing that is wrong: once, again after some hours, and once more when it is
    over. Returns what was told before.
    """
    path = f"{journal.folder()}/watch.state"
    last, faults, known, told = files.read_json(path), [], [], {}
    every, slow = sites.every(), {"at": time.time(), "found": []}
    if 0 <= time.time() - last.get("slow", {}).get("at", 0) < SLOW:
        slow = last["slow"]
    else:
        slow["found"] = signs.slow(every)
    overdue = [sentence for site in sites.backed_up() if site.current for sentence, _ in _overdue(site)]
    standing = signs.standing()
    for sentence in [*overdue, *_unhealed(), *signs.now(every), *slow["found"], *standing]:
        key = re.sub(r"\d+", "", sentence)
        before = _told(last, key)
        # A clock that was set back does not silence anything.
        fresh = not 0 <= time.time() - before < (RARELY if sentence in standing else AGAIN)
        told[key] = {"at": time.time() if fresh else before, "sentence": sentence}
        (faults if fresh else known).append(sentence)
    for key, each in last.get("told", {}).items():
        if key not in told and isinstance(each, dict):
            faults.append(f"It is over: {each['sentence'].partition('. Try: ')[0]}. Try: goldenpath ps")
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
    files.write_json(path, {"restarts": restarts, "told": told, "slow": slow})
    if faults:
        raise Failed("\n".join(faults))
    beat = alert.config().get("heartbeat")
    if beat and set(known) <= set(standing):
        # Silence is what an outside monitor hears where something is wrong, or this host is gone.
        alert.beat(beat, host.name())
    return {"watched": text.now(), "told_before": known}


def _told(last, key):
    """When something was told; what an earlier version wrote is the time alone."""
    found = last.get("told", {}).get(key, 0)
    return found["at"] if isinstance(found, dict) else found


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
                    f"{_cost(site) if key == 'good' else ''}Try: {host.command(command, site.slug)}"
                )
                yield sentence, refused
                break
    every = _seconds(config.get("every"))
    last = (known.get("dumped") or {}).get("at")
    # From when on the pillar wants them.
    age = min(text.age(last or since), time.time() - os.stat(host.BACKUP).st_mtime) if every else 0
    if age > LATE * every:
        sentence = (
            f"The last dump of {site.slug} on {host.name()} between the nights is {int(age // 60)} minutes old, and "
            f"the pillar has one every {config['every']}. {_cost(site)}Try: journalctl -u goldenpath-dump -n 20"
        )
        yield sentence, False


def _cost(site):
    stake = journal.at_stake(site.slug)
    return f"A{stake[1:]}. " if stake else ""


def _seconds(every):
    """An interval of the pillar, such as 1h; 0 where there is none."""
    return int(every[:-1]) * {"m": 60, "h": 3600}[every[-1]] if every else 0


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
