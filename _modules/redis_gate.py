"""
What must be true of this host's Redis before anything relies on it: it answers PONG, and it can carry the sites.

Nothing of Salt in here: Salt loads this file from ``_modules/``, and the engine on the host imports the same one.
Standard library only: Redis is asked through a socket of our own, with one deadline for the whole exchange,
so that neither redis-cli (which exits 0 on ``NOAUTH``) nor a client library is needed.
"""

import contextlib
import ipaddress
import json
import os
import pwd
import re
import secrets
import shlex
import socket
import subprocess
import sys
import time
import typing

HOST, PORT = "127.0.0.1", 6379
# Whose process Redis is: whoever else holds the port can say PONG as well.
OWNER = "redis"
# The tree's own user of Redis, whose password only root reads; a Redis of before knows none.
USER, PASSWORD = "goldenpath", "/etc/goldenpath/redis-password"
CONNECTIONS = ("/proc/net/tcp", "/proc/net/tcp6")
UNIT = "redis-server"
CONFIG, CONFIG_OF = "/etc/redis/goldenpath.conf", "/etc/redis/goldenpath-{}.conf"
SITES = "/etc/goldenpath/sites"
SOCKETS = ("/proc/net/tcp", "/proc/net/tcp6")
SYSTEMCTL = "/usr/bin/systemctl"

# The order in which `checks` reports.
CHECKS = (
    "pong", "probe", "memory", "policy", "persistence", "databases", "settings", "unit", "listeners", "firewall",
)  # fmt: skip
# What an operator types, for the instance that is asked.
STATUS = "systemctl status {unit}"
LOG = "tail -n 20 {log}"
LOG_FILE = "/var/log/redis/redis-server{}.log"
# What was written last may be lost by it; what there was before is kept aside.
REPAIR = (
    "systemctl stop {unit}; cp -a {data} /root/redis.before; "
    "yes | redis-check-aof --fix {data}/appendonlydir/*.manifest; systemctl start {unit}"
)
_DAMAGE = (
    r"Bad file format|Unexpected end of file|Fatal error loading|manifest|Unrecoverable error|Error reading"
    r"|Wrong signature|Can't (open|chdir|handle)|Failed (opening|to open|to create)|FATAL CONFIG|Bad directive"
    r"|Short read|Internal error in RDB"
)
FULL = 90  # per cent of maxmemory, taken by what cannot be evicted
MEANINGS = {
    "NOAUTH": ("it asks for a password (NOAUTH), which nothing here has", None),
    "NOPERM": ("it forbids commands that sites need (NOPERM)", None),
    "DENIED": ("it is in protected mode and refuses this address (DENIED)", None),
    "MISCONF": ("it refuses writes because it cannot save to disk (MISCONF)", LOG),
    "OOM": ("it refuses writes because its memory is full (OOM)", "{cli} --bigkeys"),
    "BUSY": ("a script keeps it busy (BUSY)", "{cli} script kill"),
    "LOADING": ("it is still loading its data (LOADING)", "{cli} info persistence"),
    "READONLY": ("it is a read-only replica (READONLY)", "{admin} replicaof no one"),
}
_LONGEST_ANSWER = 1024 * 1024
_SAMPLE = 2000  # keys of one database whose sizes stand for all of its plain values
_SECRETS = ("requirepass", "masterauth", "tls-key-file-pass", "tls-client-key-file-pass")
_UNITS = {"": 1, "b": 1, "k": 1000, "kb": 1024, "m": 1000**2, "mb": 1024**2, "g": 1000**3, "gb": 1024**3}


