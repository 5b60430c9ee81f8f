"""What people read: times, sizes, the reason in a program's output; and what nobody may read."""

import datetime
import re
import time
import urllib.parse

# A shorter value is a word that stands in many a sentence.
SHORTEST_SECRET = 4
STARS = "**********"
_TELLING = re.compile(r"error|fatal|no space|denied|refused|^unknown ", re.IGNORECASE)
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
    if number >= 10 << 30:
        return f"{number / (1 << 30):.0f} GiB"
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


# What a build or a migration lacks, and what to write into the site's pillar for it.
_LACKS = (
    (r"pg_config executable not found|pg_config.*(not found|No such file)", "build-essential, python3-dev, libpq-dev"),
    (r"fatal error: '?Python\.h", "build-essential, python3-dev"),
    (r"fatal error: '?libpq-fe\.h", "libpq-dev"),
    (r"Can not find valid pkg-config name|mysql_config", "build-essential, default-libmysqlclient-dev, pkg-config"),
    (r"headers or library files could not be found for (zlib|jpeg)", "build-essential, zlib1g-dev, libjpeg-dev"),
    (r"fatal error: '?libxml/|libxml2 and libxslt", "build-essential, python3-dev, libxml2-dev, libxslt1-dev"),
    (r"fatal error: '?ffi\.h", "libffi-dev"),
    (r"fatal error: '?openssl/", "libssl-dev"),
    (r"fatal error: '?(lber|ldap)\.h", "libldap-dev, libsasl2-dev"),
    (r"xmlsec1? .*(not found|is missing)|fatal error: '?xmlsec/", "libxmlsec1-dev, pkg-config"),
    (r"cairo.*(not found|required)|fatal error: '?cairo", "libcairo2-dev, pkg-config"),
    (r"(gcc|g\+\+|cc1|c\+\+|[^-\w]cc)['`\"]?:? (failed: )?.*(No such file|not found)|unable to execute '?\S*(gcc|cc)"
     r"|Unknown compiler|No acceptable C compiler|linker `?cc`? not found", "build-essential, python3-dev"),
    (r"can't find Rust compiler|cargo.*(not found|No such file)|rustc.*not found", "build-essential, cargo, rustc"),
    (r"(?:Could not find|cannot find|unable to find) .*GDAL|GDAL library|gdal-config", "libgdal-dev"),
    (r"git: ?.*not found|Git executable was not found", "git"),
)  # fmt: skip


def lacks(output):
    """The Debian packages whose lack a program's output tells of, as the pillar takes them; empty for none."""
    return next((packages for found, packages in _LACKS if re.search(found, output, re.IGNORECASE)), "")


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
