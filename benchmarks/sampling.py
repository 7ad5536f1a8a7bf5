"""How many images per second does a synthesizer draw? ``python -m benchmarks.sampling``.

Networks of the sizes that suit 28 and 64 pixels, with random weights, since only their cost counts. The rival, and
the baseline, is the same network called by hand on as many rows: ``torch.randn`` and ``net(z)`` without gradients.
What a synthesizer does beyond that is to draw latents that are functions of their position, to keep noise inside the
network within reach of the seed, to map values to [0, 1], and to check every image.

The limit is arithmetic: as many multiplications and additions as the network has, in products of square matrices.
"""

import argparse
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks import common, limits, machine, plots
from benchmarks.rounds import interleave
from torchaug_gen import Synthesizer
from torchaug_gen.synthesis.network import NetworkSynthesizer

BY_HAND = "network by hand"


def network(side: int, channels: int, width: int) -> nn.Module:
    """Return a network that doubles 7 or 8 pixels up to ``side``, latents (N, 64) to (N, channels, side, side)."""
    start = 7 if side % 7 == 0 else 8
    layers: list[nn.Module] = [nn.Linear(64, width * start * start), nn.Unflatten(1, (width, start, start))]
    while start < side:
        start *= 2
        layers += [nn.Upsample(scale_factor=2), nn.Conv2d(width, max(width // 2, 16), 3, padding=1)]
        width = max(width // 2, 16)
        layers += [nn.BatchNorm2d(width), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(width, channels, 3, padding=1), nn.Tanh()).eval()


def contestants(net: nn.Module, shape: tuple[int, int, int], chunk: int, device: str) -> dict[str, Callable[[], int]]:
    """Return ways by name to draw four chunks of images.

    Args:
        net: the network, which draws no noise of its own.
        shape: ``(C, H, W)``.
        chunk: rows at a time.
        device: where to draw.
    """
    count = 4 * chunk

    def ours(net: nn.Module, **options: bool | torch.dtype) -> NetworkSynthesizer:
        synthesizer = Synthesizer.from_module(net.to(device), latent_dim=64, image_shape=shape, chunk=chunk)
        return synthesizer.accelerate(**options)  # type: ignore[arg-type]

    def draw(synthesizer: NetworkSynthesizer) -> int:
        images, _ = synthesizer.sample(count)
        return finished(images)

    @torch.inference_mode()
    def by_hand(net: nn.Module) -> int:
        parts = [net(torch.randn(chunk, 64, device=device)) for _ in range(4)]
        return finished(torch.cat(parts))

    def finished(images: Tensor) -> int:
        limits.finish(images)
        return len(images)

    quiet = Quiet(net)
    ways: dict[str, Callable[[], int]] = {
        BY_HAND: partial(by_hand, net.to(device)),
        "ours": partial(draw, ours(net)),
        "ours, noiseless": partial(draw, ours(quiet)),
        "ours, noiseless, channels last": partial(draw, ours(copy(quiet), channels_last=True)),
        "ours, noiseless, bf16": partial(draw, ours(quiet, autocast=torch.bfloat16)),
        "ours, compiled": partial(draw, ours(copy(quiet), compile=True)),
    }
    if device == "cuda":
        ways["ours, CUDA graph"] = partial(draw, ours(net, cuda_graph=True))
        fast = ours(copy(quiet), cuda_graph=True, channels_last=True, autocast=torch.bfloat16)
        ways["ours, CUDA graph, channels last, bf16"] = partial(draw, fast)
    return ways


class Quiet(nn.Module):
    """A network that says that it draws no noise of its own."""

    draws_noise = False

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, z: Tensor) -> Tensor:
        """Return the network's images."""
        images: Tensor = self.net(z)
        return images


def copy(net: nn.Module) -> nn.Module:
    """Return a copy, whose weights can be laid out otherwise."""
    from copy import deepcopy

    return deepcopy(net)


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="how often each contestant is measured (default: 7)")
    parser.add_argument("--chunk", type=int, default=32, help="rows the network runs on at a time (default: 32)")
    parser.add_argument("--threads", type=int, default=1, help="of a CPU (default: 1)")
    parser.add_argument("--quick", action="store_true", help="two rounds, saved to results/quick")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = machine.device()
    rounds = 2 if arguments.quick else arguments.rounds
    results = {}
    for name, shape, width in (("28 px, grey", (1, 28, 28), 64), ("64 px, colour", (3, 64, 64), 256)):
        net = network(shape[1], shape[0], width).to(device)
        ways = contestants(net, shape, arguments.chunk, device)
        limit, work = limits.multiplying(net, torch.randn(arguments.chunk, 64, device=device))
        rates = interleave({**ways, limit: work}, rounds=rounds)
        results[name] = common.case(rates, baseline=BY_HAND, limit=limit)
        print(f"{name}\n{common.table(results[name]['summary'], unit='images/s')}\n", flush=True)
    settings = {"rounds": rounds, "chunk": arguments.chunk, "threads": arguments.threads}
    path = common.save("sampling", settings, results, unit="images/s", device=device, quick=arguments.quick)
    print(f"written to {path}, drawn to {plots.plot(path)[0]}")


if __name__ == "__main__":
    main()
