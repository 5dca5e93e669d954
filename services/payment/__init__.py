"""Charges, payments through gateways, receipts, refunds, and the books that they leave."""
