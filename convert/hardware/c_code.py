"""The C reference of a network's neurons and weighted layers: one file without dependencies.

Spikes are added up one by one: a spike of weight plus or minus 2^e adds or takes a shifted weight.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor

from ..graph.node_facts import size
from ..graph.regions import packet
from .neurons import WholeNeuron
from .records import Layer, Op
from .whole_network import WholeNetwork

# Weights that the file holds at most; those of further layers are in the arrays alone.
_MOST_WEIGHTS = 2_000_000
_A_LINE = 20

_FUNCTIONS = r"""
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A site: K steps, G tables, integers. A weight d is sign * 2^exponent, or any integer. */
typedef struct {
    const char *name;
    int steps, tables;
    int32_t most;                        /* largest potential */
    const int32_t *thresholds, *resets, *weights, *offsets, *gates;
} neuron;

/* A layer of weights for one image: a linear layer has height = width = 1 everywhere. */
typedef struct {
    const char *name;
    const neuron *source;                /* whose spikes it takes as they are; NULL for none */
    int in, height, width;
    int out, out_height, out_width;
    int kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, groups;
    const int32_t *weights, *bias;       /* [out][in / groups][kernel_h][kernel_w], [out] or NULL */
    const int32_t *shifts;               /* [out] */
    int saturates;
} layer;

static int32_t clamp(int64_t n, int64_t most) {
    return (int32_t)(n > most ? most : n < -most ? -most : n);
}

/* (n + 2^(s-1)) >> s: halves are rounded up; to the left where s <= 0. */
static int64_t shifted(int64_t n, int s) {
    if (s <= 0) return (int64_t)((uint64_t)n << -s);
    n += (int64_t)1 << (s - 1);
    return n >= 0 ? n >> s : ~(~n >> s);
}

/* Which table a potential runs: as many as gates lie below it. */
static int interval(const neuron *of, int32_t v) {
    int r = 0;
    for (int g = 0; g < of->tables - 1; g++) r += v > of->gates[g];
    return r;
}

/* The spikes of one potential, one bit a step. */
static uint64_t fire(const neuron *of, int32_t v, int r) {
    uint64_t spikes = 0;
    for (int t = 0; t < of->steps; t++) {
        int at = r * of->steps + t;
        if (v > of->thresholds[at]) {
            spikes |= (uint64_t)1 << t;
            v -= of->resets[at];
        }
    }
    return spikes;
}

/* The sum of weighted spikes: what the spikes of one neuron stand for. */
static int32_t decode(const neuron *of, int32_t v) {
    int r = interval(of, v);
    uint64_t spikes = fire(of, v, r);
    int32_t n = of->offsets[r];
    for (int t = 0; t < of->steps; t++)
        if (spikes >> t & 1) n += of->weights[r * of->steps + t];
    return n;
}

/* A synaptic weight times the weight of a spike. Where that is a power of two: a shift. */
static int32_t weigh(int32_t w, int32_t d) {
    uint32_t size = d < 0 ? -(uint32_t)d : (uint32_t)d;
    int32_t made;
    if (size == 0) return 0;
    if ((size & (size - 1)) == 0) {
        int e = 0;
        while (size >> e != 1) e++;
        made = (int32_t)((uint32_t)w << e);
    } else {
        made = (int32_t)((uint32_t)w * size);
    }
    return d < 0 ? -made : made;
}

/* Adds what one input sends, n at one place, to all accumulators that it reaches. */
static void send(const layer *of, int c, int y, int x, int32_t n, int32_t *sums) {
    int per_in = of->in / of->groups, per_out = of->out / of->groups, group = c / per_in;
    if (n == 0) return;
    for (int o = group * per_out; o < (group + 1) * per_out; o++)
        for (int i = 0; i < of->kernel_h; i++) {
            int a = y + of->pad_h - i * of->dilation_h;
            if (a < 0 || a % of->stride_h || a / of->stride_h >= of->out_height) continue;
            for (int j = 0; j < of->kernel_w; j++) {
                int b = x + of->pad_w - j * of->dilation_w;
                if (b < 0 || b % of->stride_w || b / of->stride_w >= of->out_width) continue;
                int32_t w = of->weights[
                    ((o * per_in + c % per_in) * of->kernel_h + i) * of->kernel_w + j];
                sums[(o * of->out_height + a / of->stride_h) * of->out_width + b / of->stride_w] +=
                    weigh(w, n);
            }
        }
}

