"""The front door's faults, with a real TLS server where a certificate is asked for."""

import socket
import ssl
import subprocess
import threading

import pytest
from goldenpath import front as module
from goldenpath import health, process, units


@pytest.fixture
def front(monkeypatch):
    """The module on a host whose Caddy runs with valid files; `facts` changes that, `port` is its port 443."""
    facts = {"state": "active", "code": 0, "said": "", "buffer": [{"LoadState": "loaded", "ActiveState": "active"}]}
    run = process.run

    def answer(argv, **options):
        if argv == module.VALIDATE:
            return process.Done(facts["code"], facts["said"], "")
        return run(argv, **options)

    monkeypatch.setattr(process, "run", answer)
    monkeypatch.setattr(units, "show", lambda unit, name: facts["state"])
    monkeypatch.setattr(units, "facts", lambda names, unit: facts["buffer"])
    monkeypatch.setattr(module, "facts", facts, raising=False)
    monkeypatch.setattr(module, "port", None, raising=False)
    monkeypatch.setattr(health, "FRONT", Door())
    return module


class Door(tuple):
    """The address of the front door: whichever port a test says."""

    def __new__(cls):
        return super().__new__(cls, ("127.0.0.1", 0))

    def __getitem__(self, at):
        return ("127.0.0.1", module.port)[at]

    def __iter__(self):
        return iter(("127.0.0.1", module.port))


def serve(tmp_path, days):
    """A TLS server that answers one handshake with a certificate that lasts so many days. Returns its port."""
    made = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days",
            str(days), "-subj", "/CN=acme.example", "-keyout", tmp_path / "key", "-out", tmp_path / "cert"]  # fmt: skip
    subprocess.run(made, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert", tmp_path / "key")
    listener = socket.create_server(("127.0.0.1", 0))

    def answer():
        with listener:
            connection, _ = listener.accept()
            context.wrap_socket(connection, server_side=True).close()

    threading.Thread(target=answer, daemon=True).start()
    return listener.getsockname()[1]


def test_all_is_well(front, tmp_path):
    front.port = serve(tmp_path, 1)
    assert front.faults("acme.example") == []


def test_an_expired_certificate(front, tmp_path, monkeypatch):
    # openssl-req(1) makes none that is over already: it is over when a deploy would be done.
    front.port = serve(tmp_path, 1)
    monkeypatch.setattr(front, "LASTS_SECONDS", 2 * 86400)
    assert front.faults("acme.example") == [
        "The certificate for acme.example on web1 has expired. Try: journalctl -u caddy -n 50"
    ]


def test_no_certificate(front):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        front.port = listener.getsockname()[1]
        threading.Thread(target=lambda: listener.accept()[0].close(), daemon=True).start()
        (fault,) = front.faults("acme.example")
    assert fault.startswith("Caddy on web1 has no certificate for acme.example: ")


def test_caddy_is_stopped(front):
    front.facts["state"] = "inactive"
    assert front.faults("acme.example") == ["Caddy is not running on web1. Try: systemctl status caddy"]


def test_invalid_files(front):
    front.facts.update(code=1, said="something\nError: adapting config: unknown directive 'tsl'.\n")
    assert front.faults("acme.example") == [
        "Caddy's files on web1 are not valid: Error: adapting config: unknown directive 'tsl'. "
        "Try: salt-ssh web1 state.apply caddy"
    ]


@pytest.mark.parametrize(
    ("load", "active", "down"),
    [
        ("loaded", "active", False),
        ("loaded", "failed", True),
        ("loaded", "inactive", True),
        ("not-found", "inactive", False),
    ],
)
def test_what_stands_behind_caddy_runs_too(front, tmp_path, load, active, down):
    """A host of before it was there has none, and is not at fault."""
    front.facts["buffer"] = [{"LoadState": load, "ActiveState": active}]
    front.port = serve(tmp_path, 2)
    told = front.faults("acme.example")
    assert told == ["nginx, behind Caddy, is not running on web1. Try: systemctl status goldenpath-buffer"] * down
