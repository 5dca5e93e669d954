"""GraphiQL, in development only. Its scripts come from a CDN in versions fixed here; the page says so
when they do not."""

from __future__ import annotations

from starlette.requests import Request

_CDN = "https://unpkg.com"
POLICY = (
    f"default-src 'none'; script-src 'unsafe-inline' {_CDN}; style-src 'unsafe-inline' {_CDN}; "
    f"font-src data: {_CDN}; img-src 'self' data:; connect-src 'self' ws: wss:; worker-src blob:; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
PAGE = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>Một Cửa – GraphiQL</title>
<link rel="stylesheet" href="{_CDN}/graphiql@3.9.0/graphiql.min.css">
<style>body, #graphiql {{ margin: 0; height: 100vh; font-family: system-ui }} p {{ padding: 2rem }}</style>
</head>
<body>
<div id="graphiql"><p>GraphiQL comes from {_CDN}, which this browser cannot reach.
The schema is in <code>graphql/schema.graphql</code>; POST queries to <code>/graphql</code>.</p></div>
<script crossorigin src="{_CDN}/react@18.3.1/umd/react.production.min.js"></script>
<script crossorigin src="{_CDN}/react-dom@18.3.1/umd/react-dom.production.min.js"></script>
<script crossorigin src="{_CDN}/graphiql@3.9.0/graphiql.min.js"></script>
<script>
if (window.GraphiQL) {{
  const fetcher = GraphiQL.createFetcher({{
    url: location.pathname,
    subscriptionUrl: location.origin.replace(/^http/, "ws") + location.pathname,
  }});
  ReactDOM.createRoot(document.getElementById("graphiql")).render(
    React.createElement(GraphiQL, {{ fetcher, shouldPersistHeaders: true }}));
}}
</script>
</body>
</html>
"""


def asked_for(request: Request) -> bool:
    """Whether a person opened `/graphql` in a browser."""
    return (
        request.method == "GET"
        and "text/html" in request.headers.get("accept", "")
        and "query" not in request.query_params
    )
