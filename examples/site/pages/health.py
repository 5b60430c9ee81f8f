"""
How the site is: `ok`, `degraded` (it serves, but background tasks wait) or `unhealthy` (it cannot serve).

The checks run beside each other and have one deadline, so the answer comes in time whatever hangs.
"""

import logging
from concurrent.futures import ThreadPoolExecutor, wait
from uuid import uuid4

from django.core.cache import cache
from django.db import connection

from pages import heartbeat

DEADLINE = 1.5

log = logging.getLogger("pages.health")


def database():
    """The database takes a new connection and answers."""
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
            return cursor.fetchone() == (1,)
    finally:
        connection.close()


def redis_cache():
    """The cache takes a value and gives it back."""
    value = uuid4().hex
    cache.set("health:probe", value, timeout=10)
    # Another process's probe may stand there by now: any value shows that the cache works.
    return cache.get("health:probe") is not None


def celery():
    """A worker has written its heartbeat of late."""
    try:
        return heartbeat.alive().exists()
    finally:
        connection.close()


CHECKS = {"db": database, "cache": redis_cache, "celery": celery}
CRITICAL = {"db", "cache"}

# Threads that hang are used up and not replaced; checks that find none free fail by the deadline.
_threads = ThreadPoolExecutor(max_workers=12, thread_name_prefix="health")


def check():
    """
    Ask everything the site depends on.

    Returns a pair: the status, and a dictionary of each check's result, `ok` or `failed`.
    """
    pending = {name: _threads.submit(function) for name, function in CHECKS.items()}
    wait(pending.values(), timeout=DEADLINE)
    results = {}
    for name, future in pending.items():
        if not future.done():
            future.cancel()
            good, reason = False, f"no answer within {DEADLINE} s"
        elif future.exception():
            good, reason = False, future.exception()
        else:
            good, reason = future.result(), "no recent heartbeat" if name == "celery" else "wrong answer"
        if not good:
            log.warning("%s: %s", name, reason)
        results[name] = "ok" if good else "failed"
    failed = {name for name, result in results.items() if result == "failed"}
    if failed & CRITICAL:
        return "unhealthy", results
    return "degraded" if failed else "ok", results
