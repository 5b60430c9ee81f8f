"""
What must be true before a host may serve or release a site: Redis answers PONG and can be used, and a site's
health path tells what it should.

Standard library only: Redis is asked through a socket of our own, with one deadline for the whole exchange,
so that neither redis-cli (which exits 0 on ``NOAUTH``) nor a client library is needed.

Functions that a person calls (``redis_ping``, ``redis_ready``, ``health``) set the exit code of the command
themselves: over salt-ssh an exception of a bare function ends in ``KeyError: 'ret'`` and the reason is lost.
The functions that states and other modules call (``redis_checks``, ``site_health``, ...) only return data.
"""

import contextlib
import hashlib
import http.client
import io
import ipaddress
import json
import os
import re
import secrets
import shlex
import shutil
import socket
import ssl
import sys
import tempfile
import time

from salt.exceptions import CommandExecutionError

UNIT = "redis-server"
CONFIG = "/etc/redis/goldenpath.conf"
DISTRIBUTION_CONFIG = "/etc/redis/redis.conf"
KEPT_CONFIG = "/var/lib/goldenpath/redis.conf.dist"
SITES = "/etc/goldenpath/sites"
SOCKETS = ("/proc/net/tcp", "/proc/net/tcp6")
FRONT = ("127.0.0.1", 443)

# The order in which redis_checks reports.
CHECKS = (
    "pong", "probe", "memory", "policy", "persistence", "databases",
    "settings", "conffile", "unit", "listeners", "firewall",
)  # fmt: skip
STATUS = f"systemctl status {UNIT}"
LOG = "tail -n 20 /var/log/redis/redis-server.log"
_LONGEST_ANSWER = 1024 * 1024
_LONGEST_BODY = 64 * 1024
_SAMPLE = 2000  # keys of one database whose sizes stand for all of its plain values
_SECRETS = ("requirepass", "masterauth", "tls-key-file-pass", "tls-client-key-file-pass")
_UNITS = {"": 1, "b": 1, "k": 1000, "kb": 1024, "m": 1000**2, "mb": 1024**2, "g": 1000**3, "gb": 1024**3}


class _Fault(Exception):
    """
    Redis or a site could not be asked, or answered wrong: the reason as part of a sentence, and the command
    that an operator types next.
    """

    def __init__(self, reason, hint):
        super().__init__(reason)
        self.reason = reason
        self.hint = hint


class _BadArgument(_Fault):
    """
    Nobody was asked, because the caller's argument makes no sense.
    """


class _NobodyListens(_Fault):
    """
    Nothing listens there.
    """


class _Refusal(str):
    """
    An error reply of Redis.
    """

    __slots__ = ()


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


def _whole(name, value, least, most):
    try:
        if isinstance(value, bool) or int(str(value)) not in range(least, most + 1):
            raise ValueError
    except ValueError:
        raise _BadArgument(
            f"{name} must be a whole number from {least} to {most}, not {value!r}", f"leave {name} out"
        ) from None
    return int(str(value))


def _seconds(value):
    try:
        seconds = float(value)
        if isinstance(value, bool) or not 0 < seconds <= 60:
            raise ValueError
    except (TypeError, ValueError):
        raise _BadArgument(
            f"timeout must be a number of seconds up to 60, not {value!r}", "leave timeout out"
        ) from None
    return seconds


def _shown(data, length=60):
    """
    The first line of what somebody answered, safe to print.
    """
    text = data.decode("latin-1") if isinstance(data, bytes) else str(data)
    line = "".join(c if c.isascii() and c.isprintable() else "?" for c in (text.splitlines() or [""])[0])
    return repr(line if len(line) <= length else line[:length] + "...")


# --- Redis: the conversation -------------------------------------------------------------------------------


