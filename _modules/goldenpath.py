"""
The operator's door: may this host serve or release a site? Redis answers PONG and can be used, and a site's health
path tells what it should.

Functions that a person calls (``redis_ping``, ``redis_ready``, ``health``) set the exit code of the command
themselves: over salt-ssh an exception of a bare function ends in ``KeyError: 'ret'`` and the reason is lost.
The functions that states and other modules call (``redis_checks``, ``site_health``, ...) only return data.
"""

import contextlib
import http.client
import io
import json
import os
import re
import socket
import ssl
import time

from salt.exceptions import CommandExecutionError

SITES = "/etc/goldenpath/sites"
FRONT = ("127.0.0.1", 443)
_LONGEST_BODY = 64 * 1024


class _Fault(Exception):
    """
    A site could not be asked, or answered wrong, or an argument makes no sense: the reason as part of a sentence,
    and the command that an operator types next.
    """

    def __init__(self, reason, hint):
        super().__init__(reason)
        self.reason = reason
        self.hint = hint


def _host_id():
    return __grains__.get("id") or __opts__.get("id") or socket.gethostname()


def command(*words):
    """
    What an operator types on the controller about this host, over ssh or to its minion.

    words (str)
        The function and its arguments.

    Returns the command, such as ``salt-ssh web1 state.apply redis``.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 goldenpath.command state.apply redis
    """
    return " ".join(["salt-ssh" if __opts__.get("file_client") == "local" else "salt", _host_id(), *words])


def _apply_again(sls="redis"):
    """
    The command that mends what the tree owns.
    """
    return command("state.apply", sls)


def _seconds(value):
    try:
        seconds = float(value)
        if isinstance(value, bool) or not 0 < seconds <= 60:
            raise ValueError
    except (TypeError, ValueError):
        raise _Fault(f"timeout must be a number of seconds up to 60, not {value!r}", "leave timeout out") from None
    return seconds


def _shown(data, length=60):
    """
    The first line of what somebody answered, safe to print.
    """
    text = data.decode("latin-1") if isinstance(data, bytes) else str(data)
    line = "".join(c if c.isascii() and c.isprintable() else "?" for c in (text.splitlines() or [""])[0])
    return repr(line if len(line) <= length else line[:length] + "...")


def _facts():
    """
    What is known of the host's sites: from the pillar, or, where a function is called alone over salt-ssh
    and the pillar is empty, from the files that provisioning left on the host.
    """
    sites = __pillar__.get("sites")
    if isinstance(sites, dict) and sites:
        return sites
    sites = {}
    with contextlib.suppress(OSError):
        for name in sorted(os.listdir(SITES)):
            slug, extension = os.path.splitext(name)
            with contextlib.suppress(OSError, ValueError), open(os.path.join(SITES, name)) as file:
                facts = json.load(file)
                if extension == ".json" and isinstance(facts, dict):
                    sites[slug] = facts
    return sites


# --- Redis -------------------------------------------------------------------------------------------------


def redis_ping(timeout=2, ready=False):
    """
    Ask Redis for PONG. This is the first step of every deploy.

    timeout (float)
        Seconds for the whole exchange, up to 60.
    ready (bool)
        Right after it, ask all that ``redis_ready`` asks, as a deploy does.

    Returns exactly ``PONG``. Otherwise one sentence for each fault, with the host, the reason and the next
    command, and the command exits non-zero. Raises nothing.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 goldenpath.redis_ping
    """
    try:
        timeout = _seconds(timeout)
    except _Fault as fault:
        answer = f"Redis on {_host_id()} was not asked: {fault.reason}. Try: {fault.hint}"
    else:
        if ready:
            answer = "\n".join(__salt__["redis_gate.failed"](redis_checks(timeout))) or "PONG"
        else:
            answer = redis_answer(timeout)
    if answer != "PONG":
        __context__["retcode"] = 1
    return answer


