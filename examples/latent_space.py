"""How robust are networks to the changes that a decoder of images makes? Balls in its latent space, proved and found.

Trains a small autoencoder on 800 of the embedded images and takes the codes of others. Around each code, the nearest
one whose decoded image gets another class is searched for, and a ball without any is proved, in l2. Writes a picture.
Takes two minutes; ``--quick`` shows a small one.

Expected: attacks get about as far on all four networks, whatever they were trained against. Proofs reach farthest for
the networks trained against attacks.
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn

from certify.reference import load
from certify.surveys import latent_robustness

NETWORKS = ("plain", "noise", "pgd", "ibp")


def autoencoder(x: Tensor, latent: int, steps: int) -> tuple[nn.Module, nn.Module]:
    """An encoder and a decoder that restore images; codes have about the scale of normal ones."""
    torch.manual_seed(0)
    encoder = nn.Sequential(
        nn.Flatten(), nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, latent), nn.BatchNorm1d(latent, affine=False)
    )
    decoder = nn.Sequential(
        nn.Linear(latent, 8 * 7 * 7), nn.ReLU(), nn.Unflatten(1, (8, 7, 7)),
        nn.ConvTranspose2d(8, 8, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(8, 1, 4, 2, 1), nn.Sigmoid(),
    )  # fmt: skip
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], 3e-3)
    for _ in range(steps):
        part = x[torch.randint(len(x), (100,))]
        loss = (decoder(encoder(part)) - part).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return encoder.eval(), decoder.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--latent", type=int, default=8)
    parser.add_argument("--output", type=Path, default=Path("runs/latent_space.png"))
    options = parser.parse_args()
    names, count, steps = (("ibp",), 6, 100) if options.quick else (NETWORKS, 20, 1500)

    from matplotlib.figure import Figure

    data = load("plain")
    encoder, decoder = autoencoder(data.x[:800], options.latent, steps)
    with torch.no_grad():
        codes = encoder(data.x[800 : 800 + count])
        error = float((decoder(codes) - data.x[800 : 800 + count]).square().mean().sqrt())
    print(f"{options.latent} latent dimensions, root mean square error of restored images {error:.3f}")
    figure = Figure(figsize=(3.3 * len(names), 3.3), layout="constrained")
    axes = figure.subplots(1, len(names), squeeze=False, sharex=True, sharey=True)[0]
    for name, ax in zip(names, axes, strict=True):
        model = load(name, 1).model
        found = latent_robustness(model, decoder, codes, data.y[800 : 800 + count], steps=40, tolerance=0.05)
        assert (found.certificate.radius <= found.witness.distance).all()
        table = found.to_dataframe([0.25, 0.5, 1.0]).round(3)
        shift = float(found.shift[found.correct & found.witness.found].median())
        print(f"\n{name} network, median change of the image at the nearest error {shift:.2f} (l2)")
        print(table.to_string(index=False))
        print(found.metrics().round(3).to_string(index=False))
        found.plot(ax)
        ax.set_title(f"{name} network")
    axes[0].legend(frameon=False)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.output, dpi=90)


if __name__ == "__main__":
    main()
