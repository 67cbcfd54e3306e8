#!/bin/sh
# usage: run_python.sh TEST.py
# Runs a test with the Python that has grpcio; 77, which ctest reports as skipped, where there is none.
if ! "${ROLLCALL_PYTHON:-/nonexistent}" -c 'import grpc, grpc_tools, grpc_health, grpc_reflection' 2>/dev/null; then
  echo "skipped: ROLLCALL_PYTHON='$ROLLCALL_PYTHON' is no Python with grpcio; ./rollcall test makes one"
  exit 77
fi
export PYTHONDONTWRITEBYTECODE=1
exec "$ROLLCALL_PYTHON" "$@"