/* The bias, before any spike. */
static void begin(const layer *of, int32_t *sums) {
    int places = of->out_height * of->out_width;
    for (int o = 0; o < of->out; o++)
        for (int p = 0; p < places; p++) sums[o * places + p] = of->bias ? of->bias[o] : 0;
}

/* Accumulators in the unit of the layer's result. */
static void end(const layer *of, int32_t *sums) {
    int places = of->out_height * of->out_width;
    for (int o = 0; o < of->out; o++)
        for (int p = 0; p < places; p++) {
            int64_t n = shifted(sums[o * places + p], of->shifts[o]);
            sums[o * places + p] = of->saturates ? clamp(n, INT32_MAX) : (int32_t)n;
        }
}

/* A layer on integers. */
static void run(const layer *of, const int32_t *n, int32_t *sums) {
    begin(of, sums);
    for (int c = 0, at = 0; c < of->in; c++)
        for (int y = 0; y < of->height; y++)
            for (int x = 0; x < of->width; x++, at++) send(of, c, y, x, n[at], sums);
    end(of, sums);
}

/* A layer on the spikes of its source, step by step: shifts and additions alone. */
static void run_on_spikes(const layer *of, const int32_t *potentials, int32_t *sums) {
    const neuron *source = of->source;
    begin(of, sums);
    for (int t = -1; t < source->steps; t++)
        for (int c = 0, at = 0; c < of->in; c++)
            for (int y = 0; y < of->height; y++)
                for (int x = 0; x < of->width; x++, at++) {
                    int32_t v = potentials[at];
                    int r = interval(source, v);
                    if (t < 0) send(of, c, y, x, source->offsets[r], sums);
                    else if (fire(source, v, r) >> t & 1)
                        send(of, c, y, x, source->weights[r * source->steps + t], sums);
                }
    end(of, sums);
}
"""

_MAIN = r"""
/* reference neuron|layer|spikes NAME: integers from stdin, integers to stdout, one a line. */
int main(int count, char **words) {
    long size = 0, room = 1024;
    int32_t *read = malloc(room * sizeof *read), *made;
    const neuron *site = NULL;
    const layer *work = NULL;
    if (count != 3) {
        fprintf(stderr, "usage: %s neuron|layer|spikes NAME\n", words[0]);
        return 2;
    }
    for (unsigned i = 0; i < sizeof neurons / sizeof *neurons; i++)
        if (neurons[i] && !strcmp(neurons[i]->name, words[2])) site = neurons[i];
    for (unsigned i = 0; i < sizeof layers / sizeof *layers; i++)
        if (layers[i] && !strcmp(layers[i]->name, words[2])) work = layers[i];
    while (scanf("%d", read + size) == 1)
        if (++size == room) read = realloc(read, (room *= 2) * sizeof *read);
    if (!strcmp(words[1], "neuron") && site) {
        for (long i = 0; i < size; i++) printf("%d\n", decode(site, read[i]));
        return 0;
    }
    if (!work || (strcmp(words[1], "layer") && (strcmp(words[1], "spikes") || !work->source))) {
        fprintf(stderr, "there is no %s of the name %s\n", words[1], words[2]);
        return 2;
    }
    if (size != (long)work->in * work->height * work->width) {
        fprintf(stderr, "%s takes %d integers, found %ld\n", words[2],
                work->in * work->height * work->width, size);
        return 2;
    }
    long results = (long)work->out * work->out_height * work->out_width;
    made = malloc(results * sizeof *made);
    if (strcmp(words[1], "spikes")) run(work, read, made);
    else run_on_spikes(work, read, made);
    for (long i = 0; i < results; i++) printf("%d\n", made[i]);
    return 0;
}
"""


def source_of(whole: WholeNetwork) -> str:
    """The C file of a network.

    Args:
        whole: the network.
    """
    neurons, layers, left = [], [], []
    parts = [f"/* {_HEAD} */", _FUNCTIONS]
    known: dict[str, str] = {}
    for layer in whole.layers:
        if layer.op is Op.NEURON:
            path = layer.numbers["path"]
            if path not in known:
                known[path] = _site(path)
                parts += _neuron(known[path], whole.neurons[path])
                neurons.append(known[path])
    room = _MOST_WEIGHTS
    for layer in whole.layers:
        if layer.op is not Op.WEIGHTS:
            continue
        room -= layer.tensors["weights"].numel()
        dims = _dims(layer)
        if dims is None or room < 0:
            left.append(layer.node.name)
            continue
        parts += _layer(layer, dims, known)
        layers.append(layer.node.name)
    if left:
        parts.append(f"/* Left out, their integers are in network.npz: {', '.join(left)} */")
    sites = ", ".join(f"&{name}" for name in neurons)
    parts.append(f"static const neuron *const neurons[] = {{{sites}}};")
    listed = ", ".join(f"&{name}" for name in layers) or "NULL"
    parts.append(f"static const layer *const layers[] = {{{listed}}};")
    return "\n".join([*parts, _MAIN])


_HEAD = "Integers and arithmetic of a few-spikes network; see docs/hardware.md. Needs C99 alone."


def _site(path: str) -> str:
    """A site's name in C."""
    return path.rpartition(".")[2]


