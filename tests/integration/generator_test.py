"""The generator as a user meets it: the real binary on a model folder, token by token over grpcio."""

import math
import pathlib
import signal
import tempfile
import unittest

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

import tiny_model
from harness import DEADLINE_S, await_condition, contract, listed_services, scrape, start_service

generator, generator_grpc = contract("generator")
identity, _ = contract("identity")
weights, weights_grpc = contract("weights")

# Two slots: a crowd takes long enough to be interrupted, also on a fast machine.
CONFIG = """
model: {{path: {model}}}
generator: {{threads: 1, kv_cache_bytes: 16777216, max_waiting_samples: 64, max_running_samples: 2}}
"""


def request(prompt="1+2=", samples=2, max_tokens=8, **fields):
    made = generator.GenerateRequest(
        key=identity.RandomKey(run_seed=5, purpose=identity.RANDOM_PURPOSE_INTERACTIVE, group_id=9),
        prompt_token_ids=tiny_model.encode(prompt), num_samples=samples,
        sampling=generator.SamplingParams(max_tokens=max_tokens, **fields))
    made.stop.ignore_eos = True
    return made


def collect(responses):
    """(header, {index: tokens}, {index: log-probs}, {index: text}, {index: end}) of a whole stream."""
    header, tokens, logprobs, text, ends = None, {}, {}, {}, {}
    for response in responses:
        if response.HasField("header"):
            assert header is None and not tokens, "the header comes first and once"
            header = response.header
        for delta in response.deltas:
            made = tokens.setdefault(delta.index, [])
            assert delta.index not in ends
            made.extend(delta.token_ids)
            logprobs.setdefault(delta.index, []).extend(delta.logprobs)
            text[delta.index] = text.get(delta.index, "") + delta.text
        for end in response.ends:
            assert end.index not in ends, "each sample ends once"
            ends[end.index] = end
    return header, tokens, logprobs, text, ends


