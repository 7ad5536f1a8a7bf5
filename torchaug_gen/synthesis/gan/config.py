"""GanConfig: how a generative adversarial network is trained."""

import math
from dataclasses import dataclass, replace
from typing import Any, Self, cast

from torchaug_gen.synthesis.gan.diffaugment import OPERATIONS, check_operations
from torchaug_gen.synthesis.training.data import TrainingImages
from torchaug_gen.synthesis.training.settings import TrainingSettings, check_count

RECIPES = ("r3gan", "dcgan")

# DiffAugment (Zhao et al., 2020) gains most below this many images and costs nothing much at it.
_AUGMENT_BELOW = 10_000
# Images per class below which conditioning makes modes collapse, as Shahbazi et al. (ICLR 2022) found.
_TRANSITION_BELOW = 100
_TRANSITION = 0.5
# Up to this side, steps are cheap enough for the wider networks: at 64 pixels the narrower ones make 2.4 times as many.
_SMALL = 48


@dataclass(frozen=True, kw_only=True)
class GanConfig(TrainingSettings):
    """How :func:`torchaug_gen.synthesis.gan.training.train_gan` trains.

    The defaults suit two CPU cores; on a GPU begin with :meth:`for_gpu`.

    A step takes about 0.34 s of one server core at 64 pixels without ``augment``, all steps so 23 minutes. At 28 pixels
    samples are recognisable after a minute or two; photographs at 64 need many more steps, and so a GPU.

    Fields that are ``None`` take the recipe's own value, which may depend on the data: see :meth:`resolved`.

    Args:
        recipe: ``"r3gan"``, residual networks under the relativistic pairing loss with R1 and R2, or ``"dcgan"``, the
            classic of the tutorials with the non-saturating loss, as a baseline.
        learning_rate: of Adam, for both networks, when training begins.
        learning_rate_decay: what that is divided by until training ends, along a half cosine; the paper has 4.
        beta2: Adam's β₂ when training begins, from where it rises along a half cosine to 0.99, or with ``"dcgan"`` to
            0.999, until training ends; the paper begins at 0.9. ``None`` has it there all the time. The other defaults
            were measured so, and with a constant learning rate.
        latent_dim: width of the latent vector.
        width: channels at half resolution; time grows with a little less than its square. ``None`` is 32 where the
            shorter side has up to 48 pixels, else 16; with ``"dcgan"`` 64.
        blocks: residual blocks at each resolution.
        gamma: weight γ of the gradient penalties R1 and R2 when training begins; 0 is none. ``None`` is 10 where the
            shorter side has up to 48 pixels, else 1: on photographs at 64 pixels the kernel distance to held-out ones
            was 1.13 with 1, 1.31 with 10 and 1.42 with 0.1, after 75 to 100 s, one seed each.
        gamma_decay: what γ is divided by until training ends, geometrically.
        penalty_every: steps between two penalties, each of which then counts so many times (Karras et al., "Analyzing
            and Improving the Image Quality of StyleGAN", CVPR 2020, section 3.1).
        ema_images: images after which a generator's weight in the average that is drawn from has halved, or a twentieth
            of those seen so far, where that is less; 0 draws from the generator itself.
        augment: operations of :mod:`torchaug_gen.synthesis.gan.diffaugment`; ``None`` is all below 10,000 images;
            with less than about 20 passes over them none is faster by a quarter.
        mirror: flip half of the real images left to right.
        transition: part of the steps until the class counts in full, after none of it at first; ``None`` is a half
            where there are fewer than 100 images per class, else 0.

    The other fields are those of :class:`torchaug_gen.synthesis.training.settings.TrainingSettings`.

    Raises:
        ValueError: a field out of its range, named.
    """

    steps: int = 4000
    recipe: str = "r3gan"
    learning_rate: float | None = None
    learning_rate_decay: float = 1.0
    beta2: float | None = None
    latent_dim: int | None = None
    width: int | None = None
    blocks: int = 1
    gamma: float | None = None
    gamma_decay: float = 10.0
    penalty_every: int = 4
    ema_images: int | None = None
    augment: tuple[str, ...] | None = None
    mirror: bool = False
    transition: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.recipe not in RECIPES:
            raise ValueError(f"recipe must be one of {', '.join(RECIPES)}, got {self.recipe!r}")
        for name in ("latent_dim", "width", "blocks", "penalty_every"):
            if getattr(self, name) is not None:
                check_count(name, getattr(self, name))
        if self.ema_images is not None:
            check_count("ema_images", self.ema_images, least=0)
        if self.learning_rate is not None and not 0 < self.learning_rate < math.inf:
            raise ValueError(f"learning_rate must be above 0 and finite, got {self.learning_rate}")
        if self.beta2 is not None and not 0 <= self.beta2 < 1:
            raise ValueError(f"beta2 must be in [0, 1), got {self.beta2}")
        if self.gamma is not None and not 0 <= self.gamma < math.inf:
            raise ValueError(f"gamma must be at least 0 and finite, got {self.gamma}")
        for name in ("gamma_decay", "learning_rate_decay"):
            if not 1 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be at least 1 and finite, got {getattr(self, name)}")
        if self.transition is not None and not 0 <= self.transition <= 1:
            raise ValueError(f"transition must be in [0, 1], got {self.transition}")
        if self.augment is not None:
            check_operations(self.augment)

    @classmethod
    def for_gpu(cls, **changes: Any) -> Self:
        """Return a configuration for one GPU, larger and longer than the defaults: 13 million images.

        Its sizes are chosen after those of the paper's small networks; they were not tuned on one.

        Args:
            **changes: fields that differ.
        """
        fields = {"device": "cuda", "steps": 50_000, "batch_size": 256, "width": 128, "blocks": 2} | changes
        return cls(**cast(Any, {"learning_rate": 2e-4, "checkpoint_every": 2500, "grid_every": 2500} | fields))

    def resolved(self, images: TrainingImages) -> Self:
        """Return the configuration with a value for every field, chosen for these images."""
        small = min(images.image_shape[1:]) <= _SMALL
        few = len(images) < _AUGMENT_BELOW
        scarce = images.num_classes is not None and len(images) < _TRANSITION_BELOW * images.num_classes
        r3gan = {
            "learning_rate": 1e-3,
            "latent_dim": 64,
            "width": 32 if small else 16,
            "gamma": 10.0 if small else 1.0,
            "ema_images": 10_000,
            "augment": OPERATIONS if few else (),
            "transition": _TRANSITION if scarce else 0.0,
        }
        dcgan = {
            "learning_rate": 2e-4,
            "latent_dim": 100,
            "width": 64,
            "gamma": 0.0,
            "ema_images": 0,
            "augment": (),
            "transition": 0.0,
        }
        own = r3gan if self.recipe == "r3gan" else dcgan
        return replace(self, **cast(Any, {name: value for name, value in own.items() if getattr(self, name) is None}))
