"""Dossiers and the vault: what a citizen files, how agencies process it, and the documents it rests on."""
