"""The page in the browser: ``lucid-maskrcnn app``.

Starlette and uvicorn answer it; they come with the extra ``[app]``, and are imported when the server starts.
"""

from .app_options import AppOptions
from .app_server import serve_app

__all__ = ["AppOptions", "serve_app"]
