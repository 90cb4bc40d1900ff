"""The text front end: the classic's ids, what is dropped, and how long texts are cut."""

import random
import re

import numpy as np
import pytest

from common.errors import InvalidInput, UserError
from tacotron2.text import TextFrontEnd, TracedText, encode, split
from tacotron2.text.cleaners import english_cleaners
from tacotron2.text.lexicon import Lexicon
from tacotron2.text.numbers import cardinal, ordinal, year
from tacotron2.text.symbols import SYMBOLS

SPACE = 11


def spell(ids: np.ndarray) -> str:
    return "".join(SYMBOLS[index] for index in ids)


def spoken(text: str) -> str:
    """What is read out for a text, without the period that ends it."""
    return encode(text, final_period=False).text


class TestSymbols:
    def test_there_are_148_in_nvidias_order(self) -> None:
        assert len(SYMBOLS) == len(set(SYMBOLS)) == 148
        assert "".join(SYMBOLS[:12]) == "_-!'(),.:;? "
        assert "".join(SYMBOLS[12:64]) == "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
        assert SYMBOLS[64:69] == ("@AA", "@AA0", "@AA1", "@AA2", "@AE")
        assert (SYMBOLS[88], SYMBOLS[106], SYMBOLS[120], SYMBOLS[147]) == ("@B", "@HH", "@NG", "@ZH")


# fmt: off
KNOWN_IDS = [
    # h e l l o , _ w o r l d !
    ("Hello, world!", [45, 42, 49, 49, 52, 6, 11, 60, 52, 55, 49, 41, 2]),
    # f i r s t .
    ("1st", [43, 46, 55, 56, 57, 7]),
    # d o c t o r _ s m i t h .
    ("Dr. Smith", [41, 52, 40, 57, 52, 55, 11, 56, 50, 46, 57, 45, 7]),
    # n i n e t e e n _ e i g h t y - f o u r .
    ("1984", [51, 46, 51, 42, 57, 42, 42, 51, 11, 42, 46, 44, 45, 57, 62, 1, 43, 52, 58, 55, 7]),
    # t w o _ t h o u s a n d _ f i v e .
    ("2005", [57, 60, 52, 11, 57, 45, 52, 58, 56, 38, 51, 41, 11, 43, 46, 59, 42, 7]),
    # o n e _ m i l l i o n .
    ("1,000,000", [52, 51, 42, 11, 50, 46, 49, 49, 46, 52, 51, 7]),
    # t w e l v e _ t h i r t y - f o u r _ d o l l a r s , _ f i f t y _ c e n t s .
    ("$1,234.50", [57, 60, 42, 49, 59, 42, 11, 57, 45, 46, 55, 57, 62, 1, 43, 52, 58, 55, 11, 41, 52, 49, 49, 38, 55,
                   56, 6, 11, 43, 46, 43, 57, 62, 11, 40, 42, 51, 57, 56, 7]),
    # HH AW1 S S .
    ("{HH AW1 S S}", [106, 82, 131, 131, 7]),
    # t u r n _ HH AW1 S _ ?
    ("Turn {HH AW1 S} ?", [57, 58, 55, 51, 11, 106, 82, 131, 11, 10]),
]
# fmt: on


class TestIds:
    @pytest.mark.parametrize(("text", "ids"), KNOWN_IDS)
    def test_known_texts(self, text: str, ids: list[int]) -> None:
        encoded = encode(text)
        assert encoded.ids.tolist() == ids
        assert encoded.ids.dtype == np.int32
        assert encoded.dropped == ()

    def test_the_text_is_what_the_ids_say(self) -> None:
        encoded = encode("The “Quoted” naïve {HH AW1 S} & 2 more")
        assert encoded.text == "the quoted naive {HH AW1 S}  two more."
        before, sounds, after = encoded.ids[:17], encoded.ids[17:20], encoded.ids[20:]
        assert spell(before) + "{HH AW1 S}" + spell(after) == encoded.text
        assert spell(sounds) == "@HH@AW1@S"

    @pytest.mark.parametrize("text", ["hello\n", " \t hello \r\n", 'hello "', "\u00a0hello\u2028", "& hello &"])
    def test_no_space_begins_or_ends_a_text(self, text: str) -> None:
        assert encode(text).text == "hello."
        assert encode(text, final_period=False).text == "hello"

    @pytest.mark.parametrize("ending", [".", "!", "?", ",", ";", ":", "...", ".)", "?'"])
    def test_an_ending_is_kept(self, ending: str) -> None:
        assert encode(f"hello{ending}").text == f"hello{ending}"

    @pytest.mark.parametrize(
        ("text", "ended"), [("hello", "hello."), ("(hello)", "(hello)."), ("a -", "a -."), ('"hi"', "hi.")]
    )
    def test_a_text_without_an_ending_gets_a_period(self, text: str, ended: str) -> None:
        assert encode(text).text == ended

    def test_padding_and_tilde_never_come_from_text(self) -> None:
        encoded = encode("a_b~c ‿ 〜")
        assert encoded.text == "abc."
        assert encoded.dropped == ("_", "~")

    def test_equal_texts_are_equal(self) -> None:
        assert encode("one") == encode("1")
        assert encode("one") != encode("two")


