"""Training of a few-spikes neuron by gradient with a triangular surrogate, compiled."""

from __future__ import annotations

import numba
import numpy as np

# Points are worked on in blocks that the processor's vector unit and first cache hold.
BLOCK = 64


@numba.njit(nogil=True, cache=True, error_model="numpy")
def train(x, f, w, start, epochs, rate, last_rate, hold):  # type: ignore[no-untyped-def]
    """Adam on the weighted squared error of one neuron; the best epoch is kept.

    The derivative of a spike is the triangle max(0, 1 - |v - T|). Forward and backward pass are
    written by hand (Jeong et al. 2024, arXiv 2409.00044, stages 1 and 3).

    Args:
        x, f, w: points, targets and weights, float32 ``[P]``, P a multiple of 64.
        start: T, h and d to start from, float64 ``[3, K]``.
        epochs: steps of Adam.
        rate, last_rate: learning rate; after the share `hold` of the epochs it falls from the
            one to the other along a cosine.

    Returns:
        T, h and d of the best epoch ``[3, K]``, the start among them, and its loss.
    """
    steps, blocks = start.shape[1], x.shape[0] // BLOCK
    p = start.copy()
    best = start.copy()
    best_loss = np.inf
    first, second, gradient = np.zeros((3, steps)), np.zeros((3, steps)), np.zeros((3, steps))
    q = np.empty((3, steps), np.float32)
    above = np.empty((steps, BLOCK), np.float32)
    parts = np.empty((3, steps, BLOCK), np.float32)
    losses = np.empty(BLOCK, np.float32)
    v, y = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32)
    gy, gv = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32)
    zero, one, two = np.float32(0), np.float32(1), np.float32(2)
    decay1, decay2 = 1.0, 1.0
    for epoch in range(epochs + 1):
        for i in range(3):
            for t in range(steps):
                q[i, t] = p[i, t]
        parts[:] = zero
        losses[:] = zero
        for block in range(blocks):
            part = slice(block * BLOCK, (block + 1) * BLOCK)
            xb, fb, wb = x[part], f[part], w[part]
            for j in range(BLOCK):
                v[j] = xb[j]
                y[j] = zero
            for t in range(steps):
                threshold, reset, weight, row = q[0, t], q[1, t], q[2, t], above[t]
                for j in range(BLOCK):
                    a = v[j] - threshold
                    row[j] = a
                    s = one if a > zero else zero
                    v[j] -= reset * s
                    y[j] += weight * s
            for j in range(BLOCK):
                error = y[j] - fb[j]
                scaled = wb[j] * error
                losses[j] += scaled * error
                gy[j] = two * scaled
                gv[j] = zero
            for back in range(steps):
                t = steps - 1 - back
                reset, weight, row = q[1, t], q[2, t], above[t]
                to_threshold, to_reset, to_weight = parts[0, t], parts[1, t], parts[2, t]
                for j in range(BLOCK):
                    a = row[j]
                    s = one if a > zero else zero
                    slope = max(zero, one - abs(a)) * (gy[j] * weight - gv[j] * reset)
                    to_threshold[j] -= slope
                    to_reset[j] -= gv[j] * s
                    to_weight[j] += gy[j] * s
                    gv[j] += slope
        loss = 0.0
        for j in range(BLOCK):
            loss += losses[j]
        if loss < best_loss:
            best_loss = loss
            for i in range(3):
                for t in range(steps):
                    best[i, t] = p[i, t]
        if epoch == epochs:
            break
        for i in range(3):
            for t in range(steps):
                total = 0.0
                for j in range(BLOCK):
                    total += parts[i, t, j]
                gradient[i, t] = total
        decay1 *= 0.9
        decay2 *= 0.999
        done = epoch / epochs
        current = rate
        if done >= hold:
            falling = 0.5 * (1 + np.cos(np.pi * (done - hold) / (1 - hold)))
            current = last_rate + (rate - last_rate) * falling
        for i in range(3):
            for t in range(steps):
                g = gradient[i, t]
                first[i, t] = 0.9 * first[i, t] + 0.1 * g
                second[i, t] = 0.999 * second[i, t] + 0.001 * g * g
                step = first[i, t] / (1 - decay1)
                p[i, t] -= current * step / (np.sqrt(second[i, t] / (1 - decay2)) + 1e-8)
    return best, best_loss
