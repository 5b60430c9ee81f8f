"""
The health of a site: how it is asked, what each answer means, and what proves a release. The one contract for deploy,
rollback, restore, drill, watch and people.
"""

import contextlib
import http.client
import io
import json
import re
import socket
import ssl
import time

from . import units
from .errors import Failed
from .text import masked

FRONT = ("127.0.0.1", 443)
# The statuses with which a site may have visitors.
GOOD = ("ok", "degraded")
# What a status in the body must come with.
_RIGHT = {"ok": 200, "degraded": 200, "unhealthy": 503}
_LONGEST_BODY = 64 * 1024
_KEPT_BODY = 4096
# Answers in a row that prove a release, and how long it may take to give them.
GOOD_ANSWERS = 3
BAD_ANSWERS = 4
PROVE_SECONDS = 60
ANSWER_SECONDS = 5
FRONT_SECONDS = 10
FRONT_TRIES = 10


class Fault(Exception):
    """The site could not be asked, or its answer not be read: why, as part of a sentence."""


def judge(code, headers, body, path, domain):
    """
    What an answer means.

    Returns the status (``ok``, ``degraded``, ``unhealthy``; ``broken`` for what is against the contract), the reason as
    part of a sentence, and the body's JSON or None.
    """
    try:
        parsed = json.loads(body)
    except ValueError:
        parsed = None
    said = parsed.get("status") if isinstance(parsed, dict) else None
    if 300 <= code < 400:
        place = headers.get("Location", "")
        if why := _astray(place, path, domain):
            return "broken", f"{path} redirects ({code}) to {_shown(place, 100)}: {why}", parsed
        return "ok", f"{path} redirects ({code}) to {_shown(place, 100)}", parsed
    if not isinstance(said, str):
        if 200 <= code < 300:
            return "ok", f"{path} answered {code}", parsed
        if code == 400:
            return "broken", f"{path} answered 400: is {domain} in ALLOWED_HOSTS?", parsed
        return "unhealthy" if code >= 500 else "broken", f"{path} answered {code}", parsed
    detail = _shown(json.dumps(parsed), 300)
    if said not in _RIGHT:
        why = f"{path} answered {code} with a status that is not ok, degraded or unhealthy: {detail}"
        return "broken", why, parsed
    if code != _RIGHT[said]:
        return "broken", f"{path} answered {code} with status {said}, which must be {_RIGHT[said]}", parsed
    return said, f"{path} answered {code}, {said}" + (f": {detail}" if said not in GOOD else ""), parsed


def _astray(place, path, domain):
    """Why a redirect is no sign of health; empty for one within the site, as to a language or to its login."""
    # A redirect to the same path by https is SECURE_SSL_REDIRECT that does not see the proxy's header.
    if place.startswith(f"https://{domain}") and place.split(domain, 1)[1].split("?")[0] == path:
        return "does the site ignore X-Forwarded-Proto (SECURE_PROXY_SSL_HEADER)?"
    if re.sub(r"^https?://[^/]*", "", place).split("?")[0] == path + "/":
        return f"is the health path {path}/?"
    within = re.fullmatch(rf"(https://{re.escape(domain)})?/(?!/).*", place)
    return "" if within else "the health path must answer by itself"


