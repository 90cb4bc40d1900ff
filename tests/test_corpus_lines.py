"""The lines of a corpus: three kinds of files, ids that name files, and whatever users put into them."""

import json
from pathlib import Path

import pytest

from common.errors import UserError
from serving.corpora.lines import Line, line_of, read_lines, survey


def lines_of(path: Path, content: str | bytes) -> list[Line]:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    survey(path)
    return list(read_lines(path))


def test_text_has_a_line_a_text_and_its_numbers_for_ids(tmp_path: Path) -> None:
    lines = lines_of(tmp_path / "a.txt", "\ufeffOne.\r\n\r\n  Two. \nThree.")
    assert [(line.id, line.text) for line in lines] == [
        ("line-00000001", "One."),
        ("line-00000003", "Two."),
        ("line-00000004", "Three."),
    ]


def test_json_lines_have_ids_seeds_and_speeds(tmp_path: Path) -> None:
    rows = [{"id": "a", "text": "One."}, {"text": "Two.", "seed": 7, "speed": 1.5}, {"id": 12, "text": "Half \ud800."}]
    lines = lines_of(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows)))
    assert lines[0] == Line(1, "a", "One.")
    assert lines[1] == Line(2, "line-00000002", "Two.", 7, 1.5)
    assert lines[2] == Line(3, "12", "Half ?.")
    assert [line_of(line.to_dict()) for line in lines] == lines


def test_csv_with_quotes_pipes_and_line_breaks(tmp_path: Path) -> None:
    lines = lines_of(tmp_path / "a.csv", 'text,id,seed\n"He said ""no"", | twice.",a|b,3\n"Two\nlines.",c,\n,d,\n')
    assert lines[0].text == 'He said "no", | twice.'
    assert lines[0].source_id == "a|b"
    assert (lines[1].id, lines[1].text, lines[1].number, lines[1].seed) == ("c", "Two\nlines.", 3, None)
    assert (lines[2].id, lines[2].text, lines[2].number) == ("d", "", 5)


def test_ljspeech_metadata_is_read_without_a_header(tmp_path: Path) -> None:
    lines = lines_of(
        tmp_path / "metadata.csv", 'LJ001-0001|"Printing, in 1450|"Printing, in fourteen fifty\nb|Two.|Two.\n'
    )
    assert [(line.id, line.text) for line in lines] == [("LJ001-0001", '"Printing, in 1450'), ("b", "Two.")]


@pytest.mark.parametrize("hostile", ["../x", "", "a" * 300, "a.b", "a/b", "-rf", "CON:", "\u00fc", " ", "a\x00b"])
def test_ids_that_cannot_name_files_are_made_safe_and_told(tmp_path: Path, hostile: str) -> None:
    path = tmp_path / "a.jsonl"
    (line,) = lines_of(path, json.dumps({"id": hostile, "text": "One."}))
    assert line.source_id == hostile
    assert line.id.replace("-", "").replace("_", "").isascii()
    assert line.id.replace("-", "").replace("_", "").isalnum()
    assert 0 < len(line.id) <= 100
    (note,) = survey(path).notes
    assert note.startswith("a.jsonl line 1: id ")
    assert line.id in note


def test_ids_that_look_alike_once_made_safe_stay_apart(tmp_path: Path) -> None:
    rows = [{"id": name, "text": "One."} for name in ("a/b", "a.b", "../a_b", "a_b")]
    assert len({line.id for line in lines_of(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows)))}) == 4


def test_ids_that_come_twice_are_refused_with_both_lines(tmp_path: Path) -> None:
    rows = [{"id": name, "text": "One."} for name in ("a", "b", "A", "b")]
    with pytest.raises(UserError, match=r"line 3 has line 1's id A, line 4 has line 2's id b; give each line"):
        lines_of(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows)))


def test_ten_thousand_empty_lines(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nothing to speak in it \(10,000 empty lines\)"):
        lines_of(tmp_path / "a.txt", "\n" * 10_000)
    (tmp_path / "b.txt").write_text("\n" * 10_000 + "One.\n")
    found = survey(tmp_path / "b.txt")
    assert (found.lines, found.notes) == (1, ("b.txt: skipped 10,000 empty lines",))


def test_a_line_of_twenty_thousand_characters_is_a_line(tmp_path: Path) -> None:
    (line,) = lines_of(tmp_path / "a.csv", "id,text\na," + "word " * 4000)
    assert len(line.text) == 19_999


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.jsonl", '{"text": "One."}\n{"text": ', "line 2: not JSON"),
        ("a.jsonl", "[1]", "line 1: not a JSON object"),
        ("a.jsonl", '{"id": "a"}', "line 1: its text is missing"),
        ("a.jsonl", '{"text": 3}', "line 1: its text is not a string"),
        ("a.jsonl", '{"text": "a", "id": [1]}', "line 1: its id must be"),
        ("a.jsonl", '{"text": "a", "speed": 3}', "line 1: speed 3: must be between 0.5 and 2"),
        ("a.jsonl", '{"text": "a", "seed": -1}', "line 1: seed -1: must be between"),
        ("a.jsonl", '{"text": "a", "seed": 1.5}', "line 1: seed 1.5: must be a whole number"),
        ("a.jsonl", '{"text": "a", "speed": NaN}', "line 1: speed nan"),
        ("a.csv", "name,words\n1,2\n", "names no column text"),
        ("a.csv", "id,text,seed\na,b,c\n", "line 2: seed 'c' is not a number"),
        ("a.csv", 'id,text\na,"b\n', "line 2: not CSV"),
        ("a.csv", "id,text\na\n", "line 2: has 1 columns, and no text"),
        ("a.txt", b"One.\nTw\xfc.\n", "a.txt line 2 is not UTF-8 (its byte 3 is 0xfc): convert it, from Windows-1252"),
        ("a.csv", b"id,text\na,Tw\xfc.\n", 'a.csv" > utf8.csv'),
        ("a.jsonl", '{"text": "One."}'.encode("utf-16"), "a.jsonl is UTF-16"),
        ("a.tsv", "id\ttext\na\tOne.\n", "a.tsv: lines are read from .txt, .jsonl and .csv files"),
        ("a.json", '{"text": "One."}', "lines are read from .txt"),
        ("lines", "One.", "lines are read from .txt"),
        ("a.txt", "", "nothing to speak"),
    ],
)
def test_malformed_lines_are_named(tmp_path: Path, name: str, content: str | bytes, words: str) -> None:
    with pytest.raises(UserError) as error:
        lines_of(tmp_path / name, content)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_file_and_a_folder_are_told(tmp_path: Path) -> None:
    for path in (tmp_path / "none.txt", tmp_path):
        with pytest.raises(UserError, match="can't be read"):
            survey(path)
