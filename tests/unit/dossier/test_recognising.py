"""What a file is, by its first bytes, and what it is then called."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dossier.content.recognise import HEAD, ZIP, canonical, claimed, recognise
from dossier.domain import kinds
from dossier.domain.kinds import ALLOWED, EXTENSION, HEIC, JPEG, PDF, PNG, XML, named, safe_name
from kit.errors import InvalidInput


def ftyp(major: bytes, *others: bytes) -> bytes:
    body = b"ftyp" + major + bytes(4) + b"".join(others)
    return (len(body) + 4).to_bytes(4, "big") + body + bytes(100)


@pytest.mark.parametrize(
    ("head", "found"),
    [
        (b"%PDF-1.4\n", PDF),
        (b" %PDF-1.4\n", PDF),
        (b"x" * 1023 + b"%PDF-1.4\n", PDF),
        (b"\x1b%-12345X@PJL\r\n%PDF-1.4\n", PDF),
        (b"<?xml version='1.0'?><a/>", XML),
        (b"\xef\xbb\xbf  <?xml version='1.0'?><p:hoSo xmlns:p='x'/>", XML),
        ("\ufeff<?xml version='1.0'?><a/>".encode("utf-16-le"), XML),
        (b"<?xml version='1.0'?><!-- %PDF-1.4 --><a/>", XML),
        (b"\xff\xd8\xff\xe1" + bytes(100), JPEG),
        (b"\xff\xd8\xff\xe1 %PDF-1.4" + bytes(100), JPEG),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), PNG),
        (ftyp(b"heic", b"mif1", b"heic"), HEIC),
        (ftyp(b"heix"), HEIC),
        (ftyp(b"heim"), HEIC),
        (ftyp(b"heis"), HEIC),
        (ftyp(b"mif1"), HEIC),
        (ftyp(b"mif1", b"mif1", b"heic", b"hevc"), HEIC),
        (ftyp(b"msf1", b"mif1", b"heic"), HEIC),
        (b"PK\x03\x04" + bytes(60), ZIP),
    ],
)
def test_content_decides(head: bytes, found: str) -> None:
    assert recognise(head) == found


@pytest.mark.parametrize(
    ("head", "label"),
    [
        (b"", "?"),
        (b"x" * 1025 + b"%PDF-1.4\n", "?"),
        (b"GIF89a" + bytes(50), "GIF"),
        (b"MZ" + bytes(60) + b"%PDF-1.4", "EXE"),
        (b"#!/bin/sh\n%PDF-1.4", "SCRIPT"),
        (b"\x7fELF" + bytes(60), "ELF"),
        (b"<!DOCTYPE html><html>", "HTML"),
        (ftyp(b"avif", b"mif1"), "AVIF"),
        (ftyp(b"mif1", b"avif"), "AVIF"),
        (ftyp(b"hevc"), "HEIF sequence"),
        (ftyp(b"msf1", b"hevc"), "HEIF sequence"),
        (ftyp(b"isom"), "MP4/MOV"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(500), "DOC/XLS 97-2003"),
    ],
)
def test_a_refusal_says_what_was_found_and_what_is_taken(head: bytes, label: str) -> None:
    with pytest.raises(InvalidInput) as error:
        recognise(head)
    assert error.value.reason == "UNSUPPORTED_TYPE"
    assert error.value.metadata["found"] == label
    assert "HEIC" in error.value.metadata["taken"]


def test_an_office_file_with_a_password_is_called_that() -> None:
    head = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(500) + "EncryptedPackage".encode("utf-16-le")
    with pytest.raises(InvalidInput) as error:
        recognise(head)
    assert error.value.reason == "FILE_ENCRYPTED"


@given(st.binary(max_size=HEAD + 100))
def test_only_what_is_on_the_list_is_ever_recognised(data: bytes) -> None:
    with contextlib.suppress(InvalidInput):
        assert recognise(data) in {*ALLOWED, ZIP}


@pytest.mark.parametrize(
    ("stated", "canonically"),
    [
        ("application/x-pdf", PDF),
        ("Application/PDF; charset=binary", PDF),
        ("image/pjpeg", JPEG),
        ("image/jpg", JPEG),
        ("image/x-png", PNG),
        ("image/heif", HEIC),
        ("text/xml; charset=utf-8", XML),
        ("application/octet-stream", ""),
        ("", ""),
    ],
)
def test_other_spellings_of_a_type_are_taken_for_it(stated: str, canonically: str) -> None:
    assert canonical(stated) == canonically
    assert claimed(stated) == canonically


@pytest.mark.parametrize(
    "stated", ["application/x-zip-compressed", "image/webp", "text/plain", "nonsense", "a/b" * 999]
)
def test_what_a_program_guesses_from_the_name_refuses_nothing(stated: str) -> None:
    assert claimed(stated) == ""


def test_a_film_is_refused_before_it_is_sent() -> None:
    with pytest.raises(InvalidInput) as error:
        claimed("video/mp4")
    assert error.value.metadata["found"] == "video/mp4"


# Names


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("../../etc/passwd", "passwd"),
        ("C:\\giấy\\khai sinh.pdf", "khai sinh.pdf"),
        ("a\u202efdp.exe\n.pdf", "afdp.exe.pdf"),
        ('x"; filename=y.pdf', "x; filename=y.pdf"),
        ("...", "file"),
        ("", "file"),
        ("á" * 300 + ".pdf", "á" * 137 + ".pdf"),
    ],
)
def test_a_filename_is_a_bare_name(name: str, safe: str) -> None:
    assert safe_name(name) == safe


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("khai sinh.pdf", "khai sinh.pdf"),
        ("khai sinh.PDF", "khai sinh.pdf"),
        ("khai sinh", "khai sinh.pdf"),
        ("x.hta", "x.pdf"),
        ("x.exe", "x.pdf"),
        ("x.docm", "x.pdf"),
        ("x.pdf.exe", "x.pdf"),
        ("x.exe.pdf", "x.pdf"),
        ("x.exe" + " " * 80 + ".pdf", "x.pdf"),
        ("x.js.vbs.hta.pdf", "x.pdf"),
        ("x.appref-ms", "x.pdf"),
        ("x．exe．pdf", "x.pdf"),
        ("x\u202efdp.exe", "xfdp.pdf"),
        ("x.e\u200bxe", "x.pdf"),
        ("..\\..\\x.lnk", "x.pdf"),
        ("a／b∕c⁄d.pdf", "d.pdf"),
        ("CON", "_CON.pdf"),
        ("con.pdf", "_con.pdf"),
        ("nul.tar.exe", "_nul.tar.pdf"),
        ("LPT¹.pdf", "_LPT¹.pdf"),
        ("console.pdf", "console.pdf"),
        (".htaccess", "htaccess.pdf"),
        ("   ", "file.pdf"),
        ("\u3164\u2800", "file.pdf"),
        ("số 12.2026", "số 12.2026.pdf"),
        ("báo cáo.v2", "báo cáo.v2.pdf"),
        ("TS. Nguyễn Văn A", "TS. Nguyễn Văn A.pdf"),
        ("hợp đồng.v2.pdf", "hợp đồng.v2.pdf"),
        ("á" * 300, "á" * 146 + ".pdf"),
    ],
)
def test_the_extension_follows_what_the_file_is(name: str, kept: str) -> None:
    assert named(name, PDF) == kept


def test_every_kind_has_its_extension_whatever_the_file_was_called() -> None:
    for kind, extension in EXTENSION.items():
        assert named("ảnh.HEIC", kind) == f"ảnh.{extension}"


NAMES = st.text(max_size=400) | st.lists(
    st.sampled_from(
        [".", "/", "\\", "exe", "pdf", "hta", "CON", "nul", " ", "\u202e", "\u200b", "ạ", "x", "．", ":"]
    ),
    max_size=60,
).map("".join)


@given(NAMES, st.sampled_from(sorted(ALLOWED)))
def test_a_name_is_safe_everywhere_and_stays_the_same(name: str, kind: str) -> None:
    kept = named(name, kind)
    base, _, extension = kept.rpartition(".")
    assert extension == EXTENSION[kind]
    assert base
    assert base == base.strip(". ")
    assert len(kept) <= kinds.MOST_LETTERS + 1
    assert all(c.isprintable() and c not in '/\\"<>|:*?' for c in kept)
    assert not base.lower().endswith((".exe", ".hta", ".pdf"))
    assert base.partition(".")[0].strip().lower() not in ("con", "nul", "prn", "aux")
    assert named(kept, kind) == kept
