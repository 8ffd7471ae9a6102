# %% [markdown]
# # A language model
#
# `byte_llama` is a small language model in the shape of Llama (RMS norms, rotary positions, SwiGLU)
# that reads and writes bytes. It was trained on Shakespeare, and its weights come with the package.
# Nothing is downloaded: it is calibrated on texts that it writes by itself.

# %%
import torch

from fewspikes import evaluate, models, to_spiking
from models.byte_llama import generate

TEXTS, LENGTH, WRITTEN = 16, 128, 160

HAMLET = b"""To be, or not to be, that is the question:
Whether 'tis nobler in the mind to suffer
The slings and arrows of outrageous fortune,
Or to take arms against a sea of troubles
And by opposing end them. To die, to sleep,
No more; and by a sleep to say we end
The heart-ache and the thousand natural shocks
That flesh is heir to: 'tis a consummation
Devoutly to be wish'd. To die, to sleep;
To sleep, perchance to dream. Ay, there's the rub:
For in that sleep of death what dreams may come,
When we have shuffled off this mortal coil,
Must give us pause: there's the respect
That makes calamity of so long life.
"""

model = models.get("byte_llama")


def tokens(texts: list[bytes]) -> torch.Tensor:
    """Texts of one length as a batch of numbers; a byte is a token."""
    return torch.tensor([list(text) for text in texts])


# %% [markdown]
# ## Calibrate on its own texts
#
# Each begins with another letter, and is as long as the texts that the network will get.

# %%
letters = [bytes([ord("A") + i]) for i in range(TEXTS)]
own = [generate(model, letter, LENGTH - 1, window=LENGTH, seed=0) for letter in letters]
print(own[0].decode(errors="replace"))
snn = to_spiking(model, tokens(own).split(8), steps=4, gates=3, normalisation=True)
print(
    f"{len(snn.sites)} places have neurons; relative error {snn.report.output_errors[0].error:.3f}"
)

# %% [markdown]
# ## Measure on Hamlet
#
# *Perplexity* is how many bytes the model hesitates between, so to say; less is better.
# *Divergence* is how far the two networks' guesses for the next byte are apart (0: not at all).

# %%
blocks = [HAMLET[i : i + LENGTH] for i in range(0, len(HAMLET) - LENGTH + 1, LENGTH)]
result = evaluate(snn, model, [tokens(blocks)], metric="perplexity", by_site=0, at=())
print(f"original {result.original.perplexity:.2f}, spiking {result.spiking.perplexity:.2f}")
print(f"divergence {result.spiking.divergence:.4f}, agreement {result.spiking.agreement:.3f}")

# %% [markdown]
# ## Let both write
#
# From the same prompt and the same random numbers. The network was calibrated on one length, so
# `padded=True` fills up what is shorter.

# %%
written = {}
for name, network in (("original", model), ("spiking", snn)):
    written[name] = generate(network, b"ROMEO:\n", WRITTEN, window=LENGTH, padded=True, seed=1)
    print(f"--- {name}\n{written[name].decode(errors='replace')}")
