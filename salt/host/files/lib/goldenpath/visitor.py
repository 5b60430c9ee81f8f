"""What visitors meet beyond the health path: every name of the site, and what its front page needs."""

import re
import time

from . import health, text

# Longest that all of it takes: it is a look and no crawl.
SECONDS = 4
MOST_FILES = 5
_FILES = re.compile(r"""(?:href|src)=["'](/static/[^"'?#\s]+)""")


def remarks(site):
    """What is wrong at the front door, a sentence each; nothing of it keeps a release from serving."""
    end = time.monotonic() + SECONDS
    return [*names(site, end), *_page(site, end)]


def names(site, end=None):
    """The names after the first, which nobody asks for health, and that answer nothing good: a sentence each."""
    end = end or time.monotonic() + SECONDS
    path = site.facts.get("health") or "/health/"
    for domain in site.facts["domains"][1:]:
        code, _, why = _visit(site, path, end, domain)
        # A redirect to the main name is as good.
        if code is None or code >= 400:
            yield f"https://{domain}{path} {why}. Try: the name's DNS, then journalctl -u caddy -g {domain}"


def _page(site, end):
    code, page, why = _visit(site, "/", end)
    if code is not None and code >= 500:
        yield f"https://{site.domain}/ {why}. Try: goldenpath manage {site.slug} check, and its journal"
    for path in list(dict.fromkeys(_FILES.findall(page)))[:MOST_FILES]:
        got, _, why = _visit(site, path, end)
        if got is not None and got >= 400:
            yield f"the front page of {site.slug} needs {text.printable(path)[:200]}, which {why}"


def _visit(site, path, end, domain=None):
    """Status, page and what to say of it; the status is None where nobody answers, and 0 where the time is over."""
    left = end - time.monotonic()
    if left <= 0:
        return 0, "", "was not tried"
    try:
        code, _, body = health.visit(site, path, domain, min(left, 2))
    except health.Fault as fault:
        return None, "", f"is not to be had: {fault}"
    return code, body.decode(errors="replace"), f"answered {code}"
