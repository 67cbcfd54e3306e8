"""A cluster in miniature: the chart's manifests run as they are, on this machine.

A pod is a network namespace with an address of its own, in it a bubblewrap sandbox with a read-only root, the pod's
volumes and its own user; the command, arguments and variables are the manifest's. DNS is a hosts file that names pods and
services as Kubernetes does. NetworkPolicies become nftables rules of each pod's namespace. This process is the node: it
lives in a namespace of its own with the bridge that joins the pods, may reach every port (as a kubelet), and probes.

Needs root, `ip`, `nft` and `bwrap`. All namespaces are of this process's mount namespace and end with it.
"""

import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from manifests import matches

DEADLINE_S = 120
NETWORK = "10.88"
NODE = f"{NETWORK}.0.1"
INSIDE = "ROLLCALL_CLUSTER_NODE"
# What a container of the image would have, from this machine: its system, our programs and their LibTorch.
SYSTEM = ("/usr", "/etc/ssl", "/etc/passwd", "/etc/group", "/etc/alternatives")


def missing_tools():
    """Why there can be no cluster here; empty where there can."""
    if os.geteuid() != 0:
        return "needs root"
    absent = [tool for tool in ("ip", "nft", "bwrap", "unshare", "nsenter") if shutil.which(tool) is None]
    if absent:
        return f"no {', '.join(absent)}: apt-get install iproute2 nftables bubblewrap util-linux"
    done = subprocess.run(["unshare", "-n", "-m", "true"], capture_output=True, text=True)
    return f"namespaces are not allowed here: {done.stderr.strip()}" if done.returncode != 0 else ""


def enter_node():
    """Starts this program again in the node's namespaces; returns once it runs there."""
    if INSIDE in os.environ:
        run("mount", "-t", "tmpfs", "tmpfs", "/run/netns")
        run("ip", "link", "set", "lo", "up")
        run("ip", "link", "add", "pods", "type", "bridge")
        run("ip", "address", "add", f"{NODE}/16", "dev", "pods")
        run("ip", "link", "set", "pods", "up")
        return
    pathlib.Path("/run/netns").mkdir(exist_ok=True)
    os.execvpe("unshare", ["unshare", "-n", "-m", sys.executable, "-B", *sys.argv], {**os.environ, INSIDE: "1"})


def run(*command, **options):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, **options)
    if done.returncode != 0:
        raise AssertionError(f"{' '.join(map(str, command))}: {done.stderr}")
    return done.stdout


