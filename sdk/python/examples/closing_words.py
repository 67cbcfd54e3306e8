"""Rewards a story that ends as stories do: a verifier in ten lines."""

from rollcall_verifier import Score, serve


def score(sample):
    ends = sample.text.rstrip().lower().endswith(("the end.", "ever after."))
    return Score(1.0 if ends else 0.0, components={"words": len(sample.text.split())})


serve(score, name="closing_words", components=["words"], min_score=0, max_score=1)
