"""How the gateway signs and writes. Made from the gateway's side on purpose: payment has its own."""

from __future__ import annotations

import binascii
import hashlib
import hmac
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta, timezone
from urllib.parse import quote_plus

ZONE = timezone(timedelta(hours=7))
QUERY = (
    "RequestId", "Version", "Command", "TmnCode", "TxnRef", "TransactionDate", "CreateDate", "IpAddr",
    "OrderInfo",
)  # fmt: skip
REFUND = (
    "RequestId", "Version", "Command", "TmnCode", "TransactionType", "TxnRef", "Amount", "TransactionNo",
    "TransactionDate", "CreateBy", "CreateDate", "IpAddr", "OrderInfo",
)  # fmt: skip
REFUND_ANSWER = (
    "ResponseId", "Command", "ResponseCode", "Message", "TmnCode", "TxnRef", "Amount", "BankCode", "PayDate",
    "TransactionNo", "TransactionType", "TransactionStatus", "OrderInfo",
)  # fmt: skip
QUERY_ANSWER = (*REFUND_ANSWER, "PromotionCode", "PromotionAmount")


def hmac512(secret: str, data: bytes) -> str:
    """HMAC-SHA512 in hex."""
    return hmac.new(secret.encode(), data, hashlib.sha512).hexdigest()


def same(left: str, right: str) -> bool:
    """Whether two signatures are the same, in constant time."""
    return hmac.compare_digest(left.lower().encode(), right.lower().encode())


def query(params: Mapping[str, str]) -> str:
    """Parameters in the order and form in which they are signed."""
    names = sorted(n for n in params if n.startswith("vnp_") and not n.startswith("vnp_SecureHash"))
    return "&".join(f"{n}={quote_plus(params[n])}" for n in names if params[n] != "")


def signed_query(params: Mapping[str, str], secret: str) -> str:
    """The query with its signature at the end."""
    text = query(params)
    return f"{text}&vnp_SecureHash={hmac512(secret, text.encode())}"


def joined(params: Mapping[str, str], names: Sequence[str]) -> bytes:
    """Values of the merchant API in the order in which they are signed."""
    return "|".join(str(params.get("vnp_" + name, "")) for name in names).encode()


def stamp(at: datetime) -> str:
    """`yyyyMMddHHmmss` in GMT+7."""
    return at.astimezone(ZONE).strftime("%Y%m%d%H%M%S")


def crc16(text: str) -> str:
    """The checksum of a VietQR code: CRC-16/CCITT-FALSE in hex."""
    return format(binascii.crc_hqx(text.encode(), 0xFFFF), "04X")


def qr_fields(text: str) -> dict[str, str]:
    """The fields of a chain `TTLLvalue`. Raises ValueError when it is broken."""
    fields = {}
    while text:
        length = int(text[2:4])
        if len(text) < 4 + length:
            raise ValueError("cut off")
        fields[text[:2]], text = text[4 : 4 + length], text[4 + length :]
    return fields


def read_qr(text: str) -> tuple[str, str, int | None, str]:
    """(bank, account, amount, purpose) of a VietQR code. Raises ValueError for anything else."""
    if crc16(text[:-4]) != text[-4:]:
        raise ValueError("checksum")
    try:
        fields = qr_fields(text)
        account = qr_fields(qr_fields(fields["38"])["01"])
        amount = int(fields["54"]) if "54" in fields else None
        return account["00"], account["01"], amount, qr_fields(fields.get("62", "")).get("08", "")
    except KeyError as error:
        raise ValueError(f"no field {error}") from error
