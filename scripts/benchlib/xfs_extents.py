"""Makes a large XFS with very many free extents, as a worst case for reading its free space.

    unshare -m python3 scripts/benchlib/xfs_extents.py IMAGE [--size 1T] [--extents 1000000] [--dirty]

It is a sparse file of which only metadata is ever written: files are allocated, not written, until 60 % are used, and then
single blocks of them are given back. With --dirty the file system is shut down instead of unmounted, while its log, of
64 MiB, is full. Needs root, a loop device, and some hundred MiB.
"""

import argparse
import ctypes
import os
import subprocess
import tempfile

BLOCK = 4096
KEEP_SIZE = 1
PUNCH_HOLE = 2
FILES = 16
UNITS = {"M": 1 << 20, "G": 1 << 30, "T": 1 << 40}

libc = ctypes.CDLL(None, use_errno=True)
libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


def fallocate(file, mode, at, count):
    """Allocates, or gives back, a part of a file."""
    if libc.fallocate(file, mode, at, count) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


def fill(root, size, extents):
    """Uses 60 % of the space, and gives back so many blocks that do not touch each other."""
    length = size * 6 // 10 // FILES // BLOCK * BLOCK
    holes = extents // FILES
    step = length // holes // BLOCK * BLOCK
    files = [os.open(f"{root}/{number}", os.O_CREAT | os.O_WRONLY, 0o600) for number in range(FILES)]
    for file in files:
        fallocate(file, 0, 0, length)
    # A log that is full has much of every tree in it: go around the files.
    for hole in range(holes):
        for file in files:
            fallocate(file, PUNCH_HOLE | KEEP_SIZE, hole * step, BLOCK)
    for file in files:
        os.close(file)


def main():
    """Reads the arguments, and makes the image."""
    parser = argparse.ArgumentParser(description="Makes a large XFS with very many free extents.")
    parser.add_argument("image")
    parser.add_argument("--size", default="1T")
    parser.add_argument("--extents", type=int, default=1_000_000)
    parser.add_argument("--dirty", action="store_true")
    arguments = parser.parse_args()
    size = int(arguments.size[:-1]) * UNITS[arguments.size[-1]]
    with open(arguments.image, "wb") as image:
        image.truncate(size)
    subprocess.run(["mkfs.xfs", "-q", "-f", "-l", "size=64m", arguments.image], check=True)
    with tempfile.TemporaryDirectory() as root:
        subprocess.run(["mount", "-o", "loop", arguments.image, root], check=True)
        try:
            fill(root, size, arguments.extents)
            if arguments.dirty:
                subprocess.run(["xfs_io", "-x", "-c", "shutdown -f", root], check=True)
        finally:
            subprocess.run(["umount", root], check=True)


if __name__ == "__main__":
    main()
