"""The kernels' own text, compiled by the system's C++ compiler and run thread by thread, against the plain forms."""

import ctypes
import re
import shutil
import subprocess
import sys

import mlx.core as mx
import numpy as np
import pytest
from gradients import gradients, tensor, values
from hypothesis import given, settings
from hypothesis import strategies as st
from roi_scenes import pool_pyramid, pyramid, scene

from lucid_maskrcnn.ops import roi_align, roi_align_kernel
from lucid_maskrcnn.ops.roi_align_gpu import Grid
from lucid_maskrcnn.ops.roi_align_gpu import pyramid as flattened
from lucid_maskrcnn.ops.roi_align_kernel import DIALECTS, KERNELS, Dialect, inputs_of, kernel_source, template

COMPILER = shutil.which("g++") or shutil.which("clang++") or shutil.which("c++")
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="there is no C++ compiler")

# What a machine without a GPU makes of the dialects: one thread after the other.
HOST = Dialect(
    "#define floor __builtin_floorf\n#define ceil __builtin_ceilf\nusing size_t = decltype(sizeof(0));\n"
    "#define HELPER static inline\n#define ADD(array, place, number) (array[place] += number)\n",
    "",
)
C_TYPES = {mx.float32: "float", mx.float16: "_Float16"}


def c_source(name, dtype, constants):
    """Return the kernel as a C++ function that runs all of its threads, and some that are too many."""
    header, body = kernel_source(name, HOST)
    kernel = KERNELS[name]
    lines = [f"constexpr {'bool' if isinstance(v, bool) else 'int'} {k} = {int(v)};" for k, v in constants[1:]]
    output = "T" if kernel.output == "pooled" else "float"
    return "\n".join(
        [
            header,
            f"using T = {C_TYPES[dtype]};",
            *lines,
            f'extern "C" void run(const T* {kernel.values}, const float* rois, const int* roi_idx, const int* levels,',
            f"    const int* table, const float* scales, {output}* {kernel.output}, unsigned int launched) {{",
            "  for (unsigned int thread_number = 0; thread_number < launched; ++thread_number) {",
            body,
            "}}",
        ]
    )


@pytest.fixture(scope="session")
def compiled(tmp_path_factory):
    folder, libraries = tmp_path_factory.mktemp("kernels"), {}

    def compile_once(name, dtype, constants):
        source = c_source(name, dtype, constants)
        if source not in libraries:
            path = folder / f"{len(libraries)}.cpp"
            path.write_text(source)
            library = path.with_suffix(".so")
            command = [COMPILER, "-std=c++14", "-O0", "-Wall", "-Werror", "-shared", "-fPIC", path, "-o", library]
            done = subprocess.run(command, capture_output=True, text=True)
            if "_Float16" in done.stderr and dtype == mx.float16:
                pytest.skip("this compiler has no half precision")
            assert done.returncode == 0, done.stderr
            libraries[source] = ctypes.CDLL(str(library))
        return libraries[source].run

    return compile_once


@pytest.fixture
def kernels(compiled, monkeypatch):
    return run_kernels(compiled, monkeypatch)


