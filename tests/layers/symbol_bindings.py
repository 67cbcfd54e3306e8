#!/usr/bin/env python3
"""No symbol of protobuf, gRPC, abseil, spdlog or ONNX is bound across the border between LibTorch and the system's libraries.

libtorch_cpu.so carries a protobuf of its own, older than the system's. A name exported by both would be bound to whichever
was loaded first, and crash far from here. The dynamic linker tells what it really bound.

usage: symbol_bindings.py BINARY…   (each is run with --version)
"""

import collections
import os
import pathlib
import re
import subprocess
import sys
import tempfile

BINDING = re.compile(r"binding file (\S+) \[0\] to (\S+) \[0\]: \S+ symbol `([^']+)'")
# Mangled namespaces that both sides may have.
SHARED_NAMESPACES = re.compile(r"6google8protobuf|4grpc|4absl|6spdlog|4onnx")
# Instantiations of libstdc++'s own templates, the same code on both sides: a hash table from string to an enum, and
# what std::call_once makes of a lambda that is given pointers.
HARMLESS = re.compile(r"^_ZNSt10_Hashtable\w*10Descriptor13WellKnownType|^_ZZNSt9once_flag18_Prepare_execution")


def is_torch(path):
    return re.match(r"lib(torch|c10)", pathlib.PurePath(path).name) is not None


def bindings(binary):
    """(user, provider, symbol) of everything bound at start-up and before exit."""
    with tempfile.TemporaryDirectory() as folder:
        environment = dict(os.environ, LD_BIND_NOW="1", LD_DEBUG="bindings", LD_DEBUG_OUTPUT=f"{folder}/log")
        subprocess.run([binary, "--version"], env=environment, stdout=subprocess.DEVNULL, check=True)
        for log in pathlib.Path(folder).iterdir():
            with log.open(errors="replace") as lines:
                yield from (match.groups() for match in map(BINDING.search, lines) if match)


def main():
    failed = len(sys.argv) < 2
    for binary in sys.argv[1:]:
        seen, torch_symbols, crossing = 0, 0, collections.defaultdict(set)
        for user, provider, symbol in bindings(binary):
            seen += 1
            torch_symbols += is_torch(provider)
            if is_torch(user) == is_torch(provider) or HARMLESS.search(symbol):
                continue
            if SHARED_NAMESPACES.search(symbol):
                crossing[user, provider].add(symbol)
        print(f"{binary}: {seen} bindings, {torch_symbols} to LibTorch, {len(crossing)} pairs of files cross the border")
        for (user, provider), symbols in sorted(crossing.items()):
            print(f"  {user} uses of {provider}: {' '.join(sorted(symbols)[:5])}")
        # A binary without LibTorch, or a linker that reported nothing, would prove nothing.
        failed |= bool(crossing) or torch_symbols == 0
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
