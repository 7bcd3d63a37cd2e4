"""Integer definitions of a mixture of experts: expert selection and gates of each token.

As in `codesign.numerics.nonlinear`, hardware, goldens and the torch modules of quantization-aware training all
return these integers; arrays are int64.
"""

import numpy as np

from codesign.numerics.fixed_point import IntArray, IntLike, bit_length, integers, limits, round_half_even, saturate
from codesign.numerics.nonlinear import softmax_weights

GATE_BITS = 8
"""Fractional bits of a gate."""

GATE_SCALE = 2.0**-GATE_BITS
"""Value of one step of a gate."""

MAX_GATE = (1 << GATE_BITS) - 1
"""Largest gate; the smallest of a chosen expert is 1."""

MAX_CHOSEN = 256
"""Experts per token whose weighted sum provably fits the 32-bit accumulator."""


def gates(logits: IntLike, chosen: int, multiplier: int, shift: int) -> IntArray:
    """Return the gate of every expert for every token, 0 where the token does not use the expert.

    The chosen experts are those of the largest logits; among equal ones the lower number goes first. A
    gate is the softmax over *all* experts, in steps of 2**-8, and is not normalised over the chosen ones.
    With (e, total) as in `nonlinear.softmax_weights`::

        L = bit_length(total)    Q = (2**16 << (L - 1)) // total
        gate = saturate(rhe(e * Q, L + 7), 1, 255) if chosen else 0

    Q is in (2**15, 2**16], so e * Q is below 2**24. A chosen expert never has gate 0, so that the gates
    alone say which tokens an expert gets.

    Args:
        logits: Signed 8 bit, shape [tokens, experts].
        chosen: Experts per token, 1 to the number of experts.
        multiplier: See `nonlinear.softmax_weights`.
        shift: See `nonlinear.softmax_weights`.

    Returns:
        Unsigned 8-bit values, shape [tokens, experts].

    >>> gates([[40, 40, 8, 40]], 2, 1 << 16, 13).tolist()
    [[82, 82, 0, 0]]
    """
    scores = integers("logits", logits, *limits(8))
    if scores.ndim != 2 or not 1 <= chosen <= scores.shape[1]:
        raise ValueError(f"logits must be [tokens, experts] with at least {chosen} experts, got {scores.shape}")
    e, total = softmax_weights(scores, True, multiplier, shift)
    places = bit_length(total[:, None]) - 1
    quotient = (1 << 16 << places) // total[:, None]
    shares = saturate(round_half_even(e * quotient, places + 16 - GATE_BITS), 1, MAX_GATE)
    first = np.argsort(-scores, axis=1, kind="stable")[:, :chosen]
    kept = np.zeros_like(scores)
    np.put_along_axis(kept, first, 1, axis=1)
    return kept * shares


def tokens_per_expert(shares: IntLike) -> IntArray:
    """Return how many tokens use each expert, shape [experts], from gates [tokens, experts].

    >>> tokens_per_expert([[82, 82, 0], [0, 250, 1]]).tolist()
    [1, 2, 1]
    """
    return np.asarray((integers("gates", shares, 0, MAX_GATE) > 0).sum(axis=0))
