"""Generates the contract's Python modules from proto/ while the package is built; everything else is in pyproject.toml."""

import pathlib

from setuptools import setup
from setuptools.command.build_py import build_py

PROTO_ROOT = pathlib.Path(__file__).resolve().parents[2] / "proto"
# verifier.proto and what it imports.
CONTRACT = ("verifier", "generator", "identity")


class BuildWithContract(build_py):
    def run(self):
        from grpc_tools import protoc  # only there while building

        super().run()
        pathlib.Path(self.build_lib).mkdir(parents=True, exist_ok=True)
        sources = [f"{PROTO_ROOT}/rollcall/v1/{name}.proto" for name in CONTRACT]
        include = pathlib.Path(protoc.__file__).parent / "_proto"
        arguments = ["protoc", f"-I{PROTO_ROOT}", f"-I{include}", f"--python_out={self.build_lib}",
                     f"--grpc_python_out={self.build_lib}", *sources]
        if protoc.main(arguments) != 0:
            raise RuntimeError(f"protoc failed on {sources}; is this a whole checkout of Rollcall?")


setup(packages=["rollcall_verifier"], cmdclass={"build_py": BuildWithContract})
