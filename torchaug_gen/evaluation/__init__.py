"""Whether synthetic images help, with evidence."""
