"""A Python with transformers and peft on the LibTorch that Rollcall itself runs on.

The torch wheel wants 4 GB of CUDA libraries before its Python module can be imported, although a CPU never calls into
them. Each that is absent is replaced by an empty library of its name; with lazy binding (TORCH_USE_RTLD_GLOBAL) nobody
misses what is not inside.
"""

import ctypes
import fcntl
import os
import pathlib
import re
import subprocess

# The versions that made the golden numbers, and what torch's Python files import.
WHEELS = ("transformers==5.23.0", "safetensors==0.8.0", "numpy==2.4.6", "filelock", "fsspec", "jinja2", "networkx",
          "sympy", "typing_extensions", "psutil", "pyyaml", "tqdm")
# Without what they ask for beside these: a torch of their own.
BARE_WHEELS = ("peft==0.21.2", "accelerate==1.15.0")
CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "rollcall"
FOLDER = CACHE / "interop-venv"
TORCH = pathlib.Path(os.environ["ROLLCALL_TORCH_ROOT"])


def _run(*command):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout


def _needed(library):
    return re.findall(r"\(NEEDED\).*\[(.*)\]", _run("readelf", "-d", library))


def _loads(name):
    try:
        ctypes.CDLL(name, mode=os.RTLD_LAZY)
    except OSError:
        return False
    return True


def _absent_libraries():
    """Names of shared libraries that importing torch asks for and nobody has."""
    absent, known, todo = [], set(), ["libtorch_python.so"]
    while todo:
        name = todo.pop()
        if name in known:
            continue
        known.add(name)
        if (TORCH / "lib" / name).exists():
            todo += _needed(TORCH / "lib" / name)
        elif not list(TORCH.parent.glob(f"nvidia/**/{name}")) and not _loads(name):
            absent.append(name)
    return absent


def _make():
    if not (FOLDER / "bin" / "pip").exists():
        _run("python3", "-m", "venv", FOLDER)
    _run(FOLDER / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *WHEELS)
    _run(FOLDER / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps",
         *BARE_WHEELS)
    site, = FOLDER.glob("lib/python3*/site-packages")
    (site / "torch.pth").write_text(f"{TORCH.parent}\n")
    stubs = FOLDER / "stubs"
    stubs.mkdir(exist_ok=True)
    for old in stubs.iterdir():
        old.unlink()
    for name in _absent_libraries():
        _run("c++", "-shared", "-x", "c", "/dev/null", f"-Wl,-soname,{name}", "-o", stubs / name)


def prepare():
    """(python, environment variables); makes or renews the environment where it is not as wanted."""
    CACHE.mkdir(parents=True, exist_ok=True)
    stamp, wanted = FOLDER / "rollcall-wheels", " ".join([*WHEELS, *BARE_WHEELS, str(TORCH)])
    with open(CACHE / "interop.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not stamp.exists() or stamp.read_text() != wanted:
            _make()
            stamp.write_text(wanted)
    return FOLDER / "bin" / "python", {
        **os.environ, "LD_LIBRARY_PATH": str(FOLDER / "stubs"), "TORCH_USE_RTLD_GLOBAL": "1",
        "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false",
        "TRANSFORMERS_VERBOSITY": "error", "PYTHONDONTWRITEBYTECODE": "1"}
