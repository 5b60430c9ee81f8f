"""What people read: times, sizes, the reason in a program's output; and what nobody may read."""

import datetime
import re
import time
import urllib.parse

# A shorter value is a word that stands in many a sentence.
SHORTEST_SECRET = 4
STARS = "**********"
_TELLING = re.compile(r"error|fatal|no space|denied|refused", re.IGNORECASE)
# C0 and C1 controls but tab and line end: a terminal obeys them (ECMA-48).
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def now():
    """The time, UTC, as records write it."""
    return f"{datetime.datetime.now(datetime.timezone.utc):%Y-%m-%dT%H:%M:%SZ}"


def stamp():
    """The time, UTC, as names of releases and dumps have it."""
    return time.strftime("%Y%m%dT%H%M%S", time.gmtime())


def age(when):
    """Seconds since a time that ``now`` wrote, or restic did."""
    plain = re.sub(r"\.\d+", "", when.replace("Z", "+00:00"))
    return time.time() - datetime.datetime.fromisoformat(plain).timestamp()


def duration(seconds):
    """Seconds, for people."""
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{int(seconds // length)} {unit}"
    return f"{int(seconds)} seconds"


def size(number):
    """Bytes, for people."""
    return f"{number / (1 << 20):.1f} MiB" if number >= 100 << 10 else f"{number} bytes"


def few(words, most=3):
    """The first of many, and how many more there are."""
    return ", ".join(words[:most]) + (f" and {len(words) - most} more" if len(words) > most else "")


def printable(text):
    """Text from a site, a repository or a log, without what a terminal would obey."""
    return _CONTROLS.sub("?", text)


def shown(answer):
    """An answer of any kind with every text in it printable."""
    if isinstance(answer, str):
        return printable(answer)
    if isinstance(answer, dict):
        return {shown(key): shown(value) for key, value in answer.items()}
    if isinstance(answer, (list, tuple)):
        return [shown(each) for each in answer]
    return answer


def without_credentials(address):
    """An address without the credentials that an URL may carry, for messages, logs and files that all may read."""
    parts = urllib.parse.urlsplit(address)
    if parts.scheme not in ("http", "https"):
        return address  # ssh://git@host names a user, no secret
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def lines_of(output):
    """The lines of a program's output that say something; ``::`` begins those that are ours."""
    return [line.strip() for line in output.splitlines() if line.strip() and not line.startswith("::")]


def reason(output):
    """The line of a program's output that says why: of a Python traceback its last."""
    lines = lines_of(output)
    if not lines:
        return "it said nothing"
    telling = [] if "Traceback" in output else [line for line in lines if _TELLING.search(line)]
    chosen = (telling or lines[-1:])[0]
    return printable(chosen).rstrip(".")[:300]


def tail(output, lines=12):
    """The last lines of a program's output."""
    return "\n".join(line for line in output.splitlines()[-lines:] if not line.startswith("::"))


def masked(text, secrets):
    """
    Text without secrets: the one rule for all that is shown, logged or sent.

    secrets: values; of one with many lines each line is masked, and those that are too short are left alone.
    """
    values = set(secrets) | {line.strip() for value in secrets for line in value.splitlines()}
    for value in sorted((each for each in values if len(each) >= SHORTEST_SECRET), key=len, reverse=True):
        text = text.replace(value, STARS)
    # What looks like a password in an URL, whoever put it there.
    return re.sub(r"(://[^/\s:@]*):[^/\s@]+@", rf"\1:{STARS}@", text)
