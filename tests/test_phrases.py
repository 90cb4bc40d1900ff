"""Phrase files: what is read, what is skipped, what is refused; and the files that come with the project."""

import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from common.errors import UserError
from common.phrases import Phrase, live_phrases, read_phrases

PHRASES = Path(__file__).resolve().parent.parent / "phrases"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "phrases.txt"


def read(path: Path, content: bytes) -> tuple[list[Phrase], list[str]]:
    path.write_bytes(content)
    notes: list[str] = []
    return read_phrases(path, notes), notes


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        read_phrases(path, [])
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.fixture
def ordinary_user() -> Iterator[None]:
    """The superuser may read anything; tests of permissions need someone else."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    yield
    os.seteuid(0)


class TestReading:
    def test_each_line_is_a_phrase_in_order(self, file: Path) -> None:
        assert read(file, b"Second is longer.\nFirst.\n") == ([Phrase(0, "Second is longer."), Phrase(1, "First.")], [])

    @pytest.mark.parametrize(
        "content",
        [b"one\ntwo", b"one\r\ntwo\r\n", b"one\rtwo\r", b"\xef\xbb\xbfone\ntwo\n", b"  one\t\ntwo \n"],
        ids=["no last line end", "Windows", "old Mac", "BOM", "spaces"],
    )
    def test_any_line_ends_a_bom_and_spaces_at_the_ends(self, file: Path, content: bytes) -> None:
        assert read(file, content) == ([Phrase(0, "one"), Phrase(1, "two")], [])

    def test_an_unusual_separator_does_not_shift_the_lines(self, file: Path) -> None:
        phrases, _ = read(file, "one\u2028still one\x0cstill\ntwo".encode())
        assert [phrase.index for phrase in phrases] == [0, 1]

    def test_an_empty_line_is_skipped_and_said_but_still_counts(self, file: Path) -> None:
        phrases, notes = read(file, b"one\ntwo\n \t\nfour\n")
        assert [(phrase.index, phrase.text) for phrase in phrases] == [(0, "one"), (1, "two"), (3, "four")]
        assert notes == [f"{file} line 3 is empty: skipped"]

    def test_several_empty_lines_are_one_note(self, file: Path) -> None:
        assert read(file, b"\none\n\n\n")[1] == [f"{file} lines 1, 3 and 4 are empty: skipped"]
        assert read(file, b"one\n" + b"\n" * 100)[1] == [f"{file} lines 2, 3, 4, 5, 6 and 95 more are empty: skipped"]

    def test_lines_that_part_scenes_are_skipped_and_said(self, file: Path) -> None:
        phrases, notes = read(file, "one\n* * *\n---\n\n…\n-5\n".encode())
        assert phrases == [Phrase(0, "one"), Phrase(5, "-5")]
        assert notes == [f"{file} line 4 is empty: skipped", f"{file} lines 2, 3 and 5 are without words: skipped"]


class TestStandardInput:
    @pytest.fixture
    def pipe(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
        """Replaces standard input by a pipe, and gives the end to write to."""
        reading, writing = os.pipe()
        with open(reading, "rb") as stream:
            monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=stream))
            yield writing

    def test_phrases_come_as_soon_as_their_lines_are_whole(self, pipe: int) -> None:
        groups = live_phrases()
        os.write(pipe, "\ufeffeins\n\n***\nzw\u00f6lf\r".encode())
        assert next(groups) == [Phrase(0, "eins")]
        os.write(pipe, b"\nthree\nfo")
        assert next(groups) == [Phrase(3, "zw\u00f6lf"), Phrase(4, "three")]
        os.write(pipe, b"ur")
        os.close(pipe)
        assert list(groups) == [[Phrase(5, "four")]]

    def test_a_line_that_is_no_text_fails_alone(self, pipe: int) -> None:
        os.write(pipe, b"one\ncaf\xe9\n\0\nfour\n")
        os.close(pipe)
        ((first, second, third, fourth),) = live_phrases()
        assert (first, fourth) == (Phrase(0, "one"), Phrase(3, "four"))
        assert "standard input line 2 is not UTF-8 (its byte 4 is 0xe9)" in str(second.error)
        assert "line 3 holds a zero byte" in str(third.error)

    @pytest.mark.parametrize(
        ("content", "words"),
        [
            (b"", "standard input is empty"),
            (b"\n \n--\n", "standard input holds only lines without words"),
            ("one\n".encode("utf-16"), "standard input is UTF-16"),
        ],
    )
    def test_nothing_to_speak(self, pipe: int, content: bytes, words: str) -> None:
        os.write(pipe, content)
        os.close(pipe)
        with pytest.raises(UserError, match=words):
            list(live_phrases())

    def test_closed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("sys.stdin", None)
        with pytest.raises(UserError, match="standard input is closed"):
            next(live_phrases())


class TestRefusing:
    def test_a_path_that_is_no_file(self, file: Path, tmp_path: Path) -> None:
        assert refusal(file) == f"{file}: no such file of phrases; check the path"
        assert f"{tmp_path} is a folder" in refusal(tmp_path)
        file.write_text("one", encoding="utf-8")
        assert f"{file / 'x'} can't be read" in refusal(file / "x")

    def test_a_file_without_permission(self, file: Path, request: pytest.FixtureRequest) -> None:
        file.write_text("one", encoding="utf-8")
        file.chmod(0)
        request.getfixturevalue("ordinary_user")
        assert f"{file} can't be read (permission denied)" in refusal(file)

    @pytest.mark.parametrize(
        ("content", "problem", "remedy"),
        [
            (b"", "is empty", ""),
            (b"\xef\xbb\xbf", "is empty", ""),
            (b"\n  \r\n\t\n", "holds only empty lines", ""),
            (b"\n--\n", "holds only lines without words", ""),
            (b"RIFF\n\x00\x01", "is a binary file (line 2 holds a zero byte)", ""),
            (
                b"one\r\ntwo\r\ncaf\xe9\r\n",
                "line 3 is not UTF-8 (its byte 4 is 0xe9)",
                "iconv -f WINDOWS-1252 -t UTF-8",
            ),
            ("one".encode("utf-16"), "is UTF-16", "iconv -f UTF-16 -t UTF-8"),
        ],
    )
    def test_what_holds_no_phrases(self, file: Path, content: bytes, problem: str, remedy: str) -> None:
        file.write_bytes(content)
        message = refusal(file)
        assert f"{file} {problem}" in message
        assert not remedy or f'{remedy} "{file}"' in message


class TestTheProjectsPhrases:
    def test_lines_and_lengths(self) -> None:
        found = {path.stem: [len(phrase.text) for phrase in read_phrases(path, [])] for path in PHRASES.glob("*.txt")}
        sized = {f"phrase_{lines}_{size}": [size - 1] * lines for lines in (1, 4, 8) for size in (64, 256)}
        assert found == {"phrase": [166], "phrase_1_128": [127]} | sized
        assert all(len({phrase.text for phrase in read_phrases(path, [])}) == 1 for path in PHRASES.glob("*.txt"))

    def test_the_shorter_texts_begin_the_longest(self) -> None:
        (longest,) = read_phrases(PHRASES / "phrase_1_256.txt", [])
        (middle,) = read_phrases(PHRASES / "phrase_1_128.txt", [])
        (phrase,) = read_phrases(PHRASES / "phrase.txt", [])
        assert longest.text.startswith(middle.text)
        assert longest.text.startswith(phrase.text.removesuffix("."))
        assert phrase.text.endswith("themselves.")
