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
# ## As it is
#
# With three gates a neuron has four tables of thresholds, and takes one time step more. That pays
# on curves. Softmax is taken apart: its exp and its division are neurons. Norms stay as they are,
# and so does the row maximum in softmax. The audit runs the network and notes what really ran.

# %%
plain = to_spiking(model, calibration, steps=4, gates=3)
print(audit(plain, images))

# %% [markdown]
# ## All of it
#
# With `normalisation=True` and `max_pool=True` nothing nonlinear remains outside neurons. It costs
# time steps: there are more neurons one behind the other.

# %%
whole = to_spiking(model, calibration, steps=4, gates=3, normalisation=True, max_pool=True)
print(audit(whole, images))

# %%
data = batches if labelled else [x for x, _ in batches]
results = {}
for name, snn in (("as it is", plain), ("all of it", whole)):
    results[name] = found = evaluate(snn, model, data, by_site=0, at=())
    print(
        f"{name}: agreement {found.spiking.agreement:.3f}, "
        f"{found.spiking.spikes_per_neuron:.2f} spikes per neuron, "
        f"{snn.report.latency_steps} time steps from image to class"
    )
    if labelled:
        print(f"  accuracy {found.spiking.accuracy:.3f}, original {found.original.accuracy:.3f}")
