"""A client that reads an NBD export over a Unix socket, one request at a time."""

import contextlib
import os
import signal
import socket
import struct
import subprocess
import time

from benchlib.machine import Failed

GREETING = struct.Struct(">8s8sH")
OPTION = struct.Struct(">8sII")
EXPORT = struct.Struct(">QH")
REQUEST = struct.Struct(">IHHQQI")
REPLY = struct.Struct(">IIQ")
FIXED_NEWSTYLE, NO_ZEROES = 1, 2
EXPORT_NAME, READ = 1, 0
REQUEST_MAGIC, REPLY_MAGIC = 0x25609513, 0x67446698
PATIENCE = 30  # seconds


class Client:
    """A connection that is ready for reading."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(PATIENCE)
        self.socket.connect(path)
        magic, option, flags = GREETING.unpack(self.receive(GREETING.size))
        if (magic, option) != (b"NBDMAGIC", b"IHAVEOPT") or not flags & FIXED_NEWSTYLE:
            raise Failed(f"{path}: no NBD server answers")
        chosen = struct.pack(">I", FIXED_NEWSTYLE | flags & NO_ZEROES)
        self.socket.sendall(chosen + OPTION.pack(b"IHAVEOPT", EXPORT_NAME, 0))
        self.size, _ = EXPORT.unpack(self.receive(EXPORT.size))
        if not flags & NO_ZEROES:
            self.receive(124)

    def receive(self, length):
        content = bytearray(length)
        rest = memoryview(content)
        while rest:
            count = self.socket.recv_into(rest)
            if not count:
                raise Failed("the NBD server closed the connection")
            rest = rest[count:]
        return content

    def read(self, offset, length):
        """What stands at a place."""
        self.socket.sendall(REQUEST.pack(REQUEST_MAGIC, 0, READ, offset, offset, length))
        if REPLY.unpack(self.receive(REPLY.size)) != (REPLY_MAGIC, 0, offset):
            raise Failed(f"the NBD server did not read {length} bytes at {offset}")
        return self.receive(length)

    def rate(self, offsets, length):
        """Reads per second for reads at these places, one after another."""
        start = time.monotonic()
        for offset in offsets:
            self.read(offset, length)
        return len(offsets) / (time.monotonic() - start)

    def close(self):
        self.socket.close()


@contextlib.contextmanager
def served(args, path):
    """A server that is started, and connected to as soon as it listens: the client, and the moment of the start."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    start = time.monotonic()
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    server = subprocess.Popen([str(arg) for arg in args], **quiet)
    client = None
    try:
        while client is None:
            try:
                client = Client(path)
            except (FileNotFoundError, ConnectionRefusedError) as error:
                if server.poll() is not None or time.monotonic() - start > PATIENCE:
                    raise Failed(f"{' '.join(map(str, args))}: it does not serve") from error
                time.sleep(0.0005)
        yield client, start
    finally:
        if client is not None:
            client.close()
        server.send_signal(signal.SIGTERM)
        server.wait()
