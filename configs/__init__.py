"""One Python config per experiment: its docstring says command, hours and expected result."""
