"""How busy the machine is besides what is being measured, and the arithmetic of interleaved pairs."""

import dataclasses
import hashlib
import os
import pathlib
import resource
import statistics
import time

# A measurement during which other processes took more than this share of all cores is disturbed.
OTHER_LOAD_LIMIT = 0.05


def cores():
    return len(os.sched_getaffinity(0))


def quiet_threads():
    """The environment of a program whose idle OpenMP threads sleep. Spinning ones are a little faster where nothing else
    runs, and many times slower where something does."""
    return {**os.environ, "OMP_WAIT_POLICY": "passive"}


def identity(worker):
    """What results may be put together: those of one program on one kind of processor."""
    model = next((line.split(":", 1)[1].strip() for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines()
                  if line.startswith("model name")), "unknown")
    return {"worker": hashlib.sha256(pathlib.Path(worker).read_bytes()).hexdigest(), "processor": model, "cores": cores()}


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
    """One run of each side, one after the other; `theirs` is None where there is no peer."""
    ours: dict
    theirs: dict | None
    other_load: float  # the higher of the two

    @property
    def disturbed(self):
        return self.other_load > OTHER_LOAD_LIMIT


def run_pair(run_ours, run_theirs):
    results, load = [], 0.0
    for run in (run_ours, run_theirs):
        if run is None:
            results.append(None)
            continue
        watch = LoadWatch()
        results.append(run())
        load = max(load, watch.other_load())
    return Pair(*results, load)


def enough(pairs, wanted, keep_disturbed=False):
    """`wanted` pairs that count, or twice as many that were tried."""
    counted = sum(keep_disturbed or not pair.disturbed for pair in pairs)
    return counted >= wanted or len(pairs) >= 2 * wanted


def spread(values):
    values = sorted(values)
    return {"median": statistics.median(values), "min": values[0], "max": values[-1], "count": len(values)}


def summarize(pairs, values, own=None, keep_disturbed=False):
    """values: {name: function of a result}: spread of both sides and of their ratio, pair by pair; own: the same of our
    side alone. Over the pairs that count. Where every pair was disturbed there are no figures, unless disturbed ones are
    kept; then the summary says so."""
    counted = [pair for pair in pairs if keep_disturbed or not pair.disturbed]
    summary = {"pairs": len(pairs), "disturbed": sum(pair.disturbed for pair in pairs)}
    if pairs:
        summary["other load"] = spread([pair.other_load for pair in pairs])
    if keep_disturbed:
        summary["disturbed pairs"] = "kept"
    if not counted:
        return summary
    for name, value in values.items():
        entry = summary[name] = {"ours": spread([value(pair.ours) for pair in counted])}
        both = [pair for pair in counted if pair.theirs is not None]
        if both:
            entry["theirs"] = spread([value(pair.theirs) for pair in both])
            entry["ratio"] = spread([value(pair.ours) / value(pair.theirs) for pair in both])
    for name, value in (own or {}).items():
        summary[name] = spread([value(pair.ours) for pair in counted])
    return summary
