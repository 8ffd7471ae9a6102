"""Descent of the exact error to its next minimum: damped Newton steps in T, h, d together.

A boundary between two pieces lies at b = T(t) + sum of the resets of the earlier steps that fired.
With outputs y left and z right of it, the error changes with b by p(b) [(y - f)^2 - (z - f)^2], so
gradient and curvature are sums over boundaries and no surrogate gradient is needed. After each
step the output weights are set to their optimum (variable projection).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from .exact_error import assign, bin_of, cholesky_solve, loss
from .problem import Array

# Half width over which the density at a boundary is taken: a histogram's single bins are noisy.
_WINDOW = 1.0 / 2048


class Derivatives(NamedTuple):
    """What `newton` writes, and `G`, which it reads.

    Args:
        G: Gram matrix of the weights, from `loss` ``[K + 1, K + 1]``.
        H: curvature in (T, h, d, y0) ``[3 K + 1, 3 K + 1]``.
        g: gradient ``[3 K + 1]``.
    """

    G: Array
    H: Array
    g: Array


@njit(cache=True, nogil=True)
def _prefix(data, row, x):  # type: ignore[no-untyped-def]
    k = bin_of(data[0], x)
    share = min(max((x - data[0, k]) / (data[0, k + 1] - data[0, k]), 0.0), 1.0)
    return data[row, k] + share * (data[row, k + 1] - data[row, k])


@njit(cache=True, nogil=True)
def _value(data, f, x):  # type: ignore[no-untyped-def]
    """f at x and its slope there, between bin centres."""
    grid = data[0]
    k = bin_of(grid, x)
    centre = 0.5 * (grid[k] + grid[k + 1])
    if x < centre and k > 0:
        k -= 1
    k = min(k, len(f) - 2)
    if k < 0:
        return f[0], 0.0
    left, right = 0.5 * (grid[k] + grid[k + 1]), 0.5 * (grid[k + 1] + grid[k + 2])
    slope = (f[k + 1] - f[k]) / (right - left)
    return f[k] + slope * (min(max(x, left), right) - left), slope


@njit(cache=True, nogil=True)
def newton(T, h, d, n, target, scratch, derivatives):  # type: ignore[no-untyped-def]
    """Gradient and curvature of the error in (T, h, d, y0), ``[3 K + 1]``.

    `scratch`, with its n pieces, `derivatives.G` and d are what `loss` left behind for T and h.
    """
    K = len(T)
    work, codes = scratch.work, scratch.codes
    data, f, price = target.data, target.f, target.price
    G, H, g = derivatives.G, derivatives.H, derivatives.g
    size = 3 * K + 1
    H[:size, :size] = 0.0
    g[:size] = 0.0
    edges, y = work[0], work[5]
    for a in range(K + 1):
        for b in range(K + 1):
            H[2 * K + a, 2 * K + b] = 2 * G[a, b]
    moving = np.empty(K, np.int64)
    for i in range(n - 1):
        b = edges[i + 1]
        left, right = codes[i], codes[i + 1]
        low, high = max(b - _WINDOW, 0.0), min(b + _WINDOW, 1.0)
        p = (_prefix(data, 1, high) - _prefix(data, 1, low)) / (high - low)
        if p <= 0:
            continue
        at, slope = _value(data, f, b)
        t = 0
        differ = left ^ right
        while not differ >> t & 1:
            t += 1
        count = 0
        for s in range(t):
            if left >> s & 1:
                moving[count] = K + s
                count += 1
        moving[count] = t
        count += 1
        below, above = y[i] - at, y[i + 1] - at
        force = p * (below * below - above * above)
        if price > 0:
            often = (_prefix(data, 4, high) - _prefix(data, 4, low)) / (high - low)
            for s in range(K):
                force += price * often * ((left >> s & 1) - (right >> s & 1))
        curve = max(2 * p * (y[i + 1] - y[i]) * slope, 0.0)
        for a in range(count):
            row = moving[a]
            g[row] += force
            for c in range(count):
                H[row, moving[c]] += curve
            for s in range(K + 1):
                in_left = s == K or left >> s & 1
                in_right = s == K or right >> s & 1
                mixed = 0.0
                if in_left:
                    mixed += 2 * p * below
                if in_right:
                    mixed -= 2 * p * above
                if mixed != 0.0:
                    H[row, 2 * K + s] += mixed
                    H[2 * K + s, row] += mixed
    if not target.free:
        last = 3 * K
        for a in range(size):
            H[last, a] = 0.0
            H[a, last] = 0.0
        H[last, last] = 1.0


@njit(cache=True, nogil=True)
def descend(T, h, d, target, iterations, scratch):  # type: ignore[no-untyped-def]
    """Levenberg-Marquardt from T, h, which are overwritten with d; returns the error.

    Args:
        T, h: ``[K]``, read and written.
        d: weights and y0 ``[K + 1]``, written.
        target: see `exact_error.Target`.
        iterations: the most steps.
        scratch: written, see `exact_error.Scratch`.
    """
    K = len(T)
    size = 3 * K + 1
    G = np.empty((K + 1, K + 1))
    H, A = np.zeros((size, size)), np.zeros((size, size))
    g, step = np.zeros(size), np.zeros(size)
    trial_T, trial_h, trial_d = np.empty(K), np.empty(K), np.empty(K + 1)
    now, n = loss(T, h, target, scratch, G, d)
    if not np.isfinite(now):
        return now
    damping, stalled, fresh = 1e-3, 0, False
    for _ in range(iterations):
        if not fresh:
            newton(T, h, d, n, target, scratch, Derivatives(G, H, g))
            fresh = True
        biggest = 0.0
        for i in range(2 * K):
            biggest = max(biggest, H[i, i])
        for i in range(size):
            step[i] = -g[i]
            for j in range(size):
                A[i, j] = H[i, j]
            floor = 1e-7 * biggest + 1e-14 if i < 2 * K else 1e-11
            A[i, i] += damping * A[i, i] + floor * (1 + damping)
        accepted = False
        if cholesky_solve(A, step, size):
            for i in range(K):
                trial_T[i] = T[i] + min(max(step[i], -0.05), 0.05)
                trial_h[i] = h[i] + min(max(step[K + i], -0.05), 0.05)
            then, m = loss(trial_T, trial_h, target, scratch, G, trial_d)
            if then < now:
                accepted = True
                # A perfect table has rounding alone to lose.
                gain = (now - then) / now if now != 0.0 else 0.0
                assign(T, trial_T)
                assign(h, trial_h)
                assign(d, trial_d)
                now, n, fresh = then, m, False
                damping = max(damping * 0.3, 1e-9)
                stalled = stalled + 1 if gain < 1e-5 else 0
        if not accepted:
            damping *= 4.0
        if damping > 1e6 or stalled >= 3:
            break
    if not fresh:
        return now
    # A refused trial left its own pieces behind.
    now, n = loss(T, h, target, scratch, G, d)
    return now
