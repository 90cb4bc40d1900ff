"""WaveGlow's dimensions: one dataclass that travels in checkpoints, ONNX files and engines."""

from dataclasses import dataclass


@dataclass(frozen=True)
class WaveGlowConfig:
    """Architecture of WaveGlow; the defaults are those of NVIDIA's published 256-channel checkpoint but for
    `wn_channels`, whose default is the classic flag's."""

    n_mel_channels: int = 80
    n_flows: int = 12
    n_group: int = 8
    n_early_every: int = 4
    n_early_size: int = 2
    wn_layers: int = 8
    wn_kernel_size: int = 3
    wn_channels: int = 512

    def validate(self) -> None:
        """Raises ValueError for what no WaveGlow can be."""
        if self.wn_kernel_size % 2 == 0:
            raise ValueError(f"wn_kernel_size is {self.wn_kernel_size}: it must be odd")
        if self.wn_channels % 2 or self.n_group % 2:
            raise ValueError("wn_channels and n_group must be even")
        if self.flow_channels()[-1] < 2:
            raise ValueError("the early outputs leave no channel for the last flow")

    def flow_channels(self) -> list[int]:
        """Audio channels that each flow works on, in the order of training (first flow sees all `n_group`)."""
        channels, remaining = [], self.n_group
        for flow in range(self.n_flows):
            if flow > 0 and flow % self.n_early_every == 0:
                remaining -= self.n_early_size
            channels.append(remaining)
        return channels
