"""Postgres is restarted while visitors read the maintenance page, and not an error."""

import contextlib
import time

from . import host, lock, postgres, units
from . import site as sites
from .errors import Failed
from .text import reason

# Seconds: for a deploy to end; for requests that have begun; for Postgres to let somebody in.
WAIT, BEGUN, BACK = 900, 2, 60


def restart_postgres(unit):
    """Restart its unit. Returns ``told``, a sentence. Raises Failed where it does not come back."""
    live = [site for site in sites.every() if site.current]
    with contextlib.ExitStack() as stack:
        for site in live:
            stack.enter_context(lock.of_site(site, "a restart of Postgres", WAIT))
        for site in live:
            if not site.maintenance():
                site.maintenance_on(sites.OURS)
                stack.callback(site.maintenance_off, sites.OURS)
        if live:
            time.sleep(BEGUN)
        began = time.time()
        done = units.systemctl("restart", unit)
        if done.code:
            raise Failed(
                f"{unit} does not start on {host.name()}: {reason(done.output)}. Try: journalctl -u {unit} -n 50",
                units.journal(unit, began),
            )
        _await(began)
    return {"told": f"{unit} was restarted in {time.time() - began:.1f} s, under the page of {len(live)} sites"}


def _await(began):
    while True:
        try:
            return postgres.sql("SELECT 1;", timeout=10)
        except Failed:
            if time.time() > began + BACK:
                raise
        time.sleep(0.2)
