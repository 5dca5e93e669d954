"""The public door: GraphQL, files and payment notices over HTTP, in front of the five services."""
