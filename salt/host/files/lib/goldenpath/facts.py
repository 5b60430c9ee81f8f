"""What is to be known of this host's sites right now: gathered once, and only shown by others."""

from . import history, journal, text, units
from . import site as sites


def gather():
    """A dictionary for each site; times are as records write them, None where there is none."""
    return {site.slug: _site(site) for site in sites.every()}


def _site(site):
    live, known = site.current, journal.recorded(site.slug)
    built = history.built(site, live) if live else None
    down = [each for each in units.unsettled(site) if each.startswith("start ")] if live else []
    return {
        "live": live,
        "ref": built["ref"] if built else None,
        "since": _since(site, live),
        "down": [each.partition(" ")[2] for each in down],
        "maintenance": site.maintenance() or None,
        "backup": (known.get("good") or {}).get("at"),
        "drill": (known.get("drilled") or {}).get("at"),
        "restoring": site.slug in journal.interrupted(),
    }


def _since(site, live):
    went = [each["when"] for each in history.read(site) if each["release"] == live and each["outcome"] == "live"]
    return went[-1] if went else None


def table(found):
    """Sites as lines for a person; what is wrong is in words, with what to type."""
    head = ("SITE", "RELEASE", "REF", "LIVE FOR", "BACKUP", "DRILL", "STATE")
    lines = [head, *(_row(slug, each) for slug, each in sorted(found.items()))]
    widths = [max(len(line[at]) for line in lines) for at in range(len(head) - 1)]
    return "\n".join(
        "  ".join([*(word.ljust(width) for word, width in zip(line, widths, strict=False)), line[-1]]) for line in lines
    )


def _row(slug, each):
    def ago(when):
        return text.duration(text.age(when)) if when else "never"

    state = [f"{unit} is down: systemctl start {unit}" for unit in each["down"]]
    if each["maintenance"]:
        state.append(f"maintenance page by {each['maintenance']}: goldenpath maintenance {slug} off")
    if each["restoring"]:
        state.append("a restore is under way, or was interrupted: systemctl status goldenpath-heal")
    if not each["live"]:
        state = ["not deployed yet"]
    return (
        slug, each["live"] or "-", each["ref"] or "-", ago(each["since"]) if each["since"] else "-",
        ago(each["backup"]), ago(each["drill"]), "; ".join(state) or "up",
    )  # fmt: skip