def ask(site, release=None, front=False, timeout=ANSWER_SECONDS, path=None, verify=True):
    """
    Ask a site for its health, as a visitor would.

    release: whose socket is asked, the live one's by default. front: through Caddy on this host, by HTTPS. timeout:
    seconds for the whole exchange. path: another than the site's own health path. verify: whether the front door's
    certificate must be valid.

    Returns ``status`` (as ``judge`` has it, ``unreachable`` for no answer), ``code``, ``message`` (the reason as part
    of a sentence), ``hint`` (the next command), ``body`` (JSON of up to 4 KB) and, where the body has it, ``git_sha``.
    Raises nothing.
    """
    unit = "caddy" if front else f"'{site.name}-gunicorn*'"
    found = {"site": site.slug, "status": "unreachable", "code": None, "message": "", "body": None}
    found["hint"] = f"journalctl -u {unit} -n 50"
    try:
        path = path or site.facts.get("health") or "/health/"
        if not re.fullmatch(r"/[!-~]*", path):
            raise Fault(f"{_shown(path)} is no path")
        place, connect = _door(site, verify) if front else _socket(site, release)
        code, headers, body = _get(place, connect, _request(site.domain, path, front), timeout)
        found["code"] = code
        found["status"], found["message"], parsed = judge(code, headers, body, path, site.domain)
        if parsed is not None and len(body) <= _KEPT_BODY:
            found["body"] = parsed
        if isinstance(parsed, dict) and isinstance(parsed.get("git_sha"), str):
            found["git_sha"] = parsed["git_sha"]
    except Fault as fault:
        found["message"] = str(fault)
    return found


def visit(site, path, domain=None, timeout=ANSWER_SECONDS):
    """
    Ask the front door for a page. domain: another name of the site than its first. Returns status, headers and body.
    Raises Fault where there is no answer.
    """
    domain = domain or site.domain
    place, connect = _door(site, True, domain)
    return _get(place, connect, _request(domain, path, True), timeout)


def prove(site, release, which="The new release", since=0):
    """
    Several good answers in a row from the release's own socket. Raises Failed with the last lines of its journal.

    which: what the sentence calls it. since: seconds since the epoch, from where on the journal counts.
    """
    end = time.time() + PROVE_SECONDS
    service = units.names(site, release)[1]
    good = bad = 0
    while time.time() < end and bad < BAD_ANSWERS:
        answer = ask(site, release)
        if answer["status"] in GOOD:
            good += 1
            if good == GOOD_ANSWERS:
                return
        else:
            # It flaps, or was never well: a good answer before does not count any more.
            good = 0
            # No answer yet is one thing: large sites import for a while. A bad one, or a process that ends, is another.
            bad += answer["status"] != "unreachable"
            if units.restarts(site, release) > 1:
                break
        time.sleep(0.1)
    raise Failed(
        f"{which} is not healthy: {answer['message']}. Try: journalctl -u {service}",
        masked(units.journal(service, since), site.secrets()),
    )


def front(site, sha=None, verify=True):
    """
    The front door serves the site; for sites whose health names its commit, this one. Raises Failed.

    sha: the commit that was just switched to; any is good where it is left out. verify: as ``ask`` has it.
    """
    for attempt in range(FRONT_TRIES):
        answer = ask(site, front=True, timeout=FRONT_SECONDS, verify=verify)
        good = answer["status"] in GOOD
        if good and (sha is None or answer.get("git_sha") in (None, "", sha)):
            return
        time.sleep(0.1 * attempt)
    if good:
        raise Failed(f"https://{site.domain} still serves {answer['git_sha'][:8]} and not {sha[:8]}")
    raise Failed(
        f"https://{site.domain}{site.facts.get('health', '/health/')} is not healthy: {answer['message']}. "
        "Try: journalctl -u caddy"
    )


# One HTTP exchange. http.client has a time-out for each read, and none for the whole.


def _request(domain, path, front):
    lines = [
        f"GET {path} HTTP/1.1", f"Host: {domain}", "Connection: close", "Accept: application/json, */*",
        "User-Agent: goldenpath-health",
    ]  # fmt: skip
    if not front:
        # As Caddy asks: gunicorn behind it answers nothing else the way a visitor sees it.
        lines += ["X-Forwarded-Proto: https", "X-Forwarded-For: 127.0.0.1"]
    return "\r\n".join([*lines, "", ""]).encode()


