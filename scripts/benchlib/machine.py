"""Running programs with everything the kernel says about them, and the states of the page cache."""

import contextlib
import dataclasses
import os
import signal
import subprocess
import tempfile
import threading
import time

MIB = 1 << 20


class Failed(Exception):
    """A program that could not be started, failed, or took too long."""


@dataclasses.dataclass
class Run:
    """What one run of a program cost."""

    seconds: float
    cpu: float
    max_rss: int  # bytes; not below this driver's own peak, which exec hands on to the child
    device_read: int  # bytes that came from block devices and not from the page cache
    stdout: str


def run(args, limit=None, env=None):
    """Runs a program to its end; Failed when it fails or takes more than `limit` seconds."""
    args = [str(arg) for arg in args]
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        start = time.monotonic()
        try:
            child = subprocess.Popen(args, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=env)
        except OSError as error:
            raise Failed(f"{args[0]}: {error.strerror}") from error
        late = threading.Event()

        def stop():
            late.set()
            os.kill(child.pid, signal.SIGKILL)

        timer = threading.Timer(limit or threading.TIMEOUT_MAX, stop)
        timer.start()
        try:
            # The ended child is looked at once more before it is collected: its I/O is gone afterwards.
            os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
            seconds = time.monotonic() - start
        except BaseException:
            child.kill()
            child.wait()
            raise
        finally:
            timer.cancel()
        device_read = process_read_bytes(child.pid)
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        if late.is_set():
            raise Failed(f"{args[0]}: more than {limit} s")
        if child.returncode:
            words = err.read().decode(errors="replace").strip()
            raise Failed(f"{' '.join(args)}: exit code {child.returncode}: {words[-400:]}")
        return Run(
            seconds=seconds,
            cpu=usage.ru_utime + usage.ru_stime,
            max_rss=usage.ru_maxrss * 1024,
            device_read=device_read,
            stdout=out.read().decode(errors="replace"),
        )


def process_read_bytes(pid):
    """What a process, its threads included, has had read from block devices."""
    with open(f"/proc/{pid}/io") as text:
        return int(dict(line.split(": ") for line in text)["read_bytes"])


def drop_caches():
    """The state `cold`: nothing of any file or device is in memory."""
    os.sync()
    with open("/proc/sys/vm/drop_caches", "w") as control:
        control.write("3")


def warm(path):
    """The state `warm`: the whole of `path` is in the page cache."""
    buffer = bytearray(MIB)
    with open(path, "rb", buffering=0) as file:
        while file.readinto(buffer):
            pass


def fill_cache(filler):
    """The state `full`: cold, but with memory taken by pages of `filler`, as on a machine that has run a while."""
    drop_caches()
    spare = meminfo("MemFree") - 2 * 1024 * MIB
    if spare > 0:
        with open(filler, "wb") as file:
            file.truncate(spare)
        warm(filler)


def meminfo(name):
    """One line of /proc/meminfo, in bytes where it has a unit."""
    with open("/proc/meminfo") as text:
        for line in text:
            words = line.split()
            if words[0] == name + ":":
                return int(words[1]) * (1024 if len(words) > 2 else 1)
    return 0


@contextlib.contextmanager
def loop_device(path):
    """A loop device over `path`, given back at the end."""
    device = run(["losetup", "-f", "--show", path]).stdout.strip()
    try:
        yield device
    finally:
        run(["losetup", "-d", device])


@contextlib.contextmanager
def huge_pages(count):
    """At least `count` huge pages reserved, where the kernel has them to give; put back at the end."""
    control = "/proc/sys/vm/nr_hugepages"
    with open(control) as text:
        before = int(text.read())

    def reserve(number):
        with open(control, "w") as file:
            file.write(str(number))

    reserve(max(before, count))
    try:
        yield
    finally:
        reserve(before)


def describe():
    """The machine, for the report's head."""
    with open("/proc/cpuinfo") as text:
        models = [line.split(":")[1].strip() for line in text if line.startswith("model name")]
    return {
        "kernel": os.uname().release,
        "cpu": models[0] if models else os.uname().machine,
        "cpus": os.cpu_count(),
        "memory_bytes": meminfo("MemTotal"),
        "load": os.getloadavg()[0],
    }
