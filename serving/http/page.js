// The page at /: sends the text to the speech API, plays what comes while it comes, and draws how it was read.
"use strict";

const LEAD_SECONDS = 0.05; // between a chunk's arrival and its place in time: what the browser needs to schedule it

const $ = (id) => document.getElementById(id);
let limits = { max_characters: Infinity };
let running = null; // of the speech under way: its AbortController and its player

class Player {
  // Plays chunks of int16 samples one after the other; one that comes late begins when it comes.
  constructor(rate) {
    this.rate = rate;
    this.chunks = [];
    this.samples = 0;
    this.context = new AudioContext();
    this.next = 0;
    this.zero = 0; // when the first sample would have been heard without gaps
    this.gaps = 0;
    this.ended = Promise.resolve();
  }

  add(samples) {
    this.chunks.push(samples);
    const buffer = this.context.createBuffer(1, samples.length, this.rate);
    const channel = buffer.getChannelData(0);
    for (let i = 0; i < samples.length; i++) channel[i] = samples[i] / 32768;
    const now = this.context.currentTime;
    if (this.next < now) {
      if (this.chunks.length > 1) this.gaps++;
      this.next = now + LEAD_SECONDS;
      this.zero = this.next - this.samples / this.rate;
    }
    this.samples += samples.length;
    const source = this.context.createBufferSource();
    source.buffer = buffer;
    source.connect(this.context.destination);
    this.ended = new Promise((resolve) => { source.onended = resolve; });
    source.start(this.next);
    this.next += buffer.duration;
  }

  get heard() {
    return this.context.currentTime - this.zero; // seconds of audio
  }

  close() {
    if (this.context.state !== "closed") this.context.close();
  }
}

function wavFile(chunks, samples, rate) {
  const header = new DataView(new ArrayBuffer(44));
  const word = (at, text) => [...text].forEach((char, i) => header.setUint8(at + i, char.charCodeAt(0)));
  word(0, "RIFF");
  header.setUint32(4, 36 + 2 * samples, true);
  word(8, "WAVEfmt ");
  header.setUint32(16, 16, true);
  header.setUint16(20, 1, true); // integers
  header.setUint16(22, 1, true); // one channel
  header.setUint32(24, rate, true);
  header.setUint32(28, 2 * rate, true);
  header.setUint16(32, 2, true);
  header.setUint16(34, 16, true);
  word(36, "data");
  header.setUint32(40, 2 * samples, true);
  return new Blob([header, ...chunks], { type: "audio/wav" });
}

function bytesOf(base64) {
  return Uint8Array.from(atob(base64), (char) => char.charCodeAt(0));
}

async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    text += value;
    const parts = text.split("\n\n");
    text = parts.pop();
    for (const part of parts) yield JSON.parse(part.slice(part.indexOf("data: ") + 6));
  }
}

function drawAlignment({ text, frames, symbols, weights }) {
  const bytes = bytesOf(weights);
  const canvas = document.createElement("canvas");
  canvas.width = frames;
  canvas.height = symbols;
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", `Alignment of ${frames} frames and ${symbols} symbols: ${text}`);
  const context = canvas.getContext("2d");
  const image = context.createImageData(frames, symbols);
  for (let frame = 0; frame < frames; frame++) {
    for (let symbol = 0; symbol < symbols; symbol++) {
      const at = 4 * ((symbols - 1 - symbol) * frames + frame);
      const weight = bytes[frame * symbols + symbol] / 255;
      image.data[at] = 29 + 226 * weight; // from dark blue over orange to yellow, in light and dark alike
      image.data[at + 1] = 33 + 190 * weight ** 1.3;
      image.data[at + 2] = 64 + 40 * weight;
      image.data[at + 3] = 255;
    }
  }
  context.putImageData(image, 0, 0);
  const caption = document.createElement("p");
  caption.textContent = text;
  const entry = document.createElement("div");
  entry.className = "alignment";
  entry.append(caption, canvas);
  $("alignments").append(entry);
  $("picture").hidden = false;
}

function markWords(mine, text) {
  // Shows the text, with the word that is heard marked, until the speech has ended.
  const word = mine.words.findLast(({ start }) => start <= (mine.player?.heard ?? 0));
  const [from, to] = word?.span ?? [0, 0];
  if (mine.marked !== from || mine.marked === undefined) {
    const mark = document.createElement("mark");
    mark.textContent = text.slice(from, to).join("");
    $("spoken").replaceChildren(text.slice(0, from).join(""), mark, text.slice(to).join(""));
    $("spoken").hidden = false;
    mine.marked = from;
  }
  if (running === mine) requestAnimationFrame(() => markWords(mine, text));
  else $("spoken").hidden = true;
}