class _Redis:
    """
    One connection that speaks RESP. The deadline holds for everything that is said on it, so that a server
    which hangs, or answers a byte a second, cannot hold anybody up.
    """

    def __init__(self, host, port, timeout):
        self.port = _whole("port", port, 1, 65535)
        self.timeout = _seconds(timeout)
        self.place = f"[{host}]:{self.port}" if ":" in str(host) else f"{host}:{self.port}"
        self._end = time.monotonic() + self.timeout
        self._buffer = b""
        self._received = 0
        with self._faults():
            self._socket = socket.create_connection((str(host), self.port), timeout=self._left())

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._socket.close()

    def ask(self, *commands):
        """
        Send commands, each a tuple of words, and return their replies; an error reply is a ``_Refusal``.
        """
        request = b"".join(
            b"*%d\r\n" % len(words)
            + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in (str(w).encode() for w in words))
            for words in commands
        )
        self._received = 0
        with self._faults():
            self._socket.settimeout(self._left())
            self._socket.sendall(request)
            return [self._reply() for _ in commands]

    def _left(self):
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left

    @contextlib.contextmanager
    def _faults(self):
        try:
            yield
        except TimeoutError:
            raise _Fault(f"no answer from {self.place} within {self.timeout:g} s", LOG) from None
        except ConnectionRefusedError:
            raise _NobodyListens(f"connection refused on {self.place}", STATUS) from None
        except socket.gaierror:
            raise _Fault(f"the host of {self.place} has no address", "host=127.0.0.1") from None
        except (ConnectionResetError, BrokenPipeError):
            raise self._closed() from None
        except OSError as exc:
            raise _Fault(f"{exc.strerror or exc} on {self.place}", STATUS) from None

    def _closed(self):
        return _Fault(f"{self.place} closed the connection without an answer", self._who())

    def _who(self):
        return f"ss -ltnp 'sport = :{self.port}'"

    def _stranger(self, data):
        return _Fault(f"something that is not Redis answers on {self.place}: {_shown(data)}", self._who())

    def _receive(self):
        self._socket.settimeout(self._left())
        data = self._socket.recv(65536)
        self._received += len(data)
        if not data:
            raise self._stranger(self._buffer) if self._buffer else self._closed()
        if self._received > _LONGEST_ANSWER:
            raise self._stranger(self._buffer)
        self._buffer += data

    def _line(self):
        while b"\r\n" not in self._buffer:
            # Whoever greets first, or never ends a line, is told apart before the deadline.
            if self._buffer and (self._buffer[:1] not in b"+-:$*" or len(self._buffer) > 65536):
                raise self._stranger(self._buffer)
            self._receive()
        line, _, self._buffer = self._buffer.partition(b"\r\n")
        return line

    def _reply(self):
        line = self._line()
        kind, rest = line[:1], line[1:]
        if kind == b"+":
            return rest.decode(errors="replace")
        if kind == b"-":
            return _Refusal(rest.decode(errors="replace"))
        try:
            number = int(rest) if kind in (b":", b"$", b"*") else None
        except ValueError:
            number = None
        if number is None:
            raise self._stranger(line)
        if kind == b":":
            return number
        if number < 0:
            return None
        if kind == b"*":
            return [self._reply() for _ in range(min(number, _LONGEST_ANSWER))]
        while len(self._buffer) < number + 2:
            self._receive()
        data, self._buffer = self._buffer[:number], self._buffer[number + 2 :]
        return data.decode(errors="replace")


def _refused(reply):
    """
    What an error reply means, and what to type.
    """
    word = reply.split(" ")[0]
    meaning = {
        "NOAUTH": ("it asks for a password (NOAUTH), which nothing here has", _apply_again()),
        "NOPERM": ("it forbids commands that sites need (NOPERM)", _apply_again()),
        "DENIED": ("it is in protected mode and refuses this address (DENIED)", _apply_again()),
        "MISCONF": ("it refuses writes because it cannot save to disk (MISCONF)", LOG),
        "OOM": ("it refuses writes because its memory is full (OOM)", "redis-cli --bigkeys"),
        "BUSY": ("a script keeps it busy (BUSY)", "redis-cli script kill"),
        "LOADING": ("it is still loading its data (LOADING)", "redis-cli info persistence"),
        "READONLY": ("it is a read-only replica (READONLY)", "redis-cli replicaof no one"),
    }
    return _Fault(*meaning.get(word, (f"it answered {_shown(reply)}", STATUS)))


def _pong(redis):
    """
    Raise unless the answer to PING is exactly PONG.
    """
    (answer,) = redis.ask(("PING",))
    if isinstance(answer, _Refusal):
        raise _refused(answer)
    if answer != "PONG":
        raise _Fault(f"it answered {_shown(answer)}", redis._who())


def _ping_sentence(fault):
    if isinstance(fault, _BadArgument):
        return f"Redis on {_host_id()} was not asked: {fault.reason}. Try: {fault.hint}"
    return f"Redis on {_host_id()} did not answer PONG: {fault.reason}. Try: {fault.hint}"


