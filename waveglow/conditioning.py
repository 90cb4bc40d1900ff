"""The conditioning at the frames' rate: the rank of WaveGlow's upsampling, and its factors.

The upsampling turns a frame m_f and its predecessors into the spectrum of each of the frame's positions,
u(f, q) = U_q [m_f, m_{f-1}, ...], and layer l adds W_l u(f, q) before its gate. Trained upsamplings are smooth in q:
stacked over q, U has a low rank R, U_q = sum over r of a[q, r] V_r. So W_l V_r is applied once a frame, and a position
adds up R products. The factors are a truncated singular value decomposition over q, the best of their rank.
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from common.errors import UserError

# "auto" takes the smallest rank that changes the upsampling by less than FP16 does when it rounds the weights, else the
# exact form. "exact" computes at the positions' rate. A number is a rank; what lies beyond it is lost.
Conditioning = Literal["auto", "exact"] | int

FP16_ROUNDING = 2.0**-11  # relative, of one value: FP16's unit roundoff


def parse_conditioning(text: str) -> Conditioning:
    """auto, exact, or a rank from 1. Raises ValueError."""
    if text == "auto":
        return "auto"
    if text == "exact":
        return "exact"
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"{text!r}: give auto, exact, or a rank from 1")
    return int(text)


def upsampling_taps(upsample: nn.ConvTranspose1d, n_group: int) -> Tensor:
    """The upsampling by position: (positions of a frame, taps, n_mel_channels * n_group, n_mel_channels).

    Tap t is the frame t before. Row c * n_group + j is sample j of channel c's group, as the flows want it: output
    sample q * n_group + j depends on kernel taps of one phase alone, so that grouping samples is done on the weights.
    """
    channels, out_channels, kernel = upsample.weight.shape
    hop = upsample.stride[0]
    taps = upsample.weight.detach().reshape(channels, out_channels, kernel // hop, hop // n_group, n_group)
    return taps.permute(3, 2, 1, 4, 0).reshape(hop // n_group, kernel // hop, out_channels * n_group, channels)


class Factors:
    """The singular value decomposition of an upsampling over the positions of a frame.

    Args:
        taps: of `upsampling_taps`.

    Raises:
        UserError: the weights aren't finite.
    """

    def __init__(self, taps: Tensor) -> None:
        self._taps = taps.double().flatten(1)  # (positions, the rest)
        if not self._taps.isfinite().all():
            raise UserError("WaveGlow's upsampling holds NaN or infinity; is the checkpoint sound?")
        self._shape = taps.shape[1:]
        # A Gram matrix of positions x positions is small; squaring costs half the digits of float64, far below FP16's.
        energies, self._vectors = torch.linalg.eigh(self._taps @ self._taps.T)
        self._energies = energies.clamp_min(0)  # ascending

    @property
    def positions(self) -> int:
        """The largest rank there is."""
        return self._taps.size(0)

    def residual(self, rank: int) -> float:
        """What a rank leaves out, relative to the whole: a ratio of Frobenius norms."""
        energies = self._energies
        return math.sqrt(float(energies[: self.positions - rank].sum() / energies.sum().clamp_min(1e-300)))

    def of_rank(self, rank: int) -> tuple[Tensor, Tensor]:
        """a (positions, rank), orthonormal columns, and V (rank, taps, spectrum, n_mel_channels), in float32."""
        weights = self._vectors[:, self.positions - rank :].flip(1)  # the largest first
        return weights.float(), (weights.T @ self._taps).unflatten(1, self._shape).float()

    def choose(self, conditioning: Conditioning) -> int | None:
        """The rank to compute with; None computes exactly, at the positions' rate.

        Raises:
            UserError: a rank beyond the number of positions.
        """
        if conditioning == "exact":
            return None
        if conditioning == "auto":
            worthwhile = range(1, self.positions // 2 + 1)
            return next((rank for rank in worthwhile if self.residual(rank) < FP16_ROUNDING), None)
        if not 1 <= conditioning <= self.positions:
            raise UserError(
                f"conditioning of rank {conditioning}: this upsampling has ranks from 1 to {self.positions}; give one "
                "of them, auto or exact"
            )
        return conditioning
