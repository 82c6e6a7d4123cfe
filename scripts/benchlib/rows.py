"""What is measured of failback itself, each against something measured in turn with it on the same data."""

import json
import os
import shutil
import statistics

from benchlib import data, fio
from benchlib.machine import MIB, Failed, drop_caches, fill_cache, run, warm
from benchlib.report import held

MEMORY_LIMIT = 96 * MIB
FRAME = MIB


class Side:
    """A place where disks are: a source and a target of the same size, the target at the base."""

    def __init__(self, name, source, target, memory_copy, retention):
        self.name = name
        self.source = source
        self.target = target
        self.memory_copy = memory_copy  # the target as a file that can be in memory, for b3sum
        self.retention = retention  # a directory on a device like the target's


class Bench:
    """The program, how it is measured, and what has been seen of its memory."""

    def __init__(self, program, options, work, memory, base):
        self.program = program
        self.size = options["size"]
        self.reps = options["reps"]
        self.states = options["states"]
        self.filler = os.path.join(work, "filler")
        self.memory = memory  # a directory in memory: signatures and deltas cost no disk time on either side
        self.base = base
        self.max_rss = {}

    def failback(self, verb, *args):
        """Runs one verb; returns what it cost and its JSON."""
        cost = run([self.program, verb, *args, "--json"], limit=1800)
        self.max_rss[verb] = max(self.max_rss.get(verb, 0), cost.max_rss)
        return cost, json.loads(cost.stdout)

    def sign(self, disk, block):
        # All of the disk: what these rows compare with reads all of it too.
        return self.failback("sign", disk, "-o", self.path("disk.sig"), "--block-size", block, "--whole")

    def diff(self, disk):
        return self.failback("diff", "--base", self.path("base.sig"), disk, "-o", self.path("disk.delta"), "--whole")

    def apply(self, disk):
        state = self.path("state")
        shutil.rmtree(state, ignore_errors=True)
        return self.failback("apply", self.path("disk.delta"), disk, "--no-undo", "--yes", "--state", state)

    def path(self, name):
        return os.path.join(self.memory, name)

    def enter(self, state, disk):
        """Brings the page cache into a state."""
        if os.path.exists(self.filler):
            os.unlink(self.filler)
        if state == "warm":
            warm(disk)
        elif state == "full":
            fill_cache(self.filler)
        else:
            drop_caches()

    def rate(self, seconds):
        return self.size / MIB / seconds

    def make_delta(self, side, block="4K"):
        """Leaves base.sig and disk.delta for what is on the side now."""
        self.sign(side.target, block)
        os.replace(self.path("disk.sig"), self.path("base.sig"))
        return self.diff(side.source)[1]


def sign(bench, side):
    """sign against fio's best sequential read and b3sum, whichever is slower; its CPU against b3sum's."""
    for state in bench.states:
        options = fio.best_read(side.target, "warm" if state == "warm" else "cold")
        seen = {"fio": [], "b3sum": [], "4K": [], "64K": []}
        cpu = {"b3sum": [], "4K": [], "64K": []}
        for _ in range(bench.reps):
            bench.enter("warm", side.memory_copy)
            hashed = run(["b3sum", "--num-threads", "2", side.memory_copy])
            seen["b3sum"].append(bench.rate(hashed.seconds))
            cpu["b3sum"].append(hashed.cpu)
            bench.enter(state, side.target)
            seen["fio"].append(bench.rate(fio.read_seconds(side.target, options)))
            for block in ("4K", "64K"):
                bench.enter(state, side.target)
                cost, _ = bench.sign(side.target, block)
                seen[block].append(bench.rate(cost.seconds))
                cpu[block].append(cost.cpu)
        slower = min("fio", "b3sum", key=lambda name: statistics.median(seen[name]))
        against = "fio " + " ".join(options) if slower == "fio" else "b3sum of memory"
        for block in ("4K", "64K"):
            where = f"{side.name}, {state}, {block} blocks"
            yield held("sign: rate", where, seen[block], seen[slower], "MiB/s", against, at_least=0.9)
            if state == "warm":
                yield held("sign: CPU", where, cpu[block], cpu["b3sum"], "s", "b3sum", at_most=1.3)