def run_kernels(compiled, monkeypatch):
    """Have every RoIAlign on gpu run the kernels, as on Metal or CUDA; return the list of those that were."""
    calls = []

    def compiled_kernel(name, kind):
        assert kind == "cuda"

        def call(*, inputs, template, grid, threadgroup, output_shapes, output_dtypes, init_value=None):
            calls.append(name)
            assert grid[0] > 0
            assert grid[1:] == (1, 1)
            run = compiled(name, template[0][1], template)
            output = np.full(output_shapes[0], np.nan, {mx.float16: np.float16}.get(output_dtypes[0], np.float32))
            if init_value is not None:
                output[...] = init_value
            given = [np.ascontiguousarray(np.asarray(a)) for a in inputs]
            assert [a.dtype.name for a in given[1:]] == ["float32", "int32", "int32", "int32", "float32"]
            assert all(a.size >= 8 for a in given)
            pointers = [a.ctypes.data_as(ctypes.c_void_p) for a in (*given, output)]
            launched = -(-grid[0] // threadgroup[0]) * threadgroup[0]  # CUDA launches whole groups
            run(*pointers, ctypes.c_uint(launched))
            return [mx.array(output)]

        return call

    monkeypatch.setattr(roi_align_kernel, "_kernel", compiled_kernel)
    monkeypatch.setattr(roi_align_kernel, "kernel_for", lambda maps, num_rois, grid: "cuda" if num_rois else None)
    monkeypatch.setattr(sys.modules["lucid_maskrcnn.ops.roi_align"], "kernel_for", roi_align_kernel.kernel_for)
    return calls


def check(function, arrays, wrt, calls, tol=1e-5):
    """Compare the kernels with cpu and, where they are off again, with the plain form."""
    arrays = [a.astype(np.float32) if a.dtype.kind == "f" else a for a in arrays]
    found, grads = gradients(function, *arrays, wrt=wrt, device="gpu")
    assert calls == ["roi_align", "roi_align_gradient"]
    expected, expected_grads = gradients(function, *arrays, wrt=wrt, device="cpu")
    for one, other in zip([found, *grads], [expected, *expected_grads], strict=True):
        scale = max(1, np.abs(other[np.isfinite(other)]).max(initial=0))
        np.testing.assert_allclose(one, other, rtol=0, atol=tol * scale)


@needs_compiler
@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("ratio", [0, -1, 1, 2, 3, 11])
def test_kernel_equals_cpu(kernels, ratio, aligned):
    features, rois, image = scene(ratio + 1, num=30)
    rois[3] = 0
    check(
        lambda f, r, i: roi_align(f, r, i, (3, 2), (0.25, 0.3), ratio, aligned), (features, rois, image), (0,), kernels
    )


@needs_compiler
@pytest.mark.parametrize("ratio", [0, 2])
def test_kernel_of_nan(kernels, ratio):
    features, rois, image = scene(9, num=6)
    rois[[1, 3], [2, 1]] = np.nan
    pooled = values(roi_align(*(tensor(a, "gpu") for a in (features, rois, image)), 2, 0.25, ratio))
    assert kernels == ["roi_align"]
    assert np.isnan(pooled[[1, 3]]).all()
    assert np.isfinite(pooled[[0, 2, 4, 5]]).all()


@needs_compiler
@pytest.mark.parametrize("dtype", [np.int8, np.int64])
def test_kernel_of_indices_of_any_integer_type(kernels, dtype):
    features, rois, image = scene(9)
    expected = values(roi_align(*(tensor(a) for a in (features, rois, image)), 2, 0.25))
    found = values(roi_align(*(tensor(a, "gpu") for a in (features, rois, image.astype(dtype))), 2, 0.25))
    assert kernels == ["roi_align"]
    np.testing.assert_allclose(found, expected, atol=1e-5)


@needs_compiler
def test_kernel_equals_cpu_on_a_pyramid(kernels):
    check(pool_pyramid, pyramid(), (3, 4, 5), kernels)


@needs_compiler
@pytest.mark.parametrize("ratio", [0, 2])
@pytest.mark.parametrize(
    "roi",
    [
        (0, 0, 156, 116),
        (60, -300, 66, 1500),
        (-4000, -4000, 4000, 4000),
        (5, 9, 5, 9),
        (300, 300, 400, 400),
        (9, 9, 3, 3),
    ],
)
def test_kernel_of_large_thin_empty_and_distant_rois(kernels, roi, ratio):
    features, _, _ = scene(1, size=(29, 39))
    for aligned in (False, True):
        kernels.clear()
        check(
            lambda f, r, i, a=aligned: roi_align(f, r, i, (3, 4), 0.25, ratio, a),
            (features, np.float32([roi]), np.int32([1])), (0,), kernels, 3e-5,
        )  # fmt: skip


@needs_compiler
@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(*[st.integers(-12, 40).map(lambda n: n / 2)] * 4), min_size=1, max_size=4),
    st.sampled_from([0, 2, 3]),
    st.booleans(),
    st.sampled_from([(1, 1), (5, 1), (6, 7)]),
)
def test_kernel_of_any_roi(compiled, corners, ratio, aligned, size):
    features = np.random.default_rng(0).standard_normal((1, 2, *size)).astype(np.float32)
    rois, image = np.float32(corners), np.zeros(len(corners), np.int32)
    with pytest.MonkeyPatch.context() as patch:
        calls = run_kernels(compiled, patch)
        check(lambda f, r, i: roi_align(f, r, i, (2, 4), 0.5, ratio, aligned), (features, rois, image), (0,), calls)


