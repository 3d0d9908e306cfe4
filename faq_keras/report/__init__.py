"""Reports: one page that opens anywhere, and the same as Markdown and JSON."""