def _array(name: str, values: Tensor) -> Iterator[str]:
    numbers = values.flatten().tolist() or [0]
    yield f"static const int32_t {name}[] = {{"
    for start in range(0, len(numbers), _A_LINE):
        yield ", ".join(str(n) for n in numbers[start : start + _A_LINE]) + ","
    yield "};"


def _neuron(name: str, neuron: WholeNeuron) -> Iterator[str]:
    for part in ("thresholds", "resets", "weights", "offsets", "gates"):
        yield from _array(f"{name}_{part}", getattr(neuron, part))
    arrays = ", ".join(
        f"{name}_{part}" for part in ("thresholds", "resets", "weights", "offsets", "gates")
    )
    tables = len(neuron.thresholds)
    yield f'static const neuron {name} = {{"{name}", {neuron.steps}, {tables}, {neuron.most},'
    yield f"    {arrays}}};"


def _dims(layer: Layer) -> list[int] | None:
    """in, height, width, out, ..., groups of a layer; None for what C isn't written for."""
    node, weights = layer.node, layer.tensors["weights"]
    name = packet(node)
    if name in ("linear", "addmm", "mm", "matmul"):
        inner, outer = weights.shape[::-1] if name == "linear" else weights.shape
        return [inner, 1, 1, outer, 1, 1, 1, 1, 1, 1, 0, 0, 1, 1, 1]
    if name != "conv2d" or node.meta["val"].dim() != 4:
        return None
    given: list[Any] = list(node.args[3:])
    defaults: list[Any] = [[1], [0], [1], 1]
    stride, padding, dilation, groups = given + defaults[len(given) :]
    if isinstance(padding, str):
        return None
    (taken,) = (read.node for read in layer.reads)
    shape, made = ([size(n) for n in n.meta["val"].shape] for n in (taken, node))
    pairs = [_pair(v) for v in (stride, padding, dilation)]
    kernel = list(weights.shape[2:])
    return [*shape[1:], *made[1:], *kernel, *pairs[0], *pairs[1], *pairs[2], groups]


def _pair(value: Sequence[int] | int) -> list[int]:
    values = [value] if isinstance(value, int) else list(value)
    return values * 2 if len(values) == 1 else values


def _layer(layer: Layer, dims: Sequence[int], known: dict[str, str]) -> Iterator[str]:
    name, weights = layer.node.name, layer.tensors["weights"]
    if packet(layer.node) in ("addmm", "mm", "matmul"):
        weights = weights.t()
    yield from _array(f"{name}_weights", weights)
    shifts = layer.tensors["shifts"]
    yield from _array(f"{name}_shifts", shifts.expand(dims[3]))
    bias = layer.tensors.get("bias")
    if bias is not None:
        yield from _array(f"{name}_bias", bias)
    (taken,) = layer.reads
    plain = taken.rescale is not None and taken.rescale.plain and not taken.saturates
    direct = plain and taken.node.op == "call_module" and str(taken.node.target) in known
    source = f"&{known[str(taken.node.target)]}" if direct else "NULL"
    numbers = ", ".join(map(str, dims))
    yield f'static const layer {name} = {{"{name}", {source}, {numbers},'
    saturates = int(layer.numbers["saturates"])
    biased = f"{name}_bias" if bias is not None else "NULL"
    yield f"    {name}_weights, {biased}, {name}_shifts, {saturates}}};"
