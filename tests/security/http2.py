"""As much of HTTP/2 as an attacker needs: frames by hand, over TLS or not."""

import socket
import ssl
import struct

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, END_HEADERS, ACK = 1, 4, 1


def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def _literal(name, value):
    """HPACK: a literal without indexing, lengths below 127 or in the long form."""
    def text(data):
        if len(data) < 127:
            return bytes([len(data)]) + data
        rest, out = len(data) - 127, [127]
        while rest >= 128:
            out.append(rest % 128 + 128)
            rest //= 128
        return bytes([*out, rest]) + data
    return b"\x00" + text(name.encode()) + text(value.encode())


def call_headers(path, *more):
    fields = [(":method", "POST"), (":scheme", "https"), (":path", path), (":authority", "localhost"),
              ("te", "trailers"), ("content-type", "application/grpc"), *more]
    return b"".join(_literal(name, value) for name, value in fields)


def tls_context(folder, name):
    context = ssl.create_default_context(cafile=str(folder / "ca.pem"))
    context.load_cert_chain(folder / f"{name}.pem", folder / f"{name}.key")
    context.set_alpn_protocols(["h2"])
    return context


class Connection:
    """A peer that has said hello and then does as it is told."""

    def __init__(self, address, context, timeout):
        host, port = address.rsplit(":", 1)
        raw = socket.create_connection((host, int(port)), timeout=timeout)
        self._socket = context.wrap_socket(raw, server_hostname=host) if context else raw
        self._buffer = b""
        self._socket.sendall(PREFACE + frame(SETTINGS, 0, 0))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._socket.close()

    def send(self, data):
        self._socket.sendall(data)

    def frames(self, answer_pings=True):
        """Frames as they come, until the peer closes; SETTINGS and, if told so, PINGs are answered."""
        while True:
            while len(self._buffer) < 9 or len(self._buffer) < 9 + int.from_bytes(self._buffer[:3], "big"):
                try:
                    more = self._socket.recv(65536)
                except (ConnectionError, ssl.SSLError):
                    return
                if not more:
                    return
                self._buffer += more
            length = int.from_bytes(self._buffer[:3], "big")
            kind, flags, stream = struct.unpack(">BBI", self._buffer[3:9])
            payload, self._buffer = self._buffer[9:9 + length], self._buffer[9 + length:]
            if kind == SETTINGS and not flags & ACK:
                self.send(frame(SETTINGS, ACK, 0))
            if kind == PING and not flags & ACK and answer_pings:
                self.send(frame(PING, ACK, 0, payload))
            yield kind, flags, stream, payload
