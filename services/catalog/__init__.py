"""catalog: procedures in versions, their fees, limits and forms, search, and the working calendar."""
