# %% [markdown]
# # A vision transformer
#
# GELU, softmax and layer norms are what spiking networks find hard. Here all of them become
# neurons. `vit_small` was trained on CIFAR-10, and its weights come with the package.
#
# The images of CIFAR-10 are downloaded (170 MB) into the folder `data`. Without a connection,
# handwritten digits take their place (`pip install -e ".[demo]"`). The network has never seen such
# images, so its classes mean nothing then. But both networks can still be compared.

# %%
import numpy as np

from fewspikes import audit, evaluate, models, to_spiking

CALIBRATION, TEST = 256, 500


def enlarged(digits: models.Images) -> models.Images:
    """Digits of 8x8 gray pixels as images of 32x32 colour pixels."""
    x = digits.x.repeat(4, axis=1).repeat(4, axis=2).repeat(3, axis=3)
    return models.Images(np.ascontiguousarray(x), digits.y, "enlarged digits")


try:
    train, test = models.load_images("cifar10", train=True), models.load_images("cifar10")
    labelled = True
except models.DataError as error:
    print(f"{error}\nDigits take the place of CIFAR-10.")
    train = enlarged(models.load_images("digits", train=True))
    test = enlarged(models.load_images("digits"))
    labelled = False

model = models.get("vit_small")
prepare = models.preprocessing("vit_small")
calibration = [x for x, _ in models.Loader(train.sample(CALIBRATION, seed=0), prepare)]
batches = list(models.Loader(test.first(TEST), prepare))
images = batches[0][0]

# %% [markdown]
# ## Convert all of it
#
# Softmax is always taken apart: its exp and its division become neurons. `normalisation=True` does
# the same with layer norms, and `max_pool=True` with the row maximum in softmax. With three gates a
# neuron has four tables of thresholds, and takes one time step more; that pays on curves.

# %%
snn = to_spiking(model, calibration, steps=4, gates=3, normalisation=True, max_pool=True)
print(f"{len(snn.sites)} places have neurons, latency {snn.report.latency_steps} time steps")
print("left as it was:", snn.report.to_dict()["remaining"] or "nothing")

# %% [markdown]
# The audit doesn't trust the report: it runs the network and notes what really ran.

# %%
print(audit(snn, images))

# %% [markdown]
# ## Measure

# %%
data = batches if labelled else [x for x, _ in batches]
result = evaluate(snn, model, data, by_site=0, at=())
print(
    f"agreement {result.spiking.agreement:.3f}, "
    f"{result.spiking.spikes_per_neuron:.2f} spikes per neuron"
)
if labelled:
    print(f"accuracy {result.spiking.accuracy:.3f}, original {result.original.accuracy:.3f}")
