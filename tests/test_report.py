"""What a run leaves behind for people: pictures, page, table, log."""

import json
import re
import shutil
import warnings
from collections import Counter
from datetime import datetime
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote, urlsplit

import matplotlib.image
import numpy as np
import pytest

from common.json_log import JsonLog
from common.phrases import Phrase
from common.table import display_width, format_markdown, format_table, shorten
from pipeline.audio import Audio
from pipeline.manifest import PhraseResult
from pipeline.page import LONG_TEXT, write_page
from pipeline.pieces import Piece, PreparedPhrase
from pipeline.plots import save_speech
from pipeline.words import LAG, spoken_words
from tacotron2.text import EncodedText

RATE, HOP = 22050, 256
VOID = {"meta", "link", "img", "br", "hr", "input"}


def diagonal(frames: int, symbols: int) -> np.ndarray:
    """An attention that moves evenly through the text."""
    return np.eye(symbols, dtype=np.float32)[np.arange(frames) * symbols // frames]


def pixels(path: Path) -> np.ndarray:
    return matplotlib.image.imread(path)[..., :3]


def save(path: Path, weights: np.ndarray, text: str, mel: np.ndarray | None = None) -> None:
    """A picture of quiet noise that is as long as an alignment."""
    frames = len(weights)
    samples = np.random.default_rng(0).normal(0, 0.1, frames * HOP).astype(np.float32)
    save_speech(path, Audio(samples, RATE), np.zeros((80, frames), np.float32) if mel is None else mel, weights, text)


def spoken(audio: Path, text: str = "Hello.", line: int = 1, reading: str | None = None, **more) -> PhraseResult:
    """A phrase that was spoken in one piece, with this file."""
    phrase = Phrase(line - 1, text)
    piece = Piece(phrase, 0, True, EncodedText(text if reading is None else reading, np.zeros(1, np.int32), ()))
    return PhraseResult(PreparedPhrase(phrase, text, (piece,)), audio, **{"seconds": 3.6, **more})


class Page(HTMLParser):
    """A page's elements and texts; fails on tags that are not closed in order."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] != "style":
            self.text += data

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def links(self) -> list[str]:
        return [a[name] for _, a in self.elements for name in ("href", "src") if name in a]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("run")


@pytest.fixture(scope="module")
def results(folder: Path) -> list[PhraseResult]:
    """Three phrases. Their texts and file names have everything that HTML and URLs give a meaning to."""
    texts = ("Good morning!", 'Is 1 < 2 & "so" <script>alert(1)</script>?', "Caf\u00e9 at 5 o'clock.")
    made = []
    for index, (text, name) in enumerate(zip(texts, ("0_trt", "1 a&b#c?d%41", "2:\u00e9'\"<x>"), strict=True)):
        audio, *pictures = (folder / f"{kind}_{name}" for kind in ("audio", "speech", "more"))
        audio.write_bytes(b"RIFF")
        save(pictures[0], diagonal(50, len(text)), text)
        shutil.copy(*pictures)
        reading = text.lower() if index < 2 else "cafe at five <o'clock>."
        more = {"seconds": 1.25 + index, "cut": index == 1, "pictures": [picture.name for picture in pictures]}
        made.append(spoken(audio, text, index + 1, reading, **more))
    return made


@pytest.fixture(scope="module")
def page(folder: Path, results: list[PhraseResult]) -> Page:
    write_page(folder / "index.html", "Tom & Jerry <speak>", results, {"Voice": "a<b>", "Seed": "0"})
    return Page(folder / "index.html")


def test_page_shows_texts_as_they_are_and_runs_none_of_them(page: Page, results: list[PhraseResult]) -> None:
    for text in (
        *(result.phrase.text for result in results),
        *("Tom & Jerry <speak>", "a<b>", "end of speech", "frame limit before the text's end", "2.25 s"),
        "6.75 s of audio",
    ):
        assert text in page.text
    assert page.all("script") == []
    assert page.text.count("Read as") == 1  # only where it isn't the text
    assert "cafe at five <o'clock>." in page.text


def test_page_links_lead_to_the_files_beside_it_and_offer_them(
    page: Page, results: list[PhraseResult], folder: Path
) -> None:
    names = [name for result in results for name in (result.file.name, *result.pictures)]
    links = [unquote(link) for link in page.links() if not link.startswith(("#", "data:"))]
    assert not any(urlsplit(link).scheme or urlsplit(link).netloc for link in page.links() if link != "data:,")
    assert set(links) == set(names)
    assert all((folder / name).is_file() for name in links)
    assert [unquote(audio["src"]) for audio in page.all("audio")] == [result.file.name for result in results]
    assert [unquote(link["href"]) for link in page.all("a") if "download" in link] == names


def test_page_links_hold_from_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pages").mkdir()
    write_page(Path("pages/i.html"), "Page", [spoken(Path("a.wav"))], {})
    assert Page(tmp_path / "pages/i.html").all("audio")[0]["src"] == "../a.wav"


def test_page_can_be_read_by_assistive_tools(page: Page) -> None:
    assert page.all("html") == [{"lang": "en"}]
    assert [len(page.all(tag)) for tag in ("title", "header", "main", "h1")] == [1, 1, 1, 1]
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    ids = Counter(attributes["id"] for _, attributes in page.elements if "id" in attributes)
    assert max(ids.values()) == 1
    targets = [link[1:] for link in page.links() if link.startswith("#")]
    targets += [attributes["aria-labelledby"] for _, attributes in page.elements if "aria-labelledby" in attributes]
    assert targets
    assert set(targets) <= set(ids)
    alts = [image["alt"] for image in page.all("img")]
    assert len(alts) == len(set(alts)) == 6
    assert all(re.match(r"Speech of phrase \d, piece \d of 2\. \w+", alt) for alt in alts)
    labels = [audio["aria-label"] for audio in page.all("audio")]
    assert labels == ["Audio of phrase 1", "Audio of phrase 2", "Audio of phrase 3"]


def test_page_shows_durations_before_playing_and_keeps_its_layout(page: Page, folder: Path) -> None:
    assert all(audio["preload"] == "metadata" and "controls" in audio for audio in page.all("audio"))
    images = page.all("img")
    assert all(image["loading"] == "lazy" for image in images)
    height, width = pixels(folder / "speech_0_trt").shape[:2]
    assert (images[0]["width"], images[0]["height"]) == (str(width), str(height))


def luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_colours_have_contrast(tmp_path: Path, scheme: str) -> None:
    write_page(tmp_path / "index.html", "Page", [], {})
    light, dark = (tmp_path / "index.html").read_text().split("prefers-color-scheme: dark")
    colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", light if scheme == "light" else dark))
    pairs = [(ink, ground) for ink in ("ink", "soft", "link") for ground in ("page", "card")]
    for ink, ground in [*pairs, ("note-ink", "note")]:
        low, high = sorted((luminance(colours[ink]), luminance(colours[ground])))
        assert (high + 0.05) / (low + 0.05) >= 4.5, (ink, ground)


def test_page_of_a_thousand_phrases_has_links_that_lead_through_it(tmp_path: Path) -> None:
    audio = tmp_path / "a.wav"
    many = [spoken(audio, line=i + 1) for i in range(1000)]
    write_page(tmp_path / "index.html", "Page", many, {})
    page = Page(tmp_path / "index.html")
    assert len(page.all("article")) == 1000
    assert page.all("nav") == [{"aria-label": "Jump to a phrase"}]
    jumps = [link for link in page.links() if re.fullmatch(r"#phrase-\d+", link)]
    assert jumps == [f"#phrase-{i}" for i in range(1, 1001, 50)]
    assert [audio["preload"] for audio in page.all("audio")].count("metadata") == 50
    assert "1000 phrases, 60 min 0 s of audio" in page.text


def test_page_folds_a_long_text_and_keeps_all_of_it(tmp_path: Path) -> None:
    text = "word " * 4000 + "end."
    write_page(tmp_path / "index.html", "Page", [spoken(tmp_path / "a.wav", text)], {})
    page = Page(tmp_path / "index.html")
    assert page.text.index("\u2026") < page.text.index("Whole text, 20,004 characters") < page.text.index(text)
    assert page.text.index("\u2026") - page.text.index("word") <= LONG_TEXT + 1
    assert page.all("img") == []


def test_page_survives_text_and_names_that_are_not_unicode(tmp_path: Path) -> None:
    odd = b"a\xff".decode("utf-8", "surrogateescape")
    write_page(tmp_path / "i.html", "Page", [spoken(tmp_path / odd, odd)], {})
    page = Page(tmp_path / "i.html")
    assert page.all("audio")[0]["src"] == "a%FF"
    assert "a?" in page.text


def test_pictures_show_the_data(tmp_path: Path) -> None:
    picture = tmp_path / "speech.png"
    bright = {}
    for name, weights in (("read", diagonal(200, 20)), ("silent", np.zeros((200, 20), np.float32))):
        save(picture, weights, "abcdefghij klmnopqr.")
        image = pixels(picture)
        lower = image[image.shape[0] // 2 :, : int(0.8 * image.shape[1])]  # the alignment, without the colour bar
        yellow = (lower[..., 0] > 0.9) & (lower[..., 1] > 0.8) & (lower[..., 2] < 0.3)  # viridis' upper end
        rows, columns = np.nonzero(yellow)
        bright[name] = len(rows)
        if name == "read":  # from the bottom left to the top right
            assert np.corrcoef(rows, columns)[0, 1] < -0.95
    assert bright["read"] > 1000
    assert bright["silent"] == 0
    plain = pixels(picture)
    save(picture, weights, "abcdefghij klmnopqr.", np.tile(np.linspace(-11, 1, 200, dtype=np.float32), (80, 1)))
    assert (pixels(picture) != plain).any(axis=-1).mean() > 0.1


@pytest.mark.parametrize(("frames", "symbols"), [(1, 1), (3_000, 300), (300, 2_000)])
def test_pictures_are_png_files_of_bounded_size(tmp_path: Path, frames: int, symbols: int) -> None:
    save(tmp_path / "speech.png", diagonal(frames, symbols), "ab " * (symbols // 3) + "a" * (symbols % 3))
    assert (tmp_path / "speech.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    height, width = pixels(tmp_path / "speech.png").shape[:2]
    assert 600 <= height <= 1100
    assert 900 <= width <= 4300
    assert [p.name for p in tmp_path.iterdir()] == ["speech.png"]


def test_a_peak_of_one_frame_is_seen_in_a_long_alignment(tmp_path: Path) -> None:
    weights = np.zeros((5_000, 4), np.float32)
    picture = tmp_path / "speech.png"
    save(picture, weights, "abc.")
    before = pixels(picture)
    weights[3_181, 2] = 1
    save(picture, weights, "abc.")
    assert (pixels(picture) != before).any()


@pytest.mark.parametrize("text", ["$5 or $6.", "\\frac{1}", "{HH AW1 S}", "a_b^c$$", "\u4f60\u597d"])
def test_words_are_never_taken_for_formulas(tmp_path: Path, text: str) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # a font may lack a character
        save(tmp_path / "a.png", diagonal(30, len(text)), text)
    assert pixels(tmp_path / "a.png").std() > 0


def test_words_stand_in_the_picture(tmp_path: Path) -> None:
    def drawn(text: str) -> np.ndarray:
        save(tmp_path / "a.png", diagonal(60, len(text)), text)
        return pixels(tmp_path / "a.png")

    changed = (drawn("one word here.") != drawn("one work here.")).any(axis=-1)
    rows = np.nonzero(changed.any(axis=1))[0] / len(changed)
    assert rows.min() < 0.3  # under the waveform
    assert rows.max() > 0.6  # at the alignment's axis


def test_a_picture_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "speech.png"
    folder.mkdir()
    with pytest.raises(OSError, match=re.escape(str(folder))):
        save(folder, diagonal(10, 4), "abc.")
    assert [p.name for p in tmp_path.iterdir()] == ["speech.png"]


def test_words_have_the_times_at_which_they_are_read() -> None:
    text = "say {HH AW1 S} now."
    symbols = 4 + 3 + 1 + 4  # a group has a symbol for each sound
    words = spoken_words(text, diagonal(10 * symbols, symbols), seconds=symbols)
    assert [(word.text, word.span) for word in words] == [
        ("say", (0, 3)),
        ("{HH AW1 S}", (4, 7)),
        ("now.", (8, 12)),
    ]
    lag = LAG / 10
    times = [time for word in words for time in (word.start, word.end)]
    assert times == pytest.approx([lag, 4 + lag, 4 + lag, 8 + lag, 8 + lag, 12])


def test_words_keep_their_order_where_the_attention_jumps_back() -> None:
    weights = diagonal(60, 6)
    weights[45] = np.eye(6, dtype=np.float32)[0]
    words = spoken_words("ab cde", weights, seconds=6.0)
    times = [time for word in words for time in (word.start, word.end)]
    assert times == pytest.approx([LAG / 10, 3 + LAG / 10, 3 + LAG / 10, 6])


@pytest.mark.parametrize(
    ("headers", "rows", "align", "lines"),
    [
        (
            ["", "Phrase", "Seconds"],
            [["0", "\u4f60\u597d", "1.50"], ["10", "Hello.", "12.25"]],
            "rlr",
            ["    Phrase  Seconds", "--  ------  -------", " 0  \u4f60\u597d       1.50", "10  Hello.    12.25"],
        ),
        (["A", "Long"], [], "", ["A  Long", "-  ----"]),
        (["A", "Long"], [["xyz", "1"]], "", ["A    Long", "---  ----", "xyz  1"]),
    ],
)
def test_table_columns_stand_under_one_another(
    headers: list[str], rows: list[list[str]], align: str, lines: list[str]
) -> None:
    assert format_table(headers, rows, align).splitlines() == lines


def test_markdown_table() -> None:
    table = format_markdown(["System", "Latency (s)"], [["a|b", "0.1"], ["two\nlines", "2"]], "lr")
    assert table.splitlines() == [
        "| System | Latency (s) |",
        "| --- | ---: |",
        "| a\\|b | 0.1 |",
        "| two lines | 2 |",
    ]


@pytest.mark.parametrize(
    ("text", "short"),
    [
        ("Hello.", "Hello."),
        ("exactly 10", "exactly 10"),
        ("eleven char", "eleven..."),
        ("\u4f60\u597d\u4f60\u597d\u4f60\u597d", "\u4f60\u597d\u4f60..."),
        ("two\n\tlines", "two lines"),
        ("red \x1b[31m", "red ?[31m"),
        ("left\u202eright", "left?right"),
        ("e\u0301e\u0301e\u0301e\u0301", "e\u0301e\u0301e\u0301e\u0301"),
        ("", ""),
    ],
)
def test_shorten_fits_a_text_in_ten_columns(text: str, short: str) -> None:
    assert shorten(text, 10) == short
    assert display_width(short) <= 10


def test_shorten_takes_no_longer_for_an_endless_text() -> None:
    assert shorten("word " * 2_000_000, 12) == "word word..."
    assert shorten(" " * 10_000 + "late", 12) == "late"


def test_log_lines_are_those_of_dllogger(tmp_path: Path) -> None:
    path = tmp_path / "nvlog.json"
    path.write_text("an older log\n")
    before = datetime.now()
    with JsonLog(path) as log:
        log.log("PARAMETER", {"input": "phrases.txt", "fp16": True, "sigma": None})
        assert path.read_text().count("\n") == 1  # on disk at once, whatever becomes of the run
        log.log(0, {"latency": 0.25})
        log.log([3, 1], {"latency": 0.5, "text": "caf\u00e9\n"})
    after = datetime.now()
    lines = path.read_text().splitlines()
    assert all(line.startswith("DLLL {") for line in lines)
    entries = [json.loads(line.removeprefix("DLLL ")) for line in lines]
    assert [list(entry) for entry in entries] == [["timestamp", "datetime", "elapsedtime", "type", "step", "data"]] * 3
    assert [entry["step"] for entry in entries] == ["PARAMETER", 0, [3, 1]]
    assert entries[0]["data"] == {"input": "phrases.txt", "fp16": True, "sigma": None}
    assert entries[2]["data"] == {"latency": 0.5, "text": "caf\u00e9\n"}
    for entry in entries:
        assert entry["type"] == "LOG"
        assert before <= datetime.fromisoformat(entry["datetime"]) <= after
        assert float(entry["timestamp"]) == datetime.fromisoformat(entry["datetime"]).timestamp()
        assert 0 <= float(entry["elapsedtime"]) <= (after - before).total_seconds()
