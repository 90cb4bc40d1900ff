"""The stages of speaking, in order: encode, (decode,) refine, change the speed, vocode, denoise, level.

Free functions on a set of engines, for whole texts (`pipeline.synthesizer`) and for streams (`pipeline.runner`) alike.
Decoding stands between the first two: `tacotron2.decoder_graph`. To be called in `EngineSet.running`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from common.cuda import download, upload
from common.engine import PackedVocoder, SelfCapturing, infer
from common.errors import EngineFailure
from common.metadata import Part
from common.random_streams import RandomStreams
from pipeline.audio import limit
from pipeline.engine_set import EngineSet
from pipeline.pieces import Piece
from pipeline.policy import POSTNET_WINDOW, frames_to_refine, postnet_window
from pipeline.settings import SpeakSettings
from tacotron2.decoder import EXTRA_FRAMES, FRAMES_PER_SYMBOL, LONGEST_DECODING, StopRule, Utterance
from tacotron2.decoder_graph import bucket_of
from waveglow import vocoder
from waveglow.windows import CONTEXT, END_SILENCE, Window

NEVER = 1.0  # a gate threshold that no gate passes
POSTNET_WINDOWS = 64  # of POSTNET_WINDOW frames: as many of whole texts as go through the postnet at a time


def stop_rule(engines: EngineSet, settings: SpeakSettings, speed: float) -> StopRule:
    """When an utterance of this speed ends: the caller's choice, else the voice's own, within what engines take."""
    config = engines.tacotron2_config
    threshold = settings.gate_threshold
    if threshold is None:
        threshold = NEVER if config.decoder_no_early_stopping else config.gate_threshold
    steps = settings.max_decoder_steps
    if steps is None:
        steps = min(config.max_decoder_steps, LONGEST_DECODING)
    longest, window = engines.limits.mel[1], engines.window_sizes[1]
    if window <= 2 * CONTEXT:  # too little for windows that overlap: all in one, or not at all
        longest = min(longest, int((window - END_SILENCE) * speed))
    return StopRule(threshold, min(steps, longest))


def frame_limit(engines: EngineSet, piece: Piece, settings: SpeakSettings) -> str:
    """Which limit cuts a piece that doesn't end by itself, in words."""
    rule = stop_rule(engines, settings, piece.speed_in(settings))
    if rule.cap(len(piece.encoded.ids)) < rule.max_decoder_steps:
        return f"{FRAMES_PER_SYMBOL} frames a symbol and {EXTRA_FRAMES}"
    name = "max_decoder_steps" if rule.max_decoder_steps == settings.max_decoder_steps else "the voice's"
    return f"{name} {rule.max_decoder_steps}"


def utterance(engines: EngineSet, piece: Piece, settings: SpeakSettings) -> Utterance:
    """A piece at the beginning of its decoding."""
    streams = RandomStreams(piece.seed_in(settings), piece.encoded.text)
    return Utterance(len(piece.encoded.ids), streams, stop_rule(engines, settings, piece.speed_in(settings)))


def keeps_attention(settings: SpeakSettings) -> bool:
    """Whether the decoder's attention weights are kept, for a picture or for word times."""
    return settings.keep_pictures or settings.timestamps


def sigma(engines: EngineSet, settings: SpeakSettings) -> float:
    """The standard deviation of WaveGlow's noise: the caller's choice, else the voice's own."""
    return settings.sigma if settings.sigma is not None else engines.sigma


