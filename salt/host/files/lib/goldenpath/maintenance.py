"""
An operator's maintenance page, and the timer that takes it down at the time that was said: units of the host's own, so
that a reboot does not lose them.
"""

import datetime
import os
import re
import time

from . import files, host, journal, lock, text, units
from . import site as sites
from .errors import Failed, Refused

COMMAND = "/opt/goldenpath/goldenpath"
# systemd's memory of when a persistent timer ran last.
STAMPS = "/var/lib/systemd/timers"
# Who works on the site when its page is due ends first: nobody meets a site that is stopped. Seconds.
WAIT, AGAIN = 86400, 5
# A time of day that is further ahead than this was meant to be earlier today.
AHEAD = 12 * 3600
_SPAN = re.compile(r"(?:(?P<days>\d{1,3})d)?(?:(?P<hours>\d{1,4})h)?(?:(?P<minutes>\d{1,5})m)?")
_SERVICE = """\
# Made by goldenpath maintenance {slug} on --until, gone with the page.
[Unit]
Description=Golden Path: the maintenance page of {slug} goes down
RequiresMountsFor={root}
OnFailure=goldenpath-alert@%n.service

[Service]
Type=oneshot
ExecStart={command} maintenance {slug} off --due
"""
_TIMER = """\
# Made by goldenpath maintenance {slug} on --until, gone with the page.
[Unit]
Description=Golden Path: when the maintenance page of {slug} goes down

[Timer]
OnCalendar={when:%Y-%m-%d %H:%M:%S} UTC
AccuracySec=1s
# What fell into downtime is made up for.
Persistent=true

[Install]
WantedBy=timers.target
"""


def parsed(said, now=None):
    """
    A time as a person types it, as an aware datetime: ``30m``, ``2h``, ``1h30m``, ``23:00`` on the host's clock, or
    ISO 8601, on the host's clock where it names no zone.

    now: seconds since the epoch, for tests. Raises Refused for anything else, and for what is past.
    """
    here = datetime.datetime.fromtimestamp(time.time() if now is None else now).astimezone()
    if found := _SPAN.fullmatch(said) if said else None:
        when = here + datetime.timedelta(**{unit: int(number) for unit, number in found.groupdict("0").items()})
    elif re.fullmatch(r"([01]?\d|2[0-3]):[0-5]\d", said):
        when = _clock(said, here)
    else:
        try:
            when = datetime.datetime.fromisoformat(re.sub(r"[zZ]$", "+00:00", said))
        except ValueError:
            when = None
        if when is None or not re.search(r"\d[T ]\d", said):
            raise Refused(f"--until {said!r:.60} is no time. Try: 30m, 2h, 23:00, or {here:%Y-%m-%d}T23:00")
        # A time without a zone is that of the host's clock, on that very day.
        when = when.astimezone()
    # systemd's timer knows whole seconds: it must not come before the time that is noted.
    when = when.replace(microsecond=0)
    if when <= here:
        raise Refused(f"--until {said} is past: it is {here:%Y-%m-%d %H:%M %Z} on {host.name()}. Try: 30m, or 2h")
    return when


def _clock(said, here):
    hour, minute = map(int, said.split(":"))
    days = (datetime.datetime(here.year, here.month, here.day, hour, minute) + datetime.timedelta(days=day)
            for day in (0, 1))  # fmt: skip
    when = next(each for each in (day.astimezone() for day in days) if each > here)
    if (when - here).total_seconds() > AHEAD:
        raise Refused(
            f"--until {said} is past for today: it is {here:%H:%M %Z} on {host.name()}. "
            f"Try: 2h, or {when:%Y-%m-%dT%H:%M} for tomorrow"
        )
    return when


def shown(when):
    """A time for people, on the host's clock: without its day where that is today."""
    local = when.astimezone()
    same = local.date() == datetime.date.today()
    return f"{local:%H:%M %Z}" if same else f"{local:%Y-%m-%d %H:%M %Z}"


def until(site):
    """When an operator's page goes down by itself, an aware datetime; None where it does not."""
    at = files.read_json(_note(site)).get("until")
    if at and site.maintenance() == sites.OPERATOR:
        return datetime.datetime.fromtimestamp(at, datetime.timezone.utc)
    return None


def told(site):
    """Who put the page up, and until when, as a person reads it; empty where it is not up."""
    when = until(site)
    return site.maintenance() + (f" until {shown(when)}" if when else "")


def up(site, words=None, when=None):
    """
    Put an operator's page up; an earlier one's words and time go. words: what visitors read. when: an aware datetime at
    which it goes down by itself; else it stays. Raises Failed, and shows no page, where systemd takes no timer.
    """
    site.provisioned()
    forget(site)
    if when:
        _arm(site, when)
    site.maintenance_on(sites.OPERATOR, words)


def down(site):
    """Take the page down, whoever's it is, and the timer with it."""
    site.provisioned()
    site.maintenance_off(sites.OPERATOR)
    forget(site)


def due(slug):
    """
    The timer's own end: the page goes down where its time has come. Who works on the site ends first, and so does the
    healing of a restore: the site is stopped meanwhile.
    """
    site = sites.load(slug)
    began = time.monotonic()
    while True:
        with lock.of_site(site, "the end of its maintenance page", WAIT):
            if not os.path.exists(journal.path(site)):
                when = until(site)
                if when and when.timestamp() > time.time():
                    # Another `on` came in between: its own timer is there.
                    return f"The maintenance page of {slug} stays up until {shown(when)}"
                if when:
                    down(site)
                return f"The maintenance page of {slug} is down: visitors reach the site"
        if time.monotonic() - began > WAIT:
            raise Failed(f"{slug} on {host.name()} is not healed. Try: systemctl status goldenpath-heal")
        time.sleep(AGAIN)


def _note(site):
    return f"{host.STATE}/maintenance/{site.slug}.json"


def _unit(site):
    return f"goldenpath-maintenance-{site.slug}"


def _arm(site, when):
    name = _unit(site)
    about = {"slug": site.slug, "root": site.root, "command": COMMAND,
             "when": when.astimezone(datetime.timezone.utc)}  # fmt: skip
    for kind, body in (("service", _SERVICE), ("timer", _TIMER)):
        files.replace(f"{units.UNITS}/{name}.{kind}", body.format(**about), mode=0o644)
    files.write_json(_note(site), {"until": when.timestamp()}, mode=0o644)
    done = units.systemctl("daemon-reload")
    done = done if done.code else units.systemctl("enable", "--now", f"{name}.timer")
    if done.code:
        forget(site)
        raise Failed(
            f"systemd on {host.name()} takes no timer: {text.reason(done.output)}. "
            f"Try: goldenpath maintenance {site.slug} on, which stays until you take it down"
        )


def forget(site):
    """The timer goes, and what was noted of it; not the service, which may be what does this."""
    files.remove(_note(site))
    name = _unit(site)
    if os.path.exists(f"{units.UNITS}/{name}.timer"):
        units.systemctl("disable", "--now", f"{name}.timer")
        files.remove(f"{units.UNITS}/{name}.service")
        files.remove(f"{units.UNITS}/{name}.timer")
        files.remove(f"{STAMPS}/stamp-{name}.timer")
        units.systemctl("daemon-reload")
