"""Many sources that send to one master target at once, against one source that sends as much."""

import os
import shutil
import subprocess
import time

from benchlib.machine import MIB, Failed, drop_caches, run
from benchlib.master import Master, disks, randomize
from benchlib.report import held

SOURCES = 16
PEER = "source"
# What a master target may have in memory: for itself, and for each session.
ITSELF, SESSION = 64 * MIB, 32 * MIB
PATIENCE = 1800  # seconds


def peak_memory(process):
    """The most that a process had in memory, in bytes (proc(5))."""
    with open(f"/proc/{process.pid}/status") as status:
        line = next(line for line in status if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def send(master, pairs, address):
    """One pass of each pair, all at once; the seconds until the last one has ended."""
    drop_caches()
    log = master.path("send.log")
    with open(log, "wb") as said:
        began = time.monotonic()
        commands = [master.sending(pair, source, address, PEER) for pair, (source, _, _) in pairs.items()]
        children = [subprocess.Popen(it, stdin=subprocess.DEVNULL, stdout=said, stderr=said) for it in commands]
        try:
            codes = [child.wait(PATIENCE) for child in children]
        finally:
            for child in children:
                child.kill()
        seconds = time.monotonic() - began
    if any(codes):
        raise Failed(f"failback send failed: see {log}")
    return seconds


def measure(bench, work):
    """Passes of disks that are new from end to end."""
    master = Master(bench.program, os.path.join(work, "many"))
    os.mkdir(master.directory)
    total = bench.size // 8
    one = {"one": disks(master, "one", total)}
    many = {f"disk{number}": disks(master, f"disk{number}", total // SOURCES) for number in range(SOURCES)}
    rates = {"one": [], "many": []}
    # The peak counts from the daemon's start, so the one source goes to a daemon before.
    for name, pairs in (("one", one), ("many", many)):
        with master.running() as (process, address):
            if name == "one":
                master.let_in(PEER, address)
            for pair, (source, vmdk, _) in pairs.items():
                master.bind(pair, source, vmdk, PEER)
            # The trees are there from the first pass on.
            send(master, pairs, address)
            for _ in range(bench.reps):
                for source, _, _ in pairs.values():
                    randomize(source, 0, total // len(pairs))
                rates[name].append(total / MIB / send(master, pairs, address))
                for source, _, flat in pairs.values():
                    run(["cmp", source, flat], limit=600)
            peak = peak_memory(process)
    shutil.rmtree(master.directory)
    where = f"{SOURCES} at once, {total // MIB} MiB in all"
    yield held("many: rate", where, rates["many"], rates["one"], "MiB/s", "one source with as much", at_least=0.8)
    most = (ITSELF + SOURCES * SESSION) / MIB
    yield held("many: memory of the master target", where, peak / MIB, most, "MiB", "limit", at_most=1)
