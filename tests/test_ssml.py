"""SSML: what is spoken, how, and where each word is in what the user wrote."""

import time

import pytest

from common.errors import InvalidInput
from common.phrases import Phrase
from pipeline.pieces import Piece, PreparedPhrase, prepare
from pipeline.settings import SpeakSettings
from tacotron2.text.phonemes import from_ipa
from tacotron2.text.ssml import parse_ssml


def prepared(source: str, **settings) -> PreparedPhrase:
    chosen = SpeakSettings(ssml=True, timestamps=True, **settings)
    (phrase,) = prepare([Phrase(0, source)], chosen, max_symbols=256)
    return phrase


def pieces(source: str, **settings) -> tuple[Piece, ...]:
    phrase = prepared(source, **settings)
    assert phrase.error is None, phrase.error
    assert [piece.last for piece in phrase.pieces] == [False] * (len(phrase.pieces) - 1) + [True]
    assert [piece.number for piece in phrase.pieces] == list(range(len(phrase.pieces)))
    return phrase.pieces


def spoken(source: str, **settings) -> str:
    return " | ".join(piece.encoded.text for piece in pieces(source, **settings))


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("<speak>Hello there.</speak>", "hello there."),
        ("Fish &amp; chips &#38; 5 &lt; 6", "fish and chips and five less than six."),
        ('<speak version="1.1" xmlns="http://www.w3.org/2001/10/synthesis">Hi</speak>', "hi."),
        ('<?xml version="1.0" encoding="latin-1"?><!-- by hand --><speak>Café</speak>', "cafe."),
        ("<emphasis>Now</emphasis> <x:y xmlns:x='z' a='>'>and</x:y> <audio src='a.wav'/>then", "now and then."),
        ("<speak><p>One</p><p><s>Two</s><s>three!</s></p>four</speak>", "one. two. three! four."),
        ("<s>One</s> <s>two</s>", "one. two."),
        ("<sub alias='World Wide Web Consortium'>W3C</sub>'s", "world wide web consortium's."),
        ("<sub alias='doctor'>D<b>r</b>.</sub> Who", "doctor who."),
        ("<say-as interpret-as='characters'>AB-1</say-as>", "ay bee dash one."),
        ("<say-as interpret-as='spell-out'>to</say-as>", "tee oh."),
        ("<say-as interpret-as='cardinal'>1984</say-as>", "one thousand, nine hundred eighty-four."),
        ("<say-as interpret-as='number'> 12,345.6 </say-as>", "twelve thousand, three hundred forty-five point six."),
        ("<say-as interpret-as='ordinal'>3</say-as>", "third."),
        ("<say-as interpret-as='digits'>1984</say-as>", "one nine eight four."),
        ("<say-as interpret-as='telephone'>555-1234</say-as>", "five five five, one two three four."),
        ("<say-as interpret-as='date' format='dmy'>3/4/2022</say-as>", "april third, twenty twenty-two."),
        ("<say-as interpret-as='date' format='md'>3/4</say-as>", "march fourth."),
        ("<say-as interpret-as='date' format='my'>3/2022</say-as>", "march twenty twenty-two."),
        ("<say-as interpret-as='date' format='zzz'>4.3.2022</say-as>", "march fourth, twenty twenty-two."),
        ("<say-as interpret-as='date'>2022-03-04</say-as>", "march fourth, twenty twenty-two."),
        ("<say-as interpret-as='date'>44/55/66</say-as> <say-as interpret-as='date'>4 May</say-as>", None),
        ("<say-as interpret-as='time'>3:30pm</say-as>", "three thirty pee em."),
        ("<say-as interpret-as='currency'>$5.50</say-as>", "five dollars and fifty cents."),
        ("<say-as interpret-as='unit'>5 kg</say-as>", "five kilograms."),
        ("<say-as interpret-as='klingon'>Q</say-as> <say-as>5</say-as>", "cue five."),
        ("<say-as interpret-as='cardinal'>many</say-as>", "many."),
        ("<say-as interpret-as='telephone'>CALL</say-as> <say-as interpret-as='digits'>abc</say-as>", "call abc."),
        ("One <say-as interpret-as='telephone'></say-as><say-as interpret-as='digits'/>two", "one two."),
        (f"<say-as interpret-as='date'>{'9' * 5_000}</say-as>", None),
        ("two <phoneme ph='k\u00e6t'>cat</phoneme>s", "two {K AE1 T}s."),
        ("<phoneme alphabet='cmu-arpabet' ph='t ah0 m ey1 t ow0'>tomato</phoneme>!", "{T AH0 M EY1 T OW0}!"),
        ("<phoneme alphabet='x-arpabet' ph='HH-AW1-S'>x</phoneme>", "{HH AW1 S}."),
        ("a <phoneme ph='t\u0259\u02c8me\u026ato\u028a'>tomato</phoneme>", "a {T AH0 M EY1 T OW0}."),
        ("<![CDATA[5 < 6 & 7]]>", "five less than six and seven."),
        ("One <prosody pitch='high' volume='loud'>two</prosody>", "one two."),
    ],
)  # fmt: skip
def test_what_is_spoken(source: str, words: str | None) -> None:
    text = spoken(source)
    assert text == words if words is not None else text