class Pod:
    """One pod of a workload, from its start to its end."""

    def __init__(self, cluster, name, labels, spec, address):
        self.name, self.labels, self.spec, self.address = name, labels, spec, address
        self.component = labels["app.kubernetes.io/component"]
        self.log = cluster.folder / f"{name}-{address}.log"
        self._cluster = cluster
        self._link()
        self._child = None

    def _link(self):
        inside, outside = "eth0", f"v{self.address.rsplit('.', 2)[1]}x{self.address.rsplit('.', 1)[1]}"
        run("ip", "netns", "add", self.name)
        run("ip", "link", "add", outside, "type", "veth", "peer", "name", inside, "netns", self.name)
        run("ip", "link", "set", outside, "master", "pods", "up")
        for words in (("link", "set", "lo", "up"), ("address", "add", f"{self.address}/16", "dev", inside),
                      ("link", "set", inside, "up")):
            run("ip", "-n", self.name, *words)

    def start(self):
        container = self.spec["containers"][0]
        environment = {"PATH": f"{self._cluster.binaries}:/usr/bin",
                       # Of this machine's cores, which others use too.
                       "ROLLCALL_PIN_THREADS": os.environ.get("ROLLCALL_PIN_THREADS", "1")}
        for variable in container.get("env", []):
            if "value" in variable:
                environment[variable["name"]] = variable["value"]
            else:
                path = variable["valueFrom"]["fieldRef"]["fieldPath"]
                assert path == "metadata.labels['apps.kubernetes.io/pod-index']", path
                environment[variable["name"]] = self.name.rsplit("-", 1)[1]
        arguments = container["args"]
        for name, value in environment.items():
            arguments = [word.replace(f"$({name})", value) for word in arguments]
        with open(self.log, "ab") as log:
            self._child = subprocess.Popen(
                ["nsenter", f"--net=/run/netns/{self.name}", *self.sandbox(environment), *container["command"], *arguments],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def sandbox(self, environment):
        """The command line of a container of this pod, but for what it runs."""
        security = self.spec["securityContext"]
        words = ["bwrap", "--die-with-parent", "--unshare-user", "--unshare-ipc", "--unshare-uts", "--clearenv",
                 "--uid", security["runAsUser"], "--gid", security["runAsGroup"], "--cap-drop", "ALL", "--tmpfs", "/",
                 "--proc", "/proc", "--dev", "/dev"]
        for path in (*SYSTEM, self._cluster.binaries, self._cluster.torch):
            words += ["--ro-bind-try", path, path]
        for name in ("lib", "lib64", "bin", "sbin"):
            words += ["--symlink", f"usr/{name}", f"/{name}"]
        words += ["--ro-bind", self._cluster.hosts, "/etc/hosts"]
        container = self.spec["containers"][0]
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        for mount in container["volumeMounts"]:
            source = self._cluster.volume(self, mount["name"])
            if "subPath" in mount:
                source = source / mount["subPath"]
            words += ["--ro-bind" if mount.get("readOnly") else "--bind", source, mount["mountPath"]]
        words += ["--remount-ro", "/"]
        for name, value in environment.items():
            words += ["--setenv", name, value]
        return [str(word) for word in words]

    def probe(self, name):
        """Whether the pod's probe of this name succeeds now."""
        wanted = self.spec["containers"][0][name]["grpc"]
        with grpc.insecure_channel(f"{self.address}:{wanted['port']}") as channel:
            try:
                answer = health_pb2_grpc.HealthStub(channel).Check(
                    health_pb2.HealthCheckRequest(service=wanted.get("service", "")), timeout=5)
            except grpc.RpcError:
                return False
        return answer.status == health_pb2.HealthCheckResponse.SERVING

    def await_ready(self):
        end = time.monotonic() + DEADLINE_S
        while time.monotonic() < end:
            if self._child.poll() is not None:
                raise AssertionError(f"{self.name} ended with {self._child.returncode}:\n{self.tail()}")
            if self.probe("readinessProbe"):
                return self
            time.sleep(0.1)
        raise AssertionError(f"{self.name} is not ready after {DEADLINE_S} s:\n{self.tail()}")

    def _service(self):
        """The process of the container: bubblewrap's innermost child."""
        pid = self._child.pid
        while children := pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            pid = int(children[0])
        return pid

    def tail(self):
        return "\n".join(self.log.read_text().splitlines()[-15:])

    def delete(self, grace=True):
        """As `kubectl delete pod`: preStop, SIGTERM, the grace; without grace at once, as a node that dies."""
        if grace:
            stop = self.spec["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
            subprocess.run(stop, check=True)
            os.kill(self._service(), signal.SIGTERM)
            code = self._child.wait(timeout=self.spec["terminationGracePeriodSeconds"])
            assert code == 0, f"{self.name} ended with {code}:\n{self.tail()}"
        else:
            os.kill(self._service(), signal.SIGKILL)
            self._child.wait()
        run("ip", "netns", "delete", self.name)

    def running(self):
        return self._child is not None and self._child.poll() is None


class Cluster:
    def __init__(self, manifests, folder, binaries, torch, models, config):
        """`config`: the text of run.yaml. `models`: the folder behind the claim of that name. `torch`: the folder of the
        wheels that the programs load."""
        self.manifests, self.folder = manifests, pathlib.Path(folder)
        self.binaries, self.torch, self._models = pathlib.Path(binaries), pathlib.Path(torch), models
        self.hosts = self.folder / "hosts"
        self.hosts.write_text("127.0.0.1 localhost\n")
        (self.folder / "config").mkdir()
        (self.folder / "config/run.yaml").write_text(config)
        self.pods = {}
        self._next_address = 2
        self._workloads = {name: (labels, spec) for name, labels, spec in manifests.workloads()}
        self.rotate()

    # Volumes.

    def volume(self, pod, name):
        """The folder that a volume of a pod is."""
        if name == "config":
            return self.folder / "config"
        if name == "models":
            return self._models
        if name == "tls":
            secret, = [v["secret"]["secretName"] for v in pod.spec["volumes"] if v["name"] == "tls"]
            return self.folder / "secrets" / secret
        # Claims stay, the rest is the pod's own.
        path = self.folder / "volumes" / (f"{pod.name}-{name}" if name == "runs" else f"{pod.name}-{pod.address}-{name}")
        path.mkdir(parents=True, exist_ok=True)
        return path

    def rotate(self):
        """A new certificate for every role, as cert-manager's renewals; pods see the files change."""
        for certificate in self.manifests.kind("Certificate"):
            spec = certificate["spec"]
            if spec.get("isCA"):
                continue
            role = spec["uris"][0].rsplit("/", 1)[1]
            hosts = [word for host in spec.get("dnsNames", []) for word in ("--host", host)]
            run(self.binaries / "rollcall", "certs", "dev", "--out", self.folder / "authority", "--role", role, *hosts)
            secret = self.folder / "secrets" / spec["secretName"]
            secret.mkdir(parents=True, exist_ok=True)
            # The key first: a pair that does not match is not taken.
            for name, source in (("ca.crt", "ca.pem"), ("tls.key", f"{role}.key"), ("tls.crt", f"{role}.pem")):
                fresh = secret / f".{name}"
                fresh.write_bytes((self.folder / "authority" / source).read_bytes())
                fresh.chmod(0o440)
                fresh.rename(secret / name)

    # Pods.

    def names(self, workload):
        """Names of a workload's pods, in the order of their ordinals."""
        document, = [d for d in self.manifests.kind("StatefulSet", "Deployment") if d["metadata"]["name"] == workload]
        return [f"{workload}-{i}" for i in range(document["spec"].get("replicas", 1))]

    def start(self, name):
        """A pod by its name, with an address that no pod had before; not awaited."""
        labels, spec = self._workloads[name.rsplit("-", 1)[0]]
        self._next_address += 1
        pod = Pod(self, name, labels, spec, f"{NETWORK}.{self._next_address // 250}.{self._next_address % 250 + 2}")
        self.pods[name] = pod
        self._network_changed()
        pod.start()
        return pod

    def start_all(self):
        for document in self.manifests.kind("StatefulSet", "Deployment"):
            for name in self.names(document["metadata"]["name"]):
                self.start(name)
        for pod in self.pods.values():
            pod.await_ready()

    def delete(self, name, grace=True):
        self.pods[name].delete(grace)
        del self.pods[name]
        self._network_changed()

    def replace(self, name, grace=True):
        self.delete(name, grace)
        return self.start(name)

    def roll(self, workload):
        """As a rollout of a StatefulSet: from the last ordinal on, each once the one before is ready."""
        for name in reversed([name for name in self.pods if name.rsplit("-", 1)[0] == workload]):
            self.replace(name).await_ready()

    def stop(self):
        for name in list(self.pods):
            if self.pods[name].running():
                self.delete(name, grace=False)

    # The network.

    def _network_changed(self):
        namespace = "rollcall.svc"
        lines = ["127.0.0.1 localhost"]
        for service in self.manifests.kind("Service"):
            host = f"{service['metadata']['name']}.{namespace}"
            for pod in self.pods.values():
                if matches({"matchLabels": service["spec"]["selector"]}, pod.labels):
                    lines += [f"{pod.address} {host}", f"{pod.address} {pod.name}.{host}"]
        # In place: the pods have this very file.
        with open(self.hosts, "r+") as file:
            file.write("\n".join(lines) + "\n")
            file.truncate()
        for pod in self.pods.values():
            run("nsenter", f"--net=/run/netns/{pod.name}", "nft", "-f", "-", input=self.firewall(pod))

    def firewall(self, pod):
        """nftables rules of a pod's namespace: what the NetworkPolicies that select it let in and out."""
        rules = {"Ingress": [], "Egress": []}
        isolated = set()
        for policy in self.manifests.kind("NetworkPolicy"):
            spec = policy["spec"]
            if not matches(spec["podSelector"], pod.labels):
                continue
            isolated |= set(spec["policyTypes"])
            for direction, key, peers in (("Ingress", "ingress", "from"), ("Egress", "egress", "to")):
                for rule in spec.get(key, []):
                    rules[direction] += self._allowed(direction, rule, rule[peers])
        lines = ["add table inet pods", "flush table inet pods"]
        for direction, hook in (("Ingress", "input"), ("Egress", "output")):
            default = "drop" if direction in isolated else "accept"
            side = "saddr" if direction == "Ingress" else "daddr"
            lines += [f"add chain inet pods {hook} {{ type filter hook {hook} priority 0; policy {default}; }}",
                      f"add rule inet pods {hook} ct state established,related accept",
                      f"add rule inet pods {hook} meta l4proto icmpv6 accept",
                      f"add rule inet pods {hook} ip {side} 127.0.0.0/8 accept"]
            if direction == "Ingress":  # a kubelet reaches its node's pods
                lines.append(f"add rule inet pods {hook} ip saddr {NODE} accept")
            lines += [f"add rule inet pods {hook} {rule}" for rule in rules[direction]]
        return "\n".join(lines) + "\n"

    def _allowed(self, direction, rule, peers):
        side = "saddr" if direction == "Ingress" else "daddr"
        for peer in peers:
            if "namespaceSelector" in peer:
                continue  # DNS, monitoring, operators: there are no other namespaces here
            for other in self.pods.values():
                if not matches(peer["podSelector"], other.labels):
                    continue
                for port in rule["ports"]:
                    protocol = port["protocol"].lower()
                    ports = f"{protocol} dport {port['port']}" if "port" in port else f"meta l4proto {protocol}"
                    yield f"ip {side} {other.address} {ports} accept"

    def reachable(self, pod, targets):
        """Which of [(address, port)] a TCP connection from the pod reaches."""
        script = ("import concurrent.futures, socket, sys\n"
                  "def reach(target):\n"
                  "    try:\n"
                  "        socket.create_connection(target, 1).close()\n"
                  "        return True\n"
                  "    except OSError:\n"
                  "        return False\n"
                  "targets = [(w.split('/')[0], int(w.split('/')[1])) for w in sys.argv[1:]]\n"
                  "with concurrent.futures.ThreadPoolExecutor(64) as pool:\n"
                  "    print(*(int(found) for found in pool.map(reach, targets)))\n")
        words = [f"{address}/{port}" for address, port in targets]
        answers = run("nsenter", f"--net=/run/netns/{pod.name}", sys.executable, "-c", script, *words).split()
        return {target for target, answer in zip(targets, answers) if answer == "1"}
