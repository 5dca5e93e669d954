"""The rules of charges, payments and receipts, without I/O."""
