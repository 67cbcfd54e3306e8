#!/usr/bin/env python3
"""Checks by the dynamic linker's own account which binaries depend on LibTorch, directly or through a library.

Usage: link_closure.py --with-torch BINARY --without-torch BINARY...
The first is the control: a binary that must depend on it, so that a check which sees nothing fails.
"""
import argparse
import re
import subprocess
import sys

TORCH = re.compile(r"\b(libtorch|libc10|libcaffe2)[\w.-]*\.so")


def torch_libraries(ldd_output):
    """Names of LibTorch's libraries in the output of ldd."""
    return sorted({match.group(0) for match in TORCH.finditer(ldd_output)})


def closure(binary):
    result = subprocess.run(["ldd", binary], capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise SystemExit(f"ldd {binary} failed (is it built?): {result.stderr.strip()}")
    return result.stdout


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--with-torch", required=True)
    parser.add_argument("--without-torch", nargs="+", required=True)
    arguments = parser.parse_args()

    failed = False
    if not torch_libraries(closure(arguments.with_torch)):
        print(f"{arguments.with_torch}: the control shows no LibTorch, so this test sees nothing")
        failed = True
    for binary in arguments.without_torch:
        libraries = torch_libraries(closure(binary))
        print(f"{binary}: {'links ' + ', '.join(libraries) if libraries else 'no LibTorch'}")
        failed = failed or bool(libraries)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