@pytest.mark.parametrize(
    ("ipa", "arpabet"),
    [
        ("\u02c8\u0259nt\u0283\u026al", "{AH1 N CH IH0 L}"),
        ("h\u0259\u02c8lo\u028a \u02c8w\u025c\u02d0rld", "{HH AH0 L OW1} {W ER1 L D}"),
        ("/\u02ccmæ\u0261n\u0259\u02c8zi\u02d0n/", "{M AE2 G N AH0 Z IY1 N}"),
        ("\u02c8b\u028ct\u0329n".replace("t\u0329n", "tn\u0329"), "{B AH1 T AH0 N}"),
        ("d\u0361\u0292\u028cd\u0361\u0292", "{JH AH1 JH}"),
        ("k\u00e6t", "{K AE1 T}"),
        ("b\u0259\u02c8n\u00e6n\u0259", "{B AH0 N AE1 N AH0}"),
        ("\u03b8\u026a\u014bk, \u00f0\u025b\u0259", "{TH IH1 NG K} {DH EH1 AH0}"),
    ],
)
def test_ipa_becomes_arpabet(ipa: str, arpabet: str) -> None:
    assert from_ipa(ipa) == arpabet


def test_a_break_is_silence_after_what_was_said() -> None:
    source = "<break/>One<break time='500ms'/><break time='1.5s'/> two <break strength='weak'/>."
    source += "<break strength='none'/> three"
    assert [(piece.encoded.text, piece.pause) for piece in pieces(source)] == [
        ("one.", 2.0),
        ("two.", 0.5),
        ("three.", 0.0),
    ]


@pytest.mark.parametrize(
    ("rate", "speed"),
    [("slow", 0.75), ("x-fast", 1.6), ("120%", 1.2), ("+20%", 1.2), ("-50%", 0.5), ("1.3", 1.3), ("500%", 2.0)],
)
def test_a_rate_changes_the_speed_of_its_part(rate: str, speed: float) -> None:
    first, changed, last = pieces(f"It is <prosody rate='{rate}'>quite so</prosody> here")
    assert (first.speed, changed.speed, last.speed) == (None, pytest.approx(speed), None)
    assert [piece.encoded.text for piece in (first, changed, last)] == ["it is", "quite so", "here."]  # one sentence


def test_rates_within_one_another_and_within_a_set_speed_are_multiplied() -> None:
    source = (
        "<prosody rate='fast'>one <prosody rate='80%'>two</prosody></prosody><prosody rate='medium'> three</prosody>"
    )
    assert [piece.speed for piece in pieces(source, speed=1.2)] == [pytest.approx(1.5), None]
    assert spoken(source) == "one | two three."


