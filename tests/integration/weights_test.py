"""Weights pushed to a generator from Python, with nothing but the contract: hashes, fences, readiness."""

import hashlib
import json
import pathlib
import struct
import tempfile
import unittest

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

import tiny_model
from harness import DEADLINE_S, contract, start_service

generator, generator_grpc = contract("generator")
identity, _ = contract("identity")
logprob, logprob_grpc = contract("logprob")
weights, weights_grpc = contract("weights")

CHUNK_BYTES = 1000  # several chunks a tensor, even here


def read_safetensors(path):
    """{name: (shape, bytes)} of float32 tensors."""
    data = path.read_bytes()
    length, = struct.unpack_from("<Q", data)
    header = json.loads(data[8:8 + length])
    header.pop("__metadata__", None)
    assert all(entry["dtype"] == "F32" for entry in header.values())
    return {name: (entry["shape"], data[8 + length:][slice(*entry["data_offsets"])]) for name, entry in header.items()}


def canonical_order(layers):
    """Embedding, layers, final norm, head, as weights.proto has it."""
    names = ["model.embed_tokens.weight"]
    for layer in range(layers):
        names += [f"model.layers.{layer}.{part}.weight" for part in (
            "input_layernorm", "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
            "post_attention_layernorm", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")]
    return [*names, "model.norm.weight", "lm_head.weight"]


def manifest_hash(tensors):
    """Of the tensors of a manifest, byte for byte as weights.proto documents it."""
    text = b""
    for tensor in tensors:
        name = tensor.name.encode()
        text += struct.pack("<I", len(name)) + name + struct.pack("<BI", tensor.dtype, len(tensor.shape))
        text += struct.pack(f"<{len(tensor.shape)}Q", *tensor.shape) + tensor.sha256
    return hashlib.sha256(text).digest()


class WeightsTest(unittest.TestCase):
    """A generator that waits for weights, and those of another model of the same architecture to give it."""

    def setUp(self):
        self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory(prefix="rollcall_weights_")))
        # The generator may read the architecture and the tokenizer here; the weights come from elsewhere.
        model = tiny_model.write(self.folder / "model")
        (model / "model.safetensors").unlink()
        self.source = tiny_model.write(self.folder / "source", seed=8)
        config = (f"model: {{path: {model}}}\n"
                  "generator: {threads: 1, kv_cache_bytes: 16777216, wait_for_weights: true}\n")
        self.process, address, _ = start_service("generator", config, self.folder)
        self.enterContext(self.process)
        self.channel = self.enterContext(grpc.insecure_channel(address))
        self.stub = weights_grpc.WeightsStub(self.channel)
        found = read_safetensors(self.source / "model.safetensors")
        self.bytes = [found[name][1] for name in canonical_order(tiny_model.CONFIG["num_hidden_layers"])]
        self.specs = [weights.TensorSpec(name=name, dtype=weights.DATA_TYPE_FLOAT32, shape=found[name][0],
                                         sha256=hashlib.sha256(found[name][1]).digest())
                      for name in canonical_order(tiny_model.CONFIG["num_hidden_layers"])]
        self.assertEqual(len(found), len(self.specs))

    def state(self):
        return self.stub.GetState(weights.GetStateRequest(), timeout=DEADLINE_S)

    def health(self):
        return health_pb2_grpc.HealthStub(self.channel).Check(
            health_pb2.HealthCheckRequest(), timeout=DEADLINE_S).status

    def begin_request(self, step=0, lineage=1, run="mine"):
        state = self.state()
        return weights.BeginTransferRequest(
            version=identity.PolicyVersion(run_id=run, lineage=lineage, step=step,
                                           manifest_hash=manifest_hash(self.specs)),
            manifest=weights.WeightManifest(tensors=self.specs, architecture_hash=state.architecture_hash,
                                            tokenizer_hash=state.tokenizer_hash),
            stream=weights.StreamTransport())

    def begin(self, request):
        return self.stub.Begin(request, timeout=DEADLINE_S)

    def chunks(self, transfer, tensors=None):
        for index in range(len(self.bytes)) if tensors is None else tensors:
            data = self.bytes[index]
            # In any order, says the contract: here from the last to the first.
            for offset in reversed(range(0, len(data), CHUNK_BYTES)):
                yield weights.WeightChunk(transfer_id=transfer, tensor_index=index, offset=offset,
                                          data=data[offset:offset + CHUNK_BYTES])

    def push(self, transfer, tensors=None):
        return self.stub.Push(self.chunks(transfer, tensors), timeout=DEADLINE_S).bytes_received

    def commit(self, transfer, version):
        return self.stub.Commit(weights.CommitRequest(transfer_id=transfer, version=version), timeout=DEADLINE_S)

    def give(self, **version):
        request = self.begin_request(**version)
        transfer = self.begin(request).transfer_id
        self.push(transfer)
        return self.commit(transfer, request.version).state

    def refused(self, code, call, *arguments):
        with self.assertRaises(grpc.RpcError) as raised:
            call(*arguments)
        self.assertEqual(raised.exception.code(), code, raised.exception.details())
        return raised.exception.details()

    def generate(self, min_version=None):
        request = generator.GenerateRequest(
            key=identity.RandomKey(run_seed=1, purpose=identity.RANDOM_PURPOSE_ROLLOUT, group_id=2),
            prompt_token_ids=tiny_model.encode("3+4="), num_samples=1, min_version=min_version,
            sampling=generator.SamplingParams(max_tokens=12), stop=generator.StopConditions(ignore_eos=True))
        tokens, logprobs, version = [], [], None
        for response in generator_grpc.GeneratorStub(self.channel).Generate(request, timeout=DEADLINE_S):
            version = response.header.version if response.HasField("header") else version
            for delta in response.deltas:
                tokens.extend(delta.token_ids)
                logprobs.extend(delta.logprobs)
        return tokens, logprobs, version

    def test_serves_what_was_committed_and_nothing_before(self):
        before = self.state()
        self.assertFalse(before.ready)
        self.assertFalse(before.HasField("version"))
        self.assertEqual(self.health(), health_pb2.HealthCheckResponse.NOT_SERVING)
        self.assertIn("no weights yet", self.refused(grpc.StatusCode.FAILED_PRECONDITION, self.generate))

        request = self.begin_request()
        begun = self.begin(request)
        self.assertEqual(list(begun.complete_tensors), [])
        self.assertEqual(self.push(begun.transfer_id), sum(map(len, self.bytes)))
        self.assertFalse(self.state().ready)
        committed = self.commit(begun.transfer_id, request.version).state
        self.assertTrue(committed.ready)
        self.assertEqual(committed.version, request.version)
        self.assertEqual(self.health(), health_pb2.HealthCheckResponse.SERVING)

        # The very weights: a reference that reads them from the folder agrees to the last bit.
        tokens, logprobs, version = self.generate(min_version=request.version)
        self.assertEqual(version, request.version)
        process, address, _ = start_service("reference", f"model: {{path: {self.source}}}\nreference: {{threads: 1}}\n",
                                            self.folder)
        self.enterContext(process)
        channel = self.enterContext(grpc.insecure_channel(address))
        prompt = tiny_model.encode("3+4=")
        scored = logprob_grpc.LogProbStub(channel).Score(logprob.LogProbRequest(sequences=[logprob.TokenSequence(
            token_ids=prompt + tokens, score_from=len(prompt))]), timeout=DEADLINE_S)
        self.assertEqual(list(scored.sequences[0].logprobs), logprobs)
        self.assertEqual(scored.manifest_hash, request.version.manifest_hash)

    def test_a_transfer_goes_on_where_it_was_left(self):
        request = self.begin_request()
        transfer = self.begin(request).transfer_id
        self.push(transfer, tensors=[0, 2])
        again = self.begin(request)
        self.assertEqual((again.transfer_id, list(again.complete_tensors)), (transfer, [0, 2]))
        message = self.refused(grpc.StatusCode.FAILED_PRECONDITION, self.commit, transfer, request.version)
        self.assertIn("bytes are missing of model.layers.0.input_layernorm.weight", message)
        self.push(transfer, tensors=[i for i in range(len(self.bytes)) if i not in (0, 2)])
        self.assertTrue(self.commit(transfer, request.version).state.ready)
        # Repeating is harmless.
        self.assertTrue(self.commit(transfer, request.version).state.ready)
        self.refused(grpc.StatusCode.ALREADY_EXISTS, self.begin, request)

    def test_damaged_bytes_are_never_served(self):
        request = self.begin_request()
        transfer = self.begin(request).transfer_id
        self.push(transfer)
        whole = self.bytes[3]
        self.bytes[3] = bytes([whole[0] ^ 1]) + whole[1:]
        self.push(transfer, tensors=[3])
        message = self.refused(grpc.StatusCode.DATA_LOSS, self.commit, transfer, request.version)
        self.assertIn(self.specs[3].name, message)
        self.assertFalse(self.state().ready)
        self.refused(grpc.StatusCode.FAILED_PRECONDITION, self.generate)
        self.bytes[3] = whole
        self.push(transfer, tensors=[3])
        self.assertTrue(self.commit(transfer, request.version).state.ready)

    def test_other_runs_and_lower_lineages_are_refused(self):
        self.give(lineage=3, step=5)
        tokens = self.generate()[0]
        precondition = grpc.StatusCode.FAILED_PRECONDITION
        refusals = {
            "version.run_id: this server belongs to run 'mine'": {"run": "other", "lineage": 9, "step": 9},
            "version.lineage: lineage 3 was seen, got 2": {"lineage": 2, "step": 99},
            "version.step": {"lineage": 3, "step": 4},
        }
        for message, version in refusals.items():
            self.assertIn(message, self.refused(precondition, self.begin, self.begin_request(**version)))
        self.assertTrue(self.state().ready)
        self.assertEqual(self.generate()[0], tokens)

        # Offered a newer version, it goes on with what it has, and is not up to date.
        newer = self.begin_request(lineage=4, step=1)
        transfer = self.begin(newer).transfer_id
        self.assertFalse(self.state().ready)
        self.assertEqual(self.generate()[0], tokens)
        self.assertIn("min_version.lineage", self.refused(precondition, self.generate, newer.version))
        self.push(transfer)
        self.assertTrue(self.commit(transfer, newer.version).state.ready)
        self.assertEqual(self.generate(newer.version)[2], newer.version)

    def test_bad_transfers_name_what_is_wrong_and_the_server_lives_on(self):
        def broken(change):
            request = self.begin_request()
            change(request)
            request.version.manifest_hash = manifest_hash(request.manifest.tensors)
            return request

        def renamed(request):
            request.manifest.tensors[1].name = "model.layers.9.nothing"

        def reshaped(request):
            request.manifest.tensors[0].shape[0] += 1

        def swapped(request):
            first, second = (weights.TensorSpec.FromString(request.manifest.tensors[i].SerializeToString())
                             for i in (1, 2))
            request.manifest.tensors[1].CopyFrom(second)
            request.manifest.tensors[2].CopyFrom(first)

        wrong_hash = self.begin_request()
        wrong_hash.version.manifest_hash = bytes(32)
        other = self.begin_request()
        other.manifest.architecture_hash = bytes(32)
        invalid, precondition = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION
        for code, message, request in (
                (invalid, "model.layers.9.nothing: not a tensor of this model", broken(renamed)),
                (invalid, "model.layers.0.input_layernorm.weight: missing", broken(renamed)),
                (invalid, "model.embed_tokens.weight: shape [17, 32], expected [16, 32]", broken(reshaped)),
                (invalid, "canonical order", broken(swapped)),
                (invalid, "version.run_id", broken(lambda request: setattr(request.version, "run_id", "a b"))),
                (invalid, "version.lineage", broken(lambda request: setattr(request.version, "lineage", 0))),
                (invalid, "version.manifest_hash", wrong_hash),
                (precondition, "manifest.architecture_hash", other),
                (grpc.StatusCode.UNIMPLEMENTED, "transport",
                 broken(lambda request: request.nccl.SetInParent()))):
            with self.subTest(message):
                self.assertIn(message, self.refused(code, self.begin, request))

        def push(**fields):
            chunk = weights.WeightChunk(**{"transfer_id": transfer, "tensor_index": 0, "data": b"0" * 8, **fields})
            return self.stub.Push(iter([chunk]), timeout=DEADLINE_S)

        request = self.begin_request()
        transfer = self.begin(request).transfer_id
        size = len(self.bytes[0])
        for code, message, fields in (
                (invalid, "tensor_index", {"tensor_index": len(self.bytes)}),
                (invalid, "offset", {"offset": size - 7}),
                (invalid, "offset", {"offset": 2**64 - 1}),
                (invalid, "data: 4194305 bytes", {"data": bytes((4 << 20) + 1)}),
                (grpc.StatusCode.NOT_FOUND, "transfer_id", {"transfer_id": transfer + 1})):
            with self.subTest(message):
                self.assertIn(message, self.refused(code, lambda fields=fields: push(**fields)))
        self.refused(grpc.StatusCode.NOT_FOUND, self.commit, transfer + 1, request.version)
        self.assertIn("version", self.refused(
            invalid, self.commit, transfer, identity.PolicyVersion(run_id="mine", lineage=1, step=1)))
        self.stub.Abort(weights.AbortRequest(transfer_id=transfer), timeout=DEADLINE_S)
        self.refused(grpc.StatusCode.NOT_FOUND, self.commit, transfer, request.version)
        self.assertTrue(self.give().ready)


if __name__ == "__main__":
    unittest.main()
