// The only file that knows Python. Tensors come as tuples made by wsss_fast/ops/_view.py; every kernel call releases the GIL.
// Compiled twice: as _kernels, and with WSSS_SIMT as the test module _simt (the .cu files on the host).

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "affinity/affinity.h"
#include "cam_merge/cam_merge.h"
#include "common/check.h"
#include "common/simd.h"
#include "common/view.h"
#include "complementary/complementary.h"
#include "dense_crf/dense_crf.h"
#include "edge_affinity/edge_affinity.h"
#include "pcm/pcm.h"
#include "prcm/prcm.h"
#include "random_walk/random_walk.h"
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

// Fields of a struct from the members of a tuple, in order.
template <class... Fields>
void load_fields(handle source, Fields&... fields) {
    const auto members = reinterpret_borrow<tuple>(source);
    size_t next = 0;
    const auto load = [&](auto& field) {
        using Field = std::remove_reference_t<decltype(field)>;
        if constexpr (std::is_enum_v<Field>)
            field = static_cast<Field>(members[next++].template cast<int>());
        else if constexpr (std::is_pointer_v<Field>)
            field = reinterpret_cast<Field>(members[next++].template cast<uintptr_t>());
        else
            field = members[next++].template cast<Field>();
    };
    (load(fields), ...);
}

#define WSSS_FROM_TUPLE(Type, ...)                           \
    template <>                                              \
    struct type_caster<wsss::Type> {                         \
        PYBIND11_TYPE_CASTER(wsss::Type, const_name(#Type)); \
        bool load(handle source, bool) {                     \
            load_fields(source, __VA_ARGS__);                \
            return true;                                     \
        }                                                    \
    };

WSSS_FROM_TUPLE(Context, value.device.kind, value.device.index, value.threads, value.stream)
WSSS_FROM_TUPLE(random_walk::Settings, value.radius, value.beta, value.steps, value.chebyshev, value.tolerance, value.published)
WSSS_FROM_TUPLE(complementary::Options, value.grid, value.hide, value.rule, value.seed)
WSSS_FROM_TUPLE(complementary::Outputs, value.first, value.second, value.share, value.side)
WSSS_FROM_TUPLE(dense_crf::TermInput, value.feature, value.compat, value.normalisation)
WSSS_FROM_TUPLE(cam_merge::Settings, value.mean, value.minmax, value.relu_first, value.cubic, value.align_corners,
                value.background, value.alpha, value.eps, value.scale, value.multiple)

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
        const size_t end = std::min(text.find(',', start), text.size());
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

    m.def("pcm_forward_workspace", wsss::pcm::forward_workspace);
    m.def("pcm_forward", wsss::pcm::forward, release_gil());
    m.def("pcm_backward_workspace", wsss::pcm::backward_workspace);
    m.def("pcm_backward", wsss::pcm::backward, release_gil());
    m.def("prcm_forward_workspace", wsss::prcm::forward_workspace);
    m.def("prcm_forward", wsss::prcm::forward, release_gil());
    m.def("prcm_backward_workspace", wsss::prcm::backward_workspace);
    m.def("prcm_backward", wsss::prcm::backward, release_gil());
    m.def("affinity_forward_workspace", wsss::affinity::forward_workspace);
    m.def("affinity_forward", wsss::affinity::forward, release_gil());
    m.def("affinity_backward_workspace", wsss::affinity::backward_workspace);
    m.def("affinity_backward", wsss::affinity::backward, release_gil());
    m.def("edge_affinity_forward_workspace", wsss::edge_affinity::forward_workspace);
    m.def("edge_affinity_forward", wsss::edge_affinity::forward, release_gil());
    m.def("edge_affinity_backward_workspace", wsss::edge_affinity::backward_workspace);
    m.def("edge_affinity_backward", wsss::edge_affinity::backward, release_gil());
    m.def("random_walk_workspace", wsss::random_walk::workspace);
    m.def("random_walk", wsss::random_walk::run, release_gil());
    m.def("slic_workspace", wsss::slic::workspace);
    m.def("slic", wsss::slic::run, release_gil());
    m.def("complementary_pair_workspace", wsss::complementary::workspace);
    m.def("complementary_pair", wsss::complementary::run, release_gil());
    m.def("dense_crf_workspace", wsss::dense_crf::workspace);
    m.def("dense_crf", wsss::dense_crf::run, release_gil());
    m.def("cam_merge_workspace", wsss::cam_merge::workspace);
    m.def("cam_merge", wsss::cam_merge::run, release_gil());
}
