"""Rows of the report, and the report as Markdown and JSON."""

import dataclasses
import json
import os
import statistics


@dataclasses.dataclass
class Row:
    """Something measured on both sides, held against a target where there is one."""

    what: str
    where: str
    ours: list[float]
    theirs: list[float]
    unit: str
    against: str
    ratio: float
    target: str = ""
    reached: bool | None = None


def held(what, where, ours, theirs, unit, against, at_least=None, at_most=None, exactly=None):
    """A row whose ratio of medians, ours to theirs, must keep within a bound. One number may stand for a list."""
    ours = ours if isinstance(ours, list) else [ours]
    theirs = theirs if isinstance(theirs, list) else [theirs]
    ratio = statistics.median(ours) / statistics.median(theirs) if statistics.median(theirs) else float("inf")
    if exactly is not None:
        return Row(what, where, ours, theirs, unit, against, ratio, f"= {exactly}", ratio == exactly)
    if at_least is not None:
        return Row(what, where, ours, theirs, unit, against, ratio, f">= {at_least}", ratio >= at_least)
    return Row(what, where, ours, theirs, unit, against, ratio, f"<= {at_most}", ratio <= at_most)


def markdown(machine, options, rows, peers):
    """The report for people."""
    lines = [
        "# failback, measured",
        "",
        f"Kernel {machine['kernel']}, {machine['cpus']} x {machine['cpu']}, "
        f"{machine['memory_bytes'] / 2**30:.0f} GiB of memory, load {machine['load']:.1f} at the start. "
        f"Images of {options['size'] / 2**30:g} GiB, {options['reps']} repetitions in turn, medians.",
        "",
    ]
    if rows:
        lines += table(
            ["what", "where", "failback", "against", "", "unit", "ratio", "target", ""],
            [
                [
                    row.what,
                    row.where,
                    number(statistics.median(row.ours)),
                    number(statistics.median(row.theirs)),
                    row.against,
                    row.unit,
                    f"{row.ratio:.3f}",
                    row.target,
                    {True: "reached", False: "NOT REACHED", None: ""}[row.reached],
                ]
                for row in rows
            ],
        )
        missed = sum(row.reached is False for row in rows)
        lines += ["", f"{sum(row.reached is True for row in rows)} targets reached, {missed} not reached.", ""]
    if peers:
        lines += ["## Other programs on the same data, cold, once each", ""]
        lines += ["Memory below the driver's own peak of some 30 MiB does not show: a child counts from it.", ""]
        lines += table(
            ["program", "changes", "seconds", "CPU s", "memory MiB", "output MiB"],
            [peer_cells(peer, changes) for changes, peer in peers],
        )
    return "\n".join(lines) + "\n"


def peer_cells(peer, changes):
    if not peer.cost:
        return [peer.name, changes, peer.reason, "", "", ""]
    output = "" if peer.output_bytes is None else number(peer.output_bytes / 2**20)
    cost = peer.cost
    return [peer.name, changes, number(cost.seconds), number(cost.cpu), number(cost.max_rss / 2**20), output]


def number(value):
    """Three digits that count; whole numbers in full."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def table(head, rows):
    """A Markdown table that also reads well as it is."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]

    def line(cells):
        return "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths)) + " |"

    return [line(head), "|" + "|".join("-" * (width + 2) for width in widths) + "|", *map(line, rows)]


def write(directory, machine, options, rows, peers):
    """Writes bench.md and bench.json; returns the text of the former."""
    os.makedirs(directory, exist_ok=True)
    text = markdown(machine, options, rows, peers)
    with open(os.path.join(directory, "bench.md"), "w") as file:
        file.write(text)
    with open(os.path.join(directory, "bench.json"), "w") as file:
        everything = {
            "machine": machine,
            "options": options,
            "rows": [dataclasses.asdict(row) for row in rows],
            "peers": [{"changes": changes, **dataclasses.asdict(peer)} for changes, peer in peers],
        }
        json.dump(everything, file, indent=1)
        file.write("\n")
    return text
