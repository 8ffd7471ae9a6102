"""Search over tables: grown one step at a time, then improved by removing and regrowing steps.

A step that never fires changes nothing, so the best table of K steps is never worse than that of
K - 1. New steps are put where the error is; their resets are copies of others, fractions of a
piece, or moves of one part of the input out of the way of the later steps.

Machine code stays on disk as long as this file is the same, with all that it holds of `newton` and
`exact_error`: a change there is a change of this line, too (last: numbers are
assigned one by one).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from .exact_error import Scratch, assign, loss
from .newton import descend
from .problem import Array


class Search(NamedTuple):
    """How much a search does.

    Args:
        beam: how many tables are kept.
        rounds: steps removed and regrown.
        tries: proposals for each regrowth.
        polish: how many of these, the best, descend.
        iterations: of each descent.
    """

    beam: int
    rounds: int
    tries: int
    polish: int
    iterations: int


class Best(NamedTuple):
    """The best tables so far, sorted.

    Args:
        tables: ``[n, 2, K]``.
        errors: ``[n]``, infinite where unused.
    """

    tables: Array
    errors: Array


@njit(cache=True, nogil=True)
def _uniform(state):  # type: ignore[no-untyped-def]
    """xorshift64*: the same numbers whatever the thread."""
    x = state[0]
    x ^= x >> np.uint64(12)
    x ^= x << np.uint64(25)
    x ^= x >> np.uint64(27)
    state[0] = x
    return ((x * np.uint64(2685821657736338717)) >> np.uint64(11)) * (1.0 / 9007199254740992.0)


@njit(cache=True, nogil=True)
def _choose(state, n):  # type: ignore[no-untyped-def]
    return min(int(_uniform(state) * n), n - 1)


@njit(cache=True, nogil=True)
def propose(T, h, n, scratch, state, new_T, new_h):  # type: ignore[no-untyped-def]
    """A table with one step more; `scratch` holds the n pieces of T, h.

    Returns nothing; new_T, new_h ``[K + 1]`` are written.
    """
    K = len(T)
    work, codes = scratch.work, scratch.codes
    edges, m, y = work[0], work[2:5], work[5]
    total = 0.0
    for i in range(n):
        total += max(m[2, i] - 2 * y[i] * m[1, i] + y[i] * y[i] * m[0, i], 0.0)
    piece = _choose(state, n)
    if _uniform(state) < 0.8:
        rest = _uniform(state) * total
        for i in range(n):
            rest -= max(m[2, i] - 2 * y[i] * m[1, i] + y[i] * y[i] * m[0, i], 0.0)
            if rest <= 0:
                piece = i
                break
    place = _choose(state, K + 1)
    offset = 0.0
    for s in range(place):
        if codes[piece] >> s & 1:
            offset += h[s]
    width = edges[piece + 1] - edges[piece]
    cut = edges[piece] + width * (0.1 + 0.8 * _uniform(state))
    kind = _uniform(state)
    if K and kind < 0.35:
        reset = h[_choose(state, K)]
        more = _uniform(state)
        if more < 0.2:
            reset *= 0.5
        elif more < 0.4:
            reset *= 2.0
        elif more < 0.6:
            reset += width * (_uniform(state) - 0.5)
        elif more < 0.7:
            reset = -reset
    elif kind < 0.6:
        reset = width * (2 * _uniform(state) - 1)
    elif kind < 0.8:
        reset = 2 * _uniform(state) - 1
    elif K and kind < 0.92:
        # Brings what fires to where another step works.
        other = _choose(state, K)
        reset = cut - offset - T[other] + width * (_uniform(state) - 0.5)
    else:
        reset = 0.0
    for s in range(place):
        new_T[s], new_h[s] = T[s], h[s]
    new_T[place], new_h[place] = cut - offset, reset
    for s in range(place, K):
        new_T[s + 1], new_h[s + 1] = T[s], h[s]


@njit(cache=True, nogil=True)
def _keep(best, filled, T, h, error):  # type: ignore[no-untyped-def]
    """Puts a table among the best, unless it is there already; returns how many there are.

    Args:
        best: written, see `Best`.
        filled: how many of them are in use.
        T, h, error: the newcomer.
    """
    tables, errors = best.tables, best.errors
    most = len(errors)
    for i in range(filled):
        if abs(errors[i] - error) <= 1e-6 * error:
            return filled
    if filled == most and error >= errors[most - 1]:
        return filled
    i = min(filled, most - 1)
    while i > 0 and errors[i - 1] > error:
        errors[i] = errors[i - 1]
        assign(tables[i, 0], tables[i - 1, 0])
        assign(tables[i, 1], tables[i - 1, 1])
        i -= 1
    errors[i] = error
    assign(tables[i, 0], T)
    assign(tables[i, 1], h)
    return min(filled + 1, most)


@njit(cache=True, nogil=True)
def _regrow(T, h, target, search, scratch, state, best, filled):  # type: ignore[no-untyped-def]
    """Adds one step to T, h ``[K - 1]`` in many ways; returns how many tables `best` holds then."""
    K = len(T) + 1
    G, d = np.empty((K + 1, K + 1)), np.empty(K + 1)
    small_G, small_d = np.empty((K, K)), np.empty(K)
    trial_T, trial_h = np.empty(K), np.empty(K)
    found = Best(np.empty((search.polish, 2, K)), np.full(search.polish, np.inf))
    count = np.int64(0)
    base, n = loss(T, h, target, scratch, small_G, small_d)
    if not np.isfinite(base):
        return filled
    pieces = Scratch(scratch.work[:, : n + 1].copy(), scratch.codes[:n].copy())
    for _ in range(search.tries):
        propose(T, h, n, pieces, state, trial_T, trial_h)
        error, _pieces = loss(trial_T, trial_h, target, scratch, G, d)
        if np.isfinite(error):
            count = _keep(found, count, trial_T, trial_h, error)
    for i in range(count):
        assign(trial_T, found.tables[i, 0])
        assign(trial_h, found.tables[i, 1])
        error = descend(trial_T, trial_h, d, target, search.iterations, scratch)
        if np.isfinite(error):
            filled = _keep(best, filled, trial_T, trial_h, error)
    return filled


@njit(cache=True, nogil=True)
def _remove(table, gone, less_T, less_h):  # type: ignore[no-untyped-def]
    """Writes a table ``[2, K]`` without one of its steps into less_T, less_h ``[K - 1]``."""
    for s in range(len(less_T)):
        source = s if s < gone else s + 1
        less_T[s] = table[0, source]
        less_h[s] = table[1, source]


@njit(cache=True, nogil=True)
def _take_starts(starts, target, search, scratch, best):  # type: ignore[no-untyped-def]
    """Descends from every start ``[m, 2, K]``; how many tables are kept, and the best one's start.

    The latter is -1 where there is none.
    """
    K = starts.shape[2]
    T, h, d = np.empty(K), np.empty(K), np.empty(K + 1)
    # Not the literal 0, for which functions would be compiled a second time.
    filled, winner = np.int64(0), -1
    for i in range(len(starts)):
        assign(T, starts[i, 0])
        assign(h, starts[i, 1])
        error = descend(T, h, d, target, 4 * search.iterations, scratch)
        if np.isfinite(error):
            if filled == 0 or error < best.errors[0]:
                winner = i
            filled = _keep(best, filled, T, h, error)
    return filled, winner


@njit(cache=True, nogil=True)
def grow(before, starts, target, search, scratch, state):  # type: ignore[no-untyped-def]
    """The best tables of K steps from the best of K - 1 and from further starts.

    Args:
        before: best tables of K - 1 steps ``[n, 2, K - 1]``.
        starts: further starts ``[m, 2, K]``.
        target: see `exact_error.Target`.
        search: see `Search`.
        scratch: written, see `exact_error.Scratch`.
        state: of the random numbers, uint64 ``[1]``; written.

    Returns:
        Tables ``[beam, 2, K]``, their errors (infinite where unused), which start the best
        table came from (-1 if grown), and how many tables are in use.
    """
    K = before.shape[2] + 1
    best = Best(np.empty((search.beam, 2, K)), np.full(search.beam, np.inf))
    filled, winner = _take_starts(starts, target, search, scratch, best)
    T, h, d = np.empty(K), np.empty(K), np.empty(K + 1)
    for i in range(len(before)):
        # A step that never fires: as good as K - 1, for certain.
        assign(T[: K - 1], before[i, 0])
        assign(h[: K - 1], before[i, 1])
        T[K - 1], h[K - 1] = 3.0 + 10.0 * K, 0.0
        error = descend(T, h, d, target, np.int64(0), scratch)
        if np.isfinite(error):
            if i == 0 and (filled == 0 or error < best.errors[0]):
                winner = -1
            filled = _keep(best, filled, T, h, error)
        least = best.errors[0] if filled else np.inf
        less_T, less_h = before[i, 0].copy(), before[i, 1].copy()
        filled = _regrow(less_T, less_h, target, search, scratch, state, best, filled)
        if filled and best.errors[0] < least:
            winner = -1
    less_T, less_h = np.empty(K - 1), np.empty(K - 1)
    if K == 1 and len(before) == 0:
        filled = _regrow(less_T, less_h, target, search, scratch, state, best, filled)
    for _ in range(search.rounds if K > 1 and filled else 0):
        # The better ones more often.
        u = _uniform(state)
        chosen = min(int(u * u * filled), filled - 1)
        _remove(best.tables[chosen], _choose(state, K), less_T, less_h)
        filled = _regrow(less_T, less_h, target, search, scratch, state, best, filled)
    return best.tables, best.errors, winner, filled