class GeneratorTest(unittest.TestCase):
    def setUp(self):
        self.folder = self.enterContext(tempfile.TemporaryDirectory(prefix="rollcall_generator_"))
        model = tiny_model.write(pathlib.Path(self.folder) / "model")
        self.process, address, self.metrics = start_service("generator", CONFIG.format(model=model), self.folder)
        self.enterContext(self.process)
        self.channel = self.enterContext(grpc.insecure_channel(address))
        self.stub = generator_grpc.GeneratorStub(self.channel)

    def generate(self, made):
        return collect(self.stub.Generate(made, timeout=DEADLINE_S))

    def refused(self, bad, code=grpc.StatusCode.INVALID_ARGUMENT):
        with self.assertRaises(grpc.RpcError) as raised:
            self.generate(bad)
        self.assertEqual(raised.exception.code(), code, raised.exception.details())
        return raised.exception.details()

    def test_streams_a_group_and_serves_what_every_service_serves(self):
        made = request(samples=3)
        made.return_text = True
        header, tokens, logprobs, text, ends = self.generate(made)
        self.assertEqual(len(header.version.manifest_hash), 32)
        self.assertEqual(header.numerics.dtype, "float32")
        self.assertEqual(sorted(tokens), [0, 1, 2])
        for index in tokens:
            self.assertEqual(len(tokens[index]), 8)
            self.assertEqual(len(logprobs[index]), 8)
            self.assertTrue(all(-20 < value <= 0 for value in logprobs[index]))
            self.assertTrue(all(token < len(tiny_model.VOCABULARY) for token in tokens[index]))
            plain = "".join(tiny_model.VOCABULARY[t] for t in tokens[index] if t > tiny_model.EOS)
            self.assertEqual(text[index], plain)
            self.assertEqual(ends[index].finish_reason, generator.FINISH_REASON_LENGTH)
            self.assertEqual(ends[index].num_tokens, 8)
            span, = ends[index].version_spans
            self.assertEqual((span.begin, span.end, span.version), (0, 8, header.version))
        self.assertGreater(len({tuple(made) for made in tokens.values()}), 1)

        health = health_pb2_grpc.HealthStub(self.channel)
        serving = health.Check(health_pb2.HealthCheckRequest(), timeout=DEADLINE_S)
        self.assertEqual(serving.status, health_pb2.HealthCheckResponse.SERVING)
        self.assertLessEqual({"rollcall.v1.Generator", "rollcall.v1.Weights"}, listed_services(self.process))
        page = scrape(self.metrics)
        self.assertIn("rollcall_generator_sampled_tokens_total 24", page)
        self.assertIn('rollcall_generator_requests_total{outcome="ok"} 1', page)
        state = weights_grpc.WeightsStub(self.channel).GetState(weights.GetStateRequest(), timeout=DEADLINE_S)
        self.assertTrue(state.ready)
        self.assertEqual((state.vocab_size, state.context_length), (len(tiny_model.VOCABULARY), tiny_model.CONTEXT))
        self.assertEqual(state.version, header.version)

    def test_the_same_request_gives_the_same_tokens_and_a_prefix_carries_on(self):
        whole = self.generate(request(samples=3))
        self.assertEqual(self.generate(request(samples=3))[1:3], whole[1:3])
        made = request(samples=3)
        made.samples.add(index=2, prefix_token_ids=whole[1][2][:5])
        _, tokens, logprobs, _, ends = self.generate(made)
        self.assertEqual(tokens, {2: whole[1][2][5:]})
        self.assertEqual(logprobs, {2: whole[2][2][5:]})
        self.assertEqual(ends[2].num_tokens, 8)

    def test_stops_where_it_is_told(self):
        whole = self.generate(request(samples=1, max_tokens=30))[1][0]
        stop = whole[12]
        made = request(samples=1, max_tokens=30, min_tokens=3)
        made.stop.token_ids.append(stop)
        _, tokens, _, _, ends = self.generate(made)
        end = next(i for i, token in enumerate(whole) if token == stop and i >= 2)
        self.assertEqual(tokens[0], whole[:end + 1])
        self.assertEqual(ends[0].finish_reason, generator.FINISH_REASON_STOP_TOKEN)
        self.assertEqual(ends[0].stop_token_id, stop)
        full = request(samples=1, max_tokens=tiny_model.CONTEXT)
        _, tokens, _, _, ends = self.generate(full)
        self.assertEqual(len(tokens[0]), tiny_model.CONTEXT - len(full.prompt_token_ids))
        self.assertEqual(ends[0].finish_reason, generator.FINISH_REASON_CONTEXT)

    def test_greedy_and_truncated_sampling(self):
        _, tokens, _, _, _ = self.generate(request(samples=2, temperature=0))
        self.assertEqual(tokens[0], tokens[1])
        made = request(samples=1, top_k=3)
        kept, below = [], []
        for response in self.stub.Generate(made, timeout=DEADLINE_S):
            for delta in response.deltas:
                kept.extend(delta.kept_log_mass)
                below.extend(b - a for a, b in zip(delta.sampling_logprobs, delta.logprobs, strict=True))
        self.assertEqual(len(kept), 8)
        for mass, difference in zip(kept, below):
            self.assertLess(mass, 0)
            self.assertAlmostEqual(mass, difference, places=5)

    def test_bad_requests_name_the_field_and_the_server_lives_on(self):
        good = request()
        expected = self.generate(good)[1]

        def broken(change):
            made = request()
            change(made)
            return made

        def twice(made):
            made.samples.add(index=1)
            made.samples.add(index=1)

        vocabulary = len(tiny_model.VOCABULARY)
        hostile = {
            "key: is required": broken(lambda made: made.ClearField("key")),
            "key.purpose": broken(lambda made: made.key.ClearField("purpose")),
            "key.purpose: expected rollout, evaluation or interactive, got 77":
                broken(lambda made: setattr(made.key, "purpose", 77)),
            "prompt_token_ids: is empty": broken(lambda made: made.ClearField("prompt_token_ids")),
            f"prompt_token_ids[4]: token {vocabulary} is not below":
                broken(lambda made: made.prompt_token_ids.append(vocabulary)),
            "prompt_token_ids[4]: token 4294967295":
                broken(lambda made: made.prompt_token_ids.append(2**32 - 1)),
            "prompt_token_ids: 64 tokens leave no room":
                broken(lambda made: made.prompt_token_ids.extend([2] * 60)),
            "num_samples: expected 1 to 1024, got 0": broken(lambda made: made.ClearField("num_samples")),
            "num_samples: expected 1 to 1024, got 1025": broken(lambda made: setattr(made, "num_samples", 1025)),
            "samples[1].index: 1 is named twice": broken(twice),
            "samples[0].index: 2 is not below num_samples": broken(lambda made: made.samples.add(index=2)),
            "samples[0].prefix_token_ids: 8 tokens leave nothing":
                broken(lambda made: made.samples.add(index=0, prefix_token_ids=[2] * 8)),
            "samples[0].prefix_token_ids[0]":
                broken(lambda made: made.samples.add(index=0, prefix_token_ids=[vocabulary])),
            "sampling.temperature: expected 0 to 100, got nan": request(temperature=math.nan),
            "sampling.temperature: expected 0 to 100, got -1": request(temperature=-1),
            "sampling.temperature: expected 0 to 100, got inf": request(temperature=math.inf),
            "sampling.top_p": request(top_p=0),
            "sampling.min_p": request(min_p=math.nan),
            "sampling.max_tokens: expected 1 to 64, got 0": request(max_tokens=0),
            "sampling.min_tokens: 9 is above max_tokens": request(min_tokens=9),
            "stop.token_ids[0]": broken(lambda made: made.stop.token_ids.append(vocabulary)),
            "stop.strings[0]: expected 1 to 256 bytes": broken(lambda made: made.stop.strings.append("")),
        }
        for message, bad in hostile.items():
            with self.subTest(message):
                self.assertIn(message, self.refused(bad))
        of_another_run = broken(lambda made: made.min_version.MergeFrom(
            identity.PolicyVersion(run_id="another", lineage=1, step=0)))
        self.assertIn("min_version.run_id: wanted 'another'",
                      self.refused(of_another_run, grpc.StatusCode.FAILED_PRECONDITION))
        self.assertIn("num_samples: 65 samples; this generator queues at most 64", self.refused(request(samples=65)))
        self.assertEqual(self.generate(good)[1], expected)
        page = scrape(self.metrics)
        self.assertIn(f'rollcall_generator_requests_total{{outcome="invalid"}} {len(hostile)}', page)

    def test_a_cancelled_stream_frees_its_slots(self):
        # So much that it is still under way when the first tokens arrive.
        stream = self.stub.Generate(request(samples=64, max_tokens=60), timeout=DEADLINE_S)
        next(iter(stream))
        stream.cancel()
        await_condition(lambda: 'rollcall_generator_requests_total{outcome="cancelled"} 1' in scrape(self.metrics),
                        "the engine did not hear of the cancel")
        self.assertEqual(sorted(self.generate(request())[1]), [0, 1])
        state = weights_grpc.WeightsStub(self.channel).GetState(weights.GetStateRequest(), timeout=DEADLINE_S)
        self.assertEqual((state.running_samples, state.waiting_samples), (0, 0))
        self.assertEqual(state.kv_tokens_free, state.kv_tokens_total)

    def test_a_deadline_is_kept(self):
        with self.assertRaises(grpc.RpcError) as raised:
            collect(self.stub.Generate(request(samples=64, max_tokens=60), timeout=0.001))
        self.assertEqual(raised.exception.code(), grpc.StatusCode.DEADLINE_EXCEEDED)
        self.assertEqual(sorted(self.generate(request())[1]), [0, 1])

    def test_drains_what_it_has_begun(self):
        stream = iter(self.stub.Generate(request(samples=64, max_tokens=60), timeout=DEADLINE_S))
        first = next(stream)
        self.process.signal(signal.SIGTERM)
        _, tokens, _, _, ends = collect([first, *stream])
        self.assertEqual(sorted(ends), list(range(64)))
        self.assertTrue(all(len(made) == 60 for made in tokens.values()))
        self.assertEqual(self.process.await_end(), 0)


if __name__ == "__main__":
    unittest.main()