def test_words_are_where_the_user_wrote_them() -> None:
    source = (
        "<speak>\n <p>Pay &#8364;<b>20</b> &amp; more, <sub alias='World Wide Web'>WWW</sub>.<break time='1s'/></p>"
        "<!-- no --><phoneme alphabet='ipa' ph='\u02c8k\u00e6t'>c\u00e4t</phoneme>"
        "<prosody rate='slow'> (\u201cend\u201d)</prosody>\n</speak>"
    )
    words = [word for piece in pieces(source) for word in piece.encoded.words]
    assert [word.text for word in words] == ["Pay", "\u20ac20", "&", "more,", "WWW", "c\u00e4t", "(\u201cend\u201d)"]
    spans = [source[slice(*word.span)] for word in words]
    assert spans == ["Pay", "&#8364;<b>20", "&amp;", "more,", "WWW", "c\u00e4t", "(\u201cend\u201d)"]


@pytest.mark.parametrize("element", ["<phoneme ph='k\u00e6t'><break/></phoneme>", "<sub alias='cat'/>"])
def test_what_is_spoken_without_a_text_is_no_word(element: str) -> None:
    assert [word.text for word in pieces(f"a {element} sat")[0].encoded.words] == ["a", "sat"]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("a\nb < c", "line 2, column 4: not well-formed"),
        ("<speak>\n  <p>a</speak>", "line 2, column 9: not well-formed: mismatched tag"),
        ("AT&T", "line 1, column 5: not well-formed"),
        ("a &nbsp; b", "line 1, column 3: not well-formed: undefined entity"),
        ("<!DOCTYPE speak [<!ENTITY a 'b'>]><speak>&a;</speak>", "a DTD is refused"),
        ("<?xml version='1.0'?><!DOCTYPE speak SYSTEM 'file:///etc/passwd'><speak>a</speak>", "a DTD is refused"),
        ("<speak>a<?php echo ?></speak>", "column 9: a processing instruction is refused"),
        ("a <break time='5'/>", 'column 3: break time "5": write seconds or milliseconds'),
        ("a <break time='11s'/>", "at most 10 s"),
        ("a" + 7 * " <break time='9s'/>", "the breaks are longer than 60 s together"),
        ("a <break strength='huge'/>", "must be one of none, x-weak"),
        ("<prosody rate='quick'>a</prosody>", 'prosody rate "quick"'),
        ("<prosody rate='-100%'>a</prosody>", "too far"),
        ("<prosody rate='&#10;x'>a</prosody>", 'prosody rate "x": write'),
        ("<sub>a</sub>", "sub needs alias"),
        ("<phoneme ph='\u02c8b\u0252q'>a</phoneme>", '"q" is no sound of English in IPA'),
        ("<phoneme alphabet='arpabet' ph='HH XX'>a</phoneme>", '"XX" is no ARPAbet symbol'),
        ("<phoneme alphabet='sampa' ph='a'>a</phoneme>", "must be ipa or cmu-arpabet"),
        ("<p>" * 33 + "a" + "</p>" * 33, "more than 32 elements within one another"),
        ("<speak/>", "nothing to speak"),
        ("<speak> <break/> ... </speak>", "nothing to speak"),
        ("\x00", "not well-formed"),
        ("", "nothing to speak"),
    ],
)
def test_what_cannot_be_used_is_named_with_its_place(source: str, message: str) -> None:
    error = prepared(source).error
    assert isinstance(error, InvalidInput)
    assert message in str(error)
    assert len(str(error).splitlines()) == 1


@pytest.mark.parametrize(
    ("begin", "part", "end"),
    [
        ("", "<s>Pay <emphasis>20</emphasis>% to <sub alias='doctor'>Dr.</sub> Who &amp; co.</s>", ""),
        ("a", "<b/>.", ""),
        ("", "<prosody rate='slow'>-</prosody>", "a"),
        ("", "<prosody rate='slow'>a</prosody>b", ""),
        ("", "<!-- -->", "a"),
        ("a<![CDATA[", "<", "]]>"),
        ("a", "\n", ""),
    ],
)
def test_a_long_text_takes_linear_time(begin: str, part: str, end: str) -> None:
    def seconds(characters: int) -> float:
        started = time.process_time()
        parse_ssml(begin + part * (characters // len(part)) + end)
        return time.process_time() - started

    seconds(1_000)
    assert min(seconds(40_000) for _ in range(3)) < 3.5 * min(seconds(20_000) for _ in range(3))