def redis_answer(host="127.0.0.1", port=6379, timeout=2):
    """
    Ask Redis for PONG, for states and other modules: the exit code of the command stays as it is.

    host (str)
        Name or address.
    port (int)
        TCP port, 1 to 65535.
    timeout (float)
        Seconds for the whole exchange, up to 60.

    Returns ``PONG``, or one sentence: the host, the reason and the next command. Raises nothing.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 goldenpath.redis_answer
    """
    try:
        with _Redis(host, port, timeout) as redis:
            _pong(redis)
    except _Fault as fault:
        return _ping_sentence(fault)
    return "PONG"


def redis_ping(host="127.0.0.1", port=6379, timeout=2, ready=False):
    """
    Ask Redis for PONG. This is the first step of every deploy.

    host (str)
        Name or address.
    port (int)
        TCP port, 1 to 65535.
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
    if ready:
        answer = "\n".join(_failed(redis_checks(host, port, timeout))) or "PONG"
    else:
        answer = redis_answer(host, port, timeout)
    if answer != "PONG":
        __context__["retcode"] = 1
    return answer


# --- Redis: can it be used ---------------------------------------------------------------------------------


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


def _used_databases():
    used = set()
    for site in _facts().values():
        numbers = site.get("redis") or {}
        used.update(numbers[name] for name in ("cache", "broker") if isinstance(numbers.get(name), int))
    return used


def _probe_database(count, used):
    """
    The last database: provisioning always makes one more than sites may use, so that neither a site's
    cache.clear() can take the probe away nor the probe be seen by a site.
    """
    return next((number for number in reversed(range(count)) if number not in used), count - 1)


def _megabytes(number):
    return f"{number / 1024**2:.0f} MB"


def _fields(info):
    return dict(line.split(":", 1) for line in info.splitlines() if ":" in line and not line.startswith("#"))


def _number(values, name):
    try:
        return int(values[name])
    except (KeyError, ValueError):
        raise _Fault(f"it does not tell its {name}", f"redis-cli config get {name}") from None


def _memory(redis, info, threshold):
    used, limit = _number(info, "used_memory"), _number(info, "maxmemory")
    if not limit:
        raise _Fault("it has no memory limit (maxmemory 0)", _apply_again())
    if used * 100 < limit * threshold:
        return f"uses {_megabytes(used)} of {_megabytes(limit)}"
    # A warm cache fills it by design: what counts is what cannot make room.
    stays = _unevictable(redis, info)
    if stays * 100 >= limit * threshold:
        raise _Fault(
            f"queues and other keys that never expire take {stays * 100 // limit} % of its {_megabytes(limit)}, "
            f"the limit for a deploy is {threshold:g} %",
            f"raise redis:maxmemory in pillar/hosts/{_host_id().replace('.', '_')}.sls, then {_apply_again()}; "
            "are workers running?",
        )
    return f"uses {_megabytes(used)} of {_megabytes(limit)}, all but {_megabytes(stays)} of it cache that makes room"


def _unevictable(redis, info):
    """
    Bytes that ``volatile-lru`` cannot free: what Redis takes for itself, and keys without an expiry. Every queue
    (kombu keeps them in lists, and what is under way in a hash) is counted, of plain values a sample.
    """
    # It has answered: what follows is work, and not silence.
    redis._end += 20
    total = _number(info, "used_memory_startup")
    for name, told in info.items():
        counts = dict(pair.split("=") for pair in told.split(",")) if re.fullmatch(r"db\d+", name) else {}
        if counts.get("keys") == counts.get("expires"):
            continue
        _answers(redis, ("SELECT", name[2:]))
        strings = int(counts["keys"])
        for kind, most in (("list", strings), ("hash", strings), ("string", _SAMPLE)):
            sizes, seen, cursor = 0, 0, "0"
            while seen < most:
                ((cursor, keys),) = _answers(redis, ("SCAN", cursor, "COUNT", _SAMPLE, "TYPE", kind))
                seen += len(keys)
                expiries = _answers(redis, *(("TTL", key) for key in keys))
                lasting = [key for key, expiry in zip(keys, expiries, strict=True) if expiry == -1]
                sizes += sum(size or 0 for size in _answers(redis, *(("MEMORY", "USAGE", key) for key in lasting)))
                if cursor == "0":
                    break
            if kind != "string":
                strings -= seen
            elif cursor != "0":
                sizes = sizes * strings // seen
            total += sizes
    return total


def _answers(redis, *commands):
    """
    Replies of which none may be an error.
    """
    replies = redis.ask(*commands)
    for reply in replies:
        if isinstance(reply, _Refusal):
            raise _refused(reply)
    return replies


def _policy(config):
    policy = config.get("maxmemory-policy")
    if policy != "volatile-lru":
        raise _Fault(
            f"it may drop queued tasks when memory runs out (maxmemory-policy {policy}, not volatile-lru)",
            _apply_again(),
        )
    return "volatile-lru"


def _persistence(info):
    bad = [
        name
        for name in ("rdb_last_bgsave_status", "aof_last_write_status", "aof_last_bgrewrite_status")
        if info.get(name) != "ok"
    ]
    if bad:
        raise _Fault(f"its last write to disk failed ({', '.join(bad)})", LOG)
    if info.get("aof_enabled") != "1":
        raise _Fault("it keeps no append-only file, so a crash would lose the queue (appendonly no)", _apply_again())
    return "last RDB and AOF writes ok"


def _databases(count, needed):
    if count < needed:
        raise _Fault(f"it has {count} databases and the sites need {needed}", _apply_again())
    return f"{count} databases, {needed} needed"


def _probe(redis, count, used):
    number = _probe_database(count, used)
    key, value = f"goldenpath:probe:{secrets.token_hex(8)}", secrets.token_hex(8)
    answers = _answers(redis, ("SELECT", number), ("SET", key, value, "EX", 10), ("GET", key), ("DEL", key))
    if answers[2] != value:
        raise _Fault("a key that was just set could not be read back", "redis-cli info stats")
    return f"set and read in database {number}"


def _configured(path):
    """
    The directives of our file, in the form in which CONFIG GET tells them.
    """
    values = {}
    with open(path) as file:
        for line in file:
            words = [] if line.lstrip().startswith("#") else shlex.split(line)
            if len(words) < 2 or words[0].lower() == "include":
                continue
            name, value = words[0].lower(), " ".join(words[1:])
            if name == "save":
                value = f"{values.get('save', '')} {value}".strip() if value else ""
            elif name == "maxmemory" and (found := re.fullmatch(r"(\d+)([a-z]*)", value.lower())):
                value = str(int(found[1]) * _UNITS[found[2]])
            elif name == "dir":
                # Redis tells the folder that it is in, without links.
                value = os.path.realpath(value)
            values[name] = value
    return values


def _told(name, value):
    if name in _SECRETS:
        return "set" if value else "not set"
    return value if value else "empty"


def _drift(config):
    """
    Where the running server differs from our file: {name: (live, file)}. Names it does not know are left out.
    """
    try:
        wanted = _configured(CONFIG)
    except OSError:
        raise _Fault(f"{CONFIG} is missing", _apply_again()) from None
    except (KeyError, ValueError):
        raise _Fault(f"{CONFIG} cannot be read as a Redis configuration", _apply_again()) from None
    return {name: (config[name], value) for name, value in wanted.items() if name in config and config[name] != value}


def _settings(config, info):
    drift = {**_drift(config), **_role(info)}
    # What a check of its own tells is one cause, and one sentence.
    for name, fault in (
        ("maxmemory-policy", True),
        ("appendonly", True),
        ("maxmemory", config.get("maxmemory") == "0"),
    ):
        if fault:
            drift.pop(name, None)
    if drift:
        told = [f"{name} is {_told(name, live)} and not {_told(name, file)}" for name, (live, file) in drift.items()]
        raise _Fault(f"it does not run as its file says: {'; '.join(told)}", _apply_again())
    return f"as {CONFIG} says"


def _role(info):
    """
    A replica of somebody else's Redis takes no writes, and drops what it holds.
    """
    if info.get("role", "master") == "master":
        return {}
    return {"replicaof": (f"{info.get('master_host')} {info.get('master_port')}", "no one")}


def _config_of(reply):
    """
    CONFIG GET's flat list as a dictionary.
    """
    if isinstance(reply, _Refusal):
        raise _refused(reply)
    return dict(zip(reply[::2], reply[1::2], strict=True))


def _listeners(port):
    """
    Addresses on which this port is listened to, read from the kernel, whatever any configuration says.
    """
    found = set()
    for path in SOCKETS:
        try:
            with open(path) as file:
                lines = file.readlines()[1:]
        except FileNotFoundError:  # the kernel runs without IPv6
            continue
        for line in lines:
            words = line.split()
            if len(words) < 4 or words[3] != "0A":
                continue
            address, _, number = words[1].rpartition(":")
            if int(number, 16) == port:
                # 32-bit words in the byte order of this machine.
                raw = b"".join(
                    int(address[i : i + 8], 16).to_bytes(4, sys.byteorder) for i in range(0, len(address), 8)
                )
                found.add(ipaddress.ip_address(raw))
    return sorted(found, key=str)


def _is_loopback(address):
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


def _listening(port):
    found = _listeners(port)
    public = [str(address) for address in found if not _is_loopback(address)]
    if public:
        raise _Fault(f"port {port} listens on {', '.join(public)} and not on loopback alone", _apply_again())
    return f"on {' and '.join(map(str, found))} only" if found else f"nothing listens on {port}"


def _unit():
    result = __salt__["cmd.run_all"](
        ["systemctl", "show", f"{UNIT}.service", "--property=LoadState,UnitFileState"],
        python_shell=False, ignore_retcode=True, timeout=2,
    )  # fmt: skip
    state = dict(line.split("=", 1) for line in result["stdout"].splitlines() if "=" in line)
    loaded, enabled = state.get("LoadState", ""), state.get("UnitFileState", "")
    if loaded == "not-found":
        raise _Fault(f"{UNIT} is not installed", _apply_again())
    if enabled != "enabled":
        raise _Fault(f"{UNIT} is {enabled or 'unknown to systemd'} and would not come back after a reboot",
                    _apply_again())  # fmt: skip
    return "enabled"


def _firewall(port):
    if "ufw.permits" not in __salt__:
        raise _Fault("the ufw module did not reach the host", _apply_again("firewall"))
    try:
        rules = __salt__["ufw.permits"](port)
    except CommandExecutionError as exc:
        raise _Fault(f"ufw could not be asked: {exc}", "ufw status verbose") from None
    if rules:
        told = [f"{rule['rule']} ({rule['source']})" if isinstance(rule, dict) else str(rule) for rule in rules]
        raise _Fault(f"the firewall lets {port} in: {', '.join(dict.fromkeys(told))}", _apply_again("firewall"))
    return f"{port} is closed"


def redis_checks(host="127.0.0.1", port=6379, timeout=2, databases=None, threshold=90):
    """
    Everything that must be true of Redis before a deploy, all of it every time. What Redis itself is asked
    goes over one connection; where it does not answer, the rest of those questions is not asked.

    host (str)
        Name or address of Redis.
    port (int)
        TCP port, 1 to 65535; also the one whose listeners and firewall rules are looked at.
    timeout (float)
        Seconds for the whole conversation with Redis, up to 60.
    databases (int)
        How many databases the sites need. Left out, the highest that a site of this host uses, plus one.
    threshold (float)
        Per cent of ``maxmemory``, taken by what cannot be evicted, from which on a deploy is refused.

    Returns a list of dictionaries: ``check``, ``ok`` (``None`` where it could not be asked) and ``message``,
    which for a failed check is one sentence with the next command. Raises nothing.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 goldenpath.redis_checks --out=json
    """
    report = {}

    def check(name, function, *args):
        try:
            report[name] = (True, function(*args))
        except _Fault as fault:
            report[name] = (False, f"Redis on {_host_id()}: {fault.reason}. Try: {fault.hint}")

    used = _used_databases()
    try:
        if databases is None:
            databases = max(used, default=-1) + 1
        databases = _whole("databases", databases, 0, 10000)
        if isinstance(threshold, bool) or not isinstance(threshold, (int, float)) or not 0 < threshold <= 100:
            raise _BadArgument(f"threshold must be per cent up to 100, not {threshold!r}", "leave threshold out")
        with _Redis(host, port, timeout) as redis:
            try:
                _pong(redis)
                report["pong"] = (True, "PONG")
            except _Fault as fault:
                if "(MISCONF)" not in fault.reason:
                    raise
                # It still answers questions, and the operator wants every reason at once.
                report["pong"] = (False, _ping_sentence(fault))
            info, config = redis.ask(("INFO",), ("CONFIG", "GET", "*"))
            if isinstance(info, _Refusal):
                raise _refused(info)
            info, config = _fields(info), _config_of(config)
            check("memory", _memory, redis, info, threshold)
            check("policy", _policy, config)
            check("persistence", _persistence, info)
            check("databases", lambda: _databases(_number(config, "databases"), databases))
            check("settings", _settings, config, info)
            check("probe", lambda: _probe(redis, _number(config, "databases"), used))
    except _Fault as fault:
        # The first question that got no answer carries the reason.
        name = next(each for each in ("pong", "memory", "probe") if each not in report)
        sentence = _ping_sentence(fault) if name == "pong" else None
        report[name] = (False, sentence or f"Redis on {_host_id()}: {fault.reason}. Try: {fault.hint}")

    found = redis_conffile()
    if found["state"] != "not installed":  # which the unit tells
        check("conffile", _conffile_check, found)
    check("unit", _unit)
    with contextlib.suppress(_Fault):  # a bad port is in the report already
        port = _whole("port", port, 1, 65535)
        check("listeners", _listening, port)
        check("firewall", _firewall, port)
    return [
        {"check": name, "ok": ok, "message": message}
        for name in CHECKS
        for ok, message in [report.get(name, (None, "not asked"))]
    ]


def _failed(checks):
    return [each["message"] for each in checks if each["ok"] is False]


def redis_ready(host="127.0.0.1", port=6379, timeout=2, databases=None, threshold=90):
    """
    Tell whether Redis on this host can carry sites: a table with every check, for a person.

    host (str)
        Name or address of Redis.
    port (int)
        TCP port, 1 to 65535.
    timeout (float)
        Seconds for the whole conversation with Redis, up to 60.
    databases (int)
        How many databases the sites need; left out, as many as the sites of this host use.
    threshold (float)
        Per cent of ``maxmemory``, taken by what cannot be evicted, from which on a deploy is refused.

    Returns the table; when any check fails the command exits non-zero. Raises nothing.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 goldenpath.redis_ready
    """
    checks = redis_checks(host, port, timeout, databases, threshold)
    failed = _failed(checks)
    if failed:
        __context__["retcode"] = 1
    words = {True: "ok", False: "FAIL", None: "-"}
    return "\n".join(
        [f"Redis on {_host_id()} is {'not ready' if failed else 'ready'}"]
        + [f"  {each['check']:<11} {words[each['ok']]:<4} {each['message']}" for each in checks]
    )


# --- Redis: drift, and mending it --------------------------------------------------------------------------


def redis_drift(host="127.0.0.1", port=6379, timeout=5):
    """
    Where the running server differs from ``/etc/redis/goldenpath.conf``.

    host (str)
        Name or address of Redis.
    port (int)
        TCP port, 1 to 65535.
    timeout (float)
        Seconds for the whole exchange, up to 60.

    Returns ``{setting: {"old": live value, "new": value in the file}}``; of a password only whether one is
    set. A server that does not let itself be asked (NOAUTH, NOPERM, or it listens elsewhere) is told as the
    setting ``access``.
    Raises ``CommandExecutionError`` when Redis does not answer.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 goldenpath.redis_drift
    """
    try:
        with _Redis(host, port, timeout) as redis:
            drift, locked = _ask_drift(redis)
    except _NobodyListens as fault:
        drift, locked = {}, fault.reason
    except _Fault as fault:
        raise CommandExecutionError(f"Redis on {_host_id()}: {fault.reason}. Try: {fault.hint}") from None
    if locked:
        return {"access": {"old": locked, "new": "open on loopback"}}
    return {name: {"old": _told(name, live), "new": _told(name, file)} for name, (live, file) in drift.items()}


def _ask_drift(redis):
    """
    The differences, and the reason why they cannot be asked for, of which only a restart frees.
    """
    reply, info = redis.ask(("CONFIG", "GET", "*"), ("INFO", "replication"))
    if isinstance(reply, _Refusal):
        word = reply.split(" ")[0]
        if word in ("NOAUTH", "NOPERM") or "unknown command" in reply:
            return {}, word if word != "ERR" else "CONFIG is hidden"
    role = {} if isinstance(info, _Refusal) else _role(_fields(info))
    return {**_drift(_config_of(reply)), **role}, ""


def redis_mend(host="127.0.0.1", port=6379, timeout=5):
    """
    Bring the running server back to ``/etc/redis/goldenpath.conf``: by CONFIG SET, and by a restart only for
    what Redis does not change while it runs.

    host (str)
        Name or address of Redis.
    port (int)
        TCP port, 1 to 65535.
    timeout (float)
        Seconds for each exchange, up to 60.

    Returns what was changed as ``redis_drift`` tells it, with the key ``restart`` where one was needed.
    Raises ``CommandExecutionError`` when Redis does not answer, or still differs afterwards.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 goldenpath.redis_mend
    """
    changes = redis_drift(host, port, timeout)
    stuck = [name for name in changes if name == "access"]
    try:
        if changes and not stuck:
            with _Redis(host, port, timeout) as redis:
                for name, (_, value) in _ask_drift(redis)[0].items():
                    command = ("REPLICAOF", "NO", "ONE") if name == "replicaof" else ("CONFIG", "SET", name, value)
                    (reply,) = redis.ask(command)
                    if isinstance(reply, _Refusal):
                        stuck.append(name)
        if "appendonly" in changes:
            _wait_for_append_only_file(host, port, timeout)
    except _Fault as fault:
        raise CommandExecutionError(f"Redis on {_host_id()}: {fault.reason}. Try: {fault.hint}") from None
    if not changes:
        return {}
    if stuck:
        if not __salt__["service.restart"](UNIT):
            raise CommandExecutionError(f"Redis on {_host_id()} did not restart. Try: {STATUS}")
        changes["restart"] = {"old": "", "new": f"for {', '.join(stuck)}"}
    left = redis_drift(host, port, timeout)
    if left:
        raise CommandExecutionError(
            f"Redis on {_host_id()} still differs from {CONFIG} in {', '.join(left)}. Try: {LOG}"
        )
    return changes


def redis_append_only(host="127.0.0.1", port=6379, timeout=5, test=False):
    """
    Have a running Redis write its append-only file, before anything restarts it: started with
    ``appendonly yes`` it reads that file alone, and would come up empty without one, or with what an old one
    says.

    host (str)
        Name or address of Redis.
    port (int)
        TCP port, 1 to 65535.
    timeout (float)
        Seconds for each exchange, up to 60.
    test (bool)
        Only tell what would be done.

    Returns ``{}`` where nothing was to do, also for a Redis that does not run or does not let itself be
    asked; else ``{"appendonly": {"old": "no", "new": "yes"}}``, once the file is complete. Raises
    ``CommandExecutionError`` when it cannot be written.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 goldenpath.redis_append_only test=True
    """
    try:
        with _Redis(host, port, timeout) as redis:
            (reply,) = redis.ask(("CONFIG", "GET", "appendonly"))
            if _config_of(reply).get("appendonly") != "no":
                return {}
    except _Fault:
        return {}
    if not test:
        try:
            with _Redis(host, port, timeout) as redis:
                (reply,) = redis.ask(("CONFIG", "SET", "appendonly", "yes"))
            if isinstance(reply, _Refusal):
                raise _refused(reply)
            _wait_for_append_only_file(host, port, timeout)
        except _Fault as fault:
            raise CommandExecutionError(
                f"Redis on {_host_id()} cannot write an append-only file: {fault.reason}. Try: {fault.hint}"
            ) from None
    return {"appendonly": {"old": "no", "new": "yes"}}


def _wait_for_append_only_file(host, port, timeout):
    """
    An append-only file that was just switched on is complete once its first rewrite is; a restart before
    that would come up empty.
    """
    end = time.monotonic() + 120
    while time.monotonic() < end:
        with _Redis(host, port, timeout) as redis:
            (info,) = redis.ask(("INFO", "persistence"))
        if isinstance(info, _Refusal):
            raise _refused(info)
        fields = _fields(info)
        if fields.get("aof_rewrite_in_progress") == "0" and fields.get("aof_rewrite_scheduled") == "0":
            if fields.get("aof_last_bgrewrite_status") != "ok":
                raise _Fault("the first rewrite failed", LOG)
            return
        time.sleep(0.1)
    raise _Fault("the append-only file is still being written", LOG)


def _digest(path):
    with open(path, "rb") as file:
        return hashlib.md5(file.read(), usedforsecurity=False).hexdigest()


def _package():
    """
    Version of the installed redis-server package and the digest of the redis.conf that came with it.
    """
    result = __salt__["cmd.run_all"](
        ["dpkg-query", "--show", "--showformat=${db:Status-Abbrev}\n${Version}\n${Conffiles}\n", UNIT],
        python_shell=False, ignore_retcode=True,
    )  # fmt: skip
    lines = result["stdout"].splitlines()
    # The second letter is what is: a package on hold is "hi".
    if result["retcode"] or len(lines) < 2 or lines[0][1:2] != "i":
        return None, None
    digests = [line.split()[1] for line in lines[2:] if line.split()[:1] == [DISTRIBUTION_CONFIG]]
    return lines[1], (digests or [None])[0]


def _directives(path):
    """
    The lines of a redis.conf that say something, by their first word.
    """
    found = {}
    with open(path, errors="replace") as file:
        for line in file:
            words = line.split()
            if words and not words[0].startswith("#"):
                found.setdefault(words[0].lower(), []).append(" ".join(words[1:]))
    return found


def _edited(path):
    """
    The directives in which an edited redis.conf differs from its original, as far as that is at hand. Their
    values may be passwords, and only bind's is told.
    """
    is_now = _directives(path)
    original = next((each for each in _originals() if os.path.exists(each)), None)
    was = _directives(original) if original else {}
    names = [name for name in sorted({*is_now, *was}) if is_now.get(name) != was.get(name)] if was else []
    if "bind" in names or not was:
        public = [
            word
            for value in is_now.get("bind", [])
            for word in value.split()
            if word.lstrip("-") not in ("127.0.0.1", "::1", "localhost")
        ]
        if public:
            names = [f"bind {' '.join(is_now['bind'])}"] + [name for name in names if name != "bind"]
    return names


def _originals():
    return [KEPT_CONFIG, *(DISTRIBUTION_CONFIG + end for end in (".dpkg-dist", ".dpkg-new", ".dpkg-old"))]


def redis_conffile():
    """
    Whether the distribution's ``/etc/redis/redis.conf``, which ours includes, is as its package brought it.

    Returns a dictionary: ``state`` (``pristine``, ``edited``, ``missing``, or ``not installed``) and
    ``edits``, the names of the directives that differ, as far as the original is at hand. Raises nothing.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 goldenpath.redis_conffile
    """
    _, digest = _package()
    if digest is None:
        return {"state": "not installed", "edits": []}
    if not os.path.exists(DISTRIBUTION_CONFIG):
        return {"state": "missing", "edits": []}
    if _digest(DISTRIBUTION_CONFIG) == digest:
        return {"state": "pristine", "edits": []}
    return {"state": "edited", "edits": _edited(DISTRIBUTION_CONFIG)}


def _conffile_check(found):
    if found["state"] == "missing":
        raise _Fault(f"{DISTRIBUTION_CONFIG} is missing", _apply_again())
    if found["state"] == "edited":
        edits = f" ({', '.join(found['edits'])})" if found["edits"] else ""
        raise _Fault(f"{DISTRIBUTION_CONFIG} was edited{edits}", _apply_again())
    return found["state"]


def redis_conffile_restore():
    """
    Put the distribution's own redis.conf back, from the copy that was kept, from what dpkg left beside it, or
    from the package. While it is pristine, keep the copy.

    Returns what ``redis_conffile`` said before. Raises ``CommandExecutionError`` when the original cannot be
    found anywhere.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 goldenpath.redis_conffile_restore
    """
    before = redis_conffile()
    version, digest = _package()
    if before["state"] == "pristine":
        if not os.path.exists(KEPT_CONFIG) or _digest(KEPT_CONFIG) != digest:
            _replace(DISTRIBUTION_CONFIG, KEPT_CONFIG)
    elif before["state"] in ("edited", "missing"):
        with tempfile.TemporaryDirectory() as folder:
            for path in [*_originals(), None]:
                source = path or _from_package(version, folder)
                if source and os.path.exists(source) and _digest(source) == digest:
                    _replace(source, DISTRIBUTION_CONFIG, user="redis", mode=0o640)
                    return before
        raise CommandExecutionError(
            f"{DISTRIBUTION_CONFIG} on {_host_id()} was edited, and its original is not to be had. Try: apt-get "
            f"install --reinstall -o Dpkg::Options::=--force-confask -o Dpkg::Options::=--force-confnew {UNIT}"
        )
    return before


def _from_package(version, folder):
    for command in (["apt-get", "download", "--quiet", f"{UNIT}={version}"], ["dpkg-deb", "--extract"]):
        if command[0] == "dpkg-deb":
            packages = [name for name in os.listdir(folder) if name.endswith(".deb")]
            if not packages:
                return None
            command += [os.path.join(folder, packages[0]), folder]
        result = __salt__["cmd.run_all"](command, cwd=folder, python_shell=False, ignore_retcode=True)
        if result["retcode"]:
            return None
    return folder + DISTRIBUTION_CONFIG


def _replace(source, target, user=None, mode=0o644):
    """
    Copy a file into place by one rename, keeping the owner of what it replaces.
    """
    os.makedirs(os.path.dirname(target), exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=os.path.dirname(target), prefix=".goldenpath-")
    try:
        with os.fdopen(handle, "wb") as copy, open(source, "rb") as original:
            shutil.copyfileobj(original, copy)
        os.chmod(temporary, mode)
        if user:
            shutil.chown(temporary, user, user)
        os.replace(temporary, target)
    except BaseException:
        os.unlink(temporary)
        raise


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
