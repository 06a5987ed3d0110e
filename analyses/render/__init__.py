"""Drawing results; nothing is computed here."""