class Instance(typing.NamedTuple):
    """One Redis of this host: the shared one, or that of a site, whose slug it has."""

    slug: str | None = None

    @property
    def unit(self):
        """Its systemd unit."""
        return f"{UNIT}@{self.slug}" if self.slug else UNIT

    @property
    def config(self):
        """Its configuration, all of which is ours."""
        return CONFIG_OF.format(self.slug) if self.slug else CONFIG

    @property
    def port(self):
        """The port of its configuration; of the shared one it is the ticket's."""
        return int(_configured(self)["port"]) if self.slug else PORT

    def password(self):
        """What its sites' user is known by; the shared one asks for none, and takes any."""
        return _first_line(f"{PASSWORD}-{self.slug}") if self.slug else "none"

    def name(self, host_id):
        """What a sentence calls it."""
        return f"Redis of {self.slug} on {host_id}" if self.slug else f"Redis on {host_id}"

    @property
    def log(self):
        """Its log file."""
        return LOG_FILE.format(f"-{self.slug}" if self.slug else "")

    def damage(self):
        """Why it does not start, in its own last words, and what mends that; nothing where it does not say."""
        last = ""
        with contextlib.suppress(OSError), open(self.log, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 8192))
            for line in file.read().decode(errors="replace").splitlines():
                if "Server initialized" in line or "Ready to accept" in line:
                    last = last if "Server initialized" in line else ""
                elif re.search(_DAMAGE, line):
                    last = line.partition(" # ")[2].strip() or line.strip()
        return (_shown(last, 160), REPAIR if re.search("append only|AOF", last) else LOG) if last else ("", None)

    def words(self, hint):
        """A command for the operator, about this instance."""
        if not hint:
            return hint
        admin = f"goldenpath redis {self.slug}" if self.slug else "goldenpath redis"
        data = f"/var/lib/redis/{self.slug}" if self.slug else "/var/lib/redis"
        cli = admin if self.slug else "redis-cli"
        words = {"unit": self.unit, "log": self.log, "data": data, "admin": admin, "cli": cli}
        for name, word in words.items():
            hint = hint.replace(f"{{{name}}}", word)
        return hint


def _first_line(path):
    try:
        with open(path, encoding="ascii") as file:
            return file.read().strip()
    except (OSError, ValueError):
        return ""


# Kinds of Python's own, because who calls through Salt's loader cannot name these classes.
class Fault(ConnectionError):
    """
    Redis could not be asked, or answered wrong: the reason as part of a sentence, and the command that an operator
    types next; without one, the command that mends what the tree owns.
    """

    def __init__(self, reason, hint=None):
        super().__init__(reason)
        self.reason = reason
        self.hint = hint


class NobodyListens(Fault, ConnectionRefusedError):
    """Nothing listens there."""


class Refused(Fault, PermissionError):
    """An error reply of Redis, and its first word."""

    def __init__(self, reply):
        self.reply = reply
        self.word = reply.split(" ")[0]
        super().__init__(*MEANINGS.get(self.word, (f"it answered {_shown(reply)}", STATUS)))
        self.hidden = "unknown command" in reply


def _bytes(word):
    return str(word).encode(errors="surrogateescape")


def _shown(data, length=60):
    """The first line of what somebody answered, safe to print."""
    text = data.decode("latin-1") if isinstance(data, bytes) else str(data)
    line = "".join(c if c.isascii() and c.isprintable() else "?" for c in (text.splitlines() or [""])[0])
    return repr(line if len(line) <= length else line[:length] + "...")


# --- The conversation --------------------------------------------------------------------------------------


