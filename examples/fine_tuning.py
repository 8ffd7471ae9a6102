# %% [markdown]
# # Fine-tuning at two steps
#
# With K = 2 a neuron can say four values at most, and a conversion loses much. A short training
# brings a good part back. It needs no labels: the original network's outputs are what it learns.
# Nothing is downloaded (`pip install -e ".[demo]"`).

# %%
import torch
from torch.nn import functional as F

from fewspikes import evaluate, models, to_spiking

CALIBRATION, TEST, EPOCHS, BATCH = 1347, 450, 3, 25

model = models.get("resnet8_digits")
prepare = models.preprocessing("resnet8_digits")
digits = models.load_images("digits", train=True).sample(CALIBRATION, seed=0)
images = torch.cat([x for x, _ in models.Loader(digits, prepare)])
test = models.Loader(models.load_images("digits").first(TEST), prepare)

snn = to_spiking(model, images[:512], steps=2)
before = evaluate(snn, model, test, by_site=0, at=()).spiking

# %% [markdown]
# ## Train
#
# A spike is a step, which has no useful slope. While it trains, a triangle around the threshold
# takes its place. The targets are computed first, since the original shares the weights that are
# trained. Each tensor moves by at most a hundredth of its own size.

# %%
with torch.no_grad():
    targets = snn.original()(images)

snn.unfreeze().train()
groups = [
    {"params": [p], "lr": 1e-2 * float(p.detach().square().mean().sqrt())}
    for p in snn.parameters()
    if p.requires_grad
]
optimiser = torch.optim.Adam(groups)
torch.manual_seed(0)
for epoch in range(EPOCHS):
    total = 0.0
    for chosen in torch.randperm(len(images)).split(BATCH):
        loss = F.mse_loss(snn(images[chosen]), targets[chosen])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        total += float(loss.detach()) * len(chosen)
    print(f"epoch {epoch + 1}: loss {total / len(images):.3f}")
snn.eval().requires_grad_(False)

# %% [markdown]
# ## What it brought
#
# Beside the model as it was trained: `model` isn't changed by any of this. `evaluate` notices that
# the spiking network has other weights now, and warns of it; here that is as it should be.

# %%
after = evaluate(snn, model, test, by_site=0, at=()).spiking
for name, found in (("converted ", before), ("fine-tuned", after)):
    print(
        f"{name}: accuracy {found.accuracy:.3f}, agreement {found.agreement:.3f}, "
        f"error {found.logit_rmse:.3f}, {found.spikes_per_neuron:.2f} spikes per neuron"
    )
