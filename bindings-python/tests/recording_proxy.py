"""Stands between client and server, holds answers back, and counts the calls that the client gives up (RST_STREAM)."""

import socket
import threading

PREFACE = len(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
RST_STREAM = 3


class RecordingProxy:
    def __init__(self, server_port):
        self._server_port = server_port
        self._going = threading.Event()
        self._going.set()
        self._listener = socket.create_server(("127.0.0.1", 0)) if hasattr(socket, "create_server") else self._listen()
        self.port = self._listener.getsockname()[1]
        self.resets = 0
        self._sockets = [self._listener]
        threading.Thread(target=self._accept, daemon=True).start()

    @staticmethod
    def _listen():
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        listener.listen(16)
        return listener

    @property
    def url(self):
        return "hstream://127.0.0.1:%d" % self.port

    def hold_answers(self):
        self._going.clear()

    def let_answers_go(self):
        self._going.set()

    def close(self):
        self._going.set()
        for each in self._sockets:
            try:
                each.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            each.close()

    def _accept(self):
        while True:
            try:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._server_port))
            except OSError:
                return
            self._sockets += [client, server]
            threading.Thread(target=self._forward, args=(client, server, self._count()), daemon=True).start()
            threading.Thread(target=self._forward, args=(server, client, self._hold()), daemon=True).start()

    @staticmethod
    def _forward(source, target, seen):
        next(seen)
        try:
            while True:
                data = source.recv(65536)
                if not data:
                    target.shutdown(socket.SHUT_WR)
                    return
                seen.send(data)
                target.sendall(data)
        except OSError:
            return

    def _hold(self):
        while True:
            yield
            self._going.wait()

    def _count(self):
        """Reads the frames of HTTP/2 as they pass."""
        left, buffer = PREFACE, b""
        while True:
            data = yield
            buffer += data
            while buffer:
                if left:
                    taken = min(left, len(buffer))
                    buffer, left = buffer[taken:], left - taken
                elif len(buffer) < 9:
                    break
                else:
                    left = int.from_bytes(buffer[:3], "big")
                    if buffer[3] == RST_STREAM:
                        self.resets += 1
                    buffer = buffer[9:]
