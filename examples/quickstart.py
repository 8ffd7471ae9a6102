# %% [markdown]
# # Quickstart
#
# A small ResNet that reads handwritten digits becomes a spiking network. Its trained weights come
# with the package, and the digits with scikit-learn: nothing is downloaded
# (`pip install -e ".[demo]"`).

# %%
import torch

from fewspikes import evaluate, load, models, to_spiking

CALIBRATION, TEST = 512, 450

model = models.get("resnet8_digits")
prepare = models.preprocessing("resnet8_digits")  # how an image becomes the model's input
digits = models.load_images("digits", train=True).sample(CALIBRATION, seed=0)
calibration = models.Loader(digits, prepare)
test = models.Loader(models.load_images("digits").first(TEST), prepare)

# %% [markdown]
# ## Convert
#
# Each SiLU becomes neurons of K = 4 time steps; a second set of neurons with K = 8 is fitted beside
# them. Calibration looks at images without their labels, to see which values arrive where. The
# report has a row for each place that has neurons now, and lists what doesn't spike: nothing here.

# %%
snn = to_spiking(model, calibration, steps=[4, 8])
print(snn.report)

# %% [markdown]
# ## Measure
#
# *Agreement* is the share of images on which both networks give the same class.

# %%
result = evaluate(snn, model, test)
print(f"original: accuracy {result.original.accuracy:.3f}")
for steps, row in ((4, result.spiking), (8, result.by_K[0])):
    print(
        f"K = {steps}: accuracy {row.accuracy:.3f}, agreement {row.agreement:.3f}, "
        f"{row.spikes_per_neuron:.2f} spikes per neuron"
    )
result.plot("quickstart.png")

# %% [markdown]
# ## Use it
#
# It is called like the model, with batches of any size.

# %%
images, labels = next(iter(test))
print("predicted", snn(images).argmax(1)[:10].tolist())
print("written  ", labels[:10].tolist())

# %% [markdown]
# ## One neuron
#
# A site's neurons share K thresholds, resets and output weights. What they say is a staircase near
# the function.

# %%
name, neuron = next(iter(snn.sites.items()))
x = torch.linspace(-4, 4, 9)
print(f"{name}: thresholds {[round(t, 2) for t in neuron.thresholds.tolist()]}")
print("input ", x.tolist())
print("neuron", [round(y, 2) for y in neuron(x).tolist()])
print("SiLU  ", [round(y, 2) for y in torch.nn.functional.silu(x).tolist()])

# %% [markdown]
# ## Keep it
#
# The file needs neither the model nor its code.

# %%
snn.save("digits.fsnn")
again = load("digits.fsnn")
print("the same outputs:", torch.equal(again(images), snn(images)))