def redis_answer(timeout=2):
    """
    Ask Redis for PONG, for states and other modules: the exit code of the command stays as it is.

    timeout (float)
        Seconds for the whole exchange.

    Returns ``PONG``, or one sentence: the host, the reason and the next command. Raises nothing.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 goldenpath.redis_answer
    """
    return __salt__["redis_gate.answer"](_host_id(), timeout, _apply_again)


def redis_checks(timeout=2):
    """
    Everything that must be true of Redis before a deploy, for states and other modules.

    timeout (float)
        Seconds for the whole conversation with Redis.

    Returns what ``redis_gate.checks`` returns, the firewall among it. Raises nothing.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 goldenpath.redis_checks --out=json
    """
    # Where a function is called alone over salt-ssh the pillar is empty; the host's own files know the sites.
    sites = __pillar__.get("sites") or None
    return __salt__["redis_gate.checks"](_host_id(), sites, _apply_again, _firewall, timeout)


def _firewall(port):
    """
    Why the firewall lets a port in, and the next command; two empty texts where it does not.
    """
    mend = _apply_again("firewall")
    if "ufw.permits" not in __salt__:
        return "the ufw module did not reach the host", mend
    try:
        rules = __salt__["ufw.permits"](port)
    except CommandExecutionError as exc:
        return f"ufw could not be asked: {exc}", "ufw status verbose"
    if not rules:
        return "", ""
    told = [f"{rule['rule']} ({rule['source']})" for rule in rules]
    return f"the firewall lets {port} in: {', '.join(dict.fromkeys(told))}", mend


def redis_ready():
    """
    Tell whether Redis on this host can carry sites: a table with every check, for a person.

    Returns the table; when any check fails the command exits non-zero. Raises nothing.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 goldenpath.redis_ready
    """
    checks = redis_checks()
    failed = __salt__["redis_gate.failed"](checks)
    if failed:
        __context__["retcode"] = 1
    words = {True: "ok", False: "FAIL", None: "-"}
    return "\n".join(
        [f"Redis on {_host_id()} is {'not ready' if failed else 'ready'}"]
        + [f"  {each['check']:<11} {words[each['ok']]:<4} {each['message']}" for each in checks]
    )


# --- Health of a site --------------------------------------------------------------------------------------


class _Bytes:
    """
    What http.client's parser wants of a socket, over bytes that are already read.
    """

    def __init__(self, data):
        self._data = data

    def makefile(self, *_args, **_kwargs):
        return io.BytesIO(self._data)


def _parse(data):
    """
    Status, headers and body of an HTTP answer; ``None`` while it is incomplete.
    """
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
    """
    Whether an answer with a Content-Length is whole, for servers that keep the connection open all the same.
    """
    head, found, body = data.partition(b"\r\n\r\n")
    length = re.search(rb"\r\ncontent-length:[ \t]*(\d+)", head, re.IGNORECASE)
    return bool(found and length and len(body) >= int(length[1]))


def _get(place, connect, request, timeout):
    """
    One HTTP exchange under one deadline. Redirects are told and not followed.
    """
    end = time.monotonic() + timeout

    def left():
        if (seconds := end - time.monotonic()) <= 0:
            raise TimeoutError
        return seconds

    data = b""
    try:
        with connect(left()) as connection:
            connection.settimeout(left())
            connection.sendall(request)
            while len(data) <= _LONGEST_BODY and not _complete(data):
                connection.settimeout(left())
                received = connection.recv(65536)
                if not received:
                    break
                data += received
        answer = _parse(data)
    except TimeoutError:
        raise _Fault(f"no answer from {place} within {timeout:g} s", "") from None
    except FileNotFoundError:
        raise _Fault(f"there is no socket at {place}", "") from None
    except ConnectionRefusedError:
        raise _Fault(f"connection refused on {place}", "") from None
    except ssl.SSLCertVerificationError as exc:
        raise _Fault(f"the certificate of {place} is not valid: {exc.verify_message}", "") from None
    except ssl.SSLError as exc:
        raise _Fault(f"TLS with {place} failed: {exc.reason or exc}", "") from None
    except OSError as exc:
        raise _Fault(f"{exc.strerror or exc} on {place}", "") from None
    except http.client.HTTPException:
        raise _Fault(f"{place} did not answer in HTTP: {_shown(data)}", "") from None
    if answer is None:
        raise _Fault(
            f"{place} did not answer in HTTP: {_shown(data)}" if data
            else f"{place} closed the connection without an answer",
            "",
        )  # fmt: skip
    return answer


