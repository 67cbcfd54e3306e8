"""What a scoring function answers: a number, or one of these. An exception is a fault of the verifier, never a score."""

import dataclasses
import math
import numbers
from typing import Dict, Sequence, Tuple

_MAX_TEXT_BYTES = 4096


@dataclasses.dataclass(frozen=True)
class Score:
    """A score with named parts ([a-z0-9_./], at most 64), and a word for whoever reads the rollout."""

    value: float
    components: Dict[str, float] = dataclasses.field(default_factory=dict)
    detail: str = ""
    # Rewards of parts of the completion: (first token, one past the last, value).
    spans: Sequence[Tuple[int, int, float]] = ()


@dataclasses.dataclass(frozen=True)
class Abstain:
    """Nothing to say about this sample: it is not this verifier's kind of task."""

    reason: str = ""


class Retry(Exception):
    """Raise it for a passing fault (a busy backend): Rollcall asks again."""


def _cut(text):
    return text.encode()[:_MAX_TEXT_BYTES].decode(errors="ignore")


def fill_fault(result, error):
    """The SampleResult for an exception that a scoring function raised."""
    if isinstance(error, Retry):
        result.retry.reason = _cut(str(error) or "the verifier asked to be asked again")
    else:
        result.error.reason = _cut(f"{type(error).__name__}: {error}")


def fill(result, outcome):
    """The SampleResult for what a scoring function returned."""
    if isinstance(outcome, Abstain):
        result.abstain.reason = _cut(outcome.reason)
        return
    if isinstance(outcome, numbers.Real):
        outcome = Score(float(outcome))
    if not isinstance(outcome, Score):
        result.error.reason = f"expected a number, Score or Abstain, got {type(outcome).__name__}"
        return
    if not math.isfinite(outcome.value):
        result.error.reason = f"expected a finite score, got {outcome.value}"
        return
    result.score.value = outcome.value
    result.score.components.update(outcome.components)
    result.score.detail = _cut(outcome.detail)
    for begin, end, value in outcome.spans:
        result.score.spans.add(begin=begin, end=end, value=value)