@needs_compiler
@pytest.mark.parametrize("ratio", [0, 2])
def test_kernel_of_half_precision_maps(kernels, ratio):
    features, rois, image = scene(17)
    halves = features.astype(np.float16)
    leaf, *others = (tensor(a, "gpu") for a in (halves, rois, image))
    leaf.requires_grad = True
    pooled = roi_align(leaf, *others, 3, 0.25, ratio)
    expected, (grad,) = gradients(
        lambda f, r, i: roi_align(f, r, i, 3, 0.25, ratio), halves.astype(np.float32), rois, image, wrt=(0,),
        cotangent=np.ones(pooled.shape, np.float32),
    )  # fmt: skip
    pooled.grad = mx.ones(pooled.shape, mx.float16)
    pooled.backward()
    assert pooled.data.dtype == leaf.grad.dtype == mx.float16
    np.testing.assert_allclose(values(pooled), expected, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(np.asarray(leaf.grad), grad, rtol=2e-3, atol=1e-3)


@needs_compiler
@pytest.mark.parametrize("bad", [2, -1, 2**31 - 1, -(2**31)])
def test_kernel_does_not_read_what_is_not_there(kernels, bad):
    features, rois, image = scene(15, num=4)
    image[1] = bad
    pooled = values(roi_align(*(tensor(a, "gpu") for a in (features, rois, image)), 2, 0.25))
    assert np.isnan(pooled).all(axis=(1, 2, 3)).tolist() == [False, True, False, False]
    far = tensor(np.float32([[0, 0, 1e9, 1e9]]), "gpu")
    pooled = values(roi_align(tensor(features, "gpu"), far, tensor(np.int32([0]), "gpu"), 2, 1, 0))
    assert np.isnan(pooled).all()  # too many samples, which cpu raises an error for


@needs_compiler
def test_the_trial_of_a_kernel_finds_it_right_or_wrong(kernels, monkeypatch):
    agrees = roi_align_kernel._agrees.__wrapped__
    assert agrees("cuda", mx.float32)
    assert agrees("cuda", mx.float16)
    monkeypatch.setattr(roi_align_kernel, "pooled", lambda *args: mx.zeros((3, 2, 3, 4)))
    with pytest.warns(UserWarning, match=r"kernel for cuda does not work here.*its results differ by"):
        assert not agrees("cuda", mx.float32)


def test_without_a_gpu_the_plain_form_is_chosen(monkeypatch):
    maps = flattened([mx.ones((1, 4, 4, 2))], [(1, 1)])
    grid = Grid((2, 2), 2, False)
    monkeypatch.setattr(roi_align_kernel, "gpu_kind", lambda: "cpu")
    assert roi_align_kernel.kernel_for(maps, 5, grid) is None
    monkeypatch.setattr(roi_align_kernel, "_agrees", lambda kind, dtype: True)
    monkeypatch.setattr(roi_align_kernel, "gpu_kind", lambda: "metal")
    assert roi_align_kernel.kernel_for(maps, 5, grid) == "metal"
    assert roi_align_kernel.kernel_for(maps, 0, grid) is None
    assert roi_align_kernel.kernel_for(maps, 2**29, grid) is None  # more threads than can be counted
    monkeypatch.setenv("LUCID_MASKRCNN_KERNELS", "0")
    assert roi_align_kernel.kernel_for(maps, 5, grid) is None


@pytest.mark.parametrize("kind", DIALECTS)
def test_a_kernel_that_does_not_compile_is_replaced_with_a_warning(kind, monkeypatch):
    if roi_align_kernel.gpu_kind() == kind:
        pytest.skip(f"{kind} is this machine's backend, where the kernel compiles")
    with pytest.warns(UserWarning, match=rf"kernel for {kind} does not work here, and the slower plain form is used"):
        assert not roi_align_kernel._agrees.__wrapped__(kind, mx.float32)


@pytest.mark.parametrize("name", KERNELS)
def test_the_dialects_use_their_own_words_only(name):
    for kind, dialect in DIALECTS.items():
        source = "\n".join(kernel_source(name, dialect))
        assert ("thread_position_in_grid" in source) == (kind == "metal")
        assert ("threadIdx" in source) == (kind == "cuda")
        assert source.count("{") == source.count("}")
        # What Metal lacks, and names that MLX would add arguments for.
        assert not re.search(r"\b(double|long|std)\b|_(shape|strides|ndim)\b", re.sub("//.*", "", source))
    assert [k for k, _ in template(mx.float32, 3, Grid((1, 2), -1, True))] == [
        "T", "CHANNELS", "BINS_Y", "BINS_X", "RATIO", "MOST", "ALIGNED",
    ]  # fmt: skip
    assert dict(template(mx.float32, 3, Grid((1, 2), -1, True)))["RATIO"] == 0
    maps = flattened([mx.ones((1, 4, 4, 2))], [(1, 1)])
    assert [a.size for a in inputs_of(mx.zeros((1, 4)), mx.zeros(1, mx.int32), mx.zeros(1, mx.int32), maps)] == [
        8, 8, 8, 12, 10,
    ]  # fmt: skip
