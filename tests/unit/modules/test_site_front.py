"""The front door's faults, with a real TLS server where a certificate is asked for."""

import datetime
import socket
import ssl
import threading

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


@pytest.fixture
def front(load):
    """The module on a host whose Caddy runs with valid files; `facts` changes that, `port` is its port 443."""
    facts = {"status": True, "retcode": 0, "stdout": ""}
    module = load(
        "_modules/site_front.py",
        salt={
            "service.status": lambda name: facts["status"],
            "goldenpath.command": lambda *words: " ".join(["salt-ssh web1", *words]),
            "cmd.run_all": lambda argv, **options: {"retcode": facts["retcode"], "stdout": facts["stdout"]},
        },
    )
    module.facts = facts

    class Socket:
        def __getattr__(self, name):
            return getattr(socket, name)

        def create_connection(self, address, timeout):
            return socket.create_connection(("127.0.0.1", module.port), timeout)

    module.socket = Socket()
    return module


def serve(tmp_path, days):
    """A TLS server that answers one handshake with a certificate that lasts so many days. Returns its port."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "acme.example")])
    now = datetime.datetime.now(datetime.timezone.utc)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 1)
        .not_valid_before(now - datetime.timedelta(days=10))
        .not_valid_after(now + datetime.timedelta(days=days))
        .sign(key, hashes.SHA256())
    )
    (tmp_path / "cert").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (tmp_path / "key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
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


def test_an_expired_certificate(front, tmp_path):
    front.port = serve(tmp_path, -1)
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
    front.facts["status"] = False
    assert front.faults("acme.example") == ["Caddy is not running on web1. Try: systemctl status caddy"]


def test_invalid_files(front):
    front.facts.update(retcode=1, stdout="something\nError: adapting config: unknown directive 'tsl'.\n")
    assert front.faults("acme.example") == [
        "Caddy's files on web1 are not valid: Error: adapting config: unknown directive 'tsl'. "
        "Try: salt-ssh web1 state.apply caddy"
    ]
