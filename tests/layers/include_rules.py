#!/usr/bin/env python3
"""Checks which folder includes and links which: proto <- common <- services <- tests.

Usage: include_rules.py ROOT. Prints one line per fault, "file:line: what is wrong"; exit code 1 when there are any.
"""
import pathlib
import re
import sys

# Folders of common/ and the others there that each may include. A folder may always include itself.
COMMON = {
    "base": set(),
    "batching": {"base", "metrics"},
    "wire": {"base"},
    "config": {"base"},
    "metrics": {"base"},
    "rpc": {"base", "config", "metrics"},
    "text": {"base"},
    "tensor": {"base", "wire"},
    "checkpoint": {"base", "tensor", "wire"},
    "model": {"base", "checkpoint", "tensor", "wire"},
}
COMMON_WITH_TORCH = {"tensor", "checkpoint", "model"}

# Bookkeeping and decisions as pure functions: no I/O, no clock, no gRPC. Their tests may read files.
PURE = (
    "services/generator/scheduler",
    "services/learner/batching",
    "services/reward/rules",
)
IMPURE_INCLUDE = re.compile(
    r"<(grpc|fstream|filesystem|chrono|thread|sys/|unistd|fcntl)|absl/time/clock|common/(rpc|metrics)/"
    r"|common/base/(file|clock|shutdown|logging)|\.grpc\.pb\.h")

# Folders that may use other services' pure functions (no RPC, no threads): what each may include and link.
# `rollcall verify` compares the services' own arithmetic, whole training steps too, with golden numbers; `rollcall eval`
# and the chain of stage rlaif read prompts as the learner does, by the same code.
EXCEPTIONS = {
    "services/cli/verify/": (("services/generator/sampling/", "services/learner/algorithms/",
                              "services/learner/batching/", "services/learner/trainer/"),
                             ("generator_sampling", "learner_algorithms", "learner_trainer")),
    "services/cli/eval/": (("services/learner/data/",), ("learner_data",)),
    "services/cli/rlaif/": (("services/learner/data/",), ("learner_data",)),
}

TORCH_INCLUDE = re.compile(r"^<(ATen|c10|torch|caffe2)/")
INCLUDE = re.compile(r'^\s*#\s*include\s+(<[^>]+>|"[^"]+")')
SERVICE_LIBRARY = re.compile(r"rollcall::((generator|reward|reference|learner|cli)(?![a-z])\w*)")


def include_fault(path, target):
    """Why the file at `path` (relative, posix) may not include `target` ("<x>" or "\"x\""), or None."""
    parts = path.split("/")
    area = parts[0]
    folder = parts[1] if len(parts) > 2 else ""
    name = target.strip('<>"').split("/")

    if name[0] == "tests" and area != "tests":
        return "only tests may include tests"
    if name[0] == "services":
        if area == "common":
            return "common may not include services"
        excepted = any(path.startswith(prefix) and target.strip('<>"').startswith(includes)
                       for prefix, (includes, _) in EXCEPTIONS.items())
        if area == "services" and len(name) > 1 and name[1] != folder and not excepted:
            return f"service {folder} may not include service {name[1]}"
    if area == "common":
        if folder not in COMMON:
            return f"common/{folder} is not in the table of {pathlib.Path(__file__).name}"
        if name[0] == "common" and len(name) > 1 and name[1] != folder and name[1] not in COMMON[folder]:
            return f"common/{folder} may not include common/{name[1]}"
        if TORCH_INCLUDE.match(target) and folder not in COMMON_WITH_TORCH:
            return f"common/{folder} may not include LibTorch"
    if path.startswith(tuple(f"{pure}/" for pure in PURE)) and not path.endswith("_test.cc"):
        if IMPURE_INCLUDE.search(target):
            return "this folder is pure: no I/O, no clock, no gRPC"
    return None


def link_fault(path, line):
    """Why the build file at `path` may not name the libraries in `line`, or None."""
    parts = path.split("/")
    for match in SERVICE_LIBRARY.finditer(line.split("#")[0]):
        library, service = match.group(1), match.group(2)
        if any(path.startswith(prefix) and library in links for prefix, (_, links) in EXCEPTIONS.items()):
            continue
        if parts[0] == "common":
            return f"common may not link service {service}"
        if parts[0] == "services" and len(parts) > 2 and parts[1] != service:
            return f"service {parts[1]} may not link service {service}"
    return None


def faults(root):
    root = pathlib.Path(root)
    found = []
    for area in ("proto", "common", "services"):
        for file in sorted((root / area).rglob("*")):
            path = file.relative_to(root).as_posix()
            if file.suffix in (".h", ".cc", ".cu"):
                check = lambda line: (m := INCLUDE.match(line)) and include_fault(path, m.group(1))
            elif file.name == "CMakeLists.txt":
                check = lambda line: link_fault(path, line)
            else:
                continue
            for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
                if fault := check(line):
                    found.append(f"{path}:{number}: {fault}: {line.strip()}")
    return found


def main():
    found = faults(sys.argv[1])
    print("\n".join(found) if found else "layers: no faults")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
