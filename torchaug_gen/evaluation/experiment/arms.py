"""Arms: what the same classifier is trained on, one beside the other."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from torchaug_gen.evaluation.usefulness import HELPED, HURT

SOURCES = ("vae", "gan", "vary", "vary-residual", "interpolate", "interpolate-residual", "repeats", "extra")
# Which sources need which trained synthesizer.
_VAE_SOURCES = ("vae", "vary", "vary-residual", "interpolate", "interpolate-residual")

CONTROL, QUESTION, SYNTHETIC_ONLY = "control", "question", "synthetic only"


@dataclass(frozen=True, kw_only=True)
class Arm:
    """What a classifier is trained on.

    Attributes:
        title: the arm in words.
        source: where the items in the synthetic slots come from: a VAE's prior (``"vae"``), a GAN, real images varied
            (``"vary"``: perturbed codes; ``"interpolate"``: towards another image of the class; with ``-residual`` the
            real image keeps what the VAE cannot draw), the training images again (``"repeats"``), or real images
            beyond the training set (``"extra"``); ``None``: there are no such slots.
        gate: what they must pass: ``"classifier"``, one trained on the same real images; ``"pretrained"``, one on
            ImageNet features; or ``None``.
        augment: warp and recolour all rows.
        synthetic_weight: weight of a synthetic row in the loss.
        normalisation: of the classifier; see :class:`torchaug_gen.evaluation.learner.LearnerConfig`.
        only: train on nothing but what the source draws.
        validated: mix them in only where :func:`torchaug_gen.choose_fraction` finds, on folds of the training images,
            that they gain; a source is trained for each fold. Has no gate.
        baseline: the arm that it is compared with; ``None`` for the one that nothing is below.
        role: ``"control"``, ``"question"`` or ``"synthetic only"``.
    """

    title: str
    source: str | None = None
    gate: str | None = None
    augment: bool = True
    synthetic_weight: float = 1.0
    normalisation: str = "batch"
    only: bool = False
    validated: bool = False
    baseline: str | None = "augmented"
    role: str = QUESTION

    def __post_init__(self) -> None:
        if self.validated and (self.needs is None or self.gate is not None or self.only):
            raise ValueError(f"a validated arm must mix in what a synthesizer draws, without a gate, got {self}")

    @property
    def needs(self) -> str | None:
        """The kind of synthesizer that must be trained for it: ``"vae"``, ``"gan"`` or ``None``."""
        return "vae" if self.source in _VAE_SOURCES else "gan" if self.source == "gan" else None

    def as_key(self) -> dict[str, Any]:
        """Return what decides a result: the fields that are not as usual, so that one more field changes no key."""
        deciding = (each for each in fields(self) if each.name not in ("title", "baseline", "role"))
        return {each.name: value for each in deciding if (value := getattr(self, each.name)) != each.default}


ARMS: dict[str, Arm] = {
    "real": Arm(title="real, not augmented", augment=False, role=CONTROL),
    "augmented": Arm(title="real + augmentation", baseline=None, role=CONTROL),
    "oversampled": Arm(title="+ repeats of the training images", source="repeats", role=CONTROL),
    "extra-real": Arm(title="+ further real images", source="extra", role=CONTROL),
    "vae": Arm(title="+ VAE", source="vae"),
    "gan": Arm(title="+ GAN", source="gan"),
    "vary": Arm(title="+ vary, no residual", source="vary"),
    "vary-residual": Arm(title="+ vary, residual kept", source="vary-residual"),
    "interpolate": Arm(title="+ interpolation, no residual", source="interpolate"),
    "interpolate-residual": Arm(title="+ interpolation, residual kept", source="interpolate-residual"),
    "gated": Arm(title="+ VAE, gated by a classifier", source="vae", gate="classifier"),
    "gated-pretrained": Arm(title="+ VAE, gated by pretrained features", source="vae", gate="pretrained"),
    "gated-vary": Arm(title="+ vary with residual, gated", source="vary-residual", gate="classifier"),
    "gated-interpolate": Arm(
        title="+ interpolation with residual, gated", source="interpolate-residual", gate="classifier"
    ),
    "chosen": Arm(title="+ VAE, where validation finds a gain", source="vae", validated=True),
    "vae-half-weight": Arm(title="+ VAE at half the loss weight", source="vae", synthetic_weight=0.5),
    "vae-fifth-weight": Arm(title="+ VAE at a fifth of the loss weight", source="vae", synthetic_weight=0.2),
    "vae-own-norm": Arm(title="+ VAE, batch norm of its own", source="vae", normalisation="separate"),
    "vary-own-norm": Arm(
        title="+ vary, residual, batch norm of its own", source="vary-residual", normalisation="separate"
    ),
    "interpolate-own-norm": Arm(
        title="+ interpolation, residual, batch norm of its own",
        source="interpolate-residual",
        normalisation="separate",
    ),
    "gated-own-norm": Arm(
        title="+ gated VAE, batch norm of its own", source="vae", gate="classifier", normalisation="separate"
    ),
    "only-vae": Arm(title="VAE alone (CAS)", source="vae", only=True, role=SYNTHETIC_ONLY),
    "only-gan": Arm(title="GAN alone (CAS)", source="gan", only=True, role=SYNTHETIC_ONLY),
    "only-gated": Arm(title="gated VAE alone (CAS)", source="vae", gate="classifier", only=True, role=SYNTHETIC_ONLY),
    "only-vary-residual": Arm(
        title="varied images alone (CAS)", source="vary-residual", only=True, role=SYNTHETIC_ONLY
    ),
}  # fmt: skip

# In the order of their importance, in which they are run.
USUAL = ("real", "augmented", "vae", "vary-residual", "gated", "extra-real", "oversampled", "vary", "only-vae")
QUICK = ("real", "augmented", "vae", "vary-residual", "gated")


def said_outcome(name: str, outcome: str) -> str:
    """Return what came of comparing an arm with its baseline; only what was added can help or hurt."""
    if ARMS[name].role == QUESTION:
        return outcome
    return {HELPED: "higher", HURT: "lower"}.get(outcome, outcome)


def check_arms(names: Sequence[str]) -> tuple[str, ...]:
    """Return arms with the baselines that they need, each once and a baseline before what it is compared with.

    Raises:
        ValueError: no arm, or an unknown one.
    """
    if not names:
        raise ValueError(f"arms must name at least one of {', '.join(ARMS)}, got none")
    found: dict[str, None] = {}
    for name in names:
        if name not in ARMS:
            raise ValueError(f"arms must be of {', '.join(ARMS)}, got {name!r}")
        chain = [name]
        while (below := ARMS[chain[-1]].baseline) is not None:
            chain.append(below)
        # "augmented" first of all, "real" before the others where it was asked for first.
        for each in reversed(chain):
            found.setdefault(each)
    return tuple(found)
