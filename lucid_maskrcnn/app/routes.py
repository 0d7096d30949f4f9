"""What the page's server answers. Imported when it starts, as Starlette comes with the extra ``[app]``."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from lucid_maskrcnn.config import VIEW_SCORE
from lucid_maskrcnn.version import __version__

from .app_errors import AppError, sentence_of, with_names
from .app_options import AppOptions
from .page_exports import export_file
from .page_predictions import LOWEST_SCORE, checked_request, predict_for_page
from .prediction_queue import Job, PredictionQueue
from .request_checks import HEADERS, check_headers
from .sessions import Session, SessionStore, StoredImage
from .uploads import describe_image, receive_file, shown_name, too_large
from .weights_menu import WeightsMenu

__all__ = ["make_app"]

_STATIC = Path(__file__).parent / "static"
_ASSETS = Path(__file__).parent.parent / "assets"
_EXAMPLES = {"fluorescence": "nuclei_fluorescence_small.png", "histology": "nuclei_histology_lilac.png"}
_LARGEST_JSON = 4_000_000  # bytes; the numbers of all objects of a large image
_ON_THIS_PAGE = "On this page: Tiles on, and more objects under More."
_AT_ONCE = 2  # files that are read or made at a time


def make_app(options: AppOptions, folder: Path, names: frozenset[str], *, loopback: bool) -> Any:
    """Return the ASGI application.

    Parameters
    ----------
    options : AppOptions
    folder : Path
        For image files; its owner deletes it.
    names : frozenset of str
        That the server answers for.
    loopback : bool
        Whether it can be reached from this machine only.
    """
    server = _Server(options, folder)
    routes = [
        Route("/", _static("index.html")),
        *(Route(f"/{file.name}", _static(file.name)) for file in _STATIC.iterdir() if file.suffix != ".html"),
        Route("/api/sessions", server.answer(server.new_session), methods=["POST"]),
        Route("/api/images", server.answer(server.send_image), methods=["POST"]),
        Route("/api/examples/{name}", server.answer(server.send_example), methods=["POST"]),
        Route("/api/predictions", server.answer(server.predict), methods=["POST"]),
        Route("/api/predictions/{key}", server.answer(server.progress), methods=["GET"]),
        Route("/api/predictions/{key}", server.answer(server.cancel), methods=["DELETE"]),
        Route("/api/predictions/{key}/objects", server.answer(server.objects), methods=["GET"]),
        Route("/api/predictions/{key}/picture", server.answer(server.picture), methods=["GET"]),
        Route("/api/predictions/{key}/export", server.answer(server.export), methods=["POST"]),
    ]
    app = Starlette(routes=routes, lifespan=server.lifespan)
    return _Guarded(app, names, loopback)


class _Guarded:
    """Answers only requests of the page itself, and adds the headers of all answers."""

    def __init__(self, app: ASGIApp, names: frozenset[str], loopback: bool) -> None:
        self._app, self._names, self._loopback = app, names, loopback

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        try:
            check_headers(request.method, request.headers, self._names, self._loopback)
        except AppError as error:
            await _refusal(error.status, error.sentence)(scope, receive, send)
            return

        async def send_with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                added = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
                kept = [(n, v) for n, v in message["headers"] if n not in {name for name, _ in added}]
                message = {**message, "headers": [*kept, *added]}
            await send(message)

        await self._app(scope, receive, send_with_headers)


def _refusal(status: int, sentence: str) -> Response:
    return JSONResponse({"error": sentence}, status, headers=HEADERS)


def _static(name: str) -> Callable[[Request], Awaitable[Response]]:
    async def answer(_: Request) -> Response:
        return FileResponse(_STATIC / name)

    return answer


class _Server:
    """The answers. All state is changed in the event loop's thread, but for that of a running job."""

    def __init__(self, options: AppOptions, folder: Path) -> None:
        self._options = options
        self._store = SessionStore(options, folder)
        self._menu = WeightsMenu(options.weights, options.device)
        self._queue: PredictionQueue
        self._hands: asyncio.Semaphore

    @asynccontextmanager
    async def lifespan(self, _: Starlette) -> AsyncIterator[None]:
        """Run the predictions' thread and the clock of expiry."""
        self._hands = asyncio.Semaphore(_AT_ONCE)
        self._queue = PredictionQueue(
            lambda job: predict_for_page(job, self._menu),
            lambda error, job: self._tell(error, job.path, job.name),
            self._options.max_waiting,
        )
        clock = asyncio.create_task(self._expire())
        try:
            yield
        finally:
            clock.cancel()
            self._queue.close()
            self._store.close()

    async def _expire(self) -> None:
        while True:
            await asyncio.sleep(min(30.0, self._options.expire_after / 2))
            self._store.expire()

    def _tell(self, error: BaseException, path: Path, name: str) -> str:
        names: dict[str | Path, str] = {path: name, **self._menu.paths()}
        if isinstance(error, UserWarning):
            sentence = with_names(str(error).replace("images[0]", name), names)
            return f"{sentence} {_ON_THIS_PAGE}" if sentence.startswith("Objects may be missing") else sentence
        return sentence_of(error, names)

    async def _in_thread(self, work: Callable[..., Any], *arguments: Any) -> Any:
        async with self._hands:
            return await asyncio.to_thread(work, *arguments)

    def answer(self, method: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
        """Return a method whose errors are answers: a status and a sentence."""

        async def answered(request: Request) -> Response:
            try:
                return await method(request)
            except AppError as error:
                return _refusal(error.status, error.sentence)
            except ClientDisconnect:
                return _refusal(400, "The file did not come whole.")
            except Exception as error:
                return _refusal(400 if isinstance(error, (TypeError, ValueError)) else 500, sentence_of(error, {}))

        return answered

    def _session(self, request: Request) -> Session:
        return self._store.find(request.headers.get("lucid-session"))

    # -------------------------------------------------------------- sessions and images

    async def new_session(self, _: Request) -> Response:
        """Begin: a page was loaded."""
        entries = await self._in_thread(self._menu.entries)
        content = {
            "session": self._store.new().key,
            "version": __version__,
            "weights": entries,
            "default_weights": self._menu.default,
            "view_score": VIEW_SCORE,
            "lowest_score": LOWEST_SCORE,
            "max_upload": self._options.max_upload,
            "max_pixels": self._options.max_pixels,
        }
        return JSONResponse(content, 201)

    async def send_image(self, request: Request) -> Response:
        """Take an image file: the body of the request, as it is."""
        session = self._session(request)
        most = self._options.max_upload
        length = request.headers.get("content-length", "")
        if length.isdigit() and int(length) > most:
            raise AppError(413, too_large(most))
        name = shown_name(request.query_params.get("name", ""))
        room = int(length) if length.isdigit() else most
        self._store.reserve(room)
        path = self._store.new_path()
        try:
            nbytes = await receive_file(request.stream(), path, most)
            return await self._add_image(session, name, path, nbytes)
        except BaseException:
            with suppress(OSError):
                path.unlink(missing_ok=True)
            raise
        finally:
            self._store.release(room)

    async def send_example(self, request: Request) -> Response:
        """Take one of the images that come with the package."""
        session = self._session(request)
        file = _EXAMPLES.get(request.path_params["name"])
        if file is None:
            raise AppError(404, "There is no such example.")
        path = self._store.new_path()
        path.write_bytes((_ASSETS / file).read_bytes())
        return await self._add_image(session, file, path, path.stat().st_size)

    async def _add_image(self, session: Session, name: str, path: Path, nbytes: int) -> Response:
        try:
            about = await self._in_thread(describe_image, path, self._options)
        except AppError:
            raise
        except Exception as error:
            raise AppError(415, self._tell(error, path, name)) from error
        self._store.find(session.key)  # it may have expired in the meantime
        image = self._store.add_image(session, name, path, nbytes)
        return JSONResponse({"image": image.key, "name": name, **about}, 201)

    # -------------------------------------------------------------- predictions

    async def predict(self, request: Request) -> Response:
        """Queue a prediction."""
        session, wanted = self._session(request), await _json(request)
        image: StoredImage = self._store.image(session, wanted.get("image"))
        weights = self._menu.check(wanted.get("weights"))
        options = {**checked_request(wanted), "weights": weights, "weights_title": self._menu.title(weights)}
        job = Job(image.path, image.name, options)
        self._store.add_job(session, job)
        try:
            self._queue.submit(job)
        except AppError:
            del session.jobs[job.key]
            raise
        return JSONResponse({"prediction": job.key}, 202)

    async def progress(self, request: Request) -> Response:
        """Say how far a prediction is."""
        job = self._store.job(self._session(request), request.path_params["key"])
        if job.ended:
            self._store.trim_results()
        warnings = job.result.warnings if job.result is not None else []
        content = {"state": job.state, "ahead": self._queue.ahead(job), "done": job.done, "total": job.total}
        return JSONResponse({**content, "error": job.error, "warnings": warnings})

    async def cancel(self, request: Request) -> Response:
        """End a prediction that nobody waits for."""
        session = self._session(request)
        job = self._store.job(session, request.path_params["key"])
        job.cancel()
        return JSONResponse({"state": job.state})

    async def objects(self, request: Request) -> Response:
        """Return the objects of a result."""
        content = self._result(request)[1].objects
        return Response(content, media_type="application/json", headers={"Content-Encoding": "gzip"})

    async def picture(self, request: Request) -> Response:
        """Return the picture of a result."""
        result = self._result(request)[1]
        return Response(result.picture, media_type=result.picture_type)

    async def export(self, request: Request) -> Response:
        """Return a file of the objects that the page shows."""
        job, result = self._result(request)
        wanted = await _json(request)
        try:
            file = await self._in_thread(export_file, result, wanted, job.name, job.path, job.options["read"])
        except Exception as error:
            raise AppError(400, self._tell(error, job.path, job.name)) from error
        headers = {"Content-Disposition": f'attachment; filename="{file.name}"'}
        return Response(file.content, media_type=file.media_type, headers=headers)

    def _result(self, request: Request) -> tuple[Job, Any]:
        job = self._store.job(self._session(request), request.path_params["key"])
        if job.result is None:
            raise AppError(409, job.error or "This prediction has no result yet.")
        return job, job.result


async def _json(request: Request) -> dict[str, Any]:
    """Return the JSON object of a request."""
    content = bytearray()
    async for chunk in request.stream():
        content += chunk
        if len(content) > _LARGEST_JSON:
            raise AppError(413, "This request is too long.")
    try:
        value = json.loads(bytes(content))
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise AppError(400, "A request must be a JSON object.")
    return value
