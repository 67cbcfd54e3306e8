"""How busy the machine is besides what is being measured, and the arithmetic of interleaved pairs."""

import dataclasses
import os
import pathlib
import resource
import statistics
import time

# A measurement during which other processes took more than this share of all cores is disturbed.
OTHER_LOAD_LIMIT = 0.05


def cores():
    return len(os.sched_getaffinity(0))


def _busy_seconds():
    """CPU time that all processes of the machine have used since it started."""
    fields = [int(x) for x in pathlib.Path("/proc/stat").read_text().split("\n")[0].split()[1:]]
    idle = fields[3] + fields[4]  # idle, iowait
    return (sum(fields[:8]) - idle) / os.sysconf("SC_CLK_TCK")


def _own_seconds():
    total = 0.0
    for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
        usage = resource.getrusage(who)
        total += usage.ru_utime + usage.ru_stime
    return total


class LoadWatch:
    """Share of the machine's cores that others took between the start and other_load(), from 0 to 1. Children count as
    own once they have been waited for."""

    def __init__(self):
        self._begin, self._busy, self._own = time.monotonic(), _busy_seconds(), _own_seconds()

    def other_load(self):
        seconds = max(time.monotonic() - self._begin, 1e-3)
        other = (_busy_seconds() - self._busy) - (_own_seconds() - self._own)
        return max(0.0, other / seconds / cores())


@dataclasses.dataclass
class Pair:
    """One run of each side, one after the other."""
    ours: dict
    theirs: dict
    other_load: float  # the higher of the two

    @property
    def disturbed(self):
        return self.other_load > OTHER_LOAD_LIMIT


def spread(values):
    values = sorted(values)
    return {"median": statistics.median(values), "min": values[0], "max": values[-1], "count": len(values)}


def summarize(pairs, value, keep_disturbed=False):
    """Spread of both sides' value(result) and of their ratio, pair by pair, over the pairs that count. Where every pair
    was disturbed there is no ratio, unless disturbed ones are kept; then the summary says so."""
    counted = [pair for pair in pairs if keep_disturbed or not pair.disturbed]
    summary = {"pairs": len(pairs), "disturbed": sum(pair.disturbed for pair in pairs),
               "other_load": spread([pair.other_load for pair in pairs]) if pairs else None,
               "disturbed_pairs_kept": keep_disturbed}
    if counted:
        summary["ours"] = spread([value(pair.ours) for pair in counted])
        summary["theirs"] = spread([value(pair.theirs) for pair in counted])
        summary["ratio"] = spread([value(pair.ours) / value(pair.theirs) for pair in counted])
    return summary


def interleave(run_ours, run_theirs, wanted, deadline):
    """Alternates the two until `wanted` undisturbed pairs are there, 2 * wanted pairs were tried, or the deadline passed.
    At least one pair."""
    pairs = []
    while len(pairs) < 2 * wanted:
        results, load = [], 0.0
        for run in (run_ours, run_theirs):
            watch = LoadWatch()
            results.append(run())
            load = max(load, watch.other_load())
        pairs.append(Pair(*results, load))
        if sum(not pair.disturbed for pair in pairs) >= wanted or time.monotonic() > deadline:
            break
    return pairs
