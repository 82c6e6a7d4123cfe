"""What recovery points cost: keeping them, going back to them, and reading them where they are."""

import contextlib
import glob
import json
import os
import random
import shutil
import time

from benchlib import data, nbd
from benchlib.machine import MIB, Failed, drop_caches, run, warm
from benchlib.report import held

MEMORY_LIMIT = 128 * MIB
BLOCKS = {"4K": 4 << 10, "16K": 16 << 10}
BLOCK = BLOCKS["16K"]
# How many times larger the sparse disk is, and its blocks farther apart: 1 TiB for 4 GiB.
FACTOR = 256
CHAIN_POINTS = 200
CHAIN_SIZE = 1 << 30
CHAIN_CHANGED = 0.0025
RANDOM_READS = 2000
READ_LENGTH = 4096


def failback(bench, *args):
    """Runs the program; returns what it cost and its JSON. Its memory has another limit than that of other rows."""
    cost = run([bench.program, *args, "--json"], limit=1800)
    return cost, json.loads(cost.stdout)


def apply_kept(bench, disk, retention):
    """Applies the delta so that it can be undone. The directory of recovery points is there already."""
    return failback(bench, "apply", bench.path("disk.delta"), disk, "--retention", retention, "--yes")


@contextlib.contextmanager
def retention_in(directory):
    """An empty directory for recovery points, removed in the end."""
    place = os.path.join(directory, "retention")
    os.mkdir(place)
    try:
        yield place
    finally:
        shutil.rmtree(place)


def link_bytes(retention, report):
    """The length of the file that leads back, which has to be what the report says."""
    names = glob.glob(os.path.join(retention, "*", "link-*.delta"))
    length = sum(map(os.path.getsize, names))
    if length != report["retention_bytes"]:
        raise Failed(f"{retention} holds {length} bytes of links, and {report['retention_bytes']} were reported")
    return length


