"""
Tell the pillar's targets that a unit failed, once an hour for each unit and sentence.

What a target does not take is kept, and told when the alert's unit starts again.

A webhook gets JSON: host, unit, what (one sentence), since, lines (the journal's last), repeated (how many failures
were not told since the last alert) and text, all of it as chats show it; by ``format: slack`` that text alone. Mail
goes through the server that the pillar names, else through the host's sendmail.
"""

import json
import os
import re
import subprocess
import sys
import time
import urllib.parse
import urllib.request

from . import files, host, text, units
from . import site as sites
from .errors import Failed

QUIET = 3600
LINES = 15
SENDMAIL = "/usr/sbin/sendmail"
_TIMES = ("InactiveExitTimestamp", "InactiveEnterTimestamp", "StateChangeTimestamp")


def config():
    """Where alerts go, and the secrets of the pillar."""
    return files.read_json(f"{host.ETC}/alert.json")


def secrets(known):
    """Everything on this host that no message may hold. known: what ``config`` has."""
    return [
        *known.get("secrets", []),
        *_parts(known.get("webhook") or ""),
        *(value for site in sites.ever() for value in _of(site)),
    ]


def _of(site):
    """The secrets of a site; one whose file nobody can read keeps no alert from being sent."""
    try:
        return site.secrets()
    except Failed as exc:
        print(exc, file=sys.stderr)
        return []


def _parts(url):
    """An URL, and what of it is a secret by itself: its path and its query."""
    parts = urllib.parse.urlsplit(url)
    return [part for part in (url, parts.path.strip("/"), parts.query) if part]


def _facts_of(unit):
    """What systemd knows of a unit."""
    names = ("Description", "Result", "ExecMainStatus", "InvocationID", *_TIMES)
    lines = units.systemctl("show", "--timestamp=utc", unit, "--property", ",".join(names)).output.splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line)


def message(unit, known, facts, run, repeated):
    """What is told about a unit: of the run that failed, and not of an older one."""
    # Not by the run's id where the unit tells when it began: what ends at once is gone before journald looks up its id.
    began = facts.get("InactiveExitTimestamp") if run == facts.get("InvocationID") else None
    if began or not run:
        which = ["--unit", unit, *(["--since", began] if began else [])]
    else:
        which = [f"_SYSTEMD_INVOCATION_ID={run}", "+", f"INVOCATION_ID={run}"]
    shown = units.journalled(*which, lines=LINES)
    hidden = secrets(known)
    told = [text.printable(text.masked(line, hidden))[:500] for line in shown.splitlines() if line.strip()]
    # A job of ours says its sentence with a way out.
    sentences = [line for line in told if "Try: " in line]
    ended = f"{facts.get('Result', 'failed')}, status {facts.get('ExecMainStatus', '?')}"
    return {
        "host": known["host"],
        "unit": unit,
        "what": "\n".join(dict.fromkeys(sentences[-5:])) or f"{facts.get('Description') or unit} failed ({ended})",
        "since": facts.get("InactiveEnterTimestamp") or facts.get("StateChangeTimestamp"),
        "lines": told,
        "repeated": repeated,
    }


def chat(body):
    """An alert as Slack, Mattermost and their like take it: one text, in which nothing of a log is a command."""
    # A fence in a log would end ours; the three letters are Slack's own (formatting text for app surfaces).
    lines = "\n".join(body["lines"][-5:]).replace("```", "` ` `")
    plain = f"*{body['host']}*: {body['unit']}\n{body['what']}"
    plain += f"\n```\n{lines}\n```" if lines and lines != body["what"] else ""
    return plain.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def beat(url, what):
    """Tell a service that notices silence that all is well. A service that is down is nobody's fault here."""
    try:
        with urllib.request.urlopen(url, timeout=10):  # noqa: S310  a URL of the pillar's
            pass
    except (OSError, ValueError) as exc:
        # The URL is a secret, and some errors quote it.
        print(f"The heartbeat of {what} was not taken: {type(exc).__name__}", file=sys.stderr)


def post(url, body):
    """Send JSON to the webhook. Three tries; errors do not quote the URL, which is a secret."""
    request = urllib.request.Request(  # noqa: S310  a URL of the pillar's
        url, json.dumps(body).encode(), {"Content-Type": "application/json", "User-Agent": "goldenpath-alert"}
    )
    for attempt in range(3):
        try:
            with urllib.request.urlopen(request, timeout=15):  # noqa: S310
                return None
        except (OSError, ValueError) as exc:
            fault = f"the webhook took no alert: {type(exc).__name__} {getattr(exc, 'code', '')}".strip()
            if attempt < 2:
                time.sleep(2 + 5 * attempt)
    return fault


