"""The chart's output, for three sets of values: valid for Kubernetes, wired together, restricted, and no wider than needed.

The rendered files are committed (rendered/); render_test.py, which is slow, checks that the chart still gives them.
"""

import os
import pathlib
import re
import subprocess
import sys
import tempfile
import unittest
import warnings

try:
    import kubernetes_validate
    import yaml  # noqa: F401
except ImportError as error:
    print(f"skipped: {error}; ./rollcall test installs it")
    sys.exit(77)

import metrics_doc
from manifests import EXAMPLES, Manifests, matches

BIN = pathlib.Path(os.environ["ROLLCALL_BIN_DIR"])
# The oldest that the chart admits, one between, and the newest that the validator knows.
VERSIONS = ("1.28", "1.31", "1.34")
CUSTOM = ("cert-manager.io/", "monitoring.coreos.com/", "keda.sh/")
PRE_STOP_SECONDS = 5


def for_each_example(test):
    def run(self):
        for example in EXAMPLES:
            with self.subTest(example):
                test(self, Manifests.of(example))
    return run


class ChartTest(unittest.TestCase):
    @for_each_example
    def test_is_valid_for_three_versions_of_kubernetes(self, manifests):
        for document in manifests.all:
            if document["apiVersion"].startswith(CUSTOM):
                continue
            for version in VERSIONS:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    kubernetes_validate.validate(document, version, strict=True)

    @for_each_example
    def test_every_object_is_named_once_and_labelled(self, manifests):
        names = [(d["kind"], d["metadata"]["name"]) for d in manifests.all]
        self.assertEqual(len(names), len(set(names)))
        for document in manifests.all:
            self.assertLessEqual(len(document["metadata"]["name"]), 63)
            self.assertEqual(document["metadata"]["labels"]["app.kubernetes.io/name"], "rollcall")

    @for_each_example
    def test_selectors_choose_their_pods_and_no_others(self, manifests):
        pods = {name: labels for name, labels, _ in manifests.workloads()}
        for workload in manifests.kind("Deployment", "StatefulSet"):
            chosen = [name for name, labels in pods.items() if matches(workload["spec"]["selector"], labels)]
            self.assertEqual(chosen, [workload["metadata"]["name"]])
        for service in manifests.kind("Service"):
            selector = {"matchLabels": service["spec"]["selector"]}
            chosen = [name for name, labels in pods.items() if matches(selector, labels)]
            self.assertEqual(chosen, [service["metadata"]["name"]])
        for budget in manifests.kind("PodDisruptionBudget"):
            self.assertEqual(len([1 for labels in pods.values() if matches(budget["spec"]["selector"], labels)]), 1)
        for stateful in manifests.kind("StatefulSet"):
            self.assertEqual(manifests.named("Service", stateful["spec"]["serviceName"])["spec"]["clusterIP"], "None")

    @for_each_example
    def test_ports_are_those_the_services_listen_on(self, manifests):
        config = manifests.config()
        for name, labels, spec in manifests.workloads():
            component = labels["app.kubernetes.io/component"]
            container = spec["containers"][0]
            ports = {port["name"]: port["containerPort"] for port in container.get("ports", [])}
            if section := manifests.section(component):
                self.assertEqual(section["listen"], f"0.0.0.0:{ports['grpc']}")
                self.assertEqual(section["metrics_listen"], f"0.0.0.0:{ports['metrics']}")
                self.assertEqual(config["security"]["admin_listen"], f"0.0.0.0:{ports['admin']}")
                # The names of health that AdminServer knows.
                for probe, name in (("startupProbe", "live"), ("livenessProbe", "live"), ("readinessProbe", "ready")):
                    self.assertEqual(container[probe]["grpc"], {"port": ports["admin"], "service": name})
            for service in manifests.kind("Service"):
                if service["metadata"]["name"] == name:
                    for port in service["spec"]["ports"]:
                        self.assertEqual(ports[port["targetPort"]], port["port"])

    @for_each_example
    def test_addresses_lead_to_services_and_certificates_cover_them(self, manifests):
        covered = {host for certificate in manifests.kind("Certificate")
                   for host in certificate["spec"].get("dnsNames", [])}
        for role, address in manifests.addresses():
            host, port = address.rsplit(":", 1)
            labels = host.split(".")
            pod = role in ("generator", "reference")
            service = manifests.named("Service", labels[1] if pod else labels[0])
            self.assertIn(int(port), [p["port"] for p in service["spec"]["ports"]])
            self.assertIn(role, service["metadata"]["name"])
            self.assertEqual(host.split(".", 1)[1] if pod else host, ".".join(labels[1 if pod else 0:]))
            if covered:
                self.assertTrue(host in covered or "*." + host.split(".", 1)[1] in covered, host)
        replicas = manifests.named("StatefulSet", "rollcall-generator")["spec"].get("replicas", 0)
        self.assertGreaterEqual(len(manifests.config()["generator"]["addresses"]), replicas)

    @for_each_example
    def test_the_configuration_is_one_that_the_services_take(self, manifests):
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
            file.write(manifests.config_text())
            file.flush()
            done = subprocess.run([BIN / "rollcall", "config", file.name], capture_output=True, text=True)
            self.assertEqual(done.returncode, 0, done.stderr)

    @for_each_example
    def test_commands_and_flags_exist(self, manifests):
        for name, labels, spec in manifests.workloads():
            container = spec["containers"][0]
            if labels["app.kubernetes.io/component"].startswith("verifier"):
                continue
            command = [*container["command"], *container["args"]]
            self.assertTrue((BIN / command[0]).exists(), command)
            words = [word for word in command[1:2] if not word.startswith("-")]
            usage = subprocess.run([BIN / command[0], *words, "--help"], capture_output=True, text=True).stdout
            for word in command[1:]:
                if word.startswith("--"):
                    self.assertIn(word, usage, f"{name}: {command}")
            mounts = [mount["mountPath"] for mount in container["volumeMounts"]]
            for path in re.findall(r"/etc/rollcall/run\.yaml", " ".join(command)):
                self.assertIn(path, mounts)
            variables = {variable["name"] for variable in container.get("env", [])}
            for variable in re.findall(r"\$\((\w+)\)", " ".join(command)):
                self.assertIn(variable, variables)

    @for_each_example
    def test_every_mounted_volume_exists(self, manifests):
        for name, _, spec in manifests.workloads():
            volumes = {volume["name"] for volume in spec.get("volumes", [])}
            for stateful in manifests.kind("StatefulSet"):
                if stateful["metadata"]["name"] == name:
                    volumes |= {claim["metadata"]["name"]
                                for claim in stateful["spec"].get("volumeClaimTemplates", [])}
            used = {mount["name"] for container in spec["containers"] + spec.get("initContainers", [])
                    for mount in container.get("volumeMounts", [])}
            self.assertEqual(used, volumes, name)
            for volume in spec.get("volumes", []):
                if "configMap" in volume:
                    manifests.named("ConfigMap", volume["configMap"]["name"])
                if volume["name"] == "runs":
                    claim = manifests.named("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"])
                    self.assertEqual(claim["spec"]["accessModes"], ["ReadWriteMany"])

    @for_each_example
    def test_each_rank_is_a_pod_that_knows_which_it_is(self, manifests):
        learner = manifests.named("StatefulSet", "rollcall-learner")
        config = manifests.config()["learner"]
        ranks = config.get("ranks", 1)
        self.assertEqual(learner["spec"]["replicas"], ranks)
        container = learner["spec"]["template"]["spec"]["containers"][0]
        if ranks == 1:
            self.assertNotIn("rendezvous", config)
            self.assertNotIn("learner.rank=$(ROLLCALL_RANK)", container["args"])
            return
        self.assertIn("learner.rank=$(ROLLCALL_RANK)", container["args"])
        rank, = [v for v in container["env"] if v["name"] == "ROLLCALL_RANK"]
        self.assertEqual(rank["valueFrom"]["fieldRef"]["fieldPath"], "metadata.labels['apps.kubernetes.io/pod-index']")
        host, port = config["rendezvous"].rsplit(":", 1)
        service = manifests.named("Service", learner["spec"]["serviceName"])
        self.assertEqual(host, f"rollcall-learner-0.{service['metadata']['name']}.rollcall.svc")
        self.assertIn({"name": "rendezvous", "containerPort": int(port)}, container["ports"])
        # Ranks meet before any of them is ready.
        self.assertIs(service["spec"]["publishNotReadyAddresses"], True)
        self.assertEqual(learner["spec"]["podManagementPolicy"], "Parallel")

    @for_each_example
    def test_pods_are_restricted(self, manifests):
        for name, _, spec in manifests.workloads():
            self.assertIs(spec["automountServiceAccountToken"], False, name)
            self.assertIs(spec["securityContext"]["runAsNonRoot"], True)
            self.assertEqual(spec["securityContext"]["seccompProfile"], {"type": "RuntimeDefault"})
            for forbidden in ("hostNetwork", "hostPID", "hostIPC"):
                self.assertNotIn(forbidden, spec)
            for container in spec["containers"] + spec.get("initContainers", []):
                security = container["securityContext"]
                self.assertIs(security["allowPrivilegeEscalation"], False, name)
                self.assertIs(security["readOnlyRootFilesystem"], True, name)
                self.assertEqual(security["capabilities"], {"drop": ["ALL"]}, name)
            for volume in spec.get("volumes", []):
                self.assertNotIn("hostPath", volume)

    @for_each_example
    def test_grace_covers_the_drain(self, manifests):
        drain = manifests.config().get("rpc", {}).get("drain_timeout", 20)
        for name, labels, spec in manifests.workloads():
            if manifests.section(labels["app.kubernetes.io/component"]):
                self.assertEqual(spec["containers"][0]["lifecycle"]["preStop"]["exec"]["command"],
                                 ["sleep", str(PRE_STOP_SECONDS)])
                self.assertGreater(spec["terminationGracePeriodSeconds"], PRE_STOP_SECONDS + drain, name)

    @for_each_example
    def test_certificates_carry_roles_of_the_policy(self, manifests):
        policy = (metrics_doc.ROOT / "docs/security.md").read_text()
        header, = re.findall(r"\| server \| method \| (.*) \|", policy)
        roles = header.split(" | ")
        config = manifests.config()["security"]
        self.assertNotIn("insecure", config)
        certificates = {c["spec"]["secretName"]: c for c in manifests.kind("Certificate")}
        for name, labels, spec in manifests.workloads():
            secret, = [volume["secret"]["secretName"] for volume in spec["volumes"] if "secret" in volume]
            component = labels["app.kubernetes.io/component"]
            # A reward model serves as a verifier does.
            role = "verifier" if component.startswith("reward-model") else component.split("-")[0]
            role = {"test": "operator"}.get(role, role)
            self.assertIn(role, roles)
            if certificates:
                self.assertEqual(certificates[secret]["spec"]["uris"],
                                 [f"spiffe://{config['trust_domain']}/{role}"], name)
            self.assertIn({"name": "tls", "mountPath": "/etc/rollcall/tls", "readOnly": True},
                          spec["containers"][0]["volumeMounts"])

    @for_each_example
    def test_network_policies_are_the_edges_of_a_run_and_no_others(self, manifests):
        config = manifests.config()
        ports = {"learner": 7400, "generator": 7401, "reward": 7402, "reference": 7403}
        components = {labels["app.kubernetes.io/component"]: spec for _, labels, spec in manifests.workloads()}
        expected = {("learner", role, ports[role]) for role, _ in manifests.addresses() if role in ports}
        for component, spec in components.items():
            if component.startswith(("verifier", "reward-model")):
                expected.add(("reward", component, spec["containers"][0]["ports"][0]["containerPort"]))
        if config["learner"].get("ranks", 1) > 1:
            expected.add(("learner", "learner", None))  # any port: that of the rendezvous is only the first
        # Of `helm test`, whose pod Kustomize leaves out.
        if "test" in components:
            expected |= {("test", role, port) for role, port in ports.items() if role in components}
        labels_of = {labels["app.kubernetes.io/component"]: labels for _, labels, _ in manifests.workloads()}

        def chosen(selector):
            return [component for component, labels in labels_of.items() if matches(selector, labels)]

        found = {"Ingress": set(), "Egress": set()}
        denied = set()
        for policy in manifests.kind("NetworkPolicy"):
            spec = policy["spec"]
            for direction, key, peer in (("Ingress", "ingress", "from"), ("Egress", "egress", "to")):
                self.assertEqual(key in spec, direction in spec["policyTypes"] and key in spec)
                for rule in spec.get(key, []):
                    for other in rule[peer]:
                        if "namespaceSelector" in other:
                            continue  # DNS, monitoring, operators
                        for here in chosen(spec["podSelector"]):
                            for there in chosen(other["podSelector"]):
                                for port in rule["ports"]:
                                    edge = (there, here) if direction == "Ingress" else (here, there)
                                    found[direction].add((*edge, port.get("port")))
            if "ingress" not in spec and "egress" not in spec:
                self.assertEqual(spec["policyTypes"], ["Ingress", "Egress"])
                denied |= set(chosen(spec["podSelector"]))
        self.assertEqual(denied, set(labels_of))
        self.assertEqual(found["Ingress"], expected)
        self.assertEqual(found["Egress"], expected)
        self.assertEqual(config["security"]["admin_listen"], "0.0.0.0:7410")

    def test_scaling_reads_a_metric_that_exists(self):
        scalers = [d for example in EXAMPLES for d in Manifests.of(example).kind("HorizontalPodAutoscaler")]
        self.assertEqual(len(scalers), 1)  # of the example that scales
        metric = scalers[0]["spec"]["metrics"][0]["pods"]["metric"]["name"]
        self.assertEqual(metrics_doc.documented()[metric], "gauge")


if __name__ == "__main__":
    unittest.main(verbosity=2)
