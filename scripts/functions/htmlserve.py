"""HTMLServe: render a table with the Chameleon template engine."""

import json

from chameleon import PageTemplate

TABLE = PageTemplate(
    """<table xmlns="http://www.w3.org/1999/xhtml" xmlns:tal="http://xml.zope.org/namespaces/tal">
<tr tal:repeat="row rows"><td tal:repeat="cell row" tal:content="cell">x</td></tr>
</table>"""
)


def main(args):
    """args: {"rows": count, "columns": count}. Answers the size of the page and how many cells it has."""
    rows, columns = int(args.get("rows", 60)), int(args.get("columns", 20))
    if not (1 <= rows <= 5000 and 1 <= columns <= 500):
        return {"error": "rows must be between 1 and 5000, columns between 1 and 500"}
    page = TABLE.render(rows=[[r * columns + c for c in range(columns)] for r in range(rows)])
    cells = page.count("<td>")
    request = json.loads(json.dumps({"rows": rows, "columns": columns}))
    return {"bytes": len(page), "cells": cells, "ok": cells == request["rows"] * request["columns"]}
