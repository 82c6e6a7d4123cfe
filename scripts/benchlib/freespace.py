"""A file system whose free space is in a great many pieces, made by the kernel in a sparse image."""

import argparse
import ctypes
import os
import subprocess
import tempfile

KEEP_SIZE = 1
PUNCH_HOLE = 2
GIB = 1 << 30
BLOCK = 4096

libc = ctypes.CDLL(None, use_errno=True)
libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


def fallocate(descriptor, mode, start, length):
    """Gives blocks to a file, or takes them away, without writing them."""
    if libc.fallocate(descriptor, mode, start, length) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def fragment(directory, pieces, free):
    """Leaves the file system mounted at `directory` with so many free pieces, which are this part of its space.

    One file takes all space but a reserve, then holes are punched into it, which are free. Their sizes differ.
    """
    about = os.statvfs(directory)
    total = about.f_bavail * about.f_frsize - GIB
    stride = total // pieces // BLOCK * BLOCK
    hole = max(BLOCK, int(stride * free) // BLOCK * BLOCK)
    descriptor = os.open(os.path.join(directory, "all"), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fallocate(descriptor, 0, 0, stride * pieces)
        for number in range(pieces):
            # Between half and one and a half of the mean, in a fixed order.
            length = hole // 2 + number * 2654435761 % (hole + 1) // BLOCK * BLOCK
            fallocate(descriptor, PUNCH_HOLE | KEEP_SIZE, number * stride, max(BLOCK, min(length, stride - BLOCK)))
    finally:
        os.close(descriptor)


def make(image, size, pieces, free, options=(), dirty=None):
    """Makes `image`, an ext4 file system of `size` bytes; needs root. With `dirty` also a copy as a crash would leave it."""
    with open(image, "wb") as file:
        file.truncate(size)
    subprocess.run(["mke2fs", "-q", "-F", "-t", "ext4", "-m", "0", *options, image], check=True)
    with tempfile.TemporaryDirectory() as directory:
        subprocess.run(["mount", "-o", "loop", image, directory], check=True)
        try:
            fragment(directory, pieces, free)
            if dirty:
                subprocess.run(["sync", "-f", directory], check=True)
                subprocess.run(["cp", "--sparse=always", image, dirty], check=True)
        finally:
            subprocess.run(["umount", directory], check=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("image")
    parser.add_argument("--size", type=int, default=1024, help="GiB (1024)")
    parser.add_argument("--pieces", type=int, default=1_200_000, help="free extents, about (1200000)")
    parser.add_argument("--free", type=float, default=0.4, help="which part of it is free (0.4)")
    parser.add_argument("--dirty", help="also makes a copy of it while it is mounted, here")
    parser.add_argument("--journal", type=int, default=64, help="MiB (64)")
    arguments = parser.parse_args()
    options = ["-J", f"size={arguments.journal}"]
    make(arguments.image, arguments.size * GIB, arguments.pieces, arguments.free, options, arguments.dirty)


if __name__ == "__main__":
    main()
