"""The gRPC side: a function served as rollcall.v1.Verifier."""

import argparse
import signal
import sys
import threading
from concurrent import futures

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from rollcall.v1 import generator_pb2, verifier_pb2, verifier_pb2_grpc

from .outcomes import fill, fill_fault
from .sample import samples_of

# The contract's largest request.
_MAX_MESSAGE_BYTES = 64 << 20
_DRAIN_SECONDS = 20


class Verifier(verifier_pb2_grpc.VerifierServicer):
    """Scores each sample with `score(sample)`, or each group at once with `score_group(samples) -> list`.

    Calls come from several threads at once: guard what they share, or serve with workers=1. `version` should change
    whenever the same sample could get another score.
    """

    def __init__(self, score=None, *, score_group=None, name="custom", version="1", columns=(), components=(),
                 min_score=None, max_score=None):
        if (score is None) == (score_group is None):
            raise ValueError("give either score or score_group")
        self._score = score
        self._score_group = score_group
        self._description = verifier_pb2.VerifierDescription(
            name=name, version=version, columns=columns, components=components,
            min_score=min_score, max_score=max_score)

    def Describe(self, request, context):
        return self._description

    def Score(self, request, context):
        response = verifier_pb2.ScoreResponse()
        for group in request.groups:
            result = response.groups.add(group_id=group.group_id)
            for sample in group.samples:
                result.samples.add(index=sample.index)
            samples = samples_of(group, generator_pb2.FinishReason)
            if self._score_group is not None:
                self._fill_group(result, samples)
            else:
                for out, sample in zip(result.samples, samples):
                    self._fill_sample(out, sample)
        return response

    def _fill_sample(self, out, sample):
        try:
            fill(out, self._score(sample))
        except Exception as error:  # the user's code may raise anything; it must not become a score
            fill_fault(out, error)

    def _fill_group(self, result, samples):
        try:
            outcomes = list(self._score_group(samples))
            if len(outcomes) != len(samples):
                raise ValueError(f"score_group gave {len(outcomes)} outcomes for {len(samples)} samples")
        except Exception as error:
            for out in result.samples:
                fill_fault(out, error)
            return
        for out, outcome in zip(result.samples, outcomes):
            try:
                fill(out, outcome)
            except Exception as error:
                fill_fault(out, error)


def start(verifier, listen="127.0.0.1:0", workers=8):
    """Serves `verifier` and returns (server, address) at once; address has the real port where listen's was 0."""
    server = grpc.server(
        futures.ThreadPoolExecutor(max_workers=workers),
        options=[("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
                 ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES), ("grpc.so_reuseport", 0)])
    verifier_pb2_grpc.add_VerifierServicer_to_server(verifier, server)
    state = health.HealthServicer()
    state.set("", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(state, server)
    port = server.add_insecure_port(listen)  # raises RuntimeError where it cannot listen
    server.start()
    return server, listen if listen.startswith("unix:") else f"{listen.rsplit(':', 1)[0]}:{port}"


def serve(score=None, *, listen="127.0.0.1:7500", workers=8, **description):
    """Serves a scoring function until SIGTERM or Ctrl-C, then finishes the calls under way.

    The keyword arguments are Verifier's; --listen and --workers of the command line come before those given here.
    """
    parser = argparse.ArgumentParser(description="A Rollcall verifier.")
    parser.add_argument("--listen", default=listen, help="host:port (port 0: a free one) or unix:/path")
    parser.add_argument("--workers", type=int, default=workers, help="calls that run at once")
    arguments = parser.parse_args()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    server, address = start(Verifier(score, **description), arguments.listen, arguments.workers)
    print(f"serving {address}", file=sys.stderr, flush=True)
    stop.wait()
    server.stop(_DRAIN_SECONDS).wait()
