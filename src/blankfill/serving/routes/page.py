"""The page for browsers."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import HTMLResponse

from blankfill.serving.page import page as made_page

router = APIRouter(include_in_schema=False)


@router.get("/")
async def page() -> HTMLResponse:
    """Return the page."""
    made = made_page()
    return HTMLResponse(made.document, headers={"Content-Security-Policy": made.policy})
