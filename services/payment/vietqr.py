"""VietQR: the EMVCo merchant-presented code of Vietnamese banking apps (NAPAS 247 transfers).

A code is a chain of fields `TTLLvalue`: two digits of tag, two of length, a value; the checksum comes last.
"""

from __future__ import annotations

import binascii
import re
from dataclasses import dataclass
from typing import Final

GUID: Final = "A000000727"
TO_ACCOUNT: Final = "QRIBFTTA"
_PURPOSE = re.compile(r"[0-9A-Za-z .-]{1,25}")


@dataclass(frozen=True)
class Transfer:
    """What a code asks for: `amount` in đồng (None: the payer's choice), `purpose` is the transfer's text."""

    bank_bin: str
    account: str
    amount: int | None = None
    purpose: str = ""


class NotVietQr(ValueError):
    """The text is not a VietQR code: broken, altered, or of another scheme."""


def crc(text: str) -> str:
    """CRC-16/CCITT-FALSE (polynomial 1021, initial FFFF) in capital hex digits; `123456789` gives 29B1."""
    return f"{binascii.crc_hqx(text.encode(), 0xFFFF):04X}"


def build(transfer: Transfer) -> str:
    """The code; dynamic (12) when the amount is fixed. Raises ValueError for what cannot be in it."""
    if not re.fullmatch(r"[0-9]{6}", transfer.bank_bin):
        raise ValueError("a bank's BIN has six digits")
    if not re.fullmatch(r"[0-9A-Za-z]{1,19}", transfer.account):
        raise ValueError("an account has 1 to 19 letters and digits")
    if transfer.amount is not None and not 0 < transfer.amount < 10**13:
        raise ValueError("the amount must be positive and have at most 13 digits")
    if transfer.purpose and not _PURPOSE.fullmatch(transfer.purpose):
        raise ValueError("a purpose has at most 25 plain letters, digits, dots, dashes and spaces")
    beneficiary = _field("00", transfer.bank_bin) + _field("01", transfer.account)
    text = (
        _field("00", "01")
        + _field("01", "11" if transfer.amount is None else "12")
        + _field("38", _field("00", GUID) + _field("01", beneficiary) + _field("02", TO_ACCOUNT))
        + _field("53", "704")
        + ("" if transfer.amount is None else _field("54", str(transfer.amount)))
        + _field("58", "VN")
        + (_field("62", _field("08", transfer.purpose)) if transfer.purpose else "")
        + "6304"
    )
    return text + crc(text)


def parse(text: str) -> Transfer:
    """What a code asks for. Raises NotVietQr when its checksum, its fields or its scheme are wrong."""
    if len(text) < 8 or text[-8:-4] != "6304" or crc(text[:-4]) != text[-4:]:
        raise NotVietQr("the checksum does not fit")
    fields = _fields(text[:-8])
    if fields.get("00") != "01" or fields.get("53") != "704" or fields.get("58") != "VN":
        raise NotVietQr("not a code for đồng in Vietnam")
    scheme = _fields(fields.get("38", ""))
    if scheme.get("00") != GUID or scheme.get("02") != TO_ACCOUNT:
        raise NotVietQr("not a transfer to an account")
    beneficiary = _fields(scheme.get("01", ""))
    amount = fields.get("54")
    if amount is not None and not re.fullmatch(r"[0-9]{1,13}", amount):
        raise NotVietQr("the amount is not in whole đồng")
    try:
        return Transfer(
            bank_bin=beneficiary["00"],
            account=beneficiary["01"],
            amount=None if amount is None else int(amount),
            purpose=_fields(fields.get("62", "")).get("08", ""),
        )
    except KeyError as error:
        raise NotVietQr("no beneficiary") from error


def _field(tag: str, value: str) -> str:
    return f"{tag}{len(value):02d}{value}"


def _fields(text: str) -> dict[str, str]:
    fields: dict[str, str] = {}
    at = 0
    while at < len(text):
        head = text[at : at + 4]
        if not re.fullmatch(r"[0-9]{4}", head):
            raise NotVietQr("a field without tag and length")
        end = at + 4 + int(head[2:])
        if end > len(text) or head[:2] in fields:
            raise NotVietQr("a field that is cut off or there twice")
        fields[head[:2]] = text[at + 4 : end]
        at = end
    return fields
