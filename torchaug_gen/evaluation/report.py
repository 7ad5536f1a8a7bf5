"""Report: all that was measured of a synthesizer, for people as a page and for machines as JSON."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import Tensor

from torchaug_gen.evaluation.artefacts import Artefacts
from torchaug_gen.evaluation.classification_score import ClassificationScore
from torchaug_gen.evaluation.curves import Curves
from torchaug_gen.evaluation.distance_result import Distances
from torchaug_gen.evaluation.findings import Finding, headline, judge
from torchaug_gen.evaluation.memorisation import Memorisation
from torchaug_gen.synthesis.runs import write_atomically
from torchaug_gen.synthesis.training.data import TrainingImages

FORMAT = "torchaug_gen.report"
VERSION = 1


@dataclass(frozen=True, eq=False)
class Spectra:
    """Mean azimuthally averaged log power spectra, relative to each image's variance.

    Attributes:
        real: ``(R,)`` float64 of real images, from frequency 0 to the Nyquist frequency, in nats.
        synthetic: the same of synthetic images.
    """

    real: Tensor
    synthetic: Tensor


@dataclass(frozen=True, eq=False)
class Report:
    """All that was measured of a synthesizer.

    Attributes:
        run: where the synthesizer came from, as it was given.
        data: the training images, as they were given.
        heldout: the held-out images, or ``None`` without any.
        settings: ``features``, ``n``, ``seed``, ``image_shape`` and ``num_classes``.
        train: the training images, ``(N, C, H, W)`` uint8.
        heldout_images: the held-out images, or ``None``.
        synthetic: the synthetic images, with their labels.
        distances: of synthetic images from real ones, or ``None``.
        baseline: of other real images from the same ones: what synthetic images could reach at best, or ``None``.
        artefacts: what was found, or ``None``.
        memorisation: by feature space; empty where nothing was measured.
        usefulness: what classifiers learn from synthetic images alone, or ``None``.
        spectra: of both, or ``None``.
        curves: of the training, or ``None``.
        unmeasured: why a part is missing, by its name.
        notes: what these figures cannot bear, in sentences.
    """

    run: str
    data: str
    heldout: str | None
    settings: Mapping[str, Any]
    train: TrainingImages
    heldout_images: TrainingImages | None
    synthetic: TrainingImages
    distances: Distances | None
    baseline: Distances | None
    artefacts: Artefacts | None
    memorisation: Mapping[str, Memorisation]
    usefulness: ClassificationScore | None
    spectra: Spectra | None
    curves: Curves | None
    unmeasured: Mapping[str, str]
    notes: tuple[str, ...]

    @cached_property
    def findings(self) -> tuple[Finding, ...]:
        """What the figures mean."""
        return judge(
            distances=self.distances,
            baseline=self.baseline,
            artefacts=self.artefacts,
            memorisation=self.memorisation,
            curves=self.curves,
            usefulness=self.usefulness,
            unmeasured=self.unmeasured,
        )

    @property
    def overall(self) -> Finding:
        """One finding for all of them."""
        return headline(self.findings)

    def __str__(self) -> str:
        lines = [self.overall.sentence]
        lines += [f"  {finding.level:8}{finding.name:11}{finding.sentence}" for finding in self.findings]
        return "\n".join([*lines, *(f"Note: {note}" for note in self.notes)])

    def as_json(self) -> dict[str, Any]:
        """Return the figures as JSON can hold them, without pictures.

        ======================  ====================================================================================
        key                     value
        ======================  ====================================================================================
        ``format, version``     ``"torchaug_gen.report"`` and 1; a new version is one that old readers would misread
        ``package_version``     of this package
        ``run, data, heldout``  as they were given; ``heldout`` may be ``null``
        ``settings``            ``features``, ``n``, ``seed``, ``image_shape``, ``num_classes``
        ``overall``             ``level`` and ``sentence``
        ``findings``            list of ``name``, ``level`` (good, caution, bad, unknown), ``sentence``, ``value``
                                and ``limit`` (the number that decided and what it was held against, or ``null``)
        ``distances``           :meth:`Distances.as_json` of synthetic images, or ``null``
        ``baseline``            the same of other real images in their place, or ``null``
        ``artefacts``           :meth:`Artefacts.as_json`, or ``null``; ``worst`` are positions at ``settings.seed``
        ``memorisation``        by feature space :meth:`Memorisation.as_json`; empty where not measured
        ``usefulness``          :meth:`ClassificationScore.as_json`, or ``null``
        ``spectra``             ``real`` and ``synthetic``, nats at frequencies from 0 to Nyquist, or ``null``
        ``history``             ``steps``, ``seconds``, ``last`` losses, ``rollbacks`` ``[step, reason]``, or ``null``
        ``unmeasured``          by part why it is ``null`` or empty
        ``notes``               sentences
        ======================  ====================================================================================
        """
        sides = {"real": self.spectra.real, "synthetic": self.spectra.synthetic} if self.spectra else {}
        return {
            "format": FORMAT,
            "version": VERSION,
            "package_version": version("torchaug_gen"),
            "run": self.run,
            "data": self.data,
            "heldout": self.heldout,
            "settings": dict(self.settings),
            "overall": {"level": self.overall.level, "sentence": self.overall.sentence},
            "findings": [vars(finding) for finding in self.findings],
            "distances": None if self.distances is None else self.distances.as_json(),
            "baseline": None if self.baseline is None else self.baseline.as_json(),
            "artefacts": None if self.artefacts is None else self.artefacts.as_json(),
            "memorisation": {space: result.as_json() for space, result in self.memorisation.items()},
            "usefulness": None if self.usefulness is None else self.usefulness.as_json(),
            "spectra": {name: side.tolist() for name, side in sides.items()} or None,
            "history": None if self.curves is None else self.curves.as_json(),
            "unmeasured": dict(self.unmeasured),
            "notes": list(self.notes),
        }

    def to_json(self) -> str:
        """Return :meth:`as_json` as text."""
        return json.dumps(self.as_json(), indent=2, allow_nan=False) + "\n"

    def to_html(self) -> str:
        """Return one page that needs no network, no script and no other file.

        Raises:
            ModuleNotFoundError: Jinja is not installed (extra ``report``).
        """
        from torchaug_gen.evaluation.report_page import render

        return render(self)

    def save_html(self, path: str | Path) -> None:
        """Write :meth:`to_html`; the file appears whole or not at all."""
        _write(Path(path), self.to_html())

    def save_json(self, path: str | Path) -> None:
        """Write :meth:`to_json`; the file appears whole or not at all."""
        _write(Path(path), self.to_json())


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Names of files may hold bytes that are no text.
    write_atomically(path, text.encode(errors="replace"))
