"""E-mail and web addresses, paths and file names, IP addresses, handles and hashtags."""

import re

from tacotron2.text.normalizer.say import cardinal, code, digits, letters
from tacotron2.text.rewriting import Pattern
from tacotron2.text.tables import table

_CHUNK = Pattern(r"\S+")
_OPENING, _CLOSING = "([\"'<", ".,;:!?)\"']>"
_EMAIL = Pattern(r"(?:mailto:)?[\w.+-]+@[\w-]+(?:\.[\w-]+)+")
_SCHEME = Pattern(r"(?:https?|ftp|file|ssh|git)://", re.IGNORECASE)
_DOMAIN = Pattern(r"([A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+){0,8})\.([A-Za-z]{2,12})(?::[0-9]{1,5})?((?:[/?#].*)?)", re.DOTALL)
_LABELLED = Pattern(r"([A-Za-z]{1,20}[:,])((?:https?://|www\.).+|[^:,/]+@[^:,/]+)", re.DOTALL)  # "Email:jane@doe.com"
_DOTNET = Pattern(r"([A-Za-z]*)\.NET")
_IP = Pattern(r"([0-9]{1,3}(?:\.[0-9]{1,3}){3}|localhost)(?::([0-9]{1,5})|/([0-9]{1,2}))?((?:/\S*)?)")
_FILE = Pattern(r"([\w./~\\-]*[\w-])\.([A-Za-z0-9]{1,12})(?::[0-9]{1,6}){0,2}")  # perhaps with a line: "main.py:42"
_PATH = Pattern(r"(?:~|\.{1,2})?(?:/[\w.-]+){2,40}/?(?:\?\S*)?|(?:~|\.{1,2})(?:/[\w.-]+){1,40}/?|[A-Za-z]:\\\S*")
_HANDLE = Pattern(r"@(\w{1,40})")
_HASHTAG = Pattern(r"#([A-Za-z]\w{0,60})")
_TOKEN = Pattern(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+|[^\W_]|[^\s]")
_MARKS = frozenset("@#/\\._")


def read_addresses(text: str) -> str:
    """Reads every address in the text aloud, sign by sign."""
    if _MARKS.isdisjoint(text):
        return text
    return _CHUNK.sub(lambda match: match[0] if _MARKS.isdisjoint(match[0]) else _chunk(match[0]), text)


def _chunk(chunk: str) -> str:
    begun = chunk.lstrip(_OPENING)
    core = begun.rstrip(_CLOSING).removesuffix("'s")
    words = _address(core)
    return chunk if words is None else chunk[: len(chunk) - len(begun)] + words + begun[len(core) :]


def _address(core: str) -> str | None:
    """The words of an address; None if it isn't one."""
    if (labelled := _LABELLED.fullmatch(core)) and labelled[1] != "mailto:":
        words = _address(labelled[2])
        return words and f"{labelled[1]} {words}"
    if _EMAIL.fullmatch(core):
        return _spoken(core.removeprefix("mailto:"))
    if scheme := _SCHEME.match(core):
        return _spoken(core[scheme.end() :].removeprefix("www.").rstrip("/")) or None
    if core.startswith("www.") and len(core) > 4:
        return _spoken(core.removeprefix("www.").rstrip("/"))
    if (address := _IP.fullmatch(core)) and core != "localhost":
        return _ip(address)
    if dotnet := _DOTNET.fullmatch(core):
        return f"{letters(dotnet[1])} dot net".strip()
    if tag := _HASHTAG.fullmatch(core):
        return f"hashtag {_spoken(tag[1].replace('_', ' '))}"
    if handle := _HANDLE.fullmatch(core):
        return f"at {_spoken(handle[1])}"
    if _PATH.fullmatch(core) and re.search("[A-Za-z]{2}", core):
        return _spoken(core.rstrip("/"))
    if (file := _FILE.fullmatch(core)) and file[2].lower() in table("file-endings") and _is_name(*file.groups()):
        return _spoken(core)
    domain = _DOMAIN.fullmatch(core)
    is_top = domain and (
        domain[2] in table("top-domains") or (len(domain[2]) == 2 and domain[2].islower() and domain[3][:1] == "/")
    )
    if domain and is_top and re.search("[A-Za-z]", domain[1]):
        return _spoken(core.rstrip("/"))
    return None


def _is_name(stem: str, ending: str) -> bool:
    """False for "e.g", "3.h" and a missing space between sentences, which only look like names of files."""
    sentence = ending[0].isupper() and not (ending.isupper() and len(ending) > 2)
    return len(stem) > 1 and not stem.replace(".", "").isdigit() and not sentence


def _ip(address: re.Match[str]) -> str:
    words = " dot ".join(digits(part) or part for part in address[1].split("."))
    if address[2]:
        words += f" {cardinal(address[2])}" if words == "localhost" else f" port {digits(address[2])}"
    if address[3]:
        words += f" slash {code(address[3])}"
    return f"{words} {_spoken(address[4])}".strip()


def _spoken(core: str) -> str:
    return " ".join(_token(token) for token in _TOKEN.findall(core))


def _token(token: str) -> str:
    if token in table("signs-in-addresses"):
        return table("signs-in-addresses")[token]
    if token.isdigit():
        return code(token) if token.isascii() else token
    return letters(token) if token.isascii() and is_spelt(token) else token.lower()


def is_spelt(letters_only: str) -> bool:
    """Whether letters of an address or a name are said one by one: some endings, and all without a vowel."""
    lower = letters_only.lower()
    if lower in table("spelt-endings") or (len(lower) == 1 and lower != "a"):
        return True
    return not any(vowel in lower for vowel in "aeiouy") or (letters_only.isupper() and 1 < len(lower) < 5)
