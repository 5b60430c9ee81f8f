"""A site's database or media, written to standard output for who asked over ssh."""

import contextlib
import shutil
import sys
import tempfile

from . import pgdump, process, sandbox
from .errors import Refused

TAR = "/usr/bin/tar"


def export(site, media=False):
    """
    Write a fresh dump in Postgres' custom format, or the media folder as a tar file.

    Returns an exit status. Raises Refused on a terminal, and Failed where it cannot be made.
    """
    site.provisioned()
    if sys.stdout.isatty():
        raise Refused(f"An export is no text. Try: goldenpath export {site.slug} > {site.slug}.dump")
    if media:
        # As the site's user: what lies there cannot name a file of anybody else's.
        return sandbox.attach(site, [TAR, "--create", "--file=-", f"--directory={site.path('media')}", "."])
    with tempfile.TemporaryDirectory(prefix=".export-", dir=site.path("backups")) as folder:
        path = f"{folder}/{site.slug}.dump"
        pgdump.dumped(site, path)
        with open(path, "rb") as stream, contextlib.suppress(BrokenPipeError):
            shutil.copyfileobj(stream, sys.stdout.buffer)
            sys.stdout.buffer.flush()
            return 0
    process.unheard()
    return 1
