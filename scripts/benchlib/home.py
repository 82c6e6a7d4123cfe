"""Replication over loopback: against the same by files, and against rsync."""

import contextlib
import json
import os
import shutil
import subprocess
import time

from benchlib import data
from benchlib.machine import Failed, drop_caches, run
from benchlib.master import Master
from benchlib.report import held

PAIR = "disk"
TICKS = os.sysconf("SC_CLK_TCK")


class Site:
    """A master target on this machine, a VMDK that is its target, and a machine that may send to it."""

    def __init__(self, bench, work):
        self.bench = bench
        self.directory = os.path.join(work, "site")
        os.mkdir(self.directory)
        self.source = self.path("source.img")
        self.vmdk, self.flat = self.path("target.vmdk"), self.path("target-flat.vmdk")
        run(["cp", "--sparse=never", "--reflink=never", bench.base, self.source])
        self.master = Master(bench.program, self.directory)
        self.master.failback("vmdk", "create", self.vmdk, "--size", bench.size, "--subformat", "monolithicFlat")
        run(["dd", f"if={bench.base}", f"of={self.flat}", "bs=1M", "conv=notrunc", "status=none"], limit=600)
        os.mkdir(self.path("kept"))

    def path(self, name):
        return os.path.join(self.directory, name)

    @contextlib.contextmanager
    def daemon(self):
        """Runs it, lets the source in, and binds the disks. Gives its process and its address."""
        with self.master.running() as (process, address):
            self.master.let_in("source", address)
            self.master.bind(PAIR, self.source, self.vmdk, "source")
            yield process, address

    def send(self, address):
        """One pass; what it cost, and its report."""
        cost = run(self.master.sending(PAIR, self.source, address, "source"), limit=1800)
        return cost, json.loads(cost.stdout)[0]

    def by_files(self, signature):
        """The same by diff and apply, and a pipe between them, with recovery points; the seconds it took."""
        program, kept = self.bench.program, self.path("kept")
        began = time.monotonic()
        diff = [program, "diff", "--base", signature, self.source, "-o", "-", "--whole"]
        apply = [program, "apply", "-", self.vmdk, "--retention", kept, "--yes", "--json"]
        with open(self.path("by-files.log"), "wb") as log:
            made = subprocess.Popen(diff, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log)
            applied = subprocess.Popen(apply, stdin=made.stdout, stdout=log, stderr=log)
            made.stdout.close()
            if applied.wait() or made.wait():
                raise Failed(f"diff | apply failed: see {self.path('by-files.log')}")
        return time.monotonic() - began

    def is_home(self):
        run(["cmp", self.source, self.flat], limit=600)


def cpu_of(process):
    """Seconds of processors that a process has had, its threads included (proc_pid_stat(5))."""
    with open(f"/proc/{process.pid}/stat") as stat:
        fields = stat.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def measure(bench, work, donor):
    """Passes to and fro between the base and what 5 % of it became."""
    site = Site(bench, work)
    extents = data.CHANGE_SETS["clustered"](bench.size)
    sent, sent_cpu, by_files, wire, synced, synced_cpu = [], [], [], [], [], []
    with site.daemon() as (process, address):
        # The tree is there from the first pass on, as it is from the second pass of anybody's.
        site.send(address)
        for _ in range(bench.reps):
            for change in (lambda: data.change(site.source, extents, donor), lambda: restore(site.source, bench, extents)):
                change()
                drop_caches()
                before = cpu_of(process)
                cost, report = site.send(address)
                sent.append(cost.seconds)
                sent_cpu.append(cost.cpu + cpu_of(process) - before)
                wire.append((report["bytes_sent"], report["delta_bytes"]))
                site.is_home()
        drop_caches()
        unchanged, report = site.send(address)
    there = data.data_bytes(site.source)
    # Now by files, on the same VMDK, whose points are kept elsewhere.
    signature = site.path("base.sig")
    for _ in range(bench.reps):
        bench.failback("sign", site.vmdk, "-o", signature, "--block-size", "4K", "--whole")
        data.change(site.source, extents, donor)
        drop_caches()
        by_files.append(site.by_files(signature))
        site.is_home()
        shutil.rmtree(site.path("kept"))
        os.mkdir(site.path("kept"))
        restore(site.source, bench, extents)
        drop_caches()
        if shutil.which("rsync"):
            args = ["--inplace", "--no-whole-file", "--ignore-times", "--block-size=4096", site.source, site.flat]
            cost = run(["rsync", *args], limit=1800)
            synced.append(cost.seconds)
            synced_cpu.append(cost.cpu)
        site.is_home() if synced else restore(site.flat, bench, extents)
    shutil.rmtree(site.directory)
    where = "TLS over loopback, cold, clustered"
    yield held("send: time", where, sent, by_files, "s", "diff | apply, with points", at_most=1.25)
    if synced:
        yield held("send: time", where, sent, synced, "s", "rsync --inplace --no-whole-file, by a pipe", at_most=0.3)
        yield held("send: CPU of both sides", where, sent_cpu, synced_cpu, "s", "rsync, both sides", at_most=0.2)
    ours, theirs = [sent for sent, _ in wire], [delta for _, delta in wire]
    yield held("send: bytes on the wire", where, ours, theirs, "B", "the delta", at_most=1.05)
    where = "TLS over loopback, unchanged"
    yield held("send: bytes there", where, report["bytes_sent"], 4096, "B", "limit", at_most=1)
    yield held("send: bytes back", where, report["bytes_received"], 4096, "B", "limit", at_most=1)
    yield held("send: bytes read, by the kernel", where, unchanged.device_read, there, "B", "data there", at_most=1.01)


def restore(path, bench, extents):
    data.restore(path, extents, bench.base)
