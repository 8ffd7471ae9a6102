"""Search over tables: grown one step at a time, then improved by removing and regrowing steps.

A step that never fires changes nothing, so the best table of K steps is never worse than that of
K - 1. New steps are put where the error is; their resets are copies of others, fractions of a
piece, or moves of one part of the input out of the way of the later steps.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from .exact_error import loss
from .newton import descend


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
def propose(T, h, n, work, codes, state, new_T, new_h):  # type: ignore[no-untyped-def]
    """A table with one step more; `work` and `codes` hold the n pieces of T, h.

    Returns nothing; new_T, new_h ``[K + 1]`` are written.
    """
    K = len(T)
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
def errors_of(tables, data, free, price, work, codes):  # type: ignore[no-untyped-def]
    """Error of each of ``tables [n, 2, K]`` with its best weights, ``[n]``."""
    n, K = len(tables), tables.shape[2]
    G, d = np.empty((K + 1, K + 1)), np.empty(K + 1)
    result = np.empty(n)
    for i in range(n):
        T, h = tables[i, 0].copy(), tables[i, 1].copy()
        result[i], _ = loss(T, h, data, free, price, work, codes, G, d)
    return result


@njit(cache=True, nogil=True)
def _keep(tables, errors, filled, T, h, error):  # type: ignore[no-untyped-def]
    """Puts a table among the best, sorted, unless it is there already; returns how many there are.

    Args:
        tables: ``[n, 2, K]``.
        errors: ``[n]``.
        filled: how many of them are in use.
        T, h, error: the newcomer.
    """
    most = len(errors)
    for i in range(filled):
        if abs(errors[i] - error) <= 1e-6 * error:
            return filled
    if filled == most and error >= errors[most - 1]:
        return filled
    i = min(filled, most - 1)
    while i > 0 and errors[i - 1] > error:
        errors[i] = errors[i - 1]
        tables[i] = tables[i - 1]
        i -= 1
    errors[i] = error
    tables[i, 0] = T
    tables[i, 1] = h
    return min(filled + 1, most)


@njit(cache=True, nogil=True)
def _regrow(  # type: ignore[no-untyped-def]
    T,
    h,
    data,
    f,
    free,
    price,
    tries,
    polish,
    iterations,
    work,
    codes,
    state,
    tables,
    errors,
    filled,
):
    """Adds one step to T, h ``[K - 1]`` in many ways; keeps the best among `tables`."""
    K = len(T) + 1
    G, d = np.empty((K + 1, K + 1)), np.empty(K + 1)
    small_G, small_d = np.empty((K, K)), np.empty(K)
    trial_T, trial_h = np.empty(K), np.empty(K)
    found, marks = np.empty((polish, 2, K)), np.full(polish, np.inf)
    count = 0
    base, n = loss(T, h, data, free, price, work, codes, small_G, small_d)
    if not np.isfinite(base):
        return filled
    old_work, old_codes = work[:, : n + 1].copy(), codes[:n].copy()
    for _ in range(tries):
        propose(T, h, n, old_work, old_codes, state, trial_T, trial_h)
        error, _pieces = loss(trial_T, trial_h, data, free, price, work, codes, G, d)
        if np.isfinite(error):
            count = _keep(found, marks, count, trial_T, trial_h, error)
    for i in range(count):
        trial_T[:] = found[i, 0]
        trial_h[:] = found[i, 1]
        error = descend(trial_T, trial_h, d, data, f, free, price, iterations, work, codes)
        if np.isfinite(error):
            filled = _keep(tables, errors, filled, trial_T, trial_h, error)
    return filled


@njit(cache=True, nogil=True)
def grow(  # type: ignore[no-untyped-def]
    before,
    filled_before,
    starts,
    data,
    f,
    free,
    price,
    beam,
    rounds,
    tries,
    polish,
    iterations,
    work,
    codes,
    state,
):
    """The best tables of K steps from the best of K - 1 and from further starts.

    Args:
        before: best tables of K - 1 steps ``[n, 2, K - 1]``, `filled_before` of them in use.
        starts: further starts ``[m, 2, K]``.
        data, f, free, price: as in `refine.descend`.
        beam: how many tables are kept.
        rounds: steps removed and regrown.
        tries: proposals for each regrowth; the best `polish` of them descend.
        iterations: of each descent.
        work, codes, state: scratch, and the state of the random numbers.

    Returns:
        Tables ``[beam, 2, K]``, their errors (infinite where unused), which start the best
        table came from (-1 if grown), and how many tables are in use.
    """
    K = before.shape[2] + 1
    tables, errors = np.empty((beam, 2, K)), np.full(beam, np.inf)
    filled, winner = 0, -1
    d = np.empty(K + 1)
    T, h = np.empty(K), np.empty(K)
    for i in range(len(starts)):
        T[:] = starts[i, 0]
        h[:] = starts[i, 1]
        error = descend(T, h, d, data, f, free, price, 4 * iterations, work, codes)
        if np.isfinite(error):
            if filled == 0 or error < errors[0]:
                winner = i
            filled = _keep(tables, errors, filled, T, h, error)
    for i in range(filled_before):
        # A step that never fires: as good as K - 1, for certain.
        T[: K - 1] = before[i, 0]
        h[: K - 1] = before[i, 1]
        T[K - 1], h[K - 1] = 3.0 + 10.0 * K, 0.0
        error = descend(T, h, d, data, f, free, price, 0, work, codes)
        if np.isfinite(error):
            if i == 0 and (filled == 0 or error < errors[0]):
                winner = -1
            filled = _keep(tables, errors, filled, T, h, error)
        best = errors[0] if filled else np.inf
        filled = _regrow(
            before[i, 0].copy(),
            before[i, 1].copy(),
            data,
            f,
            free,
            price,
            tries,
            polish,
            iterations,
            work,
            codes,
            state,
            tables,
            errors,
            filled,
        )
        if filled and errors[0] < best:
            winner = -1
    if K == 1 and filled_before == 0:
        none = np.empty(0)
        filled = _regrow(
            none,
            none,
            data,
            f,
            free,
            price,
            tries,
            polish,
            iterations,
            work,
            codes,
            state,
            tables,
            errors,
            filled,
        )
    less_T, less_h = np.empty(K - 1), np.empty(K - 1)
    for _ in range(rounds if K > 1 and filled else 0):
        # The better ones more often.
        u = _uniform(state)
        chosen = min(int(u * u * filled), filled - 1)
        gone = _choose(state, K)
        for s in range(K - 1):
            source = s if s < gone else s + 1
            less_T[s] = tables[chosen, 0, source]
            less_h[s] = tables[chosen, 1, source]
        filled = _regrow(
            less_T,
            less_h,
            data,
            f,
            free,
            price,
            tries,
            polish,
            iterations,
            work,
            codes,
            state,
            tables,
            errors,
            filled,
        )
    return tables, errors, winner, filled