class TestWords:
    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("0 7 13 20 21 99", "zero seven thirteen twenty twenty-one ninety-nine"),
            ("007", "seven"),
            ("100 101 999", "one hundred one hundred one nine hundred ninety-nine"),
            ("1000", "one thousand"),
            ("1001", "ten oh one"),
            ("1800", "eighteen hundred"),
            ("1905", "nineteen oh five"),
            ("2000", "two thousand"),
            ("2009", "two thousand nine"),
            ("2010", "twenty ten"),
            ("2999", "twenty-nine ninety-nine"),
            ("3000", "three thousand"),
            ("3,001", "three thousand one"),
            ("12,345", "twelve thousand, three hundred forty-five"),
            ("3.14", "three point fourteen"),
            ("1.05", "one point zero five"),
            ("5.00", "five point zero"),
            ("2nd 3rd 11th 12th", "second third eleventh twelfth"),
            ("20th 22nd 100th", "twentieth twenty-second one hundredth"),
            ("101st", "one hundred and first"),
            ("C3PO", "cthreepo"),
            ("1" * 37, " ".join(["one"] * 37)),
        ],
    )
    def test_numbers(self, text: str, words: str) -> None:
        assert spoken(text) == words

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("$1", "one dollar"),
            ("$20", "twenty dollars"),
            ("$0.01", "one cent"),
            ("$.50", "fifty cents"),
            ("$1.5", "one dollar, fifty cents"),
            ("$0", "zero dollars"),
            ("$3.14159", "three point fourteen thousand, one hundred fifty-nine dollars"),
            ("$2.5 million", "two point five million dollars"),
            ("$1.2.3", "one point two.three dollars"),
            ("$,5", "five dollars"),
            ("It costs $5.", "it costs five dollars."),
            ("£1", "one pound"),
            ("£20", "twenty pounds"),
            ("£1,000,000", "one million pounds"),
            ("£3.01", "three pounds, one penny"),
            ("£3.50", "three pounds, fifty pence"),
        ],
    )
    def test_money(self, text: str, words: str) -> None:
        assert spoken(text) == words

    @pytest.mark.parametrize(
        ("short", "word"),
        [
            *[("Mrs.", "misess"), ("Mr.", "mister"), ("Dr.", "doctor"), ("St.", "saint"), ("Co.", "company")],
            *[("Jr.", "junior"), ("Maj.", "major"), ("Gen.", "general"), ("Drs.", "doctors"), ("Rev.", "reverend")],
            *[("Lt.", "lieutenant"), ("Hon.", "honorable"), ("Sgt.", "sergeant"), ("Capt.", "captain")],
            *[("Esq.", "esquire"), ("Ltd.", "limited"), ("Col.", "colonel"), ("Ft.", "fort")],
        ],
    )
    def test_abbreviations(self, short: str, word: str) -> None:
        assert spoken(f"the {short} x") == f"the {word} x"
        assert spoken(f"the un{short} x") == f"the un{short.lower()} x"

    def test_typography_is_written_in_ascii(self) -> None:
        assert (
            spoken("Don\u2019t \u2013 I mean \u2014 “wait”… naïve café, 日")
            == "don't - i mean -- wait... naive cafe, ri"
        )

    @pytest.mark.slow
    def test_cardinals_and_ordinals_are_worded_like_inflects(self) -> None:
        import inflect  # takes seconds

        engine, draw = inflect.engine(), random.Random(1)
        sizes = [draw.randint(1, 35) for _ in range(300)]
        round_numbers = [10**size + draw.choice([0, 1, 15, 100, 101]) for size in range(36)]
        for number in [*range(130), *(draw.randrange(10**size) for size in sizes), *round_numbers]:
            assert cardinal(str(number)) == engine.number_to_words(number, andword="").replace("  ", " ")
            assert ordinal(str(number)) == engine.number_to_words(f"{number}th")

    @pytest.mark.slow
    def test_years_are_worded_like_inflects_pairs(self) -> None:
        import inflect

        engine = inflect.engine()
        for number in [*range(1001, 1100), *range(1901, 2000), *range(2010, 2100)]:
            pairs = engine.number_to_words(number, andword="", zero="oh", group=2)
            assert year(number) == pairs.replace(", ", " ")

    def test_cleaning_leaves_the_ends_alone(self) -> None:
        assert english_cleaners(" Mr.  X\n") == " mister x "


