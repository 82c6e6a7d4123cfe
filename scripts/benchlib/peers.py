"""Other programs doing the same job on the same data, each with a time limit."""

import dataclasses
import os
import shutil

from benchlib.machine import Failed, Run, drop_caches, run

LIMIT = 240
TOOLS = ("b3sum", "cmp", "rdiff", "rsync", "casync")


@dataclasses.dataclass
class Peer:
    """One step of one peer: what it cost, or why there is no number."""

    name: str
    cost: Run | None = None
    output_bytes: int | None = None
    reason: str = ""


def measure(base, source, target, directory):
    """All peers once, cold; `target` holds the base and is changed by rsync. Yields a Peer for each step."""

    def path(name):
        return os.path.join(directory, name)

    store = f"--store={path('store')}"
    missing = [tool for tool in TOOLS if not shutil.which(tool)]
    for tool in missing:
        yield Peer(tool, reason="not installed")
    chains = {
        "b3sum": [("b3sum, 2 threads", ["b3sum", "--num-threads", "2", source], None)],
        "cmp": [("cmp of equal images", ["cmp", base, target], None)],
        "rdiff": [
            ("rdiff signature, 4 KiB", ["rdiff", "-b", "4096", "signature", base, path("rdiff.sig")], "rdiff.sig"),
            ("rdiff delta", ["rdiff", "delta", path("rdiff.sig"), source, path("rdiff.delta")], "rdiff.delta"),
            ("rdiff patch", ["rdiff", "patch", base, path("rdiff.delta"), path("rdiff.out")], None),
        ],
        "casync": [
            ("casync make, base", ["casync", "make", store, path("base.caibx"), base], None),
            ("casync make, source", ["casync", "make", store, path("new.caibx"), source], None),
            ("casync extract", ["casync", "extract", store, path("new.caibx"), path("out.img")], None),
        ],
        "rsync": [
            (
                "rsync --inplace --no-whole-file, 4 KiB",
                ["rsync", "--inplace", "--no-whole-file", "--ignore-times", "--block-size=4096", source, target],
                None,
            )
        ],
    }
    for tool, steps in chains.items():
        if tool not in missing:
            yield from chain(steps, path)
        for name in ("rdiff.sig", "rdiff.delta", "rdiff.out", "base.caibx", "new.caibx", "out.img"):
            if os.path.exists(path(name)):
                os.unlink(path(name))
        shutil.rmtree(path("store"), ignore_errors=True)


def chain(steps, path):
    """Steps that need each other; the first that fails ends them."""
    for name, args, output in steps:
        drop_caches()
        try:
            cost = run(args, limit=LIMIT)
        except Failed as error:
            yield Peer(name, reason=str(error))
            return
        yield Peer(name, cost, os.path.getsize(path(output)) if output else None)
