"""The parts that are exported compute what the models' plain definitions compute."""

import copy

import pytest
import torch

from common.checkpoint import LoadedModel
from common.engine import Engine, infer
from common.metadata import Part
from common.random_streams import RandomStreams
from tacotron2.decoder import StopRule, Utterance
from tacotron2.text import encode
from tests.plain_decoder import decode, dropout_masks
from waveglow.parts import WaveGlowPart

Engines = dict[Part, Engine]


def encode_batch(engines: Engines, texts: list[str]) -> tuple[dict[str, torch.Tensor], list[int]]:
    ids = [torch.from_numpy(encode(text).ids) for text in texts]
    sequences = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True)
    lengths = [len(row) for row in ids]
    memory = infer(engines["encoder"], sequences=sequences, sequence_lengths=torch.tensor(lengths, dtype=torch.int32))
    return memory, lengths


@pytest.mark.numerical
def test_encoder_part_is_the_plain_encoder(demo_tacotron2: LoadedModel, torch_demo_engines: Engines) -> None:
    sequence = torch.from_numpy(encode("Printed letters should be beautiful.").ids).unsqueeze(0)
    model = demo_tacotron2.model
    plain = model.encoder(model.embedding(sequence).transpose(1, 2))
    memory, _ = encode_batch(torch_demo_engines, ["Printed letters should be beautiful."])
    assert torch.allclose(memory["memory"], plain, atol=1e-5)


@pytest.mark.numerical
def test_encoder_in_a_batch_is_the_encoder_alone(torch_demo_engines: Engines) -> None:
    texts = ["A rather long sentence to set the width of the batch.", "Hi.", "A middling one."]
    together, lengths = encode_batch(torch_demo_engines, texts)
    for row, (text, length) in enumerate(zip(texts, lengths, strict=True)):
        alone, _ = encode_batch(torch_demo_engines, [text])
        for name in ("memory", "processed_memory"):
            assert torch.allclose(together[name][row, :length], alone[name][0], atol=1e-5), (text, name)
        assert (together["memory"][row, length:] == 0).all()


@pytest.mark.numerical
def test_decoder_loop_and_postnet_are_the_plain_model(demo_tacotron2: LoadedModel, torch_demo_engines: Engines) -> None:
    text, rule = "Hello, world!", StopRule()
    memory, lengths = encode_batch(torch_demo_engines, [text])
    decoded = decode(
        torch_demo_engines["decoder_iter"],
        memory["memory"],
        memory["processed_memory"],
        [Utterance(lengths[0], RandomStreams(3, text), rule)],
        keep_alignments=True,
    )
    masks = dropout_masks(
        [Utterance(lengths[0], RandomStreams(3, text), rule)], rule.cap(lengths[0]), 256, torch.float32
    )
    sequence = torch.from_numpy(encode(text).ids).unsqueeze(0)
    plain = demo_tacotron2.model.infer(sequence, masks, rule.cap(lengths[0]), rule.gate_threshold)
    assert plain.mel.size(2) < rule.cap(lengths[0])
    assert decoded.stop_reasons == ["gate"]
    assert decoded.frames == [plain.mel.size(2)]
    assert torch.allclose(decoded.mels, plain.mel_before, atol=2e-3)
    assert decoded.alignments is not None
    assert torch.allclose(decoded.alignments, plain.alignment, atol=1e-3)
    refined = infer(torch_demo_engines["postnet"], mel_outputs=plain.mel_before)["mel_outputs_postnet"]
    assert torch.allclose(refined, plain.mel, atol=1e-4)


@pytest.mark.slow
@pytest.mark.usefixtures("no_onednn")
def test_waveglow_part_is_the_plain_model(demo_waveglow: LoadedModel) -> None:
    exact, default = WaveGlowPart(demo_waveglow.model, "exact"), WaveGlowPart(demo_waveglow.model)
    rounded = copy.deepcopy(exact).half().float()
    assert default.rank == 4
    for frames in (1, 3, 9):  # an upsampled position depends on 4 of them
        torch.manual_seed(frames)
        mel, z = torch.randn(2, 80, frames) - 5, 0.7 * torch.randn(2, 8, frames * 32)
        plain = demo_waveglow.model.infer(mel, z)
        with torch.inference_mode():
            audio, low_rank, rounded_audio = (part(mel, z) for part in (exact, default, rounded))
        assert plain.abs().max() > 0.01
        assert torch.allclose(audio, plain, atol=1e-5)
        # What the voice's own rank loses is as small as FP16's rounding of the weights: two random errors of one size.
        assert (low_rank - plain).norm() < 3 * (rounded_audio - plain).norm()


@pytest.mark.numerical
def test_dropout_masks_keep_half_and_double_it() -> None:
    utterances = [Utterance(10, RandomStreams(0, text), StopRule()) for text in ("a", "b")]
    masks = dropout_masks(utterances, 100, 256, torch.float32)
    assert masks.shape == (100, 2, 2, 256)
    assert set(masks.unique().tolist()) == {0.0, 2.0}
    assert masks.mean().item() == pytest.approx(1.0, abs=0.02)
    assert not torch.equal(masks[:, 0], masks[:, 1])
