"""Serve your own verifier to Rollcall.

    from rollcall_verifier import serve

    def score(sample):
        return 1.0 if sample.text.strip() == sample.columns["answer"] else 0.0

    serve(score)
"""

from .outcomes import Abstain, Retry, Score
from .sample import Sample
from .server import Tls, Verifier, serve, start

__all__ = ["Abstain", "Retry", "Sample", "Score", "Tls", "Verifier", "serve", "start"]
