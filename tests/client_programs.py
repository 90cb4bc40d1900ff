"""Other people's clients as their documentation uses them, but for the address: `python client_programs.py NAME URL`.

Runs in an environment of the clients' own (see `test_clients.py`) and prints what they would play, as JSON:
{"rate": in Hz, "samples": how many}.
"""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable

TEXT = "The quick brown fox jumps over the lazy dog."
KEY = "secret"

Played = tuple[int, int]  # sampling rate in Hz, and how many samples


async def livekit_openai(url: str) -> Played:
    import aiohttp  # noqa: F401  # the plugin's own
    from livekit.plugins import openai

    speech = openai.TTS(base_url=f"{url}/v1", api_key=KEY)
    return await _livekit_frames(speech.synthesize(TEXT))


async def livekit_deepgram(url: str) -> Played:
    import aiohttp
    from livekit.plugins import deepgram

    async with aiohttp.ClientSession() as session:
        speech = deepgram.TTS(base_url=f"{url}/v1/speak", api_key=KEY, http_session=session)
        stream = speech.stream()
        for word in TEXT.split(" "):  # as a language model gives them
            stream.push_text(f"{word} ")
        stream.end_input()
        played = await _livekit_frames(stream)
        await speech.aclose()
    return played


async def livekit_deepgram_whole(url: str) -> Played:
    import aiohttp
    from livekit.plugins import deepgram

    async with aiohttp.ClientSession() as session:
        speech = deepgram.TTS(base_url=f"{url}/v1/speak", api_key=KEY, http_session=session)
        return await _livekit_frames(speech.synthesize(TEXT))


async def _livekit_frames(stream) -> Played:
    async with stream:
        frames = [event.frame async for event in stream]
    return frames[0].sample_rate, sum(frame.samples_per_channel for frame in frames)


async def pipecat_openai(url: str) -> Played:
    from pipecat.services.openai.tts import OpenAITTSService

    return await _pipecat_frames(OpenAITTSService(api_key=KEY, base_url=f"{url}/v1"))


async def pipecat_deepgram(url: str) -> Played:
    from pipecat.services.deepgram.tts import DeepgramTTSService

    return await _pipecat_frames(DeepgramTTSService(api_key=KEY, base_url=url.replace("http", "ws", 1)))


async def _pipecat_frames(service) -> Played:
    from pipecat.frames.frames import EndFrame, TTSAudioRawFrame, TTSSpeakFrame, TTSStoppedFrame
    from pipecat.pipeline.pipeline import Pipeline
    from pipecat.pipeline.runner import PipelineRunner
    from pipecat.pipeline.task import PipelineParams, PipelineTask
    from pipecat.processors.frame_processor import FrameProcessor

    frames: list[TTSAudioRawFrame] = []

    class Player(FrameProcessor):
        async def process_frame(self, frame, direction) -> None:
            await super().process_frame(frame, direction)
            if isinstance(frame, TTSAudioRawFrame):
                frames.append(frame)
            if isinstance(frame, TTSStoppedFrame):
                await task.queue_frame(EndFrame())
            await self.push_frame(frame, direction)

    task = PipelineTask(Pipeline([service, Player()]), params=PipelineParams(audio_out_sample_rate=24000))
    await task.queue_frame(TTSSpeakFrame(TEXT))
    await asyncio.wait_for(PipelineRunner(handle_sigint=False).run(task), 60)
    return frames[0].sample_rate, sum(len(frame.audio) // 2 for frame in frames)


async def litellm(url: str) -> Played:
    import litellm

    answer = await litellm.aspeech(
        model="openai/tts-1", voice="nova", input=TEXT, response_format="pcm", api_base=f"{url}/v1", api_key=KEY
    )
    return 24000, len(answer.content) // 2


PROGRAMS: dict[str, Callable[[str], Awaitable[Played]]] = {
    program.__name__: program
    for program in (
        livekit_openai,
        livekit_deepgram,
        livekit_deepgram_whole,
        pipecat_openai,
        pipecat_deepgram,
        litellm,
    )
}

if __name__ == "__main__":
    rate, samples = asyncio.run(PROGRAMS[sys.argv[1]](sys.argv[2]))
    print(json.dumps({"rate": rate, "samples": samples}))
