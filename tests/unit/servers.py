"""
Servers that misbehave, for tests of what asks them: each connection is given to a function, in a thread.
"""

import contextlib
import socket
import threading


class Server:
    """
    A server on a free TCP port or a Unix socket that gives each connection to a function, in a thread.
    """

    def __init__(self, handler, path=None, context=None):
        self.connections = 0
        self.handler = handler
        self.context = context
        self.over = threading.Event()
        self.socket = socket.socket(socket.AF_UNIX if path else socket.AF_INET)
        self.socket.bind(path or ("127.0.0.1", 0))
        self.socket.listen()
        self.port = None if path else self.socket.getsockname()[1]

    def __enter__(self):
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.socket.close()

    def _serve(self):
        while not self.over.is_set():
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._one, args=(connection,), daemon=True).start()

    def _one(self, connection):
        with contextlib.suppress(OSError), connection:
            if self.context:
                connection = self.context.wrap_socket(connection, server_side=True)
            self.handler(connection, self.over)


def says(data, stays=True):
    """A handler that reads one request, answers it, and keeps the connection open."""

    def handler(connection, over):
        connection.recv(65536)
        connection.sendall(data)
        if stays:
            over.wait(3)

    return handler


def hangs(connection, over):
    over.wait(10)


def drips(data):
    def handler(connection, over):
        for number in range(len(data)):
            connection.sendall(data[number : number + 1])
            if over.wait(0.1):
                return

    return handler


def closes(connection, over):
    connection.recv(65536)


def resets(connection, over):
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")


def pours(connection, over):
    while not over.is_set():
        connection.sendall(b"+" + b"x" * 65536)


def pours_one_value(connection, over):
    connection.recv(65536)
    connection.sendall(b"$9999999999\r\n")
    pours(connection, over)


def pours_a_page(connection, over):
    connection.recv(65536)
    connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    pours(connection, over)