class _Redis:
    """
    One connection that speaks RESP. The deadline holds for everything that is said on it, so that a server
    which hangs, or answers a byte a second, cannot hold anybody up.
    """

    def __init__(self, timeout, instance):
        self.instance = instance
        number = instance.port
        self.place, self.who = f"{HOST}:{number}", f"ss -ltnp 'sport = :{number}'"
        self.timeout, self.end = timeout, time.monotonic() + timeout
        self._buffer, self._received = b"", 0
        with self._faults():
            self._socket = socket.create_connection((HOST, number), timeout=self._left())
        self._asked, self._known = False, False

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._socket.close()

    def ask(self, *commands):
        """Send commands, each a tuple of words, and return their replies; an error reply is a ``Refused``."""
        request = b"".join(
            b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in map(_bytes, words))
            for words in commands
        )
        self._received = 0
        with self._faults():
            self._socket.settimeout(self._left())
            self._socket.sendall(request)
        replies = [self._reply() for _ in commands[:1]]
        if commands and not self._asked:
            # Once it has answered it has taken the connection, and the kernel knows whose that is.
            self._asked = True
            self._judge()
        return replies + [self._reply() for _ in commands[1:]]

    def _judge(self):
        """Raise where the process that answers is not Redis' own."""
        with self._faults():
            port, peer = self._socket.getsockname()[1], self._socket.getpeername()[1]
        owners = {
            int(words[7])
            for words in _sockets(CONNECTIONS)
            if words[1].endswith(f":{peer:04X}") and words[2].endswith(f":{port:04X}") and words[3] == "01"
        }
        try:
            wanted = pwd.getpwnam(OWNER).pw_uid
        except KeyError:
            raise Fault(f"there is no user {OWNER}") from None
        if owners != {wanted}:
            told = " and ".join(sorted(map(_user, owners))) or "nobody that the kernel knows"
            raise Fault(f"{self.place} is held by {told} and not by {OWNER}", self.who)

    def log_in(self):
        """Become the tree's own user, where Redis has one; the user of every site may not ask all that is asked."""
        password = _first_line(PASSWORD)
        if not password:
            return
        if not self._asked:
            self.ask(("PING",))  # which is nobody's secret
        self._known = True
        self.ask(("AUTH", USER, password))

    def log_out(self):
        """Become the user that sites are. Raises where that one is not let in: it would go on as ours otherwise."""
        if self._known:
            self.answers(("AUTH", "default", self.instance.password()))

    def answers(self, *commands):
        """Replies of which none may be an error."""
        replies = self.ask(*commands)
        if refused := [reply for reply in replies if isinstance(reply, Refused)]:
            raise refused[0]
        return replies

    def _left(self):
        left = self.end - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left

    @contextlib.contextmanager
    def _faults(self):
        try:
            yield
        except TimeoutError:
            raise Fault(f"no answer from {self.place} within {self.timeout:g} s", LOG) from None
        except ConnectionRefusedError:
            damage, repair = self.instance.damage()
            why = f", it does not start: {damage}" if damage else ""
            raise NobodyListens(f"connection refused on {self.place}{why}", repair or STATUS) from None
        except (ConnectionResetError, BrokenPipeError):
            raise self._closed() from None
        except OSError as exc:
            raise Fault(f"{exc.strerror or exc} on {self.place}", STATUS) from None

    def _closed(self):
        return Fault(f"{self.place} closed the connection without an answer", self.who)

    def _stranger(self, data):
        return Fault(f"something that is not Redis answers on {self.place}: {_shown(data)}", self.who)

    def _receive(self):
        with self._faults():
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
            return Refused(rest.decode(errors="replace"))
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
        # Whatever a key is made of, it can be named again.
        return data.decode(errors="surrogateescape")


def _sockets(paths):
    """The kernel's list of TCP sockets, each line as its words (proc(5))."""
    for path in paths:
        with contextlib.suppress(FileNotFoundError), open(path, encoding="ascii") as file:  # perhaps without IPv6
            yield from [line.split() for line in file][1:]


def _user(uid):
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"the user {uid}"


def _pong(redis):
    """Raise unless the answer to PING is exactly PONG."""
    (answer,) = redis.answers(("PING",))
    if answer != "PONG":
        raise Fault(f"it answered {_shown(answer)}", redis.who)


def _again(host_id, again):
    return again or (lambda sls="redis": f"salt-ssh {host_id} state.apply {sls}")


def _sentence(instance, host_id, fault, again, what=":"):
    return f"{instance.name(host_id)}{what} {fault.reason}. Try: {instance.words(fault.hint) or again()}"


def _open(timeout, instance):
    """A conversation with the shared one as its sites have it; with a site's own, which asks who is there, as ours."""
    redis = _Redis(timeout, instance)
    if instance.slug:
        try:
            redis.log_in()
        except Fault:
            redis.__exit__()
            raise
    return redis


