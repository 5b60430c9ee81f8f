"""
The front door of a site: Caddy on this very host.
"""

import socket
import ssl
import subprocess


def faults(domain):
    """
    What is wrong with this host's front door for a domain: Caddy runs, its files would survive a restart,
    and it has a certificate for the domain that lasts.

    domain (str)
        The site's first domain.

    Returns a list of sentences, empty where all is well. Nothing is changed.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 site_front.faults acme.example
    """
    host = __grains__["id"]
    if __salt__["service.status"]("caddy") is not True:
        return [f"Caddy is not running on {host}. Try: systemctl status caddy"]
    valid = __salt__["cmd.run_all"](
        ["/opt/goldenpath/caddy-validate", "/etc/caddy/Caddyfile"], python_shell=False, ignore_retcode=True
    )
    if valid["retcode"]:
        reason = (valid["stdout"].strip().splitlines() or ["no message"])[-1].rstrip(".")[:300]
        mend = __salt__["goldenpath.command"]("state.apply", "caddy")
        return [f"Caddy's files on {host} are not valid: {reason}. Try: {mend}"]
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with (
            socket.create_connection(("127.0.0.1", 443), 5) as plain,
            context.wrap_socket(plain, server_hostname=domain) as secured,
        ):
            certificate = secured.getpeercert(binary_form=True)
    except OSError as exc:
        return [
            f"Caddy on {host} has no certificate for {domain}: {exc}. Does the name point here? "
            "Try: journalctl -u caddy -n 50"
        ]
    # Internal certificates last twelve hours and are renewed in time: a minute is what a deploy needs.
    lasts = subprocess.run(
        ["openssl", "x509", "-inform", "der", "-noout", "-checkend", "60"],
        input=certificate, capture_output=True, check=False,
    )  # fmt: skip
    if lasts.returncode:
        return [f"The certificate for {domain} on {host} has expired. Try: journalctl -u caddy -n 50"]
    return []
