"""The pairs of a bench that is made of several runs, in one JSON file."""

import dataclasses
import json
import os

import machine


class Results:
    """Pairs by section, of one build of the worker on one machine; those of another are dropped."""

    def __init__(self, path, identity):
        self._path, self._identity, self._pairs = path, identity, {}
        if path is None or not path.exists():
            return
        stored = json.loads(path.read_text())
        if stored["identity"] == identity:
            self._pairs = {key: [machine.Pair(**pair) for pair in pairs] for key, pairs in stored["pairs"].items()}

    def pairs(self, key):
        """The section's list, to append to."""
        return self._pairs.setdefault(key, [])

    def save(self):
        """Writes the file, whole or not at all."""
        if self._path is None:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        draft = self._path.with_suffix(".draft")
        draft.write_text(json.dumps({
            "identity": self._identity,
            "pairs": {key: [dataclasses.asdict(pair) for pair in pairs] for key, pairs in self._pairs.items()}}))
        os.replace(draft, self._path)
