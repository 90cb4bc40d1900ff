"""A user's own pronunciations: what is found, what is said, and what a malformed file is told."""

from pathlib import Path

import pytest

from common.errors import UserError
from tacotron2.text import TextFrontEnd
from tacotron2.text.lexicon import Lexicon


@pytest.fixture
def lexicon() -> Lexicon:
    return Lexicon(
        {"Nguyen": "{N W IH1 N}", "GPU": "graphics card", "C++": "see plus plus", "kg": "kilos", "Keats": "{K IY1 T S}"}
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Nguyen", "{N W IH1 N}"),
        ("NGUYEN, nguyen.", "{N W IH1 N}, {N W IH1 N}."),
        ("Nguyens", "Nguyens"),
        ("“Nguyen”!", "“{N W IH1 N}”!"),
        ("(Nguyen-style)", "({N W IH1 N}-style)"),
        ("Nguyen's and Nguyen\u2019s", "{N W IH1 N Z} and {N W IH1 N Z}"),
        ("Keats's", "{K IY1 T S IH0 Z}"),
        ("the GPU's fan", "the graphics card's fan"),
        ("C++, that is", "see plus plus, that is"),
        ("{G AH0 N} {HH AW1 S}", "{G AH0 N} {HH AW1 S}"),
    ],
)
def test_whole_words_are_respelled_whatever_their_case(lexicon: Lexicon, text: str, said: str) -> None:
    assert lexicon(text) == said


def test_the_normaliser_leaves_the_lexicons_words_to_it(lexicon: Lexicon) -> None:
    front_end = TextFrontEnd(lexicon=lexicon)
    assert front_end.read("The GPU's API: Dr. Nguyen, 5 kg.") == (
        "The graphics card's ay pee eye: Doctor {N W IH1 N}, five kilos."
    )
    assert TextFrontEnd("none", lexicon).read("Dr. Nguyen, 5 kg") == "Dr. {N W IH1 N}, 5 kilos"


def test_the_lexicon_hears_words_that_the_normaliser_made() -> None:
    assert TextFrontEnd(lexicon=Lexicon({"percent": "per cent"})).read("20%") == "twenty per cent"


def test_a_file_may_hold_comments_and_empty_lines(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_bytes("\ufeff# names\r\n\r\nNguyen\t{N W IH1 N}\r\nSQL\tsequel\r\n".encode())
    assert Lexicon.load(path) == Lexicon({"Nguyen": "{N W IH1 N}", "SQL": "sequel"})


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"good\tline\nbad line\n", "2: no tab"),
        (b"word\t\n", "1: nothing after the tab"),
        (b"\tsaid\n", "1: nothing before the tab"),
        (b"word\tone\ttwo\n", "1: a second tab"),
        (b"two words\tsaid\n", "1: .*is not one word"),
        (b"{word}\tsaid\n", "1: .*is not one word"),
        (b"word\t{HH QX}\n", "1: .*braces hold ARPAbet alone"),
        (b"word\t...\n", "1: nothing to speak"),
        (b"word\ta & b\n", '1: the voice has no sound for "&"'),
        (b"word\tone\n\nWord\ttwo\n", "3: .*stands on line 1 already"),
        (b"caf\xe9\tcafe\n", "1: not UTF-8"),
        (b"# nothing else\n", "holds no words"),
    ],
)
def test_a_malformed_line_is_named_by_file_and_line(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "words.txt"
    path.write_bytes(content)
    with pytest.raises(UserError, match=words) as caught:
        Lexicon.load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot read the lexicon .*No such file"):
        Lexicon.load(tmp_path / "none.txt")
    with pytest.raises(UserError, match=r"cannot read the lexicon .*directory"):
        Lexicon.load(tmp_path)


def test_nothing_to_speak_is_said_in_the_users_own_words() -> None:
    with pytest.raises(UserError, match='nothing to speak in "😀 \\*\\*": write'):
        TextFrontEnd().read("😀 **")
