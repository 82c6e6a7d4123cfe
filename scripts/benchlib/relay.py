"""Leads TCP connections to an address and gives each piece on 25 ms after it came, either way.

Prints its own address, and ends with its standard input.
"""

import contextlib
import os
import selectors
import socket
import sys
import threading
import time
from collections import deque

ONE_WAY = 0.025  # seconds
# What is under way each way at most: tcp_rmem's usual limit.
UNDER_WAY = 6 << 20
PIECE = 64 << 10


class Direction:
    """What is on its way from one socket to another."""

    def __init__(self, source, sink):
        self.source, self.sink = source, sink
        self.pieces, self.under_way = deque(), 0
        self.ended = self.told = False

    def take(self):
        try:
            piece = self.source.recv(PIECE)
        except BlockingIOError:
            return
        except OSError:
            piece = b""
        self.ended = not piece
        self.pieces.append((time.monotonic() + ONE_WAY, memoryview(piece)))
        self.under_way += len(piece)

    def give(self):
        """Gives on what is due; when the next piece is, if that is known."""
        while self.pieces:
            due, piece = self.pieces[0]
            if due > time.monotonic():
                return due
            try:
                if not piece:
                    self.sink.shutdown(socket.SHUT_WR)
                    self.told = True
                given = self.sink.send(piece) if piece else 0
            except BlockingIOError:
                return None
            except OSError:
                self.ended = self.told = True
                self.pieces.clear()
                return None
            self.under_way -= given
            if given < len(piece):
                self.pieces[0] = (due, piece[given:])
                return None
            self.pieces.popleft()
        return None


def carry(near, target):
    """Carries one connection until both directions have ended."""
    host, port = target.rsplit(":", 1)
    with near, socket.create_connection((host, int(port))) as far, selectors.DefaultSelector() as selector:
        for side in (near, far):
            side.setblocking(False)
            side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        ways = [Direction(near, far), Direction(far, near)]
        while not all(way.told for way in ways):
            dues = [way.give() for way in ways]
            wanted = {near: 0, far: 0}
            for way, due in zip(ways, dues):
                if not way.ended and way.under_way < UNDER_WAY:
                    wanted[way.source] |= selectors.EVENT_READ
                if way.pieces and due is None:
                    wanted[way.sink] |= selectors.EVENT_WRITE
            for side, events in wanted.items():
                known = side in selector.get_map()
                if events and known:
                    selector.modify(side, events)
                elif events:
                    selector.register(side, events)
                elif known:
                    selector.unregister(side)
            next_due = min((due for due in dues if due), default=None)
            late = None if next_due is None else max(0, next_due - time.monotonic())
            ready = {key.fileobj for key, events in selector.select(late) if events & selectors.EVENT_READ}
            for way in ways:
                if way.source in ready and not way.ended:
                    way.take()


def attempt(near, target):
    """Carries it as long as both sides want that."""
    with contextlib.suppress(OSError):
        carry(near, target)


def serve(target):
    """Takes connections until the standard input ends."""
    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
    with socket.create_server(("127.0.0.1", 0)) as door:
        print("%s:%d" % door.getsockname()[:2], flush=True)
        while True:
            near, _ = door.accept()
            threading.Thread(target=attempt, args=(near, target), daemon=True).start()


if __name__ == "__main__":
    serve(sys.argv[1])
