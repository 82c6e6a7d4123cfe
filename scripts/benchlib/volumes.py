"""File systems made by the kernel: large ones in pieces, crashed ones, and ones whose free space is no hole."""

import contextlib
import ctypes
import os
import shutil

from benchlib.machine import MIB, Failed, loop_device, run

KINDS = ("ext4", "xfs")
PIECES = 1_050_000
PUNCHED = 16 * 1024
KEEP_SIZE, PUNCH_HOLE = 1, 2


def make(kind, image, *options):
    """A file system on all of an image, whose blocks stay as they are where it does not write."""
    if kind == "ext4":
        run(["mke2fs", "-q", "-F", "-t", "ext4", "-E", "nodiscard", *options, image], limit=300)
    else:
        run(["mkfs.xfs", "-q", "-f", "-K", *options, image], limit=300)


@contextlib.contextmanager
def mounted(image, *options):
    """The file system in an image, mounted for this process and its children until the end."""
    at = image + ".mount"
    os.makedirs(at, exist_ok=True)
    with loop_device(image) as device:
        run(["mount", "-o", ",".join(["rw", *options]), device, at])
        try:
            yield at
        finally:
            run(["umount", at])
            os.rmdir(at)


def sparse(path, size):
    """A file that is one hole."""
    with open(path, "wb") as file:
        file.truncate(size)


def fallocate(file, mode, offset, length):
    """What fallocate(2) does, which Python knows without its modes only."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
    if libc.fallocate(file.fileno(), mode, offset, length):
        raise Failed(f"fallocate: {os.strerror(ctypes.get_errno())}")


def large(kind, image):
    """A clean file system of 1 TiB, 60 % full, with more than a million free extents; its image is almost all holes."""
    sparse(image, 1 << 40)
    make(kind, image)
    with mounted(image) as at, open(os.path.join(at, "full"), "wb") as file:
        used = 640 << 30
        fallocate(file, 0, 0, used)
        step = used // PIECES // 4096 * 4096
        for number in range(PIECES):
            fallocate(file, PUNCH_HOLE | KEEP_SIZE, number * step, PUNCHED)


def crashed(kind, image, journal=64):
    """A file system with a log of so many MiB that is as full as the kernel lets it become, as a power cut leaves it."""
    live = image + ".live"
    sparse(live, 2 << 30)
    if kind == "ext4":
        make(kind, live, "-J", f"size={journal}")
    else:
        make(kind, live, "-l", f"size={journal}m")
    options = ["data=journal", "commit=900"] if kind == "ext4" else []
    with mounted(live, *options) as at:
        if kind == "ext4":
            # Its journal takes data as well. At three quarters the kernel begins to empty it.
            fill_synchronised(os.path.join(at, "file"), journal * MIB * 10 // 16)
        else:
            # Each round is a transaction of its own; at three quarters the kernel begins to empty this log, too.
            for directory in range(100):
                os.mkdir(os.path.join(at, str(directory)))
                for number in range(1000):
                    os.mkdir(os.path.join(at, str(directory), str(number)))
                fill_synchronised(os.path.join(at, str(directory), "last"), 4096)
        run(["cp", "--sparse=always", "--reflink=never", live, image])
    os.unlink(live)


def fill_synchronised(path, length):
    """A file of so many bytes that is on the disk."""
    with open(path, "wb") as file:
        for _ in range(length // 4096):
            file.write(os.urandom(4096))
        file.flush()
        os.fsync(file.fileno())


def partly_used(kind, image, size, names, share=0.2):
    """A file system with real files on a fifth of it. Nothing of the image is a hole: what is free is incompressible."""
    with open(image, "wb") as file:
        for _ in range(size // MIB):
            file.write(os.urandom(MIB))
    make(kind, image)
    add_files(image, names, int(size * share), "files")


def add_files(image, names, length, directory):
    """Copies files listed in `names` into a directory of the file system, until there are so many bytes in it."""
    with open(names) as text:
        paths = text.read().split()
    with mounted(image, "nodiscard") as at:
        to = os.path.join(at, directory)
        os.mkdir(to)
        for number, path in enumerate(paths * 100):
            if length <= 0:
                return
            try:
                shutil.copyfile(path, os.path.join(to, str(number)))
                length -= os.path.getsize(path)
            except FileNotFoundError:
                continue  # gone since it was listed
        raise Failed(f"the files listed in {names} are too few")