def encode(engines: EngineSet, texts: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
    """Symbol ids, int32 [symbols] each -> memory (B, T, .) and processed memory (B, T, .) on the decoder's device.

    T is the bucket that the longest text's length falls into, so that graphs are used again.

    On a CPU each text is encoded alone: ONNX Runtime's rounding depends on the width of what it computes, and a
    difference in the last bit can grow over hundreds of decoder steps until it is heard. The decoder's rounding is
    the same for all buckets.
    """
    width = bucket_of(max(map(len, texts)), engines.limits.text)
    if engines.on_gpu or engines.limits.batch[0] > 1:
        return _encode_together(engines, texts, width)
    alone = [_encode_together(engines, [ids], max(len(ids), engines.limits.text[0])) for ids in texts]
    return in_one_batch(alone, width)


def in_one_batch(encoded: Sequence[tuple[Tensor, Tensor]], width: int) -> tuple[Tensor, Tensor]:
    """What `encode` has made of some texts at a time, as it would be of all: (B, width, .) twice."""
    if len(encoded) == 1 and encoded[0][0].size(1) == width:
        return encoded[0]
    memory, processed_memory = (
        torch.cat([F.pad(one, (0, 0, 0, width - one.size(1))) for one in side]) for side in zip(*encoded, strict=True)
    )
    return memory, processed_memory


def _encode_together(engines: EngineSet, texts: Sequence[np.ndarray], width: int) -> tuple[Tensor, Tensor]:
    engine, device = engines.parts["encoder"], engines.parts["decoder_iter"].device
    sequences = np.zeros((len(texts), width), np.int32)
    for row, ids in zip(sequences, texts, strict=True):
        row[: len(ids)] = ids
    outputs = infer(
        engine,
        sequences=upload(sequences, engine.device),
        sequence_lengths=upload(np.array([len(ids) for ids in texts], np.int32), engine.device),
    )
    return outputs["memory"].to(device), outputs["processed_memory"].to(device)


def refine(engines: EngineSet, mels: Tensor, capture: bool = True) -> Tensor:
    """The postnet: frames (B, n_mel_channels, M) as decoded -> the same refined, on WaveGlow's device.

    All of the batch have M frames: padding would be heard across an utterance's end.

    Args:
        capture: whether an engine that captures graphs may capture this size, because it comes again.
    """
    engine = engines.parts["postnet"]
    if not capture and isinstance(engine, SelfCapturing):
        engine = engine.plain
    frames, least = mels.size(2), engines.limits.mel[0]
    mels = mels.contiguous().to(engine.device)
    if frames < least:  # shorter than the engine takes: silence follows, and is cut off
        mels = F.pad(mels, (0, least - frames), value=vocoder.SILENCE)
    refined = infer(engine, mel_outputs=mels)["mel_outputs_postnet"][:, :, :frames]
    return refined.to(engines.parts["waveglow"].device)


def refine_each(engines: EngineSet, mels: Tensor, frames: Sequence[int]) -> list[Tensor]:
    """The postnet on whole utterances of any lengths.

    Args:
        mels: (B, n_mel_channels, M) as decoded.
        frames: of each utterance; what lies beyond them is ignored.

    Returns:
        of each utterance (n_mel_channels, frames), on WaveGlow's device.
    """
    windowed = len(set(frames)) > 1 and postnet_window(engines.limits.mel, engines.on_gpu) is not None
    items = [item for item, length in enumerate(frames) if windowed and length > POSTNET_WINDOW]
    refined: dict[int, Tensor] = {}
    if items:
        whole = _refine_in_windows(engines, mels, items, frames)
        refined = {item: whole[item, :, : frames[item]] for item in items}
    for length in dict.fromkeys(length for item, length in enumerate(frames) if item not in refined):
        equal = [item for item, other in enumerate(frames) if other == length]
        chosen = mels if len(equal) == len(frames) else mels[equal]
        refined.update(zip(equal, refine(engines, chosen[:, :, :length]), strict=True))
    return [refined[item] for item in range(len(frames))]


def _refine_in_windows(engines: EngineSet, mels: Tensor, items: Sequence[int], frames: Sequence[int]) -> Tensor:
    """As `refine_each` for some of the utterances, all longer than a window: (B, n_mel_channels, M).

    The first window begins where its utterance does and the last one ends with it, so that the edges see what they
    should; each frame between has its context.
    """
    windows: list[tuple[int, Window]] = []  # with the utterance of the batch
    for item in items:
        windows += [(item, one) for one in frames_to_refine(frames[item], 0, frames[item], POSTNET_WINDOW)]
    low, high = engines.limits.batch
    at_once = max(low, min(1 << (len(windows) - 1).bit_length(), POSTNET_WINDOWS, high))
    windows += [(items[0], Window(0, POSTNET_WINDOW, 0, 0))] * (-len(windows) % at_once)  # nothing is kept of these
    columns = np.array([(item, *window) for item, window in windows]).T[:, :, None]
    owner, start, _, keep_start, keep_stop = columns  # (windows, 1) each
    frame = start + np.arange(POSTNET_WINDOW)  # (windows, POSTNET_WINDOW)
    row, column = ((frame >= keep_start) & (frame < keep_stop)).nonzero()

    rows = mels.transpose(1, 2)  # (B, M, n_mel_channels)
    seen = rows[upload(owner, rows.device), upload(frame, rows.device)].transpose(1, 2)
    done = torch.cat([refine(engines, some) for some in seen.split(at_once)]).transpose(1, 2)
    result = torch.empty_like(rows, device=done.device)
    target = tuple(upload(index, done.device) for index in (owner[row, 0], frame[row, column]))
    source = tuple(upload(index, done.device) for index in (row, column))
    result[target] = done[source]
    return result.transpose(1, 2)


def at_speed(mel: Tensor, speed: float, start: int, stop: int, first: int = 0, total: int | None = None) -> Tensor:
    """New frames `start` to `stop` (exclusive), interpolated between the old ones; the pitch stays.

    New frame j lies at the old time (j + 0.5) * speed - 0.5, whatever the utterance's length, so that a stream gives
    what the whole gives.

    Args:
        mel: old frames (n_mel_channels, n), from the utterance's frame `first` on, as many as `frames_needed` says or
            up to its end.
        speed: old frames a new one.
        total: the utterance's number of old frames, if it is known: none is read beyond.

    Returns:
        (n_mel_channels, stop - start)
    """
    if speed == 1:
        return mel[:, start - first : stop - first]
    # Positions in float64 on the host: float32 would move with the distance from the start.
    positions = (torch.arange(start, stop, dtype=torch.float64) + 0.5) * speed - 0.5
    last = (first + mel.size(1) if total is None else total) - 1
    positions = positions.clamp(0, last)
    left = positions.floor()
    share = (positions - left).to(mel.device, mel.dtype)
    left_index = left.to(torch.int64)
    right_index = (left_index + 1).clamp(max=last)
    before = mel.index_select(1, (left_index - first).to(mel.device))
    after = mel.index_select(1, (right_index - first).to(mel.device))
    return torch.lerp(before, after, share)


def vocode(
    engines: EngineSet,
    mels: Sequence[Tensor],
    noises: Sequence[Tensor],
    on_frames: Callable[[int], None] | None = None,
) -> list[Tensor]:
    """WaveGlow on whole utterances of any lengths.

    Args:
        mels: of each (n_mel_channels, M), on WaveGlow's device.
        noises: of each, float32 (positions of `vocoder.padded_frames(M)`, n_group) on the host, times sigma.
        on_frames: called with the number of frames done, for progress.

    Returns:
        of each its audio (M * hop_length,), in WaveGlow's dtype.
    """
    waveglow = engines.parts["waveglow"]
    joined = torch.cat([noise.to(waveglow.device, non_blocking=True) for noise in noises])
    z = joined.to(waveglow.contract.outputs[0].dtype)
    of_each = [some.T for some in z.split([len(noise) for noise in noises])]
    return vocoder.vocode(waveglow, mels, of_each, window=engines.work.window, on_frames=on_frames)


def vocode_windows(engines: EngineSet, mels: Sequence[Tensor], noises: Sequence[Tensor]) -> list[Tensor]:
    """WaveGlow on windows of one size, or of any sizes if it is a PackedVocoder.

    Args:
        mels: of each window (n_mel_channels, M), on WaveGlow's device.
        noises: of each window, float32 (positions, n_group) on the host, times sigma.

    Returns:
        of each window its audio (M * hop_length,), in WaveGlow's dtype.
    """
    waveglow = engines.parts["waveglow"]
    lengths = [len(noise) for noise in noises]
    joined = torch.empty(sum(lengths), noises[0].size(1), pin_memory=waveglow.device.type == "cuda")
    torch.cat(list(noises), out=joined)
    z = joined.to(waveglow.device, non_blocking=True).to(waveglow.contract.outputs[0].dtype)
    of_each = [some.T for some in z.split(lengths)]
    if isinstance(waveglow, PackedVocoder):
        return waveglow.run_packed(mels, of_each)
    return list(infer(waveglow, mel=torch.stack(list(mels)), z=torch.stack(of_each))["audio"])


def level(engines: EngineSet, audio: Tensor) -> Tensor:
    """Audio, float32 (samples,), at the voice's level, limited to full scale; NaN where it isn't finite."""
    return limit(audio, engines.gain).masked_fill_(~audio.isfinite(), torch.nan)


@dataclass(frozen=True)
class HostAudio:
    """Audio of several pieces or windows, on its way to the host.

    Attributes:
        samples: float32 (all of them,) on the host, complete once `event` has come.
        lengths: samples of each.
        event: None on a CPU.
    """

    samples: Tensor
    lengths: list[int]
    event: torch.cuda.Event | None

    @classmethod
    def of(cls, audio: Tensor, lengths: Sequence[int]) -> "HostAudio":
        """Brings audio, float32 (sum of the lengths,), from its device on the current stream."""
        host = download(audio)
        event = torch.cuda.current_stream(audio.device).record_event() if audio.device.type == "cuda" else None
        return cls(host, list(lengths), event)

    def arrived(self) -> bool:
        return self.event is None or self.event.query()

    def wait(self) -> list[np.ndarray]:
        """The audio of each, float32 [samples], once it is there. Views: they keep all of it."""
        if self.event is not None:
            self.event.synchronize()
        return np.split(self.samples.numpy(), np.cumsum(self.lengths)[:-1])


def nan_error(engines: EngineSet, part: Part, which: str) -> EngineFailure:
    """The error of a part that gave what isn't a number."""
    return EngineFailure(
        f"{engines.parts[part].name}: NaN or infinity in the {part}'s output for {which}; "
        "try FP32, or export and build the file again"
    )
