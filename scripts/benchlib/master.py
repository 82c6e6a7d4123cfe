"""A master target on this machine, and machines that may send to it."""

import contextlib
import json
import os
import re
import subprocess
import time

from benchlib.machine import Failed, run


class Master:
    """A master target with its state in a directory; `inside` is what runs a command where it is."""

    def __init__(self, program, directory, inside=(), host="127.0.0.1"):
        self.program = program
        self.directory = directory
        self.inside = list(inside)
        self.host = host

    def path(self, name):
        return os.path.join(self.directory, name)

    def failback(self, *args, inside=()):
        return json.loads(run([*inside, self.program, *args, "--json"], limit=1800).stdout)

    @contextlib.contextmanager
    def running(self):
        """Runs it. Gives its process and its address."""
        serve = [*self.inside, self.program, "serve", "--state", self.path("state"), "--log", "json"]
        with open(self.path("log"), "wb") as log:
            addresses = ["--listen", f"{self.host}:0", "--control", f"{self.host}:0"]
            process = subprocess.Popen([*serve, *addresses], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            yield process, self.wait_until_ready(process)
        finally:
            process.terminate()
            process.wait()

    def wait_until_ready(self, process):
        for _ in range(600):
            with open(self.path("log")) as log:
                text = log.read()
            found = re.search(r'"address":"([0-9.:]+)"', text)
            if found and "is ready" in text:
                return found.group(1)
            if process.poll() is not None:
                break
            time.sleep(0.05)
        raise Failed("the master target did not start")

    def let_in(self, name, address, inside=()):
        """Lets a machine in, which has its own state in the directory, under its name."""
        token = self.failback("enroll", "token", name, "--state", self.path("state"))["token"]
        with open(self.path("token"), "w") as file:
            file.write(token)
        join = ["enroll", "join", address, "--token-file", self.path("token"), "--state", self.path(name)]
        self.failback(*join, inside=inside)

    def bind(self, pair, source, target, peer):
        """Binds a source to a target, with a retention directory beside it."""
        os.makedirs(self.path("retention"), exist_ok=True)
        place = ["--retention", self.path("retention"), "--state", self.path("state")]
        self.failback("pair", "add", pair, "--source", source, "--target", target, "--peer", peer, *place)

    def sending(self, pair, source, address, peer, inside=()):
        """The command that makes one pass."""
        places = ["--journal", self.path("journal"), "--state", self.path(peer)]
        send = [*inside, self.program, "send", source, "--to", address, "--pair", pair, "--whole", *places, "--json"]
        return [str(word) for word in send]


def disks(master, name, size):
    """A source and a VMDK as its target, of the same random bytes; the paths of both and of the target's bytes."""
    source, vmdk, flat = (master.path(name + end) for end in (".img", ".vmdk", "-flat.vmdk"))
    randomize(source, 0, size)
    master.failback("vmdk", "create", vmdk, "--size", size, "--subformat", "monolithicFlat")
    run(["dd", f"if={source}", f"of={flat}", "bs=1M", "conv=notrunc", "status=none"], limit=600)
    return source, vmdk, flat


def randomize(path, at, size):
    """Writes random bytes, which nothing compresses."""
    with open(path, "r+b" if os.path.exists(path) else "w+b", buffering=0) as file:
        file.seek(at)
        while size:
            size -= file.write(os.urandom(min(size, 1 << 20)))
        os.fsync(file.fileno())
