"""The paper's tables and figures, run again: measured beside published."""