def ask(*commands, timeout=5, slug=None):
    """
    Ask this host's Redis something.

    commands (list)
        One or more commands, each a list of words.
    timeout (float)
        Seconds for the whole exchange.
    slug (str)
        The site whose own instance is asked; left out, the shared one.

    Returns the list of replies. Raises a ``ConnectionError`` with ``reason`` and ``hint``: a
    ``ConnectionRefusedError`` where nobody listens, a ``PermissionError`` for an error reply.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 redis_gate.ask '[PING]'
    """
    instance = Instance(slug)
    try:
        with _Redis(timeout, instance) as redis:
            redis.log_in()
            return redis.answers(*commands)
    except Fault as fault:
        fault.hint = instance.words(fault.hint)
        raise


def about(host_id, slug=None):
    """
    What an instance is called, and where its parts lie.

    host_id (str)
        What sentences call this host.
    slug (str)
        The site whose own instance it is; left out, the shared one.

    Returns a dictionary with ``name``, ``unit``, ``config`` and ``log``. Asks nobody.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 redis_gate.about web1
    """
    found = Instance(slug)
    return {"name": found.name(host_id), "unit": found.unit, "config": found.config, "log": found.log}


def port(slug):
    """
    Where a site's own instance listens.

    slug (str)
        The site.

    Returns the port. Raises a ``ConnectionError`` with ``reason`` where it has none.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 redis_gate.port acme-kitchens
    """
    return Instance(slug).port


def answer(host_id, timeout=2, again=None, slug=None):
    """
    Ask this host's Redis for PONG.

    host_id (str)
        What the sentence calls this host.
    timeout (float)
        Seconds for the whole exchange.
    again (callable)
        Gives the command that applies an SLS, ``redis`` by default; left out, as over salt-ssh.
    slug (str)
        The site whose own instance is asked; left out, the shared one.

    Returns ``PONG``, or one sentence: the host, the reason and the next command. Raises nothing.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 redis_gate.answer web1
    """
    instance = Instance(slug)
    try:
        with _open(timeout, instance) as redis:
            _pong(redis)
    except Fault as fault:
        return _sentence(instance, host_id, fault, _again(host_id, again), " did not answer PONG:")
    return "PONG"


# --- The checks --------------------------------------------------------------------------------------------


def _known_sites():
    """The host's sites, from the files that provisioning left on it."""
    sites = {}
    with contextlib.suppress(OSError):
        for name in sorted(os.listdir(SITES)):
            slug, extension = os.path.splitext(name)
            with contextlib.suppress(OSError, ValueError), open(os.path.join(SITES, name)) as file:
                facts = json.load(file)
                if extension == ".json" and isinstance(facts, dict):
                    sites[slug] = facts
    return sites


def own():
    """
    The sites that have a Redis of their own on this host: as provisioning left it, whatever a pillar says meanwhile.

    Returns a sorted list of slugs.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 redis_gate.own
    """
    return _owners(_known_sites())


def _owners(known):
    return sorted(slug for slug, site in known.items() if (site.get("redis") or {}).get("own"))


def _used_databases(sites, instance, owners):
    there = [slug for slug in sites if (slug == instance.slug if instance.slug else slug not in owners)]
    numbers = [sites[slug].get("redis") or {} for slug in there]
    return {each[name] for each in numbers for name in ("cache", "broker") if isinstance(each.get(name), int)}


def _pairs(flat):
    return dict(zip(flat[::2], flat[1::2], strict=True))


def _megabytes(number):
    return f"{number / 1024**2:.0f} MB"


def _fields(info):
    return dict(line.split(":", 1) for line in info.splitlines() if ":" in line and not line.startswith("#"))


def _number(values, name):
    try:
        return int(values[name])
    except (KeyError, ValueError):
        raise Fault(f"it does not tell its {name}", f"{{admin}} config get {name}") from None