function say(message, isError = false) {
  $("status").textContent = message;
  $("status").className = isError ? "error" : "";
}

function headers() {
  const key = $("key").value;
  return key ? { Authorization: `Bearer ${key}` } : {};
}

async function errorOf(response) {
  if (response.status === 401) {
    $("key-field").hidden = false;
    $("key").focus();
  }
  const body = await response.json().catch(() => null);
  return new Error(body?.error?.message ?? `the server answered ${response.status}`);
}

function reset() {
  stop();
  $("alignments").replaceChildren();
  $("picture").hidden = true;
  const link = $("download");
  link.hidden = true;
  if (link.href) URL.revokeObjectURL(link.href);
  link.removeAttribute("href");
}

function stop() {
  if (running === null) return;
  running.abort.abort();
  running.player?.close();
  running = null;
}

function busy(isBusy) {
  $("speak").disabled = isBusy;
  $("stop").disabled = !isBusy;
}

function aborted(signal) {
  return new Promise((_, reject) => {
    signal.addEventListener("abort", () => reject(signal.reason));
  });
}

async function speak(event) {
  event.preventDefault();
  reset();
  const mine = { abort: new AbortController(), player: null, words: [] };
  running = mine;
  markWords(mine, [...$("text").value]); // by code points, as the server counts
  busy(true);
  say("Speaking…");
  try {
    await receive(mine);
    const player = mine.player;
    await Promise.race([player.ended, aborted(mine.abort.signal)]);
    const gaps = player.gaps ? `, ${player.gaps} ${player.gaps === 1 ? "gap" : "gaps"}` : "";
    const cut = mine.cut ? ", cut by the limit of frames" : "";
    say(`Done: ${(player.samples / player.rate).toFixed(1)} s of audio${cut}, first sound after ${mine.first.toFixed(2)} s${gaps}`);
  } catch (error) {
    if (error.name === "AbortError") say("Stopped");
    else say(`Failed: ${error.message}`, true);
  } finally {
    mine.player?.close();
    if (running === mine || running === null) {
      running = null;
      busy(false);
    }
  }
}

async function receive(mine) {
  const begun = performance.now();
  const response = await fetch("v1/audio/speech", {
    method: "POST",
    signal: mine.abort.signal,
    headers: { "Content-Type": "application/json", ...headers() },
    body: JSON.stringify({
      model: "tacotron2-waveglow",
      voice: limits.voices?.[0].id ?? "default",
      input: $("text").value,
      response_format: "pcm",
      sample_rate: limits.voices?.[0].sampling_rate,
      stream_format: "sse",
      alignment: true,
      timestamps: true,
      speed: Number($("speed").value),
      seed: Number($("seed").value),
    }),
  });
  if (!response.ok) throw await errorOf(response);
  mine.player = new Player(Number(response.headers.get("X-Sample-Rate")));
  let isWhole = false;
  for await (const message of events(response)) {
    if (message.error) throw new Error(message.error.message);
    if (message.type === "speech.audio.delta") {
      mine.first ??= (performance.now() - begun) / 1000;
      mine.player.add(new Int16Array(bytesOf(message.audio).buffer));
    }
    if (message.type === "speech.words") mine.words.push(...message.words);
    if (message.type === "speech.alignment") drawAlignment(message);
    isWhole ||= message.type === "speech.audio.done";
    mine.cut ||= message.cut;
  }
  if (!isWhole) throw new Error("the speech broke off");
  const link = $("download");
  link.href = URL.createObjectURL(wavFile(mine.player.chunks, mine.player.samples, mine.player.rate));
  link.hidden = false;
}

function count() {
  const length = [...$("text").value].length;
  $("count").textContent = `${length} of at most ${limits.max_characters} characters`;
}

async function describe() {
  const response = await fetch("v1/audio/voices", { headers: headers() });
  if (!response.ok) {
    say((await errorOf(response)).message, true);
    return;
  }
  limits = await response.json();
  $("voice").textContent = limits.voices[0].description || limits.voices[0].name;
  count();
}

$("form").addEventListener("submit", speak);
$("stop").addEventListener("click", stop);
$("text").addEventListener("input", count);
$("text").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) $("form").requestSubmit();
});
$("speed").addEventListener("input", () => { $("speed-shown").textContent = Number($("speed").value).toFixed(2); });
$("key").addEventListener("change", () => { say(""); describe(); });
document.addEventListener("keydown", (event) => { if (event.key === "Escape") stop(); });
describe();
