"""Build the page that finds objects in a browser, without a server: a folder for any file host.

    uv run python examples/browser/build.py OUT [--weights FILE]

The model is exported as ONNX, and npm fetches the runtime, onnxruntime-web. With the page's files and two images to try
they are 23 MB. Look at them with `python -m http.server --directory OUT`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

RUNTIME = "onnxruntime-web"
RUNTIME_VERSION = "1.30.0"
# Of the archive that npm fetches; `npm view onnxruntime-web@VERSION dist.integrity` has it in base64.
RUNTIME_SHA512 = (
    "ab4cbe26baedba45d2cec05610c71c55fa97db92d19a8b171c5f8269126683ca"
    "590a5cdc57bb2f35ce2b298de32f4d956fb42644c0ecd528a0a91e025c07ca61"
)
# Its files and what they are called here: some hosts do not serve .mjs as a script.
RUNTIME_FILES = {"ort.wasm.bundle.min.mjs": "onnxruntime.js", "ort-wasm-simd-threaded.wasm": "onnxruntime.wasm"}
LOWEST_SCORE = 0.05  # where the page's slider ends
OF_A_RUN = {"weights", "best", "model_final"}  # names of files in a run's folder
ABOUT_NUCLEI = "NUCLEI: nuclei in microscopy, fluorescence above all, 5 to 60 pixels wide. Not a medical device."

HERE = Path(__file__).resolve().parent
PACKAGE = HERE.parents[1] / "lucid_maskrcnn"
SHARED = PACKAGE / "app" / "static"  # what this page has in common with that of `lucid-maskrcnn app`
NOT_SHARED = {"index.html", "app.js"}
IMAGES = {"fluorescence.png": "nuclei_fluorescence_small.png", "histology.png": "nuclei_histology_lilac.png"}


def build(out: Path, weights: str) -> None:
    """Write the folder, whole or not at all; one that was built before is replaced."""
    from lucid_maskrcnn.atomic import replacing_folder

    if out.exists() and not (out / "build.js").is_file() and (out.is_file() or any(out.iterdir())):
        raise SystemExit(f"OUT must be a new or an empty folder, or one that was built before, got {str(out)!r}.")
    out.parent.mkdir(parents=True, exist_ok=True)
    with replacing_folder(out) as folder:
        about = export_model(weights, folder / "model.onnx")
        copy_page(folder)
        fetch_runtime(folder)
        files = {"runtime": "onnxruntime.wasm", "weights": "model.onnx"}
        parts = {key: {"name": name, "bytes": (folder / name).stat().st_size} for key, name in files.items()}
        (folder / "model.json").write_text(json.dumps({**about, **parts}, indent=1))
        list_files(folder)


def copy_page(folder: Path) -> None:
    own = [path for path in HERE.iterdir() if path.suffix in (".js", ".html", ".css")]
    shared = [path for path in SHARED.iterdir() if path.name not in NOT_SHARED]
    for path in own + shared:
        shutil.copyfile(path, folder / path.name)
    for name, asset in IMAGES.items():
        shutil.copyfile(PACKAGE / "assets" / asset, folder / name)


def fetch_runtime(folder: Path) -> None:
    """Have npm fetch the runtime, and take the files that the page needs."""
    npm = shutil.which("npm")
    if npm is None:
        raise SystemExit("npm is needed, to fetch onnxruntime-web: it comes with Node.js.")
    with tempfile.TemporaryDirectory() as temporary:
        command = [npm, "pack", f"{RUNTIME}@{RUNTIME_VERSION}", "--silent", "--pack-destination", temporary]
        fetched = subprocess.run(command, capture_output=True, text=True, check=False)
        archive = Path(temporary) / f"{RUNTIME}-{RUNTIME_VERSION}.tgz"
        if fetched.returncode or not archive.is_file():
            raise SystemExit(
                f"npm could not fetch {RUNTIME} {RUNTIME_VERSION}: {fetched.stderr.strip() or 'no archive'}"
            )
        if hashlib.sha512(archive.read_bytes()).hexdigest() != RUNTIME_SHA512:
            raise SystemExit(f"npm fetched another {RUNTIME} {RUNTIME_VERSION} than this page was tested with.")
        with tarfile.open(archive) as files:
            for inside, name in RUNTIME_FILES.items():
                content = files.extractfile(f"package/dist/{inside}")
                assert content is not None
                (folder / name).write_bytes(content.read())


def export_model(weights: str, path: Path) -> dict[str, Any]:
    """Write the model, and return what the page must know of it: what the file itself says in its metadata."""
    import onnx

    from lucid_maskrcnn import MaskRCNN
    from lucid_maskrcnn.export import to_onnx

    model = MaskRCNN.from_file(weights)
    to_onnx(model, path, score_thresh=LOWEST_SCORE, dtype="float16")
    said = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    categories, conventions = json.loads(said["categories"]), json.loads(said["conventions"])
    name = page_name(weights)
    names = ", ".join(category["name"] for category in categories[:8]) + (", …" if len(categories) > 8 else "")
    names = names or f"labels 1 to {model.num_classes}, without names"
    return {
        "name": name,
        "about": ABOUT_NUCLEI if weights == "NUCLEI" else f"{name}: {names}.",
        "version": said["lucid_maskrcnn_version"],
        "sha256": said["weights_sha256"],
        "categories": {category["label"]: {"name": category["name"], "id": category["id"]} for category in categories},
        "snap_masks": conventions["masks"] == "snapped",
        "mask_thresh": conventions["mask_thresh"],
        "top_k": conventions["top_k"],
        "image": conventions["image"],
    }


def page_name(weights: str) -> str:
    """Return what the page calls the weights: those of a run by its folder, as all runs call their files alike."""
    path = Path(weights)
    return path.absolute().parent.name if path.stem in OF_A_RUN else path.stem


def list_files(folder: Path) -> None:
    """Write build.js, from which the service worker knows what there is to keep."""
    files = {}
    for path in sorted(folder.iterdir()):
        content = path.read_bytes()
        files[path.name] = {"bytes": len(content), "hash": hashlib.sha256(content).hexdigest()[:16]}
    text = json.dumps(files, indent=1)
    build_id = hashlib.sha256(text.encode()).hexdigest()[:16]
    (folder / "build.js").write_text(f"const BUILD = {{ id: {json.dumps(build_id)}, files: {text} }};\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write")
    parser.add_argument("--weights", default="NUCLEI", help="a name or a file (default: NUCLEI)")
    options = parser.parse_args()
    try:
        build(options.out, options.weights)
    except (OSError, ValueError, ImportError) as error:  # what the package answers to files that it cannot take
        raise SystemExit(f"build.py: {error}") from error
    size = sum(path.stat().st_size for path in options.out.iterdir()) / 1e6
    print(f"{options.out}: {size:.1f} MB. Put it on any file host, or look at it with", file=sys.stderr)
    print(f"python -m http.server --directory {shlex.quote(str(options.out))}", file=sys.stderr)


if __name__ == "__main__":
    main()