def diff(bench, side, changes, _extents):
    """diff against sign of the same image in the same state, and what it reads against what there is to read."""
    bench.make_delta(side)
    there = data.data_bytes(side.source)
    for state in bench.states:
        signed, diffed, report, cost = [], [], {}, None
        for _ in range(bench.reps):
            bench.enter(state, side.source)
            signed.append(bench.rate(bench.sign(side.source, "4K")[0].seconds))
            bench.enter(state, side.source)
            cost, report = bench.diff(side.source)
            diffed.append(bench.rate(cost.seconds))
        where = f"{side.name}, {state}, {changes}"
        yield held("diff: rate", where, diffed, signed, "MiB/s", "sign of the same image", at_least=0.9)
        yield held("diff: bytes read, as it says", where, report["bytes_read"], there, "B", "data there", exactly=1)
        if state == "cold":
            # Starting the program from a cold disk reads its file as well, hence the hundredth.
            read = cost.device_read
            yield held("diff: bytes read, by the kernel", where, read, there, "B", "data there", at_most=1.01)


def apply(bench, side, changes, extents):
    """apply, which verifies, against fio reading and writing the same extents with one fsync."""
    result = bench.make_delta(side)["result_root"]
    changed = sum(length for _, length in extents) / MIB
    ours, theirs = [], []
    for _ in range(bench.reps):
        drop_caches()
        theirs.append(changed / fio.replay_seconds(side.target, extents, bench.memory))
        data.restore(side.target, extents, bench.base)
        drop_caches()
        ours.append(changed / bench.apply(side.target)[0].seconds)
        last = bench.failback("verify", side.target, "--root", result)[1]
        if not last["matches"]:
            raise Failed(f"apply left {side.target} at another root than {result}")
        data.restore(side.target, extents, bench.base)
    where = f"{side.name}, cold, {changes}"
    yield held("apply: rate", where, ours, theirs, "MiB/s", "fio, same extents", at_least=0.8)


def delta(bench, side, changes, extents):
    """The delta's size against the changed blocks compressed by zstd -3 in frames of 1 MiB."""
    report = bench.make_delta(side)
    frames = bench.path("frames")
    os.mkdir(frames)
    buffer = bytearray()
    names = []

    def put(content):
        names.append(os.path.join(frames, f"{len(names):06d}"))
        with open(names[-1], "wb") as file:
            file.write(content)

    with open(side.source, "rb", buffering=0) as disk:
        for offset, length in data.pieces(extents, FRAME):
            buffer += os.pread(disk.fileno(), length, offset)
            while len(buffer) >= FRAME:
                put(buffer[:FRAME])
                del buffer[:FRAME]
    if buffer:
        put(buffer)
    run(["zstd", "-3", "-q", "--no-check", *names])
    compressed = sum(os.path.getsize(name + ".zst") for name in names)
    shutil.rmtree(frames)
    where = f"4K blocks, {changes}"
    yield held("delta: size", where, report["delta_bytes"], compressed, "B", "zstd -3 per MiB", at_most=1.06)


def memory(bench, side, extents):
    """The most memory that any run of each verb took."""
    if "apply" not in bench.max_rss:
        bench.make_delta(side)
        root = bench.apply(side.target)[1]["result_root"]
        bench.failback("verify", side.target, "--root", root)
        data.restore(side.target, extents, bench.base)
    for verb, peak in bench.max_rss.items():
        where = f"{bench.size / 2**30:g} GiB, all runs"
        yield held(f"{verb}: memory", where, peak / MIB, MEMORY_LIMIT / MIB, "MiB", "limit", at_most=1)


def huge(bench, directory, donor):
    """The memory of sign on a sparse disk of 4 TiB that is used at both ends."""
    disk = os.path.join(directory, "huge.img")
    with open(disk, "wb") as file, open(donor, "rb") as content:
        for offset in (0, (4 << 40) - 64 * MIB):
            file.seek(offset)
            for _ in range(64):
                file.write(content.read(MIB).ljust(MIB, b"\1"))
    cost, _ = bench.sign(disk, "64K")
    os.unlink(disk)
    yield held("sign: memory", "4 TiB, sparse", cost.max_rss / MIB, MEMORY_LIMIT / MIB, "MiB", "limit", at_most=1)
