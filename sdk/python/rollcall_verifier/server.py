"""The gRPC side: a function served as rollcall.v1.Verifier."""

import argparse
import pathlib
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
# Roles that a verifier answers (docs/security.md).
_PEERS = ("spiffe://rollcall/reward", "spiffe://rollcall/operator")


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


class Tls:
    """Mutual TLS from PEM files, which are read again as they change. `peers`: names of certificates that may call."""

    def __init__(self, certificate, private_key, trust_roots, peers=_PEERS):
        self._files = [pathlib.Path(path) for path in (private_key, certificate, trust_roots)]
        self._seen = None
        self.peers = frozenset(peers)

    def credentials(self):
        first = self._changed()
        return grpc.dynamic_ssl_server_credentials(first, self._changed, require_client_authentication=True)

    def _changed(self):
        """The files' contents where they are not those of the last time, else None."""
        try:
            key, chain, roots = now = [path.read_bytes() for path in self._files]
        except OSError:
            if self._seen is None:
                raise
            return None  # being replaced: the ones in use go on
        if now == self._seen:
            return None
        self._seen = now
        return grpc.ssl_server_certificate_configuration([(key, chain)], root_certificates=roots)


class _OnlyPeers(grpc.ServerInterceptor):
    """Refuses calls of the contract from certificates that carry none of the names."""

    def __init__(self, peers):
        self._peers = peers

    def intercept_service(self, continuation, details):
        handler = continuation(details)
        if handler is None or details.method.startswith("/grpc.health."):
            return handler

        def checked(request, context):
            names = context.auth_context().get("x509_subject_alternative_name", ())
            if not self._peers.intersection(name.decode() for name in names):
                context.abort(grpc.StatusCode.PERMISSION_DENIED, "this certificate's role may not ask for scores")
            return handler.unary_unary(request, context)

        return grpc.unary_unary_rpc_method_handler(checked, handler.request_deserializer, handler.response_serializer)


def start(verifier, listen="127.0.0.1:0", workers=8, tls=None):
    """Serves `verifier` and returns (server, address) at once; address has the real port where listen's was 0. With a
    Tls, over TLS alone."""
    server = grpc.server(
        futures.ThreadPoolExecutor(max_workers=workers), interceptors=[_OnlyPeers(tls.peers)] if tls else [],
        options=[("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
                 ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES), ("grpc.so_reuseport", 0)])
    verifier_pb2_grpc.add_VerifierServicer_to_server(verifier, server)
    state = health.HealthServicer()
    state.set("", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(state, server)
    # Raise RuntimeError where they cannot listen.
    port = server.add_secure_port(listen, tls.credentials()) if tls else server.add_insecure_port(listen)
    server.start()
    return server, listen if listen.startswith("unix:") else f"{listen.rsplit(':', 1)[0]}:{port}"


def serve(score=None, *, listen="127.0.0.1:7500", workers=8, **description):
    """Serves a scoring function until SIGTERM or Ctrl-C, then finishes the calls under way.

    The keyword arguments are Verifier's; --listen and --workers of the command line come before those given here.
    """
    parser = argparse.ArgumentParser(description="A Rollcall verifier.")
    parser.add_argument("--listen", default=listen, help="host:port (port 0: a free one) or unix:/path")
    parser.add_argument("--workers", type=int, default=workers, help="calls that run at once")
    parser.add_argument("--certificate", help="PEM file: serve over mutual TLS; with the two below")
    parser.add_argument("--private-key", help="PEM file of the certificate's key")
    parser.add_argument("--trust-roots", help="PEM file of the authorities of callers")
    parser.add_argument("--peer", action="append", help="URI or DNS name of a certificate that may call; default: "
                        + ", ".join(_PEERS))
    arguments = parser.parse_args()
    files = (arguments.certificate, arguments.private_key, arguments.trust_roots)
    if any(files) != all(files):
        parser.error("--certificate, --private-key and --trust-roots are needed together")
    tls = Tls(*files, peers=arguments.peer or _PEERS) if all(files) else None
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    server, address = start(Verifier(score, **description), arguments.listen, arguments.workers, tls)
    print(f"serving {address}", file=sys.stderr, flush=True)
    stop.wait()
    server.stop(_DRAIN_SECONDS).wait()