def bytes_of_blocks(extents, block):
    """How many bytes the blocks have in which something changes."""
    touched = set()
    for offset, length in extents:
        touched.update(range(offset // block, -(-(offset + length) // block)))
    return len(touched) * block


def scattered(size, share, block=BLOCK, seed=data.SEED):
    """Whole blocks all over a disk of `size` bytes, in random order: extents of (offset, length)."""
    count = size // block
    return [(number * block, block) for number in random.Random(seed).sample(range(count), int(count * share))]


def apply(bench, side, changes, extents):
    """apply that keeps the way back against apply that does not; what it keeps, and its memory."""
    for name, block in BLOCKS.items():
        bench.make_delta(side, name)
        changed = bytes_of_blocks(extents, block)
        peak = 0
        for state in [state for state in bench.states if state != "full"]:
            kept, plain = [], []
            for _ in range(bench.reps):
                bench.enter(state, side.target)
                plain.append(changed / MIB / bench.apply(side.target)[0].seconds)
                data.restore(side.target, extents, bench.base)
                with retention_in(side.retention) as retention:
                    bench.enter(state, side.target)
                    cost, report = apply_kept(bench, side.target, retention)
                    length = link_bytes(retention, report)
                kept.append(changed / MIB / cost.seconds)
                peak = max(peak, cost.max_rss)
                data.restore(side.target, extents, bench.base)
            where = f"{side.name}, {state}, {changes}, {name} blocks"
            yield held("apply --retention: rate", where, kept, plain, "MiB/s", "apply --no-undo", at_least=0.5)
        if side.name == "file":
            where, content = f"{changes}, {name} blocks", report["retention_content_bytes"]
            yield held("retention: size", where, length / MIB, content / MIB, "MiB", "old content", at_most=1.02)
            yield memory_row(f"{bench.size / 2**30:g} GiB, {where}", peak)


def memory_row(where, peak):
    limit = MEMORY_LIMIT / MIB
    return held("apply --retention: memory", where, peak / MIB, limit, "MiB", "limit", at_most=1)


def incompressible(bench, work):
    """What is kept of content that cannot be compressed: whole blocks of 16 KiB that belong to no neighbours."""
    source, target = (os.path.join(work, f"random-{name}.img") for name in ("source", "target"))
    with open(source, "wb") as file:
        for _ in range(bench.size // 4 // MIB):
            file.write(os.urandom(MIB))
    run(["cp", "--reflink=never", source, target])
    extents = scattered(bench.size // 4, data.CHANGED)
    with open(source, "r+b", buffering=0) as disk:
        for offset, length in extents:
            os.pwrite(disk.fileno(), os.urandom(length), offset)
    bench.sign(target, "16K")
    os.replace(bench.path("disk.sig"), bench.path("base.sig"))
    bench.diff(source)
    with retention_in(work) as retention:
        length = link_bytes(retention, apply_kept(bench, target, retention)[1])
    for path in (source, target):
        os.unlink(path)
    where, content = "random bytes, scattered 16K blocks", sum(length for _, length in extents)
    yield held("retention: size", where, length / MIB, content / MIB, "MiB", "old content", at_most=1.02)


class Disk:
    """A disk at the base, and a source of the same size that changes."""

    def __init__(self, bench, name, source, target, factor):
        self.bench, self.name, self.source, self.target = bench, name, source, target
        self.factor = factor  # how many times as far apart its blocks are
        self.peak = 0

    def change(self, extents, donor, signature, retention):
        """Applies a delta of these extents, so that the disk can go back."""
        places = [(offset * self.factor, length) for offset, length in extents]
        delta = self.bench.path("disk.delta")
        data.change(self.source, places, donor)
        failback(self.bench, "diff", "--base", signature, self.source, "-o", delta, "--whole")
        data.restore(self.source, places, self.target)
        self.peak = apply_kept(self.bench, self.target, retention)[0].max_rss

    def go(self, point, retention):
        """Seconds to a point, and what was read and written on the disk."""
        drop_caches()
        args = ["point", "rollback", self.target, point, "--retention", retention, "--yes"]
        cost, report = failback(self.bench, *args)
        return cost.seconds, report["bytes_read"], report["bytes_written"] + report["bytes_zeroed"]


def spread(base, path, size, extents):
    """A sparse disk that holds the extents of `base`, farther apart."""
    with open(path, "wb", buffering=0) as disk, open(base, "rb", buffering=0) as source:
        disk.truncate(size)
        for offset, length in extents:
            os.pwrite(disk.fileno(), os.pread(source.fileno(), length, offset), offset * FACTOR)
        os.fsync(disk.fileno())


def rollback(bench, side, work, donor):
    """Going back where 1 % and 10 % of a disk changed, and as many bytes of one that is 256 times as large."""
    extents = scattered(bench.size, 0.1)
    paths = [os.path.join(work, f"sparse-{name}.img") for name in ("source", "target")]
    for path in paths:
        spread(bench.base, path, bench.size * FACTOR, extents)
    disks = [
        Disk(bench, f"{bench.size / 2**30:g} GiB", side.source, side.target, 1),
        Disk(bench, f"{bench.size * FACTOR / 2**40:g} TiB, sparse", *paths, FACTOR),
    ]
    # Sources and targets are at the base again after each round, so one signature of each does.
    signatures = [bench.path(f"{number}.sig") for number in range(len(disks))]
    for disk, signature in zip(disks, signatures):
        failback(bench, "sign", disk.target, "-o", signature, "--whole")
    for share, places in ((1, extents[: len(extents) // 10]), (10, extents)):
        with contextlib.ExitStack() as stack:
            kept = []
            for number, (disk, signature) in enumerate(zip(disks, signatures)):
                kept.append(os.path.join(work, f"retention-{number}"))
                os.mkdir(kept[-1])
                stack.callback(shutil.rmtree, kept[-1])
                disk.change(places, donor, signature, kept[-1])
            seen = [[] for _ in disks]
            for number in range(bench.reps):
                for disk, retention, runs in zip(disks, kept, seen):
                    if number:
                        disk.go(1, retention)
                    runs.append(disk.go(0, retention))
        yield from rollback_rows(disks, seen, f"{share} % of {disks[0].name} changed", places)
    for path in paths:
        os.unlink(path)


def rollback_rows(disks, seen, where, extents):
    """What the rollbacks of the small and the large disk took."""
    small, large = ([run[0] for run in runs] for runs in seen)
    about = f"file, cold, {where}, {disks[1].name}"
    yield held("rollback: time", about, large, small, "s", disks[0].name, at_most=1.5)
    changed = sum(length for _, length in extents) / MIB
    for disk, runs in zip(disks, seen):
        for what, place in (("read", 1), ("written", 2)):
            did = runs[-1][place] / MIB
            yield held(f"rollback: bytes {what}", f"{where}, {disk.name}", did, changed, "MiB", "changed", at_most=1.1)
        yield memory_row(f"{where}, {disk.name}", disk.peak)


def make_chain(bench, work, donor, retention):
    """A disk with many points, each of which changes some blocks all over it; returns its path."""
    size = min(CHAIN_SIZE, bench.size)
    source, target = (os.path.join(work, f"chain-{name}.img") for name in ("source", "target"))
    with open(bench.base, "rb") as base:
        for path in (source, target):
            base.seek(0)
            with open(path, "wb") as file:
                for _ in range(size // MIB):
                    file.write(base.read(MIB))
    rng = random.Random(data.SEED)
    room = os.path.getsize(donor) - BLOCK
    for number in range(CHAIN_POINTS):
        bench.sign(source, "16K")
        os.replace(bench.path("disk.sig"), bench.path("base.sig"))
        with open(source, "r+b", buffering=0) as disk, open(donor, "rb", buffering=0) as content:
            for offset, length in scattered(size, CHAIN_CHANGED, seed=number):
                # Content of its own for every point, also where an earlier one changed the same block.
                os.pwrite(disk.fileno(), os.pread(content.fileno(), length, rng.randrange(room)), offset)
        bench.diff(source)
        apply_kept(bench, target, retention)
    os.unlink(source)
    return target


def chain(bench, work, donor):
    """A long chain of points: listing them, opening the oldest, and random reads of the oldest against the newest."""
    with retention_in(work) as retention:
        disk = make_chain(bench, work, donor, retention)
        where = f"{CHAIN_POINTS} points, {CHAIN_CHANGED:.2%} of {os.path.getsize(disk) / 2**30:g} GiB each"
        keeping = ("--retention", retention)
        for state in [state for state in bench.states if state != "full"]:
            listed, opened = [], []
            for _ in range(bench.reps):
                enter(state, retention, disk)
                cost, report = failback(bench, "point", "list", disk, *keeping)
                listed.append(cost.seconds)
                enter(state, retention, disk)
                with serve(bench, disk, 0, keeping) as (client, start):
                    client.read(0, READ_LENGTH)
                    opened.append(time.monotonic() - start)
            if len(report["points"]) != CHAIN_POINTS + 1:
                raise Failed(f"{len(report['points'])} points are listed")
            yield held("point list: time", f"{where}, {state}", listed, 0.1, "s", "limit", at_most=1)
            yield held("point serve: oldest opened", f"{where}, {state}", opened, 1, "s", "limit", at_most=1)
            enter(state, retention, disk)
            newest, oldest = random_reads(bench, disk, keeping)
            what = "4K random reads, depth 1"
            yield held("point serve: rate", f"{what}, {state}", oldest, newest, "/s", "newest point", at_least=0.3)
        os.unlink(disk)


def enter(state, retention, disk):
    """Brings the page cache into a state, for the disk and all that is kept of it."""
    if state == "cold":
        drop_caches()
        return
    for path in [disk, *glob.glob(os.path.join(retention, "*", "*"))]:
        warm(path)


def serve(bench, disk, point, keeping):
    path = bench.path(f"{point}.sock")
    return nbd.served([bench.program, "point", "serve", disk, point, "--socket", path, *keeping], path)


def random_reads(bench, disk, keeping):
    """Random reads per second of the newest and of the oldest point, in turn, after as many reads of other places."""
    with serve(bench, disk, CHAIN_POINTS, keeping) as (newest, _), serve(bench, disk, 0, keeping) as (oldest, _):
        rng = random.Random(data.SEED)

        def places():
            return [rng.randrange(newest.size // READ_LENGTH) * READ_LENGTH for _ in range(RANDOM_READS)]

        seen = {newest: [], oldest: []}
        for number in range(bench.reps + 1):
            offsets = places()
            for client, rates in seen.items():
                rate = client.rate(offsets, READ_LENGTH)
                if number:
                    rates.append(rate)
        return seen[newest], seen[oldest]
