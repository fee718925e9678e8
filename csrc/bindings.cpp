// The only file that knows Python. Tensors come as tuples made by wsss_fast/ops/_view.py; every kernel call releases the GIL.
// Compiled twice: as _kernels, and with WSSS_SIMT as the test module _simt (the .cu files on the host).

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "common/check.h"
#include "common/simd.h"
#include "common/view.h"
#include "complementary/complementary.h"
#include "dense_crf/dense_crf.h"
#include "pcm/pcm.h"
#include "slic/slic.h"

#ifndef WSSS_CUDA_ARCHS
#define WSSS_CUDA_ARCHS ""
#endif

namespace py = pybind11;

namespace pybind11::detail {

// (pointer, type, device kind, device index, sizes, strides), or None for an output that is not wanted
template <>
struct type_caster<wsss::View> {
    PYBIND11_TYPE_CASTER(wsss::View, const_name("View"));

    bool load(handle source, bool) {
        value = wsss::View{};
        if (source.is_none()) return true;
        const auto fields = reinterpret_borrow<tuple>(source);
        const auto sizes = fields[4].cast<tuple>(), strides = fields[5].cast<tuple>();
        value.data = reinterpret_cast<void*>(fields[0].cast<uintptr_t>());
        value.dtype = static_cast<wsss::DType>(fields[1].cast<int>());
        value.device = {static_cast<wsss::DeviceKind>(fields[2].cast<int>()), fields[3].cast<int>()};
        value.ndim = static_cast<int>(sizes.size());
        if (value.ndim > wsss::kMaxDims) throw std::invalid_argument("a tensor must have at most 6 dimensions");
        for (int i = 0; i < value.ndim; ++i) {
            value.size[i] = sizes[i].cast<int64_t>();
            value.stride[i] = strides[i].cast<int64_t>();
        }
        return true;
    }
};

// (device kind, device index, threads, stream)
template <>
struct type_caster<wsss::Context> {
    PYBIND11_TYPE_CASTER(wsss::Context, const_name("Context"));

    bool load(handle source, bool) {
        const auto fields = reinterpret_borrow<tuple>(source);
        value.device = {static_cast<wsss::DeviceKind>(fields[0].cast<int>()), fields[1].cast<int>()};
        value.threads = fields[2].cast<int>();
        value.stream = reinterpret_cast<void*>(fields[3].cast<uintptr_t>());
        return true;
    }
};

// (feature, compat, normalisation)
template <>
struct type_caster<wsss::CrfTerm> {
    PYBIND11_TYPE_CASTER(wsss::CrfTerm, const_name("CrfTerm"));

    bool load(handle source, bool) {
        const auto fields = reinterpret_borrow<tuple>(source);
        value.feature = fields[0].cast<wsss::View>();
        value.compat = fields[1].cast<wsss::View>();
        value.normalisation = static_cast<wsss::CrfNormalisation>(fields[2].cast<int>());
        return true;
    }
};

// (grid, hide, rule, seed)
template <>
struct type_caster<wsss::PairOptions> {
    PYBIND11_TYPE_CASTER(wsss::PairOptions, const_name("PairOptions"));

    bool load(handle source, bool) {
        const auto fields = reinterpret_borrow<tuple>(source);
        value.grid = fields[0].cast<std::vector<int64_t>>();
        value.hide = fields[1].cast<double>();
        value.rule = static_cast<wsss::PairRule>(fields[2].cast<int>());
        value.seed = fields[3].cast<int64_t>();
        return true;
    }
};

// (first, second, share, side)
template <>
struct type_caster<wsss::PairOutputs> {
    PYBIND11_TYPE_CASTER(wsss::PairOutputs, const_name("PairOutputs"));

    bool load(handle source, bool) {
        const auto fields = reinterpret_borrow<tuple>(source);
        value = {fields[0].cast<wsss::View>(), fields[1].cast<wsss::View>(), fields[2].cast<wsss::View>(),
                 fields[3].cast<wsss::View>()};
        return true;
    }
};

}  // namespace pybind11::detail

namespace {

py::dict build_info() {
    py::dict info;
    info["version"] = WSSS_VERSION;
#if defined(WSSS_WITH_CUDA)
    info["cuda"] = true;
#else
    info["cuda"] = false;
#endif
    py::list archs;
    const std::string text = WSSS_CUDA_ARCHS;
    for (size_t start = 0; start < text.size();) {
        const size_t end = std::min(text.find(';', start), text.size());
        archs.append(text.substr(start, end - start));
        start = end + 1;
    }
    info["cuda_archs"] = archs;
    info["simd"] = wsss::name(wsss::active_simd());
    info["simd_detected"] = wsss::name(wsss::detected_simd());
    info["compiler"] = __VERSION__;
    return info;
}

}  // namespace

PYBIND11_MODULE(WSSS_MODULE, m) {
    py::register_local_exception_translator([](std::exception_ptr error) {
        try {
            if (error) std::rethrow_exception(error);
        } catch (const wsss::TypeMismatch& mismatch) {
            py::set_error(PyExc_TypeError, mismatch.what());
        }
    });
    using release_gil = py::call_guard<py::gil_scoped_release>;

    m.def("build_info", build_info);
    m.def("set_simd", wsss::set_simd);

    m.def("pcm_forward_workspace", wsss::pcm_forward_workspace);
    m.def("pcm_forward", wsss::pcm_forward, release_gil());
    m.def("pcm_backward_workspace", wsss::pcm_backward_workspace);
    m.def("pcm_backward", wsss::pcm_backward, release_gil());

    m.def("complementary_pair_workspace", wsss::complementary_pair_workspace);
    m.def("complementary_pair", wsss::complementary_pair, release_gil());

    m.def("dense_crf_workspace", wsss::dense_crf_workspace);
    m.def("dense_crf", wsss::dense_crf, release_gil());

    m.def("slic_workspace", wsss::slic_workspace);
    m.def("slic", wsss::slic, release_gil());
}
