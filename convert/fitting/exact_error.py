"""The exact error of a few-spikes neuron under a histogram.

For given thresholds T and resets h the output is constant on pieces of the input range. The pieces
are found by splitting intervals step by step: an interval whose membrane potential is x - o splits
at x = T(t) + o, and the part above goes on with o + h(t). With prefix sums of p, p f and p f^2 a
piece's share of the error costs two look-ups, and the best output weights d are a weighted least
squares problem with K unknowns. No grid is evaluated.

Everything here is compiled; inputs are scaled to [0, 1] (`scaled.Scaled`).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from .problem import Array

MOST_PIECES = 1 << 13


class Target(NamedTuple):
    """What a table is fitted to.

    Args:
        data: rows grid, P, F, Q, N: bin edges and prefix sums of p, p f, p f^2 and of how often
            inputs occur, ``[5, B + 1]``.
        f: function on the bins ``[B]``.
        free: whether y0 may differ from 0.
        price: of one expected spike.
    """

    data: Array
    f: Array
    free: bool
    price: float


class Scratch(NamedTuple):
    """Work space of one thread, where `loss` leaves the pieces of a table.

    Args:
        work: rows edges, offsets, three moments, outputs, and how often inputs fall in each piece
            (where spikes have a price), ``[7, MOST_PIECES + 1]``.
        codes: bit t is s(t) ``[MOST_PIECES]``.
    """

    work: Array
    codes: npt.NDArray[np.int64]


def scratch() -> Scratch:
    """Work space for one thread."""
    return Scratch(np.empty((7, MOST_PIECES + 1)), np.empty(MOST_PIECES, np.int64))


@njit(cache=True, nogil=True)
def assign(target, source):  # type: ignore[no-untyped-def]
    """Writes ``source [n]`` into ``target [n]``.

    A slice on the left would check the shapes, and compile for seconds what words its error.
    """
    for i in range(len(target)):
        target[i] = source[i]


@njit(cache=True, nogil=True)
def split(T, h, edges, offsets, codes):  # type: ignore[no-untyped-def]
    """Pieces of [0, 1] in order; returns how many, or -1 beyond `MOST_PIECES`.

    Args:
        T, h: ``[K]``.
        edges: written, ``[MOST_PIECES + 1]``.
        offsets: written, what the resets have taken from x ``[MOST_PIECES]``.
        codes: written, bit t is s(t) ``[MOST_PIECES]``.
    """
    n = 1
    edges[0], edges[1], offsets[0], codes[0] = 0.0, 1.0, 0.0, 0
    for t in range(len(T)):
        cuts = 0
        for i in range(n):
            c = T[t] + offsets[i]
            if edges[i] < c < edges[i + 1]:
                cuts += 1
        if n + cuts > MOST_PIECES:
            return -1
        # From the right, so that the pieces move into place.
        j = n + cuts
        edges[j] = edges[n]
        bit = np.int64(1) << t
        for i in range(n - 1, -1, -1):
            a, b, o, code = edges[i], edges[i + 1], offsets[i], codes[i]
            c = T[t] + o
            if c < b:
                j -= 1
                offsets[j], codes[j] = o + h[t], code | bit
                edges[j] = c if c > a else a
            if c > a:
                j -= 1
                offsets[j], codes[j], edges[j] = o, code, a
        n += cuts
    return n


@njit(cache=True, nogil=True)
def bin_of(grid, x):  # type: ignore[no-untyped-def]
    """The bin that holds x."""
    low, high = 0, len(grid) - 1
    while high - low > 1:
        middle = (low + high) >> 1
        if grid[middle] <= x:
            low = middle
        else:
            high = middle
    return low


@njit(cache=True, nogil=True)
def moments(n, edges, data, out):  # type: ignore[no-untyped-def]
    """Probability, and integrals of f and f^2, of each of n pieces.

    Args:
        n: pieces.
        edges: ``[n + 1]``.
        data: see `Target`.
        out: written, ``[3, n]``.
    """
    before = (0.0, 0.0, 0.0)
    for i in range(n):
        x = edges[i + 1]
        k = bin_of(data[0], x)
        share = (x - data[0, k]) / (data[0, k + 1] - data[0, k])
        share = min(max(share, 0.0), 1.0)
        p = data[1, k] + share * (data[1, k + 1] - data[1, k])
        f = data[2, k] + share * (data[2, k + 1] - data[2, k])
        q = data[3, k] + share * (data[3, k + 1] - data[3, k])
        out[0, i], out[1, i], out[2, i] = p - before[0], f - before[1], q - before[2]
        before = (p, f, q)


@njit(cache=True, nogil=True)
def rates(n, edges, data, out):  # type: ignore[no-untyped-def]
    """How often inputs fall in each of n pieces, written to ``out [n]``."""
    before = 0.0
    for i in range(n):
        x = edges[i + 1]
        k = bin_of(data[0], x)
        share = (x - data[0, k]) / (data[0, k + 1] - data[0, k])
        share = min(max(share, 0.0), 1.0)
        below = data[4, k] + share * (data[4, k + 1] - data[4, k])
        out[i] = below - before
        before = below


@njit(cache=True, nogil=True)
def cholesky_solve(A, b, n):  # type: ignore[no-untyped-def]
    """Solves A x = b in place of b; A is overwritten. False unless positive definite."""
    for i in range(n):
        for j in range(i + 1):
            total = A[i, j]
            for k in range(j):
                total -= A[i, k] * A[j, k]
            if i == j:
                if not total > 1e-300:
                    return False
                A[i, i] = np.sqrt(total)
            else:
                A[i, j] = total / A[j, j]
    for i in range(n):
        for k in range(i):
            b[i] -= A[i, k] * b[k]
        b[i] /= A[i, i]
    for i in range(n - 1, -1, -1):
        for k in range(i + 1, n):
            b[i] -= A[k, i] * b[k]
        b[i] /= A[i, i]
    return True


@njit(cache=True, nogil=True)
def best_weights(K, n, codes, m, free, G, d):  # type: ignore[no-untyped-def]
    """The least-squares output weights of given pieces.

    Args:
        K: steps.
        n: pieces.
        codes: ``[n]``.
        m: moments ``[3, n]``.
        free: whether y0 may differ from 0.
        G: written, the Gram matrix ``[K + 1, K + 1]``, the constant last.
        d: written, the weights and y0 ``[K + 1]``.
    """
    size = K + 1
    fired = np.empty(size, np.int64)
    for i in range(size):
        d[i] = 0.0
        for j in range(size):
            G[i, j] = 0.0
    for i in range(n):
        count = 0
        for t in range(K):
            if codes[i] >> t & 1:
                fired[count] = t
                count += 1
        if free:
            fired[count] = K
            count += 1
        for a in range(count):
            s = fired[a]
            d[s] += m[1, i]
            for b in range(a + 1):
                G[s, fired[b]] += m[0, i]
    scale = 0.0
    for i in range(size):
        scale = max(scale, G[i, i])
        for j in range(i):
            G[j, i] = G[i, j]
    A = G.copy()
    for i in range(size):
        # Steps that never fire keep weight 0; the ridge leaves the error alone to 1e-11.
        A[i, i] += 1e-11 * scale + 1e-30
    cholesky_solve(A, d, size)


@njit(cache=True, nogil=True)
def outputs(K, n, codes, d, y):  # type: ignore[no-untyped-def]
    """Output ``y [n]`` of each piece for weights and y0 ``d [K + 1]``."""
    for i in range(n):
        y[i] = d[K]
        for t in range(K):
            if codes[i] >> t & 1:
                y[i] += d[t]


@njit(cache=True, nogil=True)
def error_of(n, codes, m, y, price, often):  # type: ignore[no-untyped-def]
    """Mean squared error of pieces, plus the price of their expected spikes.

    Args:
        n: pieces.
        codes: ``[n]``.
        m: moments ``[3, n]``.
        y: outputs ``[n]``.
        price: of a spike.
        often: how often inputs fall in each piece ``[n]``; read where spikes have a price.
    """
    total = 0.0
    for i in range(n):
        total += m[2, i] - 2 * y[i] * m[1, i] + y[i] * y[i] * m[0, i]
        if price > 0:
            spikes, code = 0, codes[i]
            while code:
                spikes += code & 1
                code >>= 1
            total += price * spikes * often[i]
    return total


@njit(cache=True, nogil=True)
def loss(T, h, target, scratch, G, d):  # type: ignore[no-untyped-def]
    """Error with the best weights for T and h; d is written. Infinite beyond `MOST_PIECES`.

    Args:
        T, h: ``[K]``.
        target: see `Target`.
        scratch: written, see `Scratch`.
        G, d: written, as in `best_weights`.

    Returns:
        The error and the number of pieces.
    """
    K = len(T)
    work, codes = scratch.work, scratch.codes
    n = split(T, h, work[0], work[1], codes)
    if n < 0:
        return np.inf, 0
    moments(n, work[0], target.data, work[2:5])
    best_weights(K, n, codes, work[2:5], target.free, G, d)
    outputs(K, n, codes, d, work[5])
    if target.price > 0:
        rates(n, work[0], target.data, work[6])
    return error_of(n, codes, work[2:5], work[5], target.price, work[6]), n


@njit(cache=True, nogil=True)
def errors_of(tables, target, scratch):  # type: ignore[no-untyped-def]
    """Error of each of ``tables [n, 2, K]`` with its best weights, ``[n]``."""
    n, K = len(tables), tables.shape[2]
    G, d = np.empty((K + 1, K + 1)), np.empty(K + 1)
    result = np.empty(n)
    for i in range(n):
        T, h = tables[i, 0].copy(), tables[i, 1].copy()
        result[i], _ = loss(T, h, target, scratch, G, d)
    return result