def _judge(code, headers, body, path, domain):
    """
    The health contract: (status, message, parsed body).
    """
    try:
        parsed = json.loads(body)
    except ValueError:
        parsed = None
    said = parsed.get("status") if isinstance(parsed, dict) else None
    if 300 <= code < 400:
        place = headers.get("Location", "")
        # A redirect to the same path by https is SECURE_SSL_REDIRECT that does not see the proxy's header.
        if place.startswith(f"https://{domain}") and place.split(domain, 1)[1].split("?")[0] == path:
            why = "does the site ignore X-Forwarded-Proto (SECURE_PROXY_SSL_HEADER)?"
        elif re.sub(r"^https?://[^/]*", "", place).split("?")[0] == path + "/":
            why = f"is the health path {path}/?"
        else:
            why = "the health path must answer by itself"
        return "broken", f"{path} redirects ({code}) to {_shown(place, 100)}: {why}", parsed
    if not isinstance(said, str):
        if 200 <= code < 300:
            return "ok", f"{path} answered {code}", parsed
        if code == 400:
            return "broken", f"{path} answered 400: is {domain} in ALLOWED_HOSTS?", parsed
        status = "unhealthy" if code >= 500 else "broken"
        return status, f"{path} answered {code}", parsed
    if said in ("ok", "degraded") and code == 200:
        return said, f"{path} answered {code}, {said}", parsed
    detail = _shown(json.dumps(parsed), 300)
    if said == "unhealthy" and code == 503:
        return said, f"{path} answered 503, unhealthy: {detail}", parsed
    right = {"ok": "200", "degraded": "200", "unhealthy": "503"}.get(said)
    if right:
        return "broken", f"{path} answered {code} with status {said}, which must be {right}", parsed
    return (
        "broken",
        f"{path} answered {code} with a status that is not ok, degraded or unhealthy: {detail}",
        parsed,
    )


def site_health(slug, site=None, path=None, via="socket", socket=None, timeout=5):
    """
    Ask a site for its health, for states and other modules: the exit code of the command stays as it is.

    slug (str)
        The site's name on this host.
    site (dict)
        What is known of it (``domains``, ``health``, ``tls``); left out, from the pillar or from
        ``/etc/goldenpath/sites/<slug>.json``.
    path (str)
        Path to ask instead of the site's own health path.
    via (str)
        ``socket``: the live release's Unix socket. ``front``: HTTPS through Caddy on this host.
    socket (str)
        Another Unix socket, such as that of a release which is not live yet.
    timeout (float)
        Seconds for the whole exchange, up to 60.

    Returns a dictionary: ``site``, ``status`` (``ok``, ``degraded``, ``unhealthy``; ``broken`` for an answer
    against the contract, ``unreachable`` for none), ``code``, ``message`` (the reason, as part of a sentence),
    ``hint`` (the next command), ``body`` (parsed JSON of up to 4 KB) and, where the body has it, ``git_sha``.
    Raises nothing.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 goldenpath.site_health acme-kitchens via=front
    """
    ret = {"site": slug, "status": "unreachable", "code": None, "message": "", "body": None}
    unit = "caddy" if via == "front" else f"'sum-{slug}-gunicorn*'"
    ret["hint"] = f"journalctl -u {unit} -n 50"
    try:
        if site is None:
            site = _facts().get(slug)
        if not site or not site.get("domains"):
            raise _Fault("the host knows no such site", _apply_again("site"))
        if via not in ("socket", "front"):
            raise _Fault(f"via must be socket or front, not {via!r}", "")
        timeout = _seconds(timeout)
        domain, path = site["domains"][0], path or site.get("health") or "/health/"
        if not re.fullmatch(r"/[!-~]*", path):
            raise _Fault(f"{_shown(path)} is no path", "")
        code, headers, body = _get(*_way(slug, site, via, socket, domain, path), timeout)
        ret["code"] = code
        ret["status"], ret["message"], parsed = _judge(code, headers, body, path, domain)
        if parsed is not None and len(body) <= 4096:
            ret["body"] = parsed
        if isinstance(parsed, dict) and isinstance(parsed.get("git_sha"), str):
            ret["git_sha"] = parsed["git_sha"]
    except _Fault as fault:
        ret["message"] = fault.reason
        ret["hint"] = fault.hint or ret["hint"]
    return ret


