"""What the integration tests share: the contract's Python modules and the real binaries as child processes."""

import importlib
import os
import pathlib
import queue
import re
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

import grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

SOURCE = pathlib.Path(os.environ["ROLLCALL_SOURCE_DIR"])
BIN = pathlib.Path(os.environ["ROLLCALL_BIN_DIR"])
# Far beyond what anything here takes, also on a machine that does other work.
DEADLINE_S = 60

_stubs = tempfile.TemporaryDirectory(prefix="rollcall_stubs_")


def _make_stubs():
    from grpc_tools import protoc

    root = SOURCE / "proto"
    include = pathlib.Path(protoc.__file__).parent / "_proto"
    sources = [str(path) for path in sorted(root.rglob("*.proto"))]
    arguments = ["protoc", f"-I{root}", f"-I{include}", f"--python_out={_stubs.name}",
                 f"--grpc_python_out={_stubs.name}", *sources]
    assert protoc.main(arguments) == 0
    sys.path.insert(0, _stubs.name)


_make_stubs()


def contract(name):
    """(messages, services) of proto/rollcall/v1/NAME.proto."""
    return (importlib.import_module(f"rollcall.v1.{name}_pb2"),
            importlib.import_module(f"rollcall.v1.{name}_pb2_grpc"))


class Process:
    """A child process whose stderr is read as it comes; killed at the end if it still runs."""

    def __init__(self, *command):
        python_path = os.pathsep.join([_stubs.name, str(SOURCE / "sdk/python")])
        self._lines = queue.Queue()
        self.log = []
        self._child = subprocess.Popen(
            [str(part) for part in command], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": python_path,
                                                    "PYTHONDONTWRITEBYTECODE": "1"})
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        for line in self._child.stderr:
            self._lines.put(line.rstrip("\n"))
        self._lines.put(None)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self._child.poll() is None:
            self._child.kill()
        self._child.wait()
        self._reader.join()
        self._child.stderr.close()

    def await_line(self, pattern):
        """The match of the first further line that has `pattern`."""
        while True:
            line = self._lines.get(timeout=DEADLINE_S)
            if line is None:
                raise AssertionError(f"ended before {pattern!r}:\n" + "\n".join(self.log))
            self.log.append(line)
            if match := re.search(pattern, line):
                return match

    def signal(self, number):
        self._child.send_signal(number)

    def await_end(self):
        """The exit code."""
        code = self._child.wait(timeout=DEADLINE_S)
        self._reader.join()
        while (line := self._lines.get(timeout=DEADLINE_S)) is not None:
            self.log.append(line)
        return code


def start_service(name, config, folder, *arguments):
    """(process, address, metrics address) of one of our binaries that serves on free ports; process.admin is where it
    answers reflection."""
    path = pathlib.Path(folder) / f"{name}.yaml"
    path.write_text(config)
    process = Process(BIN / f"rollcall-{name}", "--config", path, "--listen", "127.0.0.1:0",
                      "--metrics-listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", *arguments)
    try:
        found = process.await_line(r"serving address=(\S+) metrics=(\S+) admin=(\S+)")
    except BaseException:
        process.__exit__()
        raise
    process.admin = found[3]
    return process, found[1], found[2]


def listed_services(process):
    """What reflection says on the admin port; the data port has none."""
    with grpc.insecure_channel(process.admin) as channel:
        return set(ProtoReflectionDescriptorDatabase(channel).get_services())


def scrape(address):
    """The text of a process's /metrics."""
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=DEADLINE_S) as page:
        return page.read().decode()


def await_condition(condition, what):
    """Returns the first true value of `condition()`."""
    end = time.monotonic() + DEADLINE_S
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.01)
    raise AssertionError(f"gave up waiting after {DEADLINE_S} s: {what}")
