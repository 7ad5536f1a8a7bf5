"""Gates: tests that a synthetic image must pass before it may be delivered."""

from torchaug_gen.synthesis.gates.classifier import ClassifierGate
from torchaug_gen.synthesis.gates.discriminator import DiscriminatorGate
from torchaug_gen.synthesis.gates.gate import Gate
from torchaug_gen.synthesis.gates.gated import GatedSynthesizer
from torchaug_gen.synthesis.gates.neighbour import NeighbourGate
from torchaug_gen.synthesis.gates.sharpness import SharpnessGate

__all__ = ["ClassifierGate", "DiscriminatorGate", "Gate", "GatedSynthesizer", "NeighbourGate", "SharpnessGate"]
