"""A closed loop of visitors against a lab host's site, bounded in count and time, that counts what went wrong."""

import http.client
import itertools
import socket
import ssl
import threading
import time

SLOW = "/slow/?seconds=3"
UPLOAD = "/upload/"
# Seconds between an answer and a client's next question: the load is on the site, and not on the machine's two cores.
THINK = 0.05


class Load:
    """Clients that ask one thing after the other over HTTPS while something happens to the site.

    host
        the lab host (lab.Host)
    domain
        the site's name (str)
    clients
        how many ask at once (int); one of them asks for slow pages, one uploads
    seconds
        when it stops by itself (float)
    pages
        what the others ask for (list of str)

    As a context manager it runs meanwhile; afterwards `requests`, `failed`, `pause` and `reopened` tell.
    """

    def __init__(self, host, domain, clients=8, seconds=300.0, pages=("/", "/health/", "/static/pages/site.css")):
        self.address, self.domain = host.address, domain
        self.clients, self.seconds, self.pages = clients, seconds, list(pages)
        self.failures = []
        self.done = []
        # Requests that found their kept connection closed, and were asked again on a new one.
        self.reopened = 0
        self._stop = threading.Event()
        self._lock = threading.Lock()
        # A lab host's certificates come from its own Caddy, which nobody else trusts.
        self._context = ssl.create_default_context()
        self._context.check_hostname, self._context.verify_mode = False, ssl.CERT_NONE

    def __enter__(self):
        self._end = time.monotonic() + self.seconds
        self._threads = [threading.Thread(target=self._client, args=(number,)) for number in range(self.clients)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        for thread in self._threads:
            thread.join(30)

    def _connect(self):
        connection = http.client.HTTPSConnection(self.domain, timeout=20, context=self._context)
        connection.sock = self._context.wrap_socket(
            socket.create_connection((self.address, 443), 20), server_hostname=self.domain
        )
        return connection

    def _client(self, number):
        if number == 0 and self.clients > 2:
            asks = [("GET", SLOW)]
        elif number == 1 and self.clients > 2:
            asks = [("POST", UPLOAD)]
        else:
            asks = [("GET", page) for page in self.pages]
        connection, turn = None, number
        while not self._stop.is_set() and time.monotonic() < self._end:
            method, path = asks[turn % len(asks)]
            turn += 1
            began = time.monotonic()
            try:
                kept = connection is not None
                connection = connection or self._connect()
                body, headers = None, {}
                if method == "POST":
                    body = (
                        b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\n\r\n'
                        + b"x" * 20000
                        + b"\r\n--b--\r\n"
                    )
                    headers = {"Content-Type": "multipart/form-data; boundary=b"}
                try:
                    connection.request(method, path, body, headers)
                    answer = connection.getresponse()
                except (http.client.RemoteDisconnected, ConnectionError, ssl.SSLEOFError):
                    # As browsers do, whatever they ask (Chromium: ShouldResendRequest): one that was kept, and closed
                    # before a word of an answer, says nothing about the site. A reload of Caddy closes those that are
                    # idle, seen on 2.6.2.
                    if not kept:
                        raise
                    with self._lock:
                        self.reopened += 1
                    connection = self._connect()
                    connection.request(method, path, body, headers)
                    answer = connection.getresponse()
                answer.read()
                status = answer.status
                if answer.will_close:
                    connection.close()
                    connection = None
            except (OSError, http.client.HTTPException) as exc:
                status = f"{type(exc).__name__}: {exc}"
                connection = None
            ended = time.monotonic()
            with self._lock:
                self.done.append((began, ended, path, status))
                if status not in (200, 201):
                    self.failures.append((round(began, 2), path, status))
            time.sleep(THINK)

    @property
    def requests(self):
        """How many were asked (int)."""
        return len(self.done)

    @property
    def failed(self):
        """How many were not answered well (int)."""
        return len(self.failures)

    @property
    def pause(self):
        """The longest time in which no quick request was answered well, in seconds (float)."""
        ends = sorted(ended for _, ended, path, status in self.done if status in (200, 201) and path != SLOW)
        return max((later - earlier for earlier, later in itertools.pairwise(ends)), default=float("inf"))
