"""``app``: a page in the browser."""

from __future__ import annotations

import argparse
from typing import Any

from lucid_maskrcnn import validators

from .common import add_device, argument_type, positive_number, say, say_device, warn

__all__ = ["add_commands"]


def _port(name: str, value: Any) -> int:
    return validators.integer(name, value, 0, 65535)


def add_commands(commands: Any) -> None:
    """Add it to the subparsers of the command line."""
    app = commands.add_parser(
        "app",
        help="a page in the browser: drop an image, see and save its objects",
        description="Serve a page on this machine: drop an image, see its objects, choose among them, and save them as "
        "COCO JSON, CSV, label image, PNG and more. Needs the extra [app]. Images go nowhere else; nothing is "
        "fetched from elsewhere but published weights, once. Ctrl-C ends it (exit code 0).",
    )
    app.add_argument(
        "--weights",
        metavar="NAME|FILE",
        help="what the page begins with: a name that 'lucid-maskrcnn info' lists, or a file (default: NUCLEI)",
    )
    app.add_argument(
        "--host",
        default="127.0.0.1",
        metavar="ADDRESS",
        help="address to listen on (default: 127.0.0.1, this machine only). There is no password: with 0.0.0.0 "
        "everyone in the network can use the page",
    )
    app.add_argument(
        "--port",
        type=argument_type(int, _port),
        metavar="N",
        help="port to listen on, 0 for any (default: 7860, or the next one that is free)",
    )
    app.add_argument(
        "--max-upload", type=positive_number, default=200, metavar="MB", help="size of image files (default: 200)"
    )
    app.add_argument(
        "--max-pixels", type=positive_number, default=100, metavar="MP", help="millions of pixels (default: 100)"
    )
    app.add_argument("--no-browser", dest="browser", action="store_false", help="do not open the page")
    add_device(app)
    app.set_defaults(run=_app)


def _app(args: argparse.Namespace) -> int:
    from lucid_maskrcnn.app import AppOptions, serve_app
    from lucid_maskrcnn.app.request_checks import is_loopback
    from lucid_maskrcnn.weights import locate, read_weights_file

    if args.weights is not None:
        read_weights_file(locate(args.weights))  # a mistake is told now, not on the page
    options = AppOptions(
        weights=args.weights,
        device=args.device,
        max_upload=round(args.max_upload * 1e6),
        max_pixels=round(args.max_pixels * 1e6),
    )
    say_device(args.device)
    if not is_loopback(args.host):
        warn(
            f"lucid-maskrcnn: warning: --host {args.host} can be reached from other machines, and there is no "
            "password: everyone in the network can send images and see the names of the weights."
        )
    try:
        serve_app(options, host=args.host, port=args.port, browser=args.browser, on_start=_say_address)
    except KeyboardInterrupt:
        say("lucid-maskrcnn app: ended.", to_stderr=True)
    return 0


def _say_address(address: str) -> None:
    say(f"lucid-maskrcnn app: {address} (Ctrl-C ends it)")