def _memory(redis, info, host_id, again):
    used, limit = _number(info, "used_memory"), _number(info, "maxmemory")
    if not limit:
        raise Fault("it has no memory limit (maxmemory 0)")
    if used * 100 < limit * FULL:
        return f"uses {_megabytes(used)} of {_megabytes(limit)}"
    # A warm cache fills it by design: what counts is what cannot make room.
    stays = _unevictable(redis, info)
    if stays * 100 >= limit * FULL:
        raise Fault(
            f"queues and other keys that never expire take {stays * 100 // limit} % of its {_megabytes(limit)}, "
            f"the limit for a deploy is {FULL} %",
            f"raise {f'sites:{slug}:' if (slug := redis.instance.slug) else ''}redis:maxmemory in "
            f"pillar/hosts/{host_id.replace('.', '_')}.sls, then {again()}; "
            "are workers running?",
        )
    return f"uses {_megabytes(used)} of {_megabytes(limit)}, all but {_megabytes(stays)} of it cache that makes room"


def _unevictable(redis, info):
    """
    Bytes that ``volatile-lru`` cannot free: what Redis takes for itself, and keys without an expiry. Every queue
    (kombu keeps them in lists, and what is under way in a hash) is counted, of plain values a sample.
    """
    # It has answered: what follows is work, and not silence.
    redis.end += 20
    total = _number(info, "used_memory_startup")
    for name, told in info.items():
        counts = dict(pair.split("=") for pair in told.split(",")) if re.fullmatch(r"db\d+", name) else {}
        if counts.get("keys") == counts.get("expires"):
            continue
        redis.answers(("SELECT", name[2:]))
        strings = int(counts["keys"])
        for kind, most in (("list", strings), ("hash", strings), ("string", _SAMPLE)):
            sizes, seen, cursor = 0, 0, "0"
            while seen < most:
                ((cursor, keys),) = redis.answers(("SCAN", cursor, "COUNT", _SAMPLE, "TYPE", kind))
                seen += len(keys)
                expiries = redis.answers(*(("TTL", key) for key in keys))
                lasting = [key for key, expiry in zip(keys, expiries, strict=True) if expiry == -1]
                sizes += sum(size or 0 for size in redis.answers(*(("MEMORY", "USAGE", key) for key in lasting)))
                if cursor == "0":
                    break
            if kind != "string":
                strings -= seen
            elif cursor != "0":
                sizes = sizes * strings // seen
            total += sizes
    return total


def _policy(config):
    policy = config.get("maxmemory-policy")
    if policy != "volatile-lru":
        raise Fault(f"it may drop queued tasks when memory runs out (maxmemory-policy {policy}, not volatile-lru)")
    return "volatile-lru"


def _persistence(info):
    names = ("rdb_last_bgsave_status", "aof_last_write_status", "aof_last_bgrewrite_status")
    bad = [name for name in names if info.get(name) != "ok"]
    if bad:
        raise Fault(f"its last write to disk failed ({', '.join(bad)})", LOG)
    if info.get("aof_enabled") != "1":
        raise Fault("it keeps no append-only file, so a crash would lose the queue (appendonly no)")
    return "last RDB and AOF writes ok"


def _databases(config, used):
    count, needed = _number(config, "databases"), max(used, default=-1) + 1
    if count < needed:
        raise Fault(f"it has {count} databases and the sites need {needed}")
    return f"{count} databases, {needed} needed"


def _probe(redis, config, used):
    redis.log_out()
    # The last database: provisioning always makes one more than sites may use, so that neither a site's
    # cache.clear() can take the probe away nor the probe be seen by a site.
    count = _number(config, "databases")
    number = next((each for each in reversed(range(count)) if each not in used), count - 1)
    key, value = f"goldenpath:probe:{secrets.token_hex(8)}", secrets.token_hex(8)
    answers = redis.answers(("SELECT", number), ("SET", key, value, "EX", 10), ("GET", key), ("DEL", key))
    if answers[2] != value:
        raise Fault("a key that was just set could not be read back", "{cli} info stats")
    return f"set and read in database {number}"


