"""The lowered network: integer constants and ops, and a numpy executor that is the oracle."""