class TestDropped:
    def test_characters_without_a_symbol_are_named_in_order(self) -> None:
        encoded = encode("50% of A&B [100%] 😀 £")
        assert encoded.text == "fifty of ab one hundred."
        assert encoded.dropped == ("%", "&", "[", "]", "😀", "£")

    def test_accents_and_invisible_marks_are_not_worth_naming(self) -> None:
        encoded = encode("\ufeffcafe\u0301 co\u00adop\u200b")
        assert (encoded.text, encoded.dropped) == ("cafe coop.", ())

    def test_bytes_that_were_not_utf8_are_named_printably(self) -> None:
        assert encode("caf\udce9").dropped == ("\ufffd",)


class TestBraces:
    """Braces hold ARPAbet, or they are text."""

    @pytest.mark.parametrize(
        ("text", "said", "dropped"),
        [
            ("Hello {name}, welcome", "hello name, welcome", "{}"),
            ("{HH QX}", "hh qx", "{}"),
            ("say {HH S", "say hh s", "{"),
            ("say HH}", "say hh", "}"),
            ("{HH {AW1} S}", "hh {AW1} s", "{}"),
            ("{ HH\nAW1 S }", "{HH AW1 S}", ""),
            (r"{R} \mathbb{R}", "{R} mathbbr", "\\{}"),
        ],
    )
    def test_what_is_no_arpabet_is_text_and_its_braces_are_named(self, text: str, said: str, dropped: str) -> None:
        encoded = encode(text, final_period=False)
        assert (encoded.text, encoded.dropped) == (said, tuple(dropped))


class TestErrors:
    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("", "nothing to speak"),
            ("\n \t", "nothing to speak"),
            ("...", 'nothing to speak in "..."'),
            ("& %", 'once "&%" is left out'),
            ("{ }", 'once "{}" is left out'),
            ("\udcff", "nothing to speak"),
        ],
    )
    def test_each_is_one_printable_line_that_names_the_problem(self, text: str, words: str) -> None:
        for call in (lambda: encode(text), lambda: split(text, 64)):
            with pytest.raises(InvalidInput) as caught:
                call()
            message = str(caught.value)
            assert words in message
            assert "\n" not in message
            message.encode()

    def test_a_long_text_is_not_repeated_in_full(self) -> None:
        with pytest.raises(UserError) as caught:
            encode("?" * 10_000)
        assert len(str(caught.value)) < 200

    @pytest.mark.parametrize("max_symbols", [3, 0, -1])
    def test_pieces_too_short_to_speak(self, max_symbols: int) -> None:
        with pytest.raises(ValueError, match="at least 4"):
            split("hello", max_symbols)


def texts(pieces) -> list[str]:
    return [piece.text for piece in pieces]


SENTENCES = "The cat sat, and sat. It slept! Did it, then, wake up? It did..."
CLAUSE = "The water rose not quickly enough to prevent a swirl of gritty dust"


