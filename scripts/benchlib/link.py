"""Sending over a link of 100 Mbit/s whose round takes 50 ms, against a plain TCP connection over the same link.

Two network namespaces have a veth between them, each end held to the rate by tbf. What it takes is added by relay.py, beside the source.
"""

import contextlib
import os
import shutil
import subprocess
import sys
import threading
import time

from benchlib.machine import MIB, Failed, run
from benchlib.master import Master, disks, randomize
from benchlib.report import held

RELAY = os.path.join(os.path.dirname(os.path.abspath(__file__)), "relay.py")
SITE, CLOUD = "10.78.0.1", "10.78.0.2"
RATE = "100mbit"
DISK, CHANGED = 160 * MIB, 96 * MIB
# What does not count at either end, where a pass or a connection begins and ends.
EDGE = 4 * MIB
PATIENCE = 300  # seconds
PEER, PAIR = "source", "disk"


def missing():
    """What is not there of what it takes to make such a link."""
    return [it for it in ("ip", "tc", "nsenter", "unshare") if not shutil.which(it)]


class Room:
    """A network namespace that ends with a process which does nothing, and that one with this program."""

    def __init__(self):
        self.process = subprocess.Popen(["unshare", "--net", "--", "cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        self.network = f"/proc/{self.process.pid}/ns/net"
        self.inside = ["nsenter", f"--net={self.network}", "--"]
        end = time.monotonic() + 10
        while os.readlink(self.network) == os.readlink("/proc/self/ns/net"):
            if time.monotonic() > end:
                raise Failed("there are no network namespaces here")
            time.sleep(0.01)

    def run(self, *words):
        run([*self.inside, *words])

    def sent(self):
        """Bytes that have left over the wire, as the kernel counts them."""
        return int(run([*self.inside, "cat", "/sys/class/net/wire/statistics/tx_bytes"]).stdout)

    def end(self):
        self.process.stdin.close()
        self.process.wait()


@contextlib.contextmanager
def wire():
    """The two ends of a link: the site's and the cloud's."""
    with contextlib.ExitStack() as stack:
        site, cloud = (room(stack) for _ in range(2))
        peer = str(cloud.process.pid)
        site.run("ip", "link", "add", "wire", "type", "veth", "peer", "name", "wire", "netns", peer)
        for end, address in ((site, SITE), (cloud, CLOUD)):
            end.run("ip", "address", "add", f"{address}/24", "dev", "wire")
            end.run("ip", "link", "set", "lo", "up")
            end.run("ip", "link", "set", "wire", "up")
            end.run("tc", "qdisc", "add", "dev", "wire", "root", "tbf", "rate", RATE, "burst", "128k", "latency", "100ms")
        yield site, cloud


def room(stack):
    made = Room()
    stack.callback(made.end)
    return made


@contextlib.contextmanager
def slow_way(cloud, address):
    """A relay on the cloud's side that leads to an address; gives its own."""
    command = [*cloud.inside, sys.executable, RELAY, address]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield process.stdout.readline().strip()
    finally:
        process.stdin.close()
        process.wait()


class Meter:
    """Watches how fast bytes leave over the wire, from the first ones to the last but for the edges."""

    def __init__(self, end):
        self.end, self.seen, self.over = end, [], threading.Event()

    def __enter__(self):
        self.thread = threading.Thread(target=self.watch)
        self.thread.start()
        return self

    def watch(self):
        counter = f"/proc/{self.end.process.pid}/net/dev"
        while not self.over.wait(0.05):
            with open(counter) as text:
                fields = next(line.split() for line in text if line.strip().startswith("wire:"))
            self.seen.append((time.monotonic(), int(fields[9])))

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()

    def rate(self):
        """MiB a second."""
        first, last = self.seen[0][1] + EDGE, self.seen[-1][1] - EDGE
        counted = [it for it in self.seen if first <= it[1] <= last]
        if len(counted) < 10:
            raise Failed("too little went over the wire to be measured")
        (began, low), (ended, high) = counted[0], counted[-1]
        return (high - low) / MIB / (ended - began)


COPY = """
import socket, sys
host, port = sys.argv[1].rsplit(":", 1)
left, piece = int(sys.argv[2]), bytes(1 << 18)
with socket.create_connection((host, int(port))) as way:
    while left:
        left -= way.send(piece[:left])
    way.shutdown(socket.SHUT_WR)
    while way.recv(1 << 16):
        pass
"""

SINK = """
import socket, sys
with socket.create_server((sys.argv[1], 0)) as door:
    print("%s:%d" % door.getsockname()[:2], flush=True)
    way, _ = door.accept()
    with way:
        while way.recv(1 << 20):
            pass
"""


def copy(site, cloud):
    """The rate of one plain TCP connection."""
    sink = subprocess.Popen([*site.inside, sys.executable, "-c", SINK, SITE], stdout=subprocess.PIPE, text=True)
    try:
        with slow_way(cloud, sink.stdout.readline().strip()) as address, Meter(cloud) as meter:
            run([*cloud.inside, sys.executable, "-c", COPY, address, CHANGED], limit=PATIENCE)
        return meter.rate()
    finally:
        sink.kill()
        sink.wait()


def measure(bench, work):
    """Passes of a disk of which a part is new and cannot be compressed."""
    directory = os.path.join(work, "link")
    os.mkdir(directory)
    ours, theirs, spread = [], [], []
    with wire() as (site, cloud):
        master = Master(bench.program, directory, site.inside, SITE)
        source, vmdk, flat = disks(master, PAIR, DISK)
        with master.running() as (_, there), slow_way(cloud, there) as address:
            master.let_in(PEER, address, cloud.inside)
            master.bind(PAIR, source, vmdk, PEER)
            send = master.sending(PAIR, source, address, PEER, cloud.inside)
            run(send, limit=PATIENCE)
            for _ in range(bench.reps):
                theirs.append(copy(site, cloud))
                for rates, options in ((ours, []), (spread, ["--streams", "4"])):
                    randomize(source, 0, CHANGED)
                    with Meter(cloud) as meter:
                        run([*send, *options], limit=PATIENCE)
                    rates.append(meter.rate())
                    run(["cmp", source, flat], limit=600)
    shutil.rmtree(directory)
    where = f"100 Mbit/s, 50 ms, {CHANGED // MIB} MiB that cannot be compressed"
    against = "a TCP connection over the same link"
    yield held("link: rate while sending", where, ours, theirs, "MiB/s", against, at_least=0.9)
    yield held("link: rate with 4 streams", where, spread, theirs, "MiB/s", against, at_least=0.9)
