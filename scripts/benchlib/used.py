"""What maps of free space cost, and what they save; and how fast VMDKs are written."""

import os
import re

from benchlib import volumes
from benchlib.machine import MIB, Failed, drop_caches, run
from benchlib.peers import LIMIT, Peer
from benchlib.report import held
from benchlib.rows import MEMORY_LIMIT

MAP_SECONDS = 4
REPLAY_SECONDS = 1


def map_of(example, image):
    """What the example program finds on an image: its lines by their first word, and seconds and MiB as numbers."""
    text = run([example, image], limit=LIMIT).stdout
    lines = dict(line.split(" ", 1) for line in text.splitlines())
    extents = re.search(r"in (\d+) extents", lines["free"])
    if not extents:
        raise Failed(f"{image}: {lines['free']}")
    return float(lines["seconds"]), int(lines["peak"].split()[0]) / 1024, int(extents[1]), lines["state"]


def maps(bench, example, work):
    """The map of a large file system in pieces, and of one with a full log: time and memory against their limits."""
    for kind in volumes.KINDS:
        for what, made, limit in (("map", volumes.large, MAP_SECONDS), ("replay", volumes.crashed, REPLAY_SECONDS)):
            image = os.path.join(work, f"{what}.{kind}")
            made(kind, image)
            seconds, peaks = [], []
            for _ in range(bench.reps):
                drop_caches()
                taken, peak, extents, state = map_of(example, image)
                seconds.append(taken)
                peaks.append(peak)
            os.unlink(image)
            if what == "map" and extents < 1_000_000:
                raise Failed(f"{kind} has {extents} free extents, and a million were wanted")
            if what == "replay" and not state.startswith("Replayed"):
                raise Failed(f"{kind} has nothing to replay: {state}")
            about = f"1 TiB, {extents} free extents" if what == "map" else f"64 MiB log, {state}"
            where = f"{kind}, cold, {about}"
            yield held(f"{what}: time", where, seconds, limit, "s", "limit", at_most=1)
            yield held(f"{what}: memory", where, max(peaks), MEMORY_LIMIT / MIB, "MiB", "limit", at_most=1)


def used(bench, work, others):
    """sign and diff of a disk that is a fifth used, against the same with --whole."""
    names = {name: os.path.join(work, f"{name}.list") for name in ("staged", "spare")}
    for kind in volumes.KINDS:
        image = os.path.join(work, f"used.{kind}")
        volumes.partly_used(kind, image, bench.size, names["staged"])
        for base, options in (("used.sig", []), ("whole.sig", ["--whole"])):
            bench.failback("sign", image, "-o", bench.path(base), *options)
        volumes.add_files(image, names["spare"], bench.size // 100, "more")
        for verb in ("sign", "diff"):
            seen = {"used": [], "whole": []}
            for _ in range(bench.reps):
                for coverage, options in (("used", []), ("whole", ["--whole"])):
                    base = ["--base", bench.path(f"{coverage}.sig")] if verb == "diff" else []
                    drop_caches()
                    out = bench.path(f"disk.{verb}")
                    cost, _ = bench.failback(verb, *base, image, "-o", out, *options)
                    seen[coverage].append(cost.seconds)
            where = f"{kind}, file, cold, 20 % used"
            yield held(f"{verb}: time", where, seen["used"], seen["whole"], "s", f"{verb} --whole", at_most=0.25)
        others.append((f"used, {kind}", partclone(kind, image, work)))
        os.unlink(image)


def partclone(kind, image, work):
    """The peer that copies used blocks only."""
    program, out = f"partclone.{'extfs' if kind == 'ext4' else kind}", os.path.join(work, "partclone.out")
    drop_caches()
    try:
        cost = run([program, "-c", "-q", "-F", "-s", image, "-o", out, "-L", out + ".log"], limit=LIMIT)
        return Peer(f"{program} -c", cost, os.path.getsize(out))
    except Failed as error:
        return Peer(f"{program} -c", reason=str(error))
    finally:
        for path in (out, out + ".log"):
            if os.path.exists(path):
                os.unlink(path)


def vmdk(bench, work, others):
    """Writing a sparse VMDK from end to end against writing a raw image; qemu-img beside it."""
    seen = {"monolithicSparse": [], "raw": []}
    for _ in range(bench.reps):
        for subformat, rates in seen.items():
            out = os.path.join(work, "converted.raw" if subformat == "raw" else "converted.vmdk")
            drop_caches()
            cost, _ = bench.failback("vmdk", "convert", bench.base, out, "--subformat", subformat)
            rates.append(bench.rate(cost.seconds))
            os.unlink(out)
    ours, theirs = seen["monolithicSparse"], seen["raw"]
    yield held("vmdk: rate", "file, cold, monolithicSparse", ours, theirs, "MiB/s", "raw image", at_least=0.7)
    out = os.path.join(work, "converted.vmdk")
    drop_caches()
    try:
        # With its data on the disk, as failback leaves it.
        options = ["-t", "none", "-T", "none", "-f", "raw", "-O", "vmdk", "-o", "subformat=monolithicSparse"]
        peer = Peer("qemu-img convert, VMDK", run(["qemu-img", "convert", *options, bench.base, out], limit=LIMIT))
        peer.output_bytes = os.path.getsize(out)
    except Failed as error:
        peer = Peer("qemu-img convert, VMDK", reason=str(error))
    finally:
        if os.path.exists(out):
            os.unlink(out)
    others.append(("vmdk", peer))