def _door(site, verify, domain=None):
    """The front door's name for messages, and how to connect to it. domain: another name than the site's first."""
    domain = domain or site.domain
    context = ssl.create_default_context()
    if not verify or site.facts.get("tls") == "internal":  # signed by Caddy's own authority, which nobody else knows
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE

    def connect(seconds):
        plain = socket.create_connection(FRONT, timeout=seconds)
        with _closed_on_error(plain):
            return context.wrap_socket(plain, server_hostname=domain)

    return f"https://{domain}", connect


def _socket(site, release):
    """A release's socket, and how to connect to it."""
    place = site.release(release, "gunicorn.sock") if release else site.path("current", "gunicorn.sock")

    def connect(seconds):
        connection = socket.socket(socket.AF_UNIX)
        with _closed_on_error(connection):
            connection.settimeout(seconds)
            connection.connect(place)
        return connection

    return place, connect


@contextlib.contextmanager
def _closed_on_error(connection):
    try:
        yield
    except BaseException:
        connection.close()
        raise


def _get(place, connect, request, timeout):
    """One exchange under one deadline. Redirects are told and not followed."""
    data = b""
    try:
        data = _exchange(connect, request, time.monotonic() + timeout)
        answer = _parse(data)
    except TimeoutError:
        raise Fault(f"no answer from {place} within {timeout:g} s") from None
    except FileNotFoundError:
        raise Fault(f"there is no socket at {place}") from None
    except ConnectionRefusedError:
        raise Fault(f"connection refused on {place}") from None
    except ssl.SSLCertVerificationError as exc:
        raise Fault(f"the certificate of {place} is not valid: {exc.verify_message}") from None
    except ssl.SSLError as exc:
        raise Fault(f"TLS with {place} failed: {exc.reason or exc}") from None
    except OSError as exc:
        raise Fault(f"{exc.strerror or exc} on {place}") from None
    except http.client.HTTPException:
        raise Fault(f"{place} did not answer in HTTP: {_shown(data)}") from None
    if answer is None and data:
        raise Fault(f"{place} did not answer in HTTP: {_shown(data)}")
    if answer is None:
        raise Fault(f"{place} closed the connection without an answer")
    return answer


def _exchange(connect, request, end):
    def left():
        if (seconds := end - time.monotonic()) <= 0:
            raise TimeoutError
        return seconds

    data = b""
    with connect(left()) as connection:
        connection.settimeout(left())
        connection.sendall(request)
        while len(data) <= _LONGEST_BODY and not _complete(data):
            connection.settimeout(left())
            received = connection.recv(65536)
            if not received:
                break
            data += received
    return data


class _Bytes:
    """What http.client's parser wants of a socket, over bytes that are already read."""

    def __init__(self, data):
        self._data = data

    def makefile(self, *_args, **_kwargs):
        return io.BytesIO(self._data)


def _parse(data):
    """Status, headers and body of an HTTP answer; ``None`` while it is incomplete."""
    if b"\r\n\r\n" not in data:
        return None
    response = http.client.HTTPResponse(_Bytes(data), method="GET")
    response.begin()
    try:
        body = response.read(_LONGEST_BODY)
    except http.client.IncompleteRead as exc:
        if len(data) <= _LONGEST_BODY:
            raise
        body = exc.partial  # a long page, of which only the beginning was read
    return response.status, response.headers, body


def _complete(data):
    """Whether an answer with a Content-Length is whole, for servers that keep the connection open all the same."""
    head, found, body = data.partition(b"\r\n\r\n")
    length = re.search(rb"\r\ncontent-length:[ \t]*(\d+)", head, re.IGNORECASE)
    return bool(found and length and len(body) >= int(length[1]))


def _shown(data, length=60):
    """The first line of what somebody answered, safe to print."""
    plain = data.decode("latin-1") if isinstance(data, bytes) else str(data)
    line = "".join(c if c.isascii() and c.isprintable() else "?" for c in (plain.splitlines() or [""])[0])
    return repr(line if len(line) <= length else line[:length] + "...")
