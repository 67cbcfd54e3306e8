"""The peers: a Python environment of their own, made on demand, and their scripts.

transformers and TRL run on the LibTorch that Rollcall runs on. The torch wheel wants 4 GB of CUDA libraries before its
Python module can be imported, although a CPU never calls into them: each that is absent is replaced by an empty library
of its name, and with lazy binding (TORCH_USE_RTLD_GLOBAL) nobody misses what is not inside.
"""

import ctypes
import fcntl
import json
import os
import pathlib
import re
import subprocess

import machine

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[2]
CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "rollcall"
FOLDER = CACHE / "peers-venv"
# Whole with what they need, torch apart.
WHEELS = ("transformers==5.23.0", "safetensors==0.8.0", "numpy==2.4.6", "filelock", "fsspec", "jinja2", "networkx",
          "sympy", "typing_extensions", "pandas", "pyarrow", "dill", "xxhash", "multiprocess", "psutil", "requests",
          "aiohttp", "diskcache")
# Without what they need: they would bring a torch of their own.
LOOSE_WHEELS = ("trl==1.16.0", "datasets==5.2.0", "accelerate==1.15.0", "gguf==0.19.0")
# Compiled here, for this processor: minutes.
LLAMA_CPP = "llama-cpp-python==0.3.36"


class Absent(Exception):
    """A peer that cannot run here, and why."""


def scripts():
    """Folder of make_model.py and the peers' scripts."""
    folder = pathlib.Path(os.environ.get("ROLLCALL_PEERS") or ROOT.parent / "shared" / "bench")
    if not (folder / "make_model.py").exists():
        raise Absent(f"no {folder}/make_model.py; ROLLCALL_PEERS names the folder of the peers' scripts")
    return folder


def torch_root():
    if os.environ.get("ROLLCALL_TORCH_ROOT"):
        return pathlib.Path(os.environ["ROLLCALL_TORCH_ROOT"])
    found = sorted((CACHE / "venv").glob("lib/python3*/site-packages/torch"))
    if not found:
        raise Absent("no LibTorch wheel; ./rollcall build installs it")
    return found[0]


def _run(*command, **options):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, **options)
    if done.returncode != 0:
        raise Absent(f"{' '.join(map(str, command))}: exit code {done.returncode}\n{done.stderr[-2000:]}")
    return done.stdout


def _loads(name):
    try:
        ctypes.CDLL(name, mode=os.RTLD_LAZY)
    except OSError:
        return False
    return True


def _absent_libraries(torch):
    """Names of shared libraries that importing torch asks for and nobody has."""
    absent, known, todo = [], set(), ["libtorch_python.so"]
    while todo:
        name = todo.pop()
        if name in known:
            continue
        known.add(name)
        if (torch / "lib" / name).exists():
            todo += re.findall(r"\(NEEDED\).*\[(.*)\]", _run("readelf", "-d", torch / "lib" / name))
        elif not list(torch.parent.glob(f"nvidia/**/{name}")) and not _loads(name):
            absent.append(name)
    return absent


def _make(torch):
    python = "/usr/bin/python3" if os.access("/usr/bin/python3", os.X_OK) else "python3"
    if not (FOLDER / "bin" / "pip").exists():
        _run(python, "-m", "venv", FOLDER)
    pip = (FOLDER / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    _run(*pip, *WHEELS)
    _run(*pip, "--no-deps", *LOOSE_WHEELS)
    _run(*pip, LLAMA_CPP, env={**os.environ, "CMAKE_ARGS": "-DGGML_NATIVE=ON"})
    site, = FOLDER.glob("lib/python3*/site-packages")
    (site / "torch.pth").write_text(f"{torch.parent}\n")
    stubs = FOLDER / "stubs"
    stubs.mkdir(exist_ok=True)
    for old in stubs.iterdir():
        old.unlink()
    for name in _absent_libraries(torch):
        _run("c++", "-shared", "-x", "c", "/dev/null", f"-Wl,-soname,{name}", "-o", stubs / name)


def prepare(say):
    """Makes or renews the environment where it is not as wanted; Absent says why it cannot."""
    torch = torch_root()
    CACHE.mkdir(parents=True, exist_ok=True)
    stamp, wanted = FOLDER / "rollcall-wheels", " ".join([*WHEELS, *LOOSE_WHEELS, LLAMA_CPP, str(torch)])
    with open(CACHE / "peers.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not stamp.exists() or stamp.read_text() != wanted:
            say("making the peers' Python environment; llama.cpp is compiled, which takes minutes")
            _make(torch)
            stamp.write_text(wanted)


def run(script, *arguments, threads):
    """Runs a peer's script and returns the objects it prints, one a line."""
    done = subprocess.run(
        [str(FOLDER / "bin" / "python"), str(script), *map(str, arguments)], capture_output=True, text=True,
        env={**machine.quiet_threads(), "LD_LIBRARY_PATH": str(FOLDER / "stubs"), "TORCH_USE_RTLD_GLOBAL": "1",
             "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false",
             "TRANSFORMERS_VERBOSITY": "error", "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": str(threads),
             "PYTHONPATH": str(scripts())})
    if done.returncode != 0:
        raise Absent(f"{pathlib.Path(script).name}: exit code {done.returncode}\n{done.stderr[-2000:]}")
    # Trainers also print Python's dictionaries.
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"')]
    if not found:
        raise Absent(f"{pathlib.Path(script).name} printed no result:\n{done.stdout[-1000:]}{done.stderr[-1000:]}")
    return found
