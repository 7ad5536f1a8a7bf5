"""Warp: where the pixels of a batch's outputs come from, through all passes, and where its source pixels go."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from torchaug_gen.augment.operation import Padding
from torchaug_gen.augment.tables import Tables

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int32]

# Of the distance between the output's centre and the horizon, where homogeneous w is 1 and 0: what lies beyond it is
# cut off before it is divided by w.
HORIZON = 1e-6

# From edges, where pixel i covers [i, i + 1), to centres, where it lies at i.
_TO_CENTRES = np.array([[1.0, 0.0, -0.5], [0.0, 1.0, -0.5], [0.0, 0.0, 1.0]])
_TO_EDGES = np.array([[1.0, 0.0, 0.5], [0.0, 1.0, 0.5], [0.0, 0.0, 1.0]])


@dataclass(frozen=True)
class Warp:
    """The geometry of a batch of N samples in at most P passes, as :class:`torchaug_gen.augment.tables.Tables` has it.

    Attributes:
        matrix: ``(N, P, 3, 3)`` float64: from a pass's output pixels to its source's, in centre coordinates.
        passes: ``(N,)`` int32: how many passes a sample has.
        sizes: ``(N, P, 2)`` int32: height and width of a pass's output.
        padding: ``(N, P)`` int32: what lies outside of the canvas.
        canvas: ``(N, P, 4)`` int32: left, top, right, bottom in source pixels.
        canvas_padding: ``(N, P)`` int32: what lies outside of the source within the canvas.
        otherwise: (h, w) of the outputs where there are no samples.
    """

    matrix: Floats
    passes: Ints
    sizes: Ints
    padding: Ints
    canvas: Ints
    canvas_padding: Ints
    otherwise: tuple[int, int] = (0, 0)

    def __len__(self) -> int:
        return len(self.passes)

    @classmethod
    def of(cls, tables: Tables) -> "Warp":
        """Return the geometry of tables."""
        t = tables
        return cls(t.matrix, t.passes, t.size, t.padding, t.canvas, t.canvas_padding)

    @classmethod
    def from_matrix(cls, matrix: Any, size: Any, *, source: Any, padding: Padding | int = Padding.FILL) -> "Warp":
        """Return the geometry of one pass.

        Args:
            matrix: ``(N, 3, 3)``: from output to source pixels, the centre of pixel (0, 0) at the origin.
            size: (h, w) of the outputs, one for all or ``(N, 2)``.
            source: (h, w) of the sources, likewise.
            padding: what lies outside of the sources.

        Raises:
            ValueError: another shape of ``matrix``, ``size`` or ``source``.
        """
        matrix = np.asarray(matrix.detach().cpu() if isinstance(matrix, Tensor) else matrix, np.float64)
        if matrix.ndim != 3 or matrix.shape[1:] != (3, 3):
            raise ValueError(f"matrix must be (N, 3, 3), got {matrix.shape}")
        n = len(matrix)
        extent, sizes = _for_each("source", source, n), _for_each("size", size, n)
        canvas = np.concatenate((np.zeros_like(extent), extent[:, ::-1]), axis=1)
        return cls(
            matrix=matrix[:, None],
            passes=np.ones(n, np.int32),
            sizes=sizes[:, None],
            padding=np.full((n, 1), int(padding), np.int32),
            canvas=canvas[:, None],
            canvas_padding=np.full((n, 1), int(Padding.FILL), np.int32),
        )

    @classmethod
    def still(cls, sizes: npt.NDArray[Any]) -> "Warp":
        """Return the geometry of images of (h, w) ``sizes``, ``(N, 2)``, that stay where they are."""
        return cls.from_matrix(np.tile(np.eye(3), (len(sizes), 1, 1)), sizes, source=sizes)

    def take(self, rows: list[int]) -> "Warp":
        """Return the geometry of the samples that ``rows`` names."""
        if rows == list(range(len(self))):
            return self
        return self._with([array[rows] for array in self.arrays])

    def then(self, following: "Warp") -> "Warp":
        """Return this geometry and, behind it, that of the same samples in a later stage, as further passes."""
        mine, theirs = (np.arange(warp.matrix.shape[1]) < warp.passes[:, None] for warp in (self, following))
        # A sample's own passes come first, what it does not use behind them.
        order = np.argsort(~np.concatenate((mine, theirs), axis=1), axis=1, kind="stable")
        rows = np.arange(len(self))[:, None]
        pairs = zip(self.arrays, following.arrays, strict=True)
        return following._with(
            [a + b if a.ndim == 1 else np.concatenate((a, b), axis=1)[rows, order] for a, b in pairs]
        )

    def _with(self, arrays: Sequence[npt.NDArray[Any]]) -> "Warp":
        names = ("matrix", "passes", "sizes", "padding", "canvas", "canvas_padding")
        changes: dict[str, Any] = dict(zip(names, arrays, strict=True))
        return replace(self, **changes)

    @property
    def arrays(self) -> tuple[npt.NDArray[Any], ...]:
        """All that has a row for each sample, in the order of the attributes."""
        return self.matrix, self.passes, self.sizes, self.padding, self.canvas, self.canvas_padding

    @cached_property
    def out_sizes(self) -> Ints:
        """``(N, 2)`` int32: height and width of each output."""
        return self.sizes[np.arange(len(self)), self.passes - 1]

    @cached_property
    def size(self) -> tuple[int, int]:
        """Height and width of the outputs.

        Raises:
            ValueError: outputs whose sizes differ.
        """
        found = sorted(set(map(tuple, self.out_sizes.tolist())))
        if len(found) > 1:
            raise ValueError(f"targets need outputs of one size, got {' and '.join(map(str, found[:3]))}")
        return found[0] if found else self.otherwise

    @cached_property
    def composed(self) -> Floats:
        """``(N, 3, 3)`` float64: from the outputs' pixels to the sources', through all passes."""
        total = self._pass(0).copy()
        for p in range(1, self.matrix.shape[1]):
            total = total @ self._pass(p)
        return total

    @cached_property
    def inverse(self) -> Floats:
        """``(N, 3, 3)`` float64: from the sources' pixels to the outputs', with w = 1 for what shows in their centre.

        Raises:
            ValueError: a matrix that has no inverse.
        """
        determinant = np.linalg.det(self.composed)
        if not (np.isfinite(determinant) & (determinant != 0)).all():
            n = int(np.flatnonzero(~np.isfinite(determinant) | (determinant == 0))[0])
            raise ValueError(
                f"boxes and keypoints need a matrix with an inverse, got {self.composed[n].tolist()} at {n}"
            )
        inverse: Any = np.linalg.inv(self.composed)
        middle = np.array([(self.size[1] - 1) / 2, (self.size[0] - 1) / 2, 1.0])
        w = self.composed[:, 2] @ middle
        # A matrix means the same times any number; this makes w positive in front of the horizon.
        return np.asarray(inverse * np.where(w == 0, 1.0, w)[:, None, None], np.float64)

    @cached_property
    def edge_inverse(self) -> Floats:
        """``inverse`` in edge coordinates, where pixel i covers [i, i + 1)."""
        return np.asarray(_TO_EDGES @ self.inverse @ _TO_CENTRES, np.float64)

    @cached_property
    def horizon(self) -> Floats | None:
        """``(N, 3)``: what lies before the horizon has ``horizon · (x, y, 1) ≥ 0``, or ``None`` where there is none."""
        last = self.edge_inverse[:, 2]
        return last - (0.0, 0.0, HORIZON) if last[:, :2].any() else None

    @cached_property
    def frames(self) -> Floats:
        """``(N, Q, 3)``: what every pass shows has ``frame · (x, y, 1) ≥ 0`` for all Q, in source edge coordinates.

        They are the canvases' edges, and the horizons of all passes but the last.
        """
        planes: list[Floats] = []
        n = len(self)
        before = np.broadcast_to(np.eye(3), (n, 3, 3))
        for p in range(self.matrix.shape[1]):
            used = (self.passes > p)[:, None]
            left, top, right, bottom = self.canvas[:, p].T.astype(np.float64)
            zero, one = np.zeros(n), np.ones(n)
            edges = ((one, zero, -left), (zero, one, -top), (-one, zero, right), (zero, -one, bottom))
            if p > 0:
                planes.append(np.where(used, before[:, 2] - (0.0, 0.0, HORIZON), (0.0, 0.0, 1.0)))
            for edge in edges:
                # A plane goes back through a map as a row times its matrix.
                pulled = (np.stack(edge, axis=1)[:, None] @ before)[:, 0]
                planes.append(np.where(used, pulled, (0.0, 0.0, 1.0)))
            if p + 1 < self.matrix.shape[1]:
                before = _TO_EDGES @ np.linalg.inv(self._pass(p)) @ _TO_CENTRES @ before
        return np.stack(planes, axis=1)

    def _pass(self, p: int) -> Floats:
        """Return the matrices of a pass, the identity where a sample does not have it."""
        matrix: Floats = np.where((self.passes > p)[:, None, None], self.matrix[:, p], np.eye(3))
        return matrix


def _for_each(name: str, size: Any, n: int) -> Ints:
    try:
        return np.broadcast_to(np.asarray(size, np.int32), (n, 2))
    except ValueError:
        raise ValueError(f"{name} must be (h, w) or ({n}, 2), got {size!r}") from None


def composed(tables: Tables) -> Floats:
    """Return ``(N, 3, 3)`` float64: from output to source pixels, through all passes of tables."""
    return Warp.of(tables).composed