class TestSplit:
    def test_a_text_that_fits_is_one_piece_equal_to_its_encoding(self) -> None:
        text = "One. Two, three; 4!"
        whole = encode(text)
        (piece,) = split(text, len(whole.ids))
        assert piece == whole
        assert np.array_equal(piece.ids, whole.ids)
        assert len(split(text, len(whole.ids) - 1)) == 2

    @pytest.mark.parametrize(
        ("text", "max_symbols", "pieces"),
        [
            (SENTENCES, 32, ["the cat sat, and sat. it slept!", "did it, then, wake up? it did..."]),
            (SENTENCES, 24, ["the cat sat, and sat.", "it slept!", "did it, then, wake up?", "it did..."]),
            (
                "the forms of letters, and that of the page; should be a help",
                30,
                ["the forms of letters,", "and that of the page;", "should be a help."],
            ),
            ("the forms of printed letters on it", 14, ["the forms", "of printed", "letters on it."]),
            ("a pneumonoultramicroscopic word", 12, ["a pneumonoul", "tramicroscop", "ic word."]),
            ("so, {HH AW1 S S S}", 4, ["so,", "{HH AW1 S S}", "{S}."]),
            ("ab{HH AW1 S}{M AW1 S}cd", 4, ["ab", "{HH AW1 S}", "{M AW1 S}c", "d."]),
            # Where a reader would breathe.
            (CLAUSE, 40, ["the water rose not quickly enough", "to prevent a swirl of gritty dust."]),
            (CLAUSE, 24, ["the water rose", "not quickly enough", "to prevent a swirl", "of gritty dust."]),
            (
                CLAUSE,
                12,
                ["the water", "rose", "not quickly", "enough", "to prevent", "a swirl", "of gritty", "dust."],
            ),
            # A closing mark stays with its sentence; initials and abbreviations end none; lone punctuation joins.
            ("“This is it.” (He said so.) 'He left.'", 16, ["this is it.", "(he said so.)", "'he left.'"]),
            (
                "We met J. R. Smith at 5 p.m. today. He left.",
                40,
                ["we met j. r. smith at five p.m. today.", "he left."],
            ),
            ("hello ... ! there - - friend", 11, ["hello ... !", "there - -", "friend."]),
        ],
    )
    def test_sentences_first_then_clauses_then_words_and_inside_words_only_if_need_be(
        self, text: str, max_symbols: int, pieces: list[str]
    ) -> None:
        assert texts(split(text, max_symbols)) == pieces

    def test_a_tiny_last_piece_is_evened_out(self) -> None:
        sizes = [len(piece.ids) for piece in split("word " * 53, 256)]
        assert len(sizes) == 2
        assert min(sizes) > 120

    def test_no_period_is_added_inside_a_sentence(self) -> None:
        pieces = texts(split("word " * 100, 64))
        assert not any(text.endswith(".") for text in pieces[:-1])
        assert pieces[-1].endswith("word.")
        assert texts(split("word " * 100, 64, final_period=False))[-1].endswith("word")

    def test_punctuation_without_end_leaves_only_what_speaks(self) -> None:
        for piece in split("a" + "." * 1000 + "b", 16):
            assert any(letter in piece.text for letter in "ab")

    def test_dropped_characters_are_named_in_their_piece(self) -> None:
        pieces = split("one & two. three % four.", 12)
        assert [piece.dropped for piece in pieces] == [("&",), ("%",)]

    @pytest.mark.parametrize("seed", range(20))
    def test_random_texts(self, seed: int) -> None:
        draw = random.Random(seed)
        vocabulary = ["a", "it's", "seashells", "(so)", "“x”", "1984", "$2.50", "Dr.", "{HH AW1 S}", "-", "&", "日本"]
        vocabulary += ["".join(draw.choices("abcdefgh", k=draw.randint(1, 12))) for _ in range(30)]
        ends = ["", "", "", "", "", "", ",", ";", ".", "!", "...", "?!"]
        text = " ".join(draw.choice(vocabulary) + draw.choice(ends) for _ in range(draw.randint(20, 300)))
        whole = encode(text)
        for max_symbols in (4, 5, 17, 64, 256):
            pieces = split(text, max_symbols)
            assert max(len(piece.ids) for piece in pieces) <= max_symbols
            assert min(piece.ids.min() for piece in pieces) > 0
            for piece in pieces:
                assert (piece.ids >= 12).any(), f"nothing to speak in {piece.text!r}"
                assert SPACE not in (piece.ids[0], piece.ids[-1])
            joined = np.concatenate([piece.ids for piece in pieces])
            assert np.array_equal(joined[joined >= 12], whole.ids[whole.ids >= 12])
            if max_symbols >= 17:  # there is room for the punctuation too
                assert np.array_equal(joined[joined != SPACE], whole.ids[whole.ids != SPACE])
            assert {character for piece in pieces for character in piece.dropped} == set(whole.dropped)
            if max_symbols >= 64:
                assert " ".join(texts(pieces)).split() == whole.text.split()  # no word was cut

    @pytest.mark.parametrize("seed", range(10))
    def test_no_sentence_that_fits_is_cut(self, seed: int) -> None:
        draw = random.Random(seed)
        sentences = [" ".join(draw.choices(["word", "two,", "three"], k=draw.randint(1, 25))) + "." for _ in range(60)]
        pieces = texts(split(" ".join(sentences), 100))
        for sentence in sentences:
            if len(sentence) <= 100:
                assert any(sentence in piece for piece in pieces)
        assert sum(map(len, pieces)) / len(pieces) > 50


