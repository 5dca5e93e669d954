"""The pages that a payer sees: plain, in Vietnamese, usable by keyboard and screen reader."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from sandbox.ledger import Transaction

_STYLE = (
    "body{font:1.1rem/1.6 system-ui,sans-serif;max-width:36rem;margin:2rem auto;padding:0 1rem;color:#1b1b1b}"
    "button{font:inherit;padding:.6rem 1.2rem;margin:.3rem .6rem .3rem 0;border:2px solid #0b4f8a;"
    "background:#fff;color:#0b4f8a;border-radius:.3rem}button.main{background:#0b4f8a;color:#fff}"
    "button:focus-visible,input:focus-visible{outline:3px solid #d47500;outline-offset:2px}"
    "dt{font-weight:600}dd{margin:0 0 .6rem}.note{border-left:4px solid #d47500;padding-left:.8rem}"
    "input{font:inherit;width:100%;padding:.4rem}table{border-collapse:collapse}td,th{padding:.2rem .6rem}"
)


def money(amount: int) -> str:
    """`20000` as `20.000 đ`."""
    return f"{amount:,}".replace(",", ".") + " đ"


def _page(title: str, body: str) -> str:
    return (
        f'<!doctype html><html lang="vi"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width,initial-scale=1"><style>{_STYLE}</style></head>'
        f'<body><main><h1>{escape(title)}</h1><p class="note">Cổng thanh toán thử nghiệm: không có tiền thật '
        f'<span lang="en">(sandbox, no real money)</span>.</p>{body}</main></body></html>'
    )


def payment(transaction: Transaction) -> str:
    """What there is to pay, and the ways it may end."""
    buttons = "".join(
        f'<button type="submit" name="outcome" value="{value}"{main}>{text}</button>'
        for value, text, main in (
            ("pay", "Thanh toán", ' class="main"'),
            ("cancel", "Hủy giao dịch", ""),
            ("no_funds", "Tài khoản không đủ số dư", ""),
            ("delay", "Thanh toán, báo kết quả sau 5 giây", ""),
        )
    )
    return _page(
        "Thanh toán",
        f"<dl><dt>Số tiền</dt><dd>{money(transaction.amount)}</dd>"
        f"<dt>Nội dung</dt><dd>{escape(transaction.info)}</dd>"
        f"<dt>Mã giao dịch</dt><dd>{escape(transaction.ref)}</dd></dl>"
        f'<form method="post" action="/paymentv2/pay">'
        f'<input type="hidden" name="ref" value="{escape(transaction.ref)}">{buttons}</form>',
    )


def transfer(qr: str, amount: int | None, purpose: str, problem: str = "") -> str:
    """A banking app in small: reads a VietQR code and makes the transfer."""
    shown = f"<p>Nội dung chuyển khoản: <strong>{escape(purpose)}</strong></p>" if purpose else ""
    return _page(
        "Chuyển khoản bằng VietQR",
        (f'<p role="alert">{escape(problem)}</p>' if problem else "")
        + f'{shown}<form method="post" action="/qr"><p><label for="qr">Mã VietQR</label>'
        f'<input id="qr" name="qr" value="{escape(qr)}" required></p>'
        f'<p><label for="amount">Số tiền (đồng)</label>'
        f'<input id="amount" name="amount" inputmode="numeric" value="{amount or ""}"></p>'
        f'<button class="main" type="submit">Chuyển khoản</button></form>',
    )


def said(title: str, text: str) -> str:
    """One message."""
    return _page(title, f'<p role="status">{escape(text)}</p>')


def overview(transactions: Sequence[Transaction]) -> str:
    """The latest transactions."""
    rows = "".join(
        f"<tr><td>{escape(t.ref)}</td><td>{money(t.amount)}</td><td>{escape(t.state)}</td>"
        f"<td>{money(t.refunded)}</td></tr>"
        for t in transactions
    )
    return _page(
        "Sổ giao dịch",
        '<table><thead><tr><th scope="col">Mã</th><th scope="col">Số tiền</th><th scope="col">Trạng thái</th>'
        f'<th scope="col">Đã hoàn</th></tr></thead><tbody>{rows}</tbody></table>',
    )
