"""
A site's keys follow its environment: from the host's Redis into the site's own, or back. Nothing is lost and no task is
there twice, whenever this is ended: each key is in one place at a time, and who comes next goes on.
"""

import os
import urllib.parse

from . import env, files, host, redis_gate, units
from . import site as sites
from .errors import Failed

# Keys that one MIGRATE takes along; Redis answers nobody else meanwhile.
BATCH = 200
TIMEOUT = 120
# Where a key waits that is there already under its own name.
WAITING = "goldenpath:moving:"
# What both have becomes one. kombu puts tasks on the left and takes them on the right: those of before are first. Of
# what cannot be joined the newer one stays; a stream is left where it is, and told.
_JOIN = """
local kind, there = redis.call('TYPE', KEYS[1]).ok, redis.call('TYPE', KEYS[2]).ok
if kind == 'none' then return 1 end
if there == 'none' then redis.call('RENAME', KEYS[1], KEYS[2]) return 1 end
if kind == 'stream' then return 0 end
if kind == there and kind == 'list' then
  for _, item in ipairs(redis.call('LRANGE', KEYS[1], 0, -1)) do redis.call('RPUSH', KEYS[2], item) end
elseif kind == there and kind == 'set' then
  redis.call('SUNIONSTORE', KEYS[2], KEYS[2], KEYS[1])
elseif kind == there and kind == 'zset' then
  redis.call('ZUNIONSTORE', KEYS[2], 2, KEYS[2], KEYS[1], 'AGGREGATE', 'MAX')
elseif kind == there and kind == 'hash' then
  local all = redis.call('HGETALL', KEYS[1])
  for at = 1, #all, 2 do redis.call('HSETNX', KEYS[2], all[at], all[at + 1]) end
end
redis.call('DEL', KEYS[1])
return 1
"""


def here(site, release=None):
    """The instance that a release's environment, or the pillar's, names: its slug, or None for the shared one."""
    url = env.read(site.variables(release)).get("REDIS_URL", "")
    return None if urllib.parse.urlsplit(url).port in (None, redis_gate.PORT) else site.slug


def two(site):
    """Whether there is another instance in which keys of the site may be left."""
    return os.path.exists(redis_gate.Instance(site.slug).config)


def moves(site, before, release):
    """Whether the keys of one release are not where the other one looks for them, or were left on their way."""
    return two(site) and (os.path.exists(site.path(sites.OWED)) or here(site, before) != here(site, release))


def lost(site, release):
    """Whether a release's environment names an instance that is there no more."""
    return here(site, release) is not None and not two(site)


def gather(site):
    """
    Bring every key of the site's databases to where its live release looks for them. Nobody may write where they come
    from. Returns how many came. Raises Failed; those that came stay, and the next one goes on.
    """
    target = here(site, site.current)
    source = None if target else site.slug
    numbers = [site.facts["redis"][name] for name in ("cache", "broker")]
    try:
        return sum(_database(source, target, number) for number in numbers)
    except redis_gate.Fault as fault:
        raise Failed(
            f"The keys of {site.slug} do not reach {redis_gate.Instance(target).name(host.name())}: {fault.reason}. "
            f"Try: {fault.hint or redis_gate.Instance(target).words(redis_gate.LOG)}"
        ) from None


def leave(site):
    """The site's own instance ends where pillar and live release name the shared one: nothing is left in it."""
    instance = redis_gate.Instance(site.slug)
    if two(site) and here(site) is None and here(site, site.current) is None:
        units.disable([f"{instance.unit}.service"])
        files.remove(instance.config)


def _ask(slug, number, *command):
    return _ask_all(slug, number, command)[0]


def _ask_all(slug, number, *commands):
    return redis_gate.ask(("SELECT", number), *commands, timeout=TIMEOUT, slug=slug)[1:]


def _database(source, target, number):
    moved, before = 0, None
    # What somebody wrote behind the cursor is found by the next round.
    while left := _ask(source, number, "DBSIZE"):
        if left == before:
            raise Failed(
                f"{left} keys of database {number} do not leave {redis_gate.Instance(source).name(host.name())}. "
                "Try: goldenpath redis -n <database> --scan"
            )
        before, cursor = left, None
        while cursor != "0":
            cursor, keys = _ask(source, number, "SCAN", cursor or "0", "COUNT", BATCH)
            moved += _sent(source, target, number, keys) if keys else 0
        _join(target, number)
    _join(target, number)
    return moved


def _sent(source, target, number, keys):
    if _migrated(source, target, number, keys):
        return len(keys)
    # Those that are there already wait beside the others, under a name that nobody else uses.
    there = _ask_all(source, number, *(("EXISTS", key) for key in keys))
    left = [key for key, found in zip(keys, there, strict=True) if found]
    for key in left:
        if not key.startswith(WAITING):
            _ask(source, number, "RENAME", key, WAITING + key)
    waiting = [key if key.startswith(WAITING) else WAITING + key for key in left]
    _join(target, number)
    if waiting and not _migrated(source, target, number, waiting):
        return len(keys) - len(waiting)
    return len(keys)


def _migrated(source, target, number, keys):
    """Whether all of them were taken: what is there already under its name is refused, and stays."""
    # Redis itself does it: a key is deleted here when it is written there.
    words = (
        "MIGRATE", redis_gate.HOST, redis_gate.Instance(target).port, "", number, TIMEOUT * 1000,
        "AUTH2", redis_gate.USER, (files.read(redis_gate.PASSWORD) or "").strip(), "KEYS", *keys,
    )  # fmt: skip
    try:
        _ask(source, number, *words)
    except redis_gate.Refused as refused:
        if "BUSYKEY" not in refused.reply:
            raise
        return False
    return True


def _join(target, number):
    cursor = None
    while cursor != "0":
        cursor, keys = _ask(target, number, "SCAN", cursor or "0", "MATCH", f"{WAITING}*", "COUNT", BATCH)
        for key in keys:
            if not _ask(target, number, "EVAL", _JOIN, 2, key, key[len(WAITING) :]):
                print(f"{key} in database {number} is a stream that is there twice, and stays beside the other")