class TestWordSpans:
    """Which part of the text each spoken word came from."""

    @staticmethod
    def spans(text: str, front_end: TextFrontEnd | None = None, max_symbols: int = 256) -> list[str]:
        """The text of each word as it was written; checks what holds of all."""
        reading = (front_end or TextFrontEnd()).read(TracedText(text))
        written, done, before = [], 0, None
        for piece in split(reading, max_symbols):
            symbols = sum(("{" not in unit) or len(unit.split()) for unit in re.findall(r"\{[^}]*\}|.", piece.text))
            covered, last = 0, 0
            for first, stop, word, span in piece.words:
                assert last <= first < stop <= symbols == len(piece.ids)
                assert done <= span[0] < span[1] <= len(text) or span == before  # a word that was cut in two
                covered, last, (_, done), before = covered + stop - first, stop, span, span
                assert word == text[slice(*span)]
                written.append(word)
            silent = sum(not unit.isalpha() for unit in re.sub(r"\{[^}]*\}", "", piece.text))
            assert symbols - silent <= covered  # every letter and sound is in a word
        return written

    @pytest.mark.parametrize(
        ("text", "written"),
        [
            ("The price fell 20% today.", ["The", "price", "fell", "20%", "today."]),
            ("1 one 20 20 twenty", ["1", "one", "20", "20", "twenty"]),
            ("Dr. Smith's $1.5m, on 12/25/2024!", ["Dr.", "Smith's", "$1.5m,", "on", "12/25/2024!"]),
            ("see https://x.com/a_b?c=1, or bob@x.org", ["see", "https://x.com/a_b?c=1,", "or", "bob@x.org"]),
            ("“Hello” — she (so) said…", ["“Hello”", "she", "(so)", "said…"]),
            ("Naïve e\u0301te\u0301 ﬁn 5½ x²", ["Naïve", "e\u0301te\u0301", "ﬁn", "5½", "x²"]),
            ("IBM's F-16s at -5°C and AT&T", ["IBM's", "F-16s", "at", "-5°C", "and", "AT&T"]),
            ("He {HH AW1 S} said {name} 😀 ok", ["He", "{HH AW1 S}", "said", "{name}", "ok"]),
            ("# Head\n- *one*\n\n2<br>now\t&amp; 3", ["Head", "one", "2", "now", "&amp;", "3"]),
            ("5 p.m. to 9 p.m. at 123 N Main St.", ["5 p.m.", "to", "9 p.m.", "at", "123 N Main St."]),
            ('say"hi"now to a[i], EUR/USD', ['say"', 'hi"', "now", "to", "a[", "i],", "EUR/USD"]),
            ("Hello—world, 日本 THE END", ["Hello", "world,", "日本", "THE", "END"]),
        ],
    )
    def test_what_is_rewritten_is_one_span_and_other_words_are_exact(self, text: str, written: list[str]) -> None:
        assert self.spans(text) == written
        assert [word for word in self.spans(text, max_symbols=16) if word in written]

    def test_without_the_normaliser(self) -> None:
        assert self.spans("Dr. Who paid $5.", TextFrontEnd(normalizer="none")) == ["Dr.", "Who", "paid", "$5."]

    def test_of_a_lexicon(self) -> None:
        lexicon = Lexicon({"Nguyen": "{W IH1 N}", "C++": "see plus plus"})
        text = "Mr. Nguyen's C++ (Nguyen-style)."
        assert self.spans(text, TextFrontEnd(lexicon=lexicon)) == ["Mr.", "Nguyen's", "C++", "(Nguyen-style)."]

    def test_nothing_changes_in_what_is_read_and_of_plain_text_there_are_no_words(self) -> None:
        text = "Pay 20% by 5 p.m. " * 20
        traced, plain = (split(TextFrontEnd().read(kind(text)), 64) for kind in (TracedText, str))
        assert traced == plain
        assert [piece.ids.tolist() for piece in traced] == [piece.ids.tolist() for piece in plain]
        assert not any(piece.words for piece in plain)

    def test_any_text(self) -> None:
        fragments = (
            *("$5 ", "12/25/2024", " 3:30pm ", "Dr. ", "XIV", "GPU", "25°C", "john@doe.com ", " #tag", "\u2013", "—"),
            *("“", "90s", "½ ", "²", "😀", "**b** ", "&amp;", "<b>", " a.m.", " the ", "{HH AW1 S}", "%", "\n- "),
            *("ﬁ", "İ"),
        )
        chosen = random.Random(0)
        for _ in range(100):
            self.spans("a" + "".join(chosen.choice(fragments) for _ in range(30)), max_symbols=40)
