"""The layer checks find what they are for, and let pass what is allowed."""
import pathlib
import tempfile
import unittest

import include_rules
import link_closure


class IncludeFaultTest(unittest.TestCase):
    def test_allowed(self):
        for path, target in [
            ("common/rpc/server.cc", '"common/base/status.h"'),
            ("common/rpc/server.cc", '"common/rpc/address.h"'),
            ("common/tensor/bridge.cc", "<ATen/core/Tensor.h>"),
            ("services/learner/main.cc", '"services/learner/service.h"'),
            ("services/learner/main.cc", '"common/rpc/service_main.h"'),
            ("services/learner/batching/pack_test.cc", "<fstream>"),
            ("services/learner/batching/pack.cc", "<vector>"),
            ("services/cli/verify/a.cc", '"services/generator/sampling/token_sampler.h"'),
        ]:
            self.assertIsNone(include_rules.include_fault(path, target), (path, target))

    def test_refused(self):
        for path, target, why in [
            ("common/base/a.h", '"common/wire/dtype.h"', "common/base may not include common/wire"),
            ("common/rpc/a.cc", "<torch/torch.h>", "LibTorch"),
            ("common/rpc/a.cc", '"services/learner/a.h"', "common may not include services"),
            ("common/novel/a.cc", "<vector>", "not in the table"),
            ("services/learner/a.cc", '"services/generator/a.h"', "learner may not include service generator"),
            ("services/cli/verify/a.cc", '"services/generator/engine/a.h"', "may not include service generator"),
            ("services/cli/train/a.cc", '"services/generator/sampling/a.h"', "may not include service generator"),
            ("services/cli/eval/a.cc", '"services/learner/rollout/a.h"', "may not include service learner"),
            ("services/reward/a.cc", '"tests/integration/a.h"', "only tests"),
            ("services/reward/rules/a.cc", '"rollcall/v1/verifier.grpc.pb.h"', "pure"),
            ("services/generator/scheduler/a.h", '"common/base/clock.h"', "pure"),
        ]:
            self.assertIn(why, include_rules.include_fault(path, target) or "", (path, target))

    def test_links(self):
        self.assertIsNone(include_rules.link_fault("services/learner/CMakeLists.txt", "  rollcall::learner_data"))
        self.assertIsNone(include_rules.link_fault("services/learner/CMakeLists.txt", "  # rollcall::generator"))
        self.assertIsNone(
            include_rules.link_fault("services/cli/verify/CMakeLists.txt", "  rollcall::generator_sampling"))
        self.assertIn("may not link", include_rules.link_fault("services/cli/verify/CMakeLists.txt",
                                                               "rollcall::generator_engine"))
        self.assertIsNone(include_rules.link_fault("tests/e2e/CMakeLists.txt", "rollcall::generator"))
        self.assertIn("may not link", include_rules.link_fault("services/learner/CMakeLists.txt", "rollcall::generator_engine"))
        self.assertIn("may not link", include_rules.link_fault("common/rpc/CMakeLists.txt", "DEPS rollcall::reward"))

    def test_walk_names_file_and_line(self):
        with tempfile.TemporaryDirectory() as root:
            folder = pathlib.Path(root, "services", "reward")
            folder.mkdir(parents=True)
            (folder / "a.cc").write_text('#include <vector>\n#include "services/learner/b.h"\n', encoding="utf-8")
            (folder / "CMakeLists.txt").write_text("rollcall_library(NAME x DEPS rollcall::learner)\n", encoding="utf-8")
            found = include_rules.faults(root)
        self.assertEqual(len(found), 2)
        self.assertTrue(found[0].startswith("services/reward/CMakeLists.txt:1:"))
        self.assertTrue(found[1].startswith("services/reward/a.cc:2:"))


class LinkClosureTest(unittest.TestCase):
    def test_finds_torch_by_name(self):
        output = "\tlibc10.so => /x/libc10.so (0x1)\n\tlibtorch_cpu.so => not found\n\tlibc.so.6 => /lib/libc.so.6\n"
        self.assertEqual(link_closure.torch_libraries(output), ["libc10.so", "libtorch_cpu.so"])
        self.assertEqual(link_closure.torch_libraries("\tlibc.so.6 => /lib/libc.so.6\n\tlibgrpc.so.29 => x\n"), [])


if __name__ == "__main__":
    unittest.main()
