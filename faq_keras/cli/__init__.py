"""The `faq` command: one file per subcommand."""
