"""The front door of a site: Caddy on this very host."""

import socket
import ssl

from . import health, host, process, text, units

VALIDATE = ("/opt/goldenpath/caddy-validate", "/etc/caddy/Caddyfile")
OPENSSL = "/usr/bin/openssl"
# Internal certificates last twelve hours and are renewed in time: a minute is what a deploy needs.
LASTS_SECONDS = 60


def faults(domain):
    """
    What is wrong with the front door for a domain: Caddy runs, its files would survive a restart, and it has a
    certificate for the domain that lasts. A list of sentences, empty where all is well.
    """
    name = host.name()
    if units.show("caddy.service", "ActiveState") not in ("active", "reloading"):
        return [f"Caddy is not running on {name}. Try: systemctl status caddy"]
    # A host of before has none: Caddy asks gunicorn itself there.
    (buffer,) = units.facts(("LoadState", "ActiveState"), "goldenpath-buffer.service") or [{}]
    if buffer.get("LoadState") == "loaded" and buffer.get("ActiveState") not in ("active", "reloading"):
        return [f"nginx, behind Caddy, is not running on {name}. Try: systemctl status goldenpath-buffer"]
    valid = process.run(VALIDATE, timeout=60)
    if valid.code:
        reason = (text.lines_of(valid.output) or ["no message"])[-1].rstrip(".")[:300]
        return [f"Caddy's files on {name} are not valid: {reason}. Try: {host.command('state.apply caddy')}"]
    try:
        certificate = _certificate(domain)
    except OSError as exc:
        return [
            f"Caddy on {name} has no certificate for {domain}: {exc}. Does the name point here? "
            "Try: journalctl -u caddy -n 50"
        ]
    lasts = process.run([OPENSSL, "x509", "-noout", "-checkend", str(LASTS_SECONDS)], text=certificate, timeout=10)
    if lasts.code:
        return [f"The certificate for {domain} on {name} has expired. Try: journalctl -u caddy -n 50"]
    return []


def _certificate(domain):
    """The certificate that Caddy shows for a domain, whoever signed it."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        socket.create_connection(health.FRONT, 5) as plain,
        context.wrap_socket(plain, server_hostname=domain) as secured,
    ):
        return ssl.DER_cert_to_PEM_cert(secured.getpeercert(binary_form=True))
