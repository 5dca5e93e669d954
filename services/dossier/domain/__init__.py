"""The rules of dossiers and documents, without I/O."""
