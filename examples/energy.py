# %% [markdown]
# # Spikes, operations and energy
#
# What does one image cost? Operations are counted while the network runs, and priced by what one
# operation costs on a chip (published constants). No chip is measured, and there is no single
# figure of "energy saved": it depends on what is counted. Nothing is downloaded
# (`pip install -e ".[demo]"`).

# %%
from fewspikes import evaluate, models, to_spiking
from fewspikes.inspect import count_operations, energy

CALIBRATION, TEST = 512, 450

model = models.get("resnet8_digits")
prepare = models.preprocessing("resnet8_digits")
digits = models.load_images("digits", train=True).sample(CALIBRATION, seed=0)
calibration = models.Loader(digits, prepare)
test = models.Loader(models.load_images("digits").first(TEST), prepare)

# %% [markdown]
# ## Three networks
#
# Four steps; four steps with gates, which are nearer to the original and send more spikes; and
# gates with a price on spikes, `spike_cost`, which makes the fit choose fewer of them.

# %%
networks = {
    "K = 4": to_spiking(model, calibration, steps=4),
    "K = 4, gates": to_spiking(model, calibration, steps=4, gates=3),
    "K = 4, gates, price": to_spiking(model, calibration, steps=4, gates=3, spike_cost=0.003),
}
counts = {}
for name, snn in networks.items():
    counts[name] = count_operations(snn, test)
    found = evaluate(snn, model, test, by_site=0, at=())
    image = counts[name].to_dict()["per_image"]
    print(
        f"{name}: agreement {found.spiking.agreement:.3f}, "
        f"{found.spiking.spikes_per_neuron:.2f} spikes per neuron, "
        f"{image['accumulates'] / 1e6:.2f} million additions of weights; the original takes "
        f"{image['dense_multiply_accumulates'] / 1e6:.2f} million multiplications"
    )

# %% [markdown]
# ## Energy
#
# Beside the original and a network of as many bits. Look at the rows with memory: every spike
# reads and writes the sum that it is added to, and an access costs far more than an addition.
# `costs="7nm"` takes another process, `memory="dram"` another place for the weights.

# %%
price = energy(counts["K = 4"], costs="45nm")
print(price)
rows = price.to_dict()
