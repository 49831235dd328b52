"""The page of the API."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import HTMLResponse

from blankfill.serving.page.reference import reference as made_page

router = APIRouter(include_in_schema=False)


@router.get("/docs")
async def reference() -> HTMLResponse:
    """Return the page."""
    made = made_page()
    return HTMLResponse(made.document, headers={"Content-Security-Policy": made.policy})
