"""Rewards the samples of a group whose number is nearest to the row's answer: a verifier that compares a whole group."""

import re

from rollcall_verifier import Abstain, Retry, serve


def score_group(samples):
    answer = samples[0].columns.get("answer")
    if not isinstance(answer, (int, float)):
        return [Abstain("the row has no numeric answer")] * len(samples)
    if answer < 0:
        raise Retry("negative answers are looked up elsewhere, and that place is busy")
    guesses = [re.findall(r"-?\d+", sample.text) for sample in samples]
    distances = [abs(int(guess[-1]) - answer) if guess else None for guess in guesses]
    nearest = min((distance for distance in distances if distance is not None), default=None)
    return [1.0 if distance is not None and distance == nearest else 0.0 for distance in distances]


serve(score_group=score_group, name="closest_guess", columns=["answer"], min_score=0, max_score=1)
