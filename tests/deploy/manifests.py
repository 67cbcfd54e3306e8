"""Rendered manifests of the chart as objects: what selects what, who speaks to whom."""

import functools
import pathlib

import yaml

RENDERED = pathlib.Path(__file__).resolve().parent / "rendered"
EXAMPLES = ("cpu-demo", "gpu-node", "autoscaled", "kustomize-cpu-demo", "kustomize-gpu-node")


class Manifests:
    def __init__(self, text):
        self.all = [document for document in yaml.safe_load_all(text) if document]

    @classmethod
    @functools.lru_cache
    def of(cls, example):
        return cls((RENDERED / f"{example}.yaml").read_text())

    def kind(self, *kinds):
        return [document for document in self.all if document["kind"] in kinds]

    def named(self, kind, name):
        found, = [d for d in self.kind(kind) if d["metadata"]["name"] == name]
        return found

    def workloads(self):
        """(name, labels of its pods, pod spec) of everything that runs pods, the test pod too."""
        for document in self.kind("Deployment", "StatefulSet"):
            template = document["spec"]["template"]
            yield document["metadata"]["name"], template["metadata"]["labels"], template["spec"]
        for document in self.kind("Pod"):
            yield document["metadata"]["name"], document["metadata"]["labels"], document["spec"]

    def config_text(self):
        config, = [d for d in self.kind("ConfigMap") if "run.yaml" in d.get("data", {})]
        return config["data"]["run.yaml"]

    def config(self):
        return yaml.safe_load(self.config_text())

    def section(self, component):
        """The part of the configuration by which a component listens; None where it has none."""
        config = self.config()
        for verifier in config["reward"]["verifiers"]:
            if component == "reward-model-" + verifier["name"].replace("_", "-"):
                return verifier["reward_model"]
        return config[component] if component in ("learner", "generator", "reward", "reference") else None

    def addresses(self):
        """(who is meant, "host:port") of every address that the configuration has."""
        config = self.config()
        for address in config["generator"]["addresses"]:
            yield "generator", address
        for address in config["reference"].get("addresses", []):
            yield "reference", address
        yield "reward", config["reward"]["address"]
        for verifier in config["reward"]["verifiers"]:
            if "remote" in verifier:
                yield "verifier", verifier["remote"]["address"]
            if "reward_model" in verifier:
                yield "reward-model", verifier["reward_model"]["address"]


def matches(selector, labels):
    for expression in selector.get("matchExpressions", []):
        assert expression["operator"] == "In", expression
        if labels.get(expression["key"]) not in expression["values"]:
            return False
    return all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())
