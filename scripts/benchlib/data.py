"""Disk images with real content, and the two ways in which they change."""

import os
import random

from benchlib.machine import MIB, Failed, run

BLOCK = 4096
SEED = 20240229
CHANGED = 0.05
COPY = 256 * BLOCK


def make_base(directory, size):
    """Makes in `directory` base.img, an ext4 of real files with hardly a free block, and donor.bin, other content."""
    base = os.path.join(directory, "base.img")
    filler = os.path.join(directory, "filler")
    image_function("make_full_ext4", directory, size // MIB)
    free = int(image_function("free_bytes_ext4", base))
    real_bytes(os.path.join(directory, "spare.list"), os.path.join(directory, "donor.bin"), int(size * CHANGED * 1.5))
    real_bytes(os.path.join(directory, "staged.list"), filler, free * 99 // 100)
    image_function("add_to_ext4", base, filler)
    os.unlink(filler)


def image_function(name, *args):
    """Calls a function of scripts/lib/image.sh and returns what it prints."""
    script = f'set -euo pipefail; source scripts/lib/common.sh; source scripts/lib/image.sh; {name} "$@"'
    return run(["bash", "-c", script, "bench", *args], limit=900).stdout


def real_bytes(names, output, length):
    """Writes `length` bytes: the files listed in `names` one after another, again from the start when they end."""
    with open(names) as text:
        paths = text.read().split()
    with open(output, "wb") as out:
        while length:
            before = length
            for path in paths:
                try:
                    with open(path, "rb") as file:
                        content = file.read(length)
                except OSError:
                    continue  # gone since it was listed
                out.write(content)
                length -= len(content)
                if not length:
                    return
            if length == before:
                raise Failed(f"no file listed in {names} can be read")


def scattered(size):
    """Single 4 KiB blocks all over the disk, as a database changes them: extents of (offset, length)."""
    blocks = size // BLOCK
    chosen = random.Random(SEED).sample(range(blocks), int(blocks * CHANGED))
    return merged(sorted((block * BLOCK, BLOCK) for block in chosen))


def clustered(size):
    """Runs of 4 KiB to 1 MiB, log-normal with median 32 KiB, as a file system writes: extents of (offset, length)."""
    rng = random.Random(SEED)
    blocks = size // BLOCK
    left = int(blocks * CHANGED)
    taken = bytearray(blocks)
    extents = []
    while left:
        length = min(max(int(8 * rng.lognormvariate(0, 1.2)), 1), 256, left)
        start = rng.randrange(blocks - length)
        if any(taken[start : start + length]):
            continue
        taken[start : start + length] = b"\1" * length
        extents.append((start * BLOCK, length * BLOCK))
        left -= length
    return merged(sorted(extents))


CHANGE_SETS = {"scattered": scattered, "clustered": clustered}


def merged(extents):
    """Neighbours become one extent."""
    result = []
    for offset, length in extents:
        if result and sum(result[-1]) == offset:
            result[-1] = (result[-1][0], result[-1][1] + length)
        else:
            result.append((offset, length))
    return result


def pieces(extents, limit):
    """The extents, cut so that none is longer than `limit`."""
    for offset, length in extents:
        for start in range(0, length, limit):
            yield offset + start, min(limit, length - start)


def change(path, extents, donor):
    """Replaces the extents of `path` by content of `donor`, so that every 4 KiB block of them differs from before.

    A long extent gets content that belongs together; what single blocks get has nothing to do with their neighbours.
    """
    places = list(range(0, os.path.getsize(donor) - COPY, BLOCK))
    random.Random(SEED).shuffle(places)
    with open(path, "r+b", buffering=0) as disk, open(donor, "rb", buffering=0) as content:
        for offset, length in pieces(extents, COPY):
            old = os.pread(disk.fileno(), length, offset)
            new = old
            while any(old[i : i + BLOCK] == new[i : i + BLOCK] for i in range(0, length, BLOCK)):
                if not places:
                    raise Failed("the other content does not last for the changes")
                new = os.pread(content.fileno(), length, places.pop())
            os.pwrite(disk.fileno(), new, offset)
        os.fsync(disk.fileno())


def restore(path, extents, base):
    """Puts the base's content back into the extents of `path`."""
    with open(path, "r+b", buffering=0) as disk, open(base, "rb", buffering=0) as source:
        for offset, length in pieces(extents, COPY):
            os.pwrite(disk.fileno(), os.pread(source.fileno(), length, offset), offset)
        os.fsync(disk.fileno())


def data_bytes(path):
    """How much of a file is not a hole; of a device, which does not say, everything."""
    with open(path, "rb", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        if not os.path.isfile(path):
            return size
        total = at = 0
        while at < size:
            try:
                start = os.lseek(file.fileno(), at, os.SEEK_DATA)
            except OSError:
                break
            at = os.lseek(file.fileno(), start, os.SEEK_HOLE)
            total += at - start
        return total
