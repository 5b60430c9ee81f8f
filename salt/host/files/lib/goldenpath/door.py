"""
What an operator without a shell may ask for: a few verbs, of her own sites. Her key's forced command hands over what
she typed; who she is stands in the key's line, which is root's.
"""

import contextlib
import datetime
import json
import os
import re
import shlex
import subprocess
import sys

from . import files, host, process, source, text
from .errors import Refused

COMMAND = "/opt/goldenpath/goldenpath"
OPERATORS = "operators.json"
# The longest line that is read: who asks, from where, for what.
LONGEST = 4096
# Each verb: what may follow the site, as (check, what it is called); each may be left out, and none takes an option.
_REF = (source.valid_ref, "a tag, a branch or a commit")
_RELEASE = (re.compile(r"\d{8}T\d{6}-[0-9a-f]{8}").fullmatch, "a release's id")
_SWITCH = (re.compile(r"on|off").fullmatch, "on or off")
_WHAT = (re.compile(r"[a-z][a-z0-9]{0,19}").fullmatch, "a name such as web, worker, requests or errors")
_LINES = (re.compile(r"[1-9][0-9]{0,3}").fullmatch, "a number of lines up to 9999")
VERBS = {
    "deploy": (_REF,),
    "rollback": (_RELEASE,),
    "health": (),
    "releases": (),
    "diff": (_REF,),
    "maintenance": (_SWITCH,),
    "logs": (_WHAT, _LINES),
}


def allowed(who, command):
    """
    The words that the engine is run with, for what an operator typed.

    Raises Refused with one sentence: for who is unknown or not let in any more, and for anything but the verbs.
    """
    known = files.read_json(f"{host.ETC}/{OPERATORS}").get(who)
    if not known:
        raise Refused(f"{who!r:.60} is no operator of {host.name()}. Try: ask its administrator")
    until = known.get("until")
    if until and datetime.date.today().isoformat() > until:
        raise Refused(f"{who} was let in to {host.name()} until {until}. Try: ask its administrator")
    mine = sorted(set(known.get("sites", [])) & set(host.slugs()))
    how = f"Try: one of {', '.join(sorted(VERBS))}, with a site of yours ({', '.join(mine) or 'there is none'})"
    if not command.isprintable() or len(command) > 500:
        raise Refused(f"What was asked for is no line of text. {how}")
    try:
        words = shlex.split(command)
    except ValueError:
        words = []
    if not words:
        raise Refused(f"There is no shell here. {how}")
    verb, slug, *more = [*words, ""] if len(words) == 1 else words
    if verb not in VERBS:
        raise Refused(f"{verb!r:.60} is nothing that {who} may do. {how}")
    if slug not in mine:
        raise Refused(f"{slug!r:.60} is no site of {who}'s. {how}")
    wanted = VERBS[verb]
    if len(more) > len(wanted):
        raise Refused(f"{verb} takes no {more[len(wanted)]!r:.60}. {how}")
    for word, (check, name) in zip(more, wanted, strict=False):
        if not check(word):
            raise Refused(f"{word!r:.60} is not {name}. {how}")
    if verb == "rollback" and more:
        more = ["--release", *more]
    if verb == "logs" and len(more) == 2:
        more = [more[0], "--lines", more[1]]
    return [verb, slug, *more]


def answer(asked, say):
    """
    Do what an operator asked for.

    asked: ``who``, ``command`` and ``from``, an address. say: called with a dictionary for each piece of the answer:
    ``text`` (and ``error``), at last ``exit``.
    """
    who, place = str(asked.get("who")), str(asked.get("from"))
    place = place if re.fullmatch(r"[0-9A-Fa-f.:%a-z]{1,60}", place) else "?"
    try:
        words = allowed(who, str(asked.get("command", "")))
    except Refused as exc:
        print(f"{who} from {place}: refused", file=sys.stderr)
        say({"text": f"{text.printable(str(exc))}\n", "error": True})
        return say({"exit": 3})
    print(f"{who} from {place}: {' '.join(words)}", file=sys.stderr)
    running = process.start(
        [COMMAND, *words], env={"GOLDENPATH_WHO": f"{who} from {place}"}, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    with running.stdout:
        for line in running.stdout:
            # Who has gone away does not end what she began.
            with contextlib.suppress(OSError):
                say({"text": line.decode(errors="replace")})
    code = running.wait()
    return say({"exit": code if code >= 0 else 1})


def serve():
    """One question on standard input, its answer on standard output: a connection to the door's socket."""
    try:
        asked = json.loads(sys.stdin.buffer.readline(LONGEST))
    except ValueError:
        asked = {}

    def say(told):
        with contextlib.suppress(OSError):
            os.write(sys.stdout.fileno(), json.dumps(told).encode() + b"\n")

    answer(asked if isinstance(asked, dict) else {}, say)
