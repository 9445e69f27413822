"""Apple's chips by name: memory, bandwidth and arithmetic, as published, with the sources.

Bandwidth and memory are Apple's: its newsroom pages of each chip (apple.com/newsroom, 2020 to 2026) and the technical
specifications of the Macs, which also tell chips with fewer GPU cores apart; M5 Pro and Max also at
pepelac.news/en/posts/id30875. Operations a second in float32 are cores × 128 lanes × 2 × the clock, as given in:

    M1, M2     akunu.prabod.rathnayaka.me/part1/ch05-chip-generations.html, github.com/philipturner/metal-benchmarks
    M3, M4     hmc-tech.com/gpu (1.40 GHz of M3), github.com/huggingface/huggingface.js/pull/1044 (M4: 4.6 T, ten cores)
    M5         michaelstinkerings.org/apple-m5-gpu-roofline-analysis (1.58 GHz, 94 % of the peak reached)

float16 is taken to be no faster than float32 in the lanes. M5 has matrix units beside them ("Neural Accelerators in the
GPU") of 1,024 float16 operations a core and clock: tzakharko.github.io/apple-neural-accelerators-benchmark, which
estimates 70 T for 40 cores at 1.75 GHz; the figures of M5 Pro and Max are at that clock.

Knows nothing of models, and nothing of how much of this a program reaches.
"""

from __future__ import annotations

from dataclasses import dataclass

FIRST_WITH_BFLOAT16 = 3  # M1 and M2 compute in bfloat16 by way of float32


@dataclass(frozen=True)
class Chip:
    """One chip with so many GPU cores; a chip that was sold with fewer has a line of its own where memory is slower."""

    name: str
    generation: int
    gpu_cores: int
    memory_gib: int  # the most that a Mac with it was sold with
    bandwidth: float  # bytes a second
    flops: float  # of the GPU's lanes, multiply-adds counted as two, in float16 as in float32, a second
    matrix_flops: float | None = None  # of its matrix units in float16 and bfloat16, a second; None: it has none

    @property
    def has_bfloat16(self) -> bool:
        return self.generation >= FIRST_WITH_BFLOAT16

    @property
    def label(self) -> str:
        """The name, with the number of GPU cores where the name alone leaves it open."""
        return f"{self.name} ({self.gpu_cores})" if len(chips_named(self.name)) > 1 else self.name


def _chip(
    name: str, cores: int, memory_gib: int, bandwidth_gb: float, teraflops: float, matrix: float | None = None
) -> Chip:
    return Chip(
        name, int(name[1]), cores, memory_gib, bandwidth_gb * 1e9, teraflops * 1e12, matrix and matrix * 1e12
    )  # fmt: skip


CHIPS = (
    _chip("M1", 8, 16, 68.3, 2.6),
    _chip("M1 Pro", 16, 32, 200, 5.2),
    _chip("M1 Max", 32, 64, 400, 10.4),
    _chip("M1 Ultra", 64, 128, 800, 20.8),
    _chip("M2", 10, 24, 100, 3.6),
    _chip("M2 Pro", 19, 32, 200, 6.8),
    _chip("M2 Max", 38, 96, 400, 13.6),
    _chip("M2 Ultra", 76, 192, 800, 27.2),
    _chip("M3", 10, 24, 100, 3.6),
    _chip("M3 Pro", 18, 36, 150, 6.4),
    _chip("M3 Max", 30, 96, 300, 10.7),
    _chip("M3 Max", 40, 128, 400, 14.3),
    _chip("M3 Ultra", 80, 512, 819, 28.6),
    _chip("M4", 10, 32, 120, 4.6),
    _chip("M4 Pro", 20, 64, 273, 9.2),
    _chip("M4 Max", 32, 36, 410, 14.7),
    _chip("M4 Max", 40, 128, 546, 18.4),
    _chip("M5", 10, 32, 153, 4.0, 16),
    _chip("M5 Pro", 20, 64, 307, 9.0, 35),
    _chip("M5 Max", 32, 36, 460, 14.3, 57),
    _chip("M5 Max", 40, 128, 614, 17.9, 70),
)


def chips_named(brand: str | None) -> tuple[Chip, ...]:
    """The chips of that name, as macOS says it ("Apple M4 Max"), the fewest GPU cores first; none for another maker's.

    Where one name stands for several, macOS's name does not say which.
    """
    name = (brand or "").removeprefix("Apple ").strip()
    return tuple(chip for chip in CHIPS if chip.name == name)


LABELS = ("M1 Ultra", "M4 Pro", "M5 Max (40)")  # those that tables show where all would be too many
SHOWN = tuple(chip for chip in CHIPS if chip.label in LABELS)
