"""What fio reaches on the same device: the rates that failback is held against."""

import itertools
import json
import os

from benchlib.data import pieces
from benchlib.machine import MIB, Failed, drop_caches, meminfo, run, warm

REPLAY_PIECE = 256 * 1024


def job(options):
    """Runs one fio job; returns its part of the JSON report."""
    args = ["fio", "--name=bench", "--output-format=json", "--invalidate=0", *options]
    text = run(args, limit=300).stdout
    return json.loads(text[text.index("{") :])["jobs"][0]


def huge_buffers():
    """Buffers on huge pages, which count for more than anything else; the driver has reserved some where it could."""
    return ["--iomem=mmaphuge"] if meminfo("HugePages_Free") * meminfo("Hugepagesize") >= 48 * MIB else []


def read_options(state):
    """The ways of reading from end to end that are tried."""
    buffers = [[], huge_buffers()] if huge_buffers() else [[]]
    for size, depth, memory in itertools.product(("256k", "1m"), (8, 32), buffers):
        yield ["--ioengine=io_uring", "--direct=1", f"--bs={size}", f"--iodepth={depth}", *memory]
    if state == "warm":
        for engine, size in itertools.product(("psync", "mmap"), ("256k", "1m")):
            yield [f"--ioengine={engine}", "--direct=0", f"--bs={size}"]


def read_seconds(path, options):
    """Seconds for one sequential read of the whole of `path`."""
    report = job([f"--filename={path}", "--readonly", "--rw=read", *options])
    return report["read"]["runtime"] / 1000


def best_read(path, state):
    """The fastest of the ways of reading, each tried once in the given state."""
    tried = []
    for options in read_options(state):
        warm(path) if state == "warm" else drop_caches()
        try:
            tried.append((read_seconds(path, options), options))
        except Failed:
            continue  # a way that this machine does not have
    if not tried:
        raise Failed("fio could not read in any way")
    return min(tried)[1]


def replay_seconds(path, extents, directory):
    """Seconds for reading all extents, writing all of them and one fsync, at depth 64 around the page cache."""
    log = os.path.join(directory, "iolog")
    cut = list(pieces(extents, REPLAY_PIECE))
    with open(log, "w") as text:
        text.write(f"fio version 2 iolog\n{path} add\n{path} open\n")
        for action in ("read", "write"):
            text.writelines(f"{path} {action} {offset} {length}\n" for offset, length in cut)
        text.write(f"{path} sync 0 0\n{path} close\n")
    options = ["--ioengine=io_uring", "--direct=1", "--iodepth=64", *huge_buffers(), f"--read_iolog={log}"]
    report = job(options)
    # Bytes still in flight when the log ends are not in its byte counts; its operations are all there.
    if report["read"]["total_ios"] != len(cut) or report["write"]["total_ios"] != len(cut):
        raise Failed("fio did not replay all extents")
    return report["job_runtime"] / 1000