def mail(address, body, server=None):
    """Send a mail. server: host, port, user, password and from, as the pillar has them; else the host's sendmail."""
    # Every verb would pay for it, a fifth of its start.
    import email.message

    mail_ = email.message.EmailMessage()
    mail_["To"], mail_["From"] = address, (server or {}).get("from") or "root"
    mail_["Subject"] = f"{body['host']}: {body['unit']} failed"
    mail_.set_content("\n".join([body["what"], "", f"since {body['since']}", "", *body["lines"], ""]))
    if server:
        return _delivered(mail_, server)
    try:
        done = subprocess.run([SENDMAIL, "-t", "-i"], input=mail_.as_bytes(), capture_output=True, check=False)
    except OSError as exc:
        return f"no mail was sent: {SENDMAIL}: {exc.strerror}"
    return f"no mail was sent: sendmail ended with {done.returncode}" if done.returncode else None


def _delivered(mail_, server):
    """Through a mail server: by TLS from the beginning on 465, else by STARTTLS; never a password in the clear."""
    import smtplib
    import ssl

    try:
        tls = ssl.create_default_context()
        direct = server["port"] == 465
        kind, more = (smtplib.SMTP_SSL, {"context": tls}) if direct else (smtplib.SMTP, {})
        with kind(server["host"], server["port"], timeout=30, **more) as session:
            session.ehlo()
            if not direct and (server.get("user") or session.has_extn("starttls")):
                session.starttls(context=tls)
            if server.get("user"):
                session.login(server["user"], server.get("password") or "")
            session.send_message(mail_)
    except (OSError, smtplib.SMTPException) as exc:
        # A server's own words may quote what it was given.
        return f"{server['host']} took no mail: {type(exc).__name__} {getattr(exc, 'smtp_code', '')}".strip()
    return None


SENDERS = {
    "webhook": lambda known, body: post(
        known["webhook"], {"text": chat(body)} if known.get("format") == "slack" else {**body, "text": chat(body)}
    ),
    "mail": lambda known, body: mail(known["mail"], body, known.get("smtp")),
}


def main(unit):
    """Tell, or count what is not told. Returns an exit status."""
    known = config()
    if not known:
        # Who would be told is not known, and silence would look like health.
        print(f"{unit} failed, and {host.ETC}/alert.json cannot be read. "
              f"Try: {host.command('state.apply alert')}", file=sys.stderr)  # fmt: skip
        return 1
    path = f"{host.STATE}/alerts/{re.sub('[^A-Za-z0-9@._-]', '_', unit)}.json"
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    last = files.read_json(path)
    # What an earlier version wrote knows one time for all sentences.
    last = {"told": {}, "left": {}, "repeated": 0, **(last if isinstance(last.get("told"), dict) else {})}
    left, facts, targets = last["left"], _facts_of(unit), [name for name in SENDERS if known.get(name)]
    # systemd tells from 251 on which run failed; before that it is taken for the last one.
    run = os.environ.get("MONITOR_INVOCATION_ID") or facts.get("InvocationID")
    # Started again for what was left, there is nothing new.
    again = left and (run == last.get("run") or facts.get("Result") == "success")
    if targets and not again:
        last["run"] = run
        body = message(unit, known, facts, run, last["repeated"])
        # The same but for its figures is the same.
        key = re.sub(r"\d+", "", body["what"])
        # A clock that was set back does not silence anything.
        last["told"] = {key: at for key, at in last["told"].items() if 0 <= time.time() - at < QUIET}
        if key in last["told"]:
            last["repeated"] += 1
        else:
            last["told"][key] = time.time()
            last["repeated"] = 0
            left[key] = {"body": body, "targets": targets}
    # What is yet to be told survives whatever ends this.
    files.write_json(path, last)
    faults = {}
    for item in left.values():
        for name in [name for name in item["targets"] if name not in faults]:
            fault = SENDERS[name](known, item["body"]) if name in targets else None
            if fault:
                faults[name] = fault
            else:
                item["targets"].remove(name)
    last["left"] = {key: item for key, item in left.items() if item["targets"]}
    files.write_json(path, last)
    for fault in faults.values():
        print(f"{unit} failed, and {fault}. Try: the `alerts` of the pillar", file=sys.stderr)
    return 1 if faults else 0
