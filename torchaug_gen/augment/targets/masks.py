"""Masks: moved with the nearest pixel, in their own dtype."""

from collections.abc import Callable, Sequence
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from torchaug_gen.augment.operation import Padding
from torchaug_gen.augment.targets import tv
from torchaug_gen.augment.targets.warp import Warp

# See mask_kernels, which is not imported before it is needed.
_ROUND = 0.5 + 2.0**-30
_FAR = 2.0**40

# Integers of a dtype's size; PyTorch can index and copy these everywhere.
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}

# Runs a function of (first, last) over slices of 0..n.
Spread = Callable[[int, Callable[[int, int], None]], None]


@overload
def warp_masks(masks: Tensor, warp: Warp, *, fill: float = 0, spread: Spread | None = None) -> Tensor: ...


@overload
def warp_masks(
    masks: Sequence[Tensor], warp: Warp, *, fill: float = 0, spread: Spread | None = None
) -> list[Tensor]: ...


def warp_masks(masks: Any, warp: Warp, *, fill: float = 0, spread: Spread | None = None) -> Any:
    """Move masks as the images are moved, each output pixel showing the nearest source pixel.

    Pixels are traced through all passes before one is read, so several passes are no less sharp than one; what a pass
    does not show is not there for the next one either. On the CPU a compiled kernel does it, elsewhere PyTorch.

    Args:
        masks: ``(N, H, W)`` or ``(N, C, H, W)``, or N masks ``(H, W)`` or ``(K, H, W)`` whose sizes may differ; of any
            dtype with values of 1, 2, 4 or 8 bytes.
        warp: of N samples.
        fill: the value of what lies outside where images are filled, such as the "ignore" class.
        spread: called as ``spread(N, work)`` on the CPU; must call ``work(first, last)`` for slices that cover 0..N, in
            any threads. One slice in this thread where ``None``.

    Returns:
        Masks as they came, in dtype and class, with the outputs' height and width; a list for a list or tuple.

    Raises:
        ValueError: another number of masks than samples, masks of other shapes, a fill value that the dtype lacks.
    """
    if len(masks) != len(warp):
        raise ValueError(f"masks must be {len(warp)}, one for each image, got {len(masks)}")
    if isinstance(masks, Tensor):
        if masks.ndim not in (3, 4):
            raise ValueError(f"masks must be (N, H, W) or (N, C, H, W), got {tuple(masks.shape)}")
        return tv.like(_moved(tv.plain(masks), warp, fill, spread), masks, warp.size)
    for n, mask in enumerate(masks):
        if not isinstance(mask, Tensor) or mask.ndim not in (2, 3):
            shape = tuple(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
            raise ValueError(f"masks in a list must be (H, W) or (K, H, W), got {shape} at {n}")
    moved = _moved_list([tv.plain(mask) for mask in masks], warp, fill, spread)
    return [tv.like(result, mask, warp.size) for result, mask in zip(moved, masks, strict=True)]


def _moved(masks: Tensor, warp: Warp, fill: float, spread: Spread | None) -> Tensor:
    n, *_, height, width = masks.shape
    output = torch.empty(*masks.shape[:-2], *warp.size, dtype=masks.dtype, device=masks.device)
    if not output.numel():
        return output
    if masks.device.type == "cpu" and masks.numel():
        planes = masks.numel() // (n * height * width)
        source = masks.detach().contiguous()
        _move_by_kernel(
            source.data_ptr() + np.arange(n) * (source[0].numel() * source.element_size()),
            output.data_ptr() + np.arange(n) * (output[0].numel() * output.element_size()),
            np.tile(np.array([planes, height, width]), (n, 1)),
            warp,
            value=(masks.dtype, fill),
            spread=spread,
        )
        return output
    taps = _taps(warp, np.tile(np.array([height, width]), (n, 1)), masks.device)
    return read_taps(masks.reshape(n, -1, height * width), taps, fill).reshape(output.shape)


def _moved_list(masks: list[Tensor], warp: Warp, fill: float, spread: Spread | None) -> list[Tensor]:
    size = warp.size
    sizes = np.array([mask.shape[-2:] for mask in masks], np.int64).reshape(-1, 2)
    outputs = [mask.new_empty(*mask.shape[:-2], *size) for mask in masks]
    by_kernel = [n for n, mask in enumerate(masks) if mask.device.type == "cpu" and mask.numel()]
    for dtype in {masks[n].dtype for n in by_kernel}:
        rows = [n for n in by_kernel if masks[n].dtype is dtype]
        sources = [masks[n].detach().contiguous() for n in rows]
        _move_by_kernel(
            np.array([source.data_ptr() for source in sources]),
            np.array([outputs[n].data_ptr() for n in rows]),
            np.array([(source.numel() // (h * w), h, w) for source in sources for h, w in [source.shape[-2:]]]),
            warp.take(rows),
            value=(dtype, fill),
            spread=spread,
        )
    for n in sorted(set(range(len(masks))) - set(by_kernel)):
        taps = _taps(warp.take([n]), sizes[n : n + 1], masks[n].device)
        planes = int(np.prod(masks[n].shape[:-2]))
        moved = read_taps(masks[n].reshape(1, planes, int(sizes[n].prod())), taps, fill)
        outputs[n] = moved.reshape(outputs[n].shape)
    return outputs


def _move_by_kernel(
    sources: npt.NDArray[Any],
    targets: npt.NDArray[Any],
    shapes: npt.NDArray[Any],
    warp: Warp,
    *,
    value: tuple[torch.dtype, float],
    spread: Spread | None,
) -> None:
    from torchaug_gen.augment.targets.mask_kernels import move

    if (shapes[:, 1] * shapes[:, 2] >= 2**31).any():
        raise ValueError(f"masks must have less than 2**31 pixels, got {shapes[:, 1:].max(axis=0).tolist()}")
    arguments = (
        np.ascontiguousarray(sources, np.int64),
        np.ascontiguousarray(targets, np.int64),
        np.ascontiguousarray(shapes, np.int64),
        value[0].itemsize,
        _fill_bits(*value),
        *warp.size,
        np.ascontiguousarray(warp.matrix, np.float64),
        np.ascontiguousarray(warp.passes, np.int32),
        *(np.ascontiguousarray(x, np.int32) for x in (warp.sizes, warp.padding, warp.canvas, warp.canvas_padding)),
    )

    def work(first: int, last: int) -> None:
        move(first, last, *arguments)

    if spread is None:
        work(0, len(sources))
    else:
        spread(len(sources), work)


def _fill_value(dtype: torch.dtype, fill: float) -> Tensor:
    try:
        value = torch.tensor(fill, dtype=dtype)
    except (RuntimeError, OverflowError):
        value = torch.zeros((), dtype=dtype)
    if not dtype.is_floating_point and value.item() != fill:
        raise ValueError(f"fill must be a value of {dtype}, got {fill}")
    return value


def _fill_bits(dtype: torch.dtype, fill: float) -> int:
    return int(_fill_value(dtype, fill).view(_BITS[dtype.itemsize]))


def read_taps(planes: Tensor, taps: Tensor, fill: float) -> Tensor:
    """Return the pixels ``(N, C, h·w)`` of planes ``(N, C, H·W)`` at taps ``(N, h·w)``, ``fill`` where these are -1."""
    n, count, pixels = planes.shape
    bits = planes.detach().contiguous().view(_BITS[planes.element_size()])
    if pixels == 0:
        return torch.full((n, count, taps.shape[1]), fill, dtype=planes.dtype, device=planes.device)
    index = taps.clamp(min=0)[:, None].expand(n, count, -1)
    value = _fill_bits(planes.dtype, fill)
    return bits.gather(2, index).masked_fill_((taps < 0)[:, None], value).view(planes.dtype)


def _taps(warp: Warp, sources: npt.NDArray[Any], device: torch.device) -> Tensor:
    """Return where in its source each output pixel comes from, through all passes: ``(N, h·w)`` int64, -1 for fill."""
    height, width = warp.size
    y = torch.arange(height, dtype=torch.float64, device=device)[:, None].expand(height, width)
    x = torch.arange(width, dtype=torch.float64, device=device)[None].expand(height, width)
    x, y = (axis.reshape(1, -1).expand(len(warp), -1) for axis in (x, y))
    lost = torch.zeros_like(x, dtype=torch.bool)

    def upload(array: npt.NDArray[Any]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(device, non_blocking=True)

    for p in range(int(warp.passes.max()) - 1, -1, -1):
        active = upload(warp.passes > p)[:, None]
        m = upload(warp.matrix[:, p])[:, :, :, None].unbind(1)
        u, v, w = (row[:, 0] * x + row[:, 1] * y + row[:, 2] for row in m)
        rule = upload(warp.padding[:, p])[:, None]
        left, top, right, bottom = upload(warp.canvas[:, p].astype(np.float64)).unbind(1)
        moved_x, lost_x = _folded(u / w, left[:, None], right[:, None], rule)
        moved_y, lost_y = _folded(v / w, top[:, None], bottom[:, None], rule)
        lost = lost | (active & (lost_x | lost_y))
        x, y = torch.where(active, moved_x, x), torch.where(active, moved_y, y)
        inner = upload(warp.canvas_padding[:, p])[:, None]
        if p > 0:
            extent = upload(warp.sizes[:, p - 1].astype(np.float64))
            zero = torch.zeros_like(extent[:, :1])
            moved_x, lost_x = _folded(x, zero, extent[:, 1:], inner)
            moved_y, lost_y = _folded(y, zero, extent[:, :1], inner)
            lost = lost | (active & (lost_x | lost_y))
            x, y = torch.where(active, moved_x, x), torch.where(active, moved_y, y)
    extent = upload(sources.astype(np.float64))
    column, lost_x = _folded_index((x + _ROUND).floor(), extent[:, 1:], inner)
    row, lost_y = _folded_index((y + _ROUND).floor(), extent[:, :1], inner)
    return torch.where(lost | lost_x | lost_y, -1, (row * extent[:, 1:] + column).long())


def _folded(x: Tensor, low: Tensor, high: Tensor, rule: Tensor) -> tuple[Tensor, Tensor]:
    """Return where coordinates show within low..high - 1, and which of them show the fill value."""
    x = torch.nan_to_num(x, nan=-_FAR).clamp(-_FAR, _FAR)
    n = high - low
    tap = (x + _ROUND).floor()
    lost = (rule == Padding.FILL) & ((tap < low) | (tap >= high))
    turn = (2 * (n - 1)).clamp(min=1)
    reflected = (x - low).remainder(turn)
    reflected = low + torch.where(reflected > n - 1, turn - reflected, reflected)
    reflected = torch.where(n == 1, low.expand_as(reflected), reflected)
    symmetric = (x - low + 0.5).remainder(2 * n)
    symmetric = low - 0.5 + torch.where(symmetric > n, 2 * n - symmetric, symmetric)
    symmetric = torch.minimum(torch.maximum(symmetric, low), high - 1)
    border = torch.minimum(torch.maximum(x, low), high - 1)
    folded = torch.where(rule == Padding.BORDER, border, x)
    folded = torch.where(rule == Padding.REFLECT, reflected, folded)
    return torch.where(rule == Padding.SYMMETRIC, symmetric, folded), lost


def _folded_index(i: Tensor, extent: Tensor, rule: Tensor) -> tuple[Tensor, Tensor]:
    """Return where whole pixels show within 0..extent - 1, and which of them show the fill value."""
    outside = (i < 0) | (i >= extent)
    turn = (2 * (extent - 1)).clamp(min=1)
    reflected = i.remainder(turn)
    reflected = torch.where(reflected >= extent, turn - reflected, reflected)
    reflected = torch.where(extent == 1, torch.zeros_like(reflected), reflected)
    symmetric = i.remainder(2 * extent)
    symmetric = torch.where(symmetric >= extent, 2 * extent - 1 - symmetric, symmetric)
    border = torch.minimum(i.clamp(min=0), extent - 1)
    folded = torch.where(rule == Padding.REFLECT, reflected, border)
    return torch.where(rule == Padding.SYMMETRIC, symmetric, folded), outside & (rule == Padding.FILL)