def _configured(instance):
    """The directives of our file, in the form in which CONFIG GET tells them."""
    values, path = {}, instance.config
    try:
        with open(path) as file:
            lines = [shlex.split(line) for line in file if not line.lstrip().startswith("#")]
        for words in lines:
            # A file of before included the package's; of it, only its own directives.
            if len(words) < 2 or words[0].lower() == "include":
                continue
            name, value = words[0].lower(), " ".join(words[1:])
            if name == "save":
                value = f"{values.get('save', '')} {value}".strip() if value else ""
            elif name == "maxmemory" and (found := re.fullmatch(r"(\d+)([a-z]*)", value.lower())):
                value = str(int(found[1]) * _UNITS[found[2]])
            values[name] = value
    except OSError:
        raise Fault(f"{path} is missing") from None
    except (KeyError, ValueError):
        raise Fault(f"{path} cannot be read as a Redis configuration") from None
    return values


def _same(name, live, wanted):
    # Redis tells the folder that it is in, without links; and /var/run is /run.
    return live == wanted or (name in ("dir", "pidfile") and os.path.realpath(live) == os.path.realpath(wanted))


def _told(name, value):
    if name in _SECRETS:
        return "set" if value else "not set"
    return value if value else "empty"


def differences(config, info, slug=None):
    """
    Where the running server differs from its file, such as ``/etc/redis/goldenpath.conf``.

    config (list)
        Redis' reply to ``CONFIG GET *``.
    info (str)
        Its reply to ``INFO replication``.
    slug (str)
        The site whose own instance it is; left out, the shared one.

    Returns ``{setting: {"old": live value, "new": value in the file, "value": what to set it to}}``; of a password
    ``old`` and ``new`` only tell whether one is set. Raises a ``ConnectionError`` with ``reason`` and ``hint``
    where the file cannot be read.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 redis_gate.differences '[maxmemory, "1"]' ''
    """
    live, fields = _pairs(config), _fields(info)
    found = {
        name: {"old": _told(name, live[name]), "new": _told(name, wanted), "value": wanted}
        for name, wanted in _configured(Instance(slug)).items()
        if name in live and not _same(name, live[name], wanted)
    }
    # A replica of somebody else's Redis takes no writes, and drops what it holds.
    if fields.get("role", "master") != "master":
        master = f"{fields.get('master_host')} {fields.get('master_port')}"
        found["replicaof"] = {"old": master, "new": "no one", "value": "no one"}
    return found


def _settings(config, info, instance):
    found, live = differences(config, info, instance.slug), _pairs(config)
    # What a check of its own tells is one cause, and one sentence.
    for name in ("maxmemory-policy", "appendonly", *(["maxmemory"] if live.get("maxmemory") == "0" else [])):
        found.pop(name, None)
    if found:
        told = "; ".join(f"{name} is {each['old']} and not {each['new']}" for name, each in found.items())
        raise Fault(f"it does not run as its file says: {told}")
    return f"as {instance.config} says"


def _listening(port):
    """Judge who is listened to on the port, read from the kernel, whatever any configuration says."""
    found = set()
    for words in _sockets(SOCKETS):
        address, _, number = words[1].rpartition(":")
        if words[3] == "0A" and int(number, 16) == port:
            # 32-bit words in the byte order of this machine.
            parts = [int(address[at : at + 8], 16) for at in range(0, len(address), 8)]
            raw = b"".join(part.to_bytes(4, sys.byteorder) for part in parts)
            found.add(ipaddress.ip_address(raw))
    public = [str(each) for each in found if not (getattr(each, "ipv4_mapped", None) or each).is_loopback]
    if public:
        raise Fault(f"port {port} listens on {', '.join(sorted(public))} and not on loopback alone")
    return f"on {' and '.join(sorted(map(str, found)))} only" if found else f"nothing listens on {port}"


def _unit(unit):
    output = ""
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        output = subprocess.run(
            [SYSTEMCTL, "show", f"{unit}.service", "--property=LoadState,UnitFileState"],
            capture_output=True, text=True, check=False, timeout=2, env={"PATH": "/usr/bin", "LC_ALL": "C"},
        ).stdout  # fmt: skip
    state = dict(line.split("=", 1) for line in output.splitlines() if "=" in line)
    loaded, enabled = state.get("LoadState", ""), state.get("UnitFileState", "")
    if loaded == "not-found":
        raise Fault(f"{unit} is not installed")
    if enabled != "enabled":
        raise Fault(f"{unit} is {enabled or 'unknown to systemd'} and would not come back after a reboot")
    return "enabled"