def _way(slug, site, via, path_of_socket, domain, path):
    """
    The name of the place for messages, how to connect to it, and what to send.
    """
    request = (
        f"GET {path} HTTP/1.1\r\nHost: {domain}\r\nConnection: close\r\nAccept: application/json, */*\r\n"
        "User-Agent: goldenpath-health\r\n"
    )
    if via == "front":
        context = ssl.create_default_context()
        if site.get("tls") == "internal":  # signed by Caddy's own authority, which nobody else knows
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE

        def connect(seconds):
            plain = socket.create_connection(FRONT, timeout=seconds)
            try:
                return context.wrap_socket(plain, server_hostname=domain)
            except BaseException:
                plain.close()
                raise

        return f"https://{domain}", connect, (request + "\r\n").encode()

    place = path_of_socket or f"/srv/sum/{slug}/current/gunicorn.sock"

    def connect(seconds):
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.settimeout(seconds)
            connection.connect(place)
        except BaseException:
            connection.close()
            raise
        return connection

    # As Caddy asks: gunicorn behind it answers nothing else the way a visitor sees it.
    request += "X-Forwarded-Proto: https\r\nX-Forwarded-For: 127.0.0.1\r\n"
    return place, connect, (request + "\r\n").encode()


def health(site, path=None, via="socket", socket=None, timeout=5):
    """
    Ask a site for its health, for a person.

    site (str)
        The site's name on this host.
    path (str)
        Path to ask instead of the site's own health path.
    via (str)
        ``socket``: the live release's Unix socket. ``front``: HTTPS through Caddy on this host.
    socket (str)
        Another Unix socket, such as that of a release which is not live yet.
    timeout (float)
        Seconds for the whole exchange, up to 60.

    Returns what ``site_health`` returns, with one sentence as ``message``; unless the status is ``ok`` or
    ``degraded`` the command exits non-zero. Raises nothing.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 goldenpath.health acme-kitchens
    """
    ret = site_health(site, path=path, via=via, socket=socket, timeout=timeout)
    hint = ret.pop("hint")
    ret["message"] = f"{site} on {_host_id()} is {ret['status']}: {ret['message']}."
    if ret["status"] not in ("ok", "degraded"):
        __context__["retcode"] = 1
        ret["message"] += f" Try: {hint}"
    return ret


def backup(site=None, accept_smaller=False):
    """
    Back up now: one site, or every site of the host.

    site (str)
        The site's name on this host; all of them where it is left out.
    accept_smaller (bool)
        Take a backup that is less than half of the last one.

    Returns, for each site, the snapshot and what is in it; or one sentence, and the command exits non-zero.
    Raises nothing.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 goldenpath.backup acme-kitchens
    """
    return __salt__["backup.run"](site, accept_smaller)


def restore_drill(site=None, snapshot=None):
    """
    Prove that a backup can be restored, beside the live site, which is not touched.

    site (str)
        The site's name on this host; all of them where it is left out.
    snapshot (str)
        Another snapshot than the newest.

    Returns, for each site, age, duration, counts and verdict; or one sentence, and the command exits non-zero.
    Raises nothing.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 goldenpath.restore_drill acme-kitchens
    """
    return __salt__["backup.drill"](site, snapshot)


def backups(site=None):
    """
    Show the snapshots with their sizes and ages, the last backup and the last drill.

    site (str)
        The site's name on this host; all of them where it is left out.

    Returns a dictionary; or one sentence, and the command exits non-zero. Raises nothing.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 goldenpath.backups
    """
    return __salt__["backup.snapshots"](site)
