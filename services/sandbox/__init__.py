"""A payment gateway of the VNPay kind and a bank, run locally in place of real ones, never in production."""