def _closed(firewall):
    reason, hint = firewall(PORT)
    if reason:
        raise Fault(reason, hint)
    return f"{PORT} is closed"


def checks(host_id, sites=None, again=None, firewall=None, timeout=2, site=None):
    """
    Everything that must be true of Redis before a deploy, all of it every time. What Redis itself is asked
    goes over one connection; where it does not answer, the rest of those questions is not asked.

    host_id (str)
        What the sentences call this host.
    sites (dict)
        Facts of the host's sites by slug, of which ``redis`` with ``cache`` and ``broker`` is read; left out, from
        the files under ``/etc/goldenpath/sites``.
    again (callable)
        Gives the command that applies an SLS, ``redis`` by default; left out, as over salt-ssh.
    firewall (callable)
        Takes the port; returns the reason why it is open and the next command, two empty texts where it is closed.
        Left out, the firewall is not asked.
    timeout (float)
        Seconds for the whole conversation with Redis.
    site (str)
        Ask, next to the shared one, the own instance of this site alone; left out, those of all sites.

    Returns a list of dictionaries: ``check``, ``ok`` (``None`` where it could not be asked) and ``message``,
    which for a failed check is one sentence with the next command. Raises nothing.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 redis_gate.checks web1 --out=json
    """
    known, again = _known_sites(), _again(host_id, again)
    sites, owners = known if sites is None else sites, _owners(known)

    def checked(instance, closed):
        return _checked(instance, host_id, _used_databases(sites, instance, owners), again, closed, timeout)

    found = checked(Instance(), firewall)
    for slug in owners:
        if site in (None, slug):
            # Nobody but the site reaches it: no firewall is asked.
            found += checked(Instance(slug), None)
    return found


def _checked(instance, host_id, used, again, firewall, timeout):
    report = {}

    def check(name, function, *args):
        try:
            report[name] = (True, function(*args))
        except Fault as fault:
            report[name] = (False, _sentence(instance, host_id, fault, again))

    def not_pong(fault):
        report["pong"] = (False, _sentence(instance, host_id, fault, again, " did not answer PONG:"))

    try:
        with _open(timeout, instance) as redis:
            try:
                _pong(redis)
                report["pong"] = (True, "PONG")
            except Refused as fault:
                if fault.word != "MISCONF":
                    raise
                # It still answers questions, and the operator wants every reason at once.
                not_pong(fault)
            redis.log_in()
            told, directives = redis.answers(("INFO",), ("CONFIG", "GET", "*"))
            info, config = _fields(told), _pairs(directives)
            check("memory", _memory, redis, info, host_id, again)
            check("policy", _policy, config)
            check("persistence", _persistence, info)
            check("databases", _databases, config, used)
            check("settings", _settings, directives, told, instance)
            check("probe", _probe, redis, config, used)
    except Fault as fault:
        # The first question that got no answer carries the reason.
        if "pong" in report:
            report["memory"] = (False, _sentence(instance, host_id, fault, again))
        else:
            not_pong(fault)
    check("unit", _unit, instance.unit)
    check("listeners", lambda: _listening(instance.port))
    if firewall:
        check("firewall", _closed, firewall)
    return [
        {"check": f"{name} of {instance.slug}" if instance.slug else name, "ok": ok, "message": message}
        for name in CHECKS
        if name != "firewall" or not instance.slug
        for ok, message in [report.get(name, (None, "not asked"))]
    ]


def failed(checks):
    """
    What stands in the way of a deploy.

    checks (list)
        What ``checks`` returned.

    Returns the sentences of the checks that failed, none where all is well.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 redis_gate.failed '[]'
    """
    return [each["message"] for each in checks if each["ok"] is False]
