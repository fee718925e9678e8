// PCM and PRCM for TensorRT, over the kernels that PyTorch runs. TensorRT 10, 11 and TensorRT-RTX load this library by
// IPluginRegistry::loadLibrary; it does not link to any of them.

#include <stdexcept>
#include <string>
#include <type_traits>

#include "pcm/pcm.h"
#include "plugin.h"
#include "prcm/prcm.h"

namespace wsss::tensorrt {
namespace {

nvinfer1::ILoggerFinder* logger_finder = nullptr;

// A float32 buffer cut off the front of the workspace.
class Buffers {
public:
    Buffers(const View& workspace) : start_(workspace.as<char>()), left_(workspace) {}

    static int64_t padded(int64_t floats) { return (floats * 4 + 255) / 256 * 256; }

    View take(std::initializer_list<int64_t> sizes) {
        View view = left_;
        view.data = start_ + used_;
        view.dtype = DType::kFloat32;
        view.ndim = 0;
        for (int64_t size : sizes) view.size[view.ndim++] = size;
        int64_t stride = 1;
        for (int i = view.ndim - 1; i >= 0; --i) {
            view.stride[i] = stride;
            stride *= view.size[i];
        }
        used_ += padded(stride);
        return view;
    }
    View rest() const { return bytes_view(start_ + used_, left_.size[0] - used_, left_.device); }

private:
    char* start_;
    View left_;
    int64_t used_ = 0;
};

struct Pcm {
    static constexpr const char* kName = "Pcm";
    static constexpr int kInputs = 2;  // cam, feature
    float eps = 1e-5f;

    template <class F>
    void fields(F&& field) {
        field("eps", eps);
    }

    static pcm::Shape shape(const Shapes& s) { return {s[0][0], s[0][1], s[1][1], s[0][2], s[0][3]}; }

    int64_t workspace(const Shapes& shapes, DType type) const {
        const pcm::Shape s = shape(shapes);
        return Buffers::padded(s.n * s.pixels()) + pcm::forward_workspace_cuda(s, type, {});
    }

    void run(const View* in, const View& out, const View& workspace, const Context& context) const {
        Buffers buffers(workspace);
        const View denominator = buffers.take({in[0].size[0], in[0].size[2] * in[0].size[3]});
        pcm::forward(in[0], in[1], eps, out, denominator, buffers.rest(), context);
    }
};

struct Prcm {
    static constexpr const char* kName = "Prcm";
    static constexpr int kInputs = 4;  // cam, x, query, phi
    float scale = 1.0f;
    int32_t classes = 0, view = 0, rectify = 0;

    template <class F>
    void fields(F&& field) {
        field("scale", scale);
        field("classes", classes);
        field("view", view);
        field("rectify", rectify);
    }

    static prcm::Shape shape(const Shapes& s) { return {s[0][0], s[0][1], s[1][1], s[2][1], s[0][2], s[0][3]}; }

    int64_t workspace(const Shapes& shapes, DType type) const {
        const prcm::Shape s = shape(shapes);
        return Buffers::padded(s.n * s.c * s.pixels()) + Buffers::padded(s.n * s.c * s.c1) + Buffers::padded(s.n * s.c2 * s.c) +
               prcm::forward_workspace_cuda(s, type, {});
    }

    void run(const View* in, const View& out, const View& workspace, const Context& context) const {
        const int64_t n = out.size[0], c = out.size[1];
        Buffers buffers(workspace);
        const View gate = buffers.take({n, c, out.size[2], out.size[3]});
        const View proxy = buffers.take({n, c, in[1].size[1]});
        const View key = buffers.take({n, in[2].size[1], c});
        prcm::forward(in[0], in[1], in[2], in[3], scale, classes != 0, view != 0, rectify != 0, out, gate, proxy, key,
                      buffers.rest(), context);
    }
};

}  // namespace

void log_error(const char* plugin, const char* message) noexcept {
    try {
        nvinfer1::ILogger* const logger = logger_finder ? logger_finder->findLogger() : nullptr;
        const std::string text = std::string("wsss plugin ") + plugin + ": " + message;
        if (logger) logger->log(nvinfer1::ILogger::Severity::kERROR, text.c_str());
    } catch (...) {
        // out of memory while telling about an error: the status of the call still tells that there was one
    }
}

}  // namespace wsss::tensorrt

#define WSSS_EXPORT extern "C" __attribute__((visibility("default")))

WSSS_EXPORT nvinfer1::IPluginCreatorInterface* const* getCreators(int32_t& count) {
    static wsss::tensorrt::Creator<wsss::tensorrt::Pcm> pcm;
    static wsss::tensorrt::Creator<wsss::tensorrt::Prcm> prcm;
    static nvinfer1::IPluginCreatorInterface* creators[] = {&pcm, &prcm};
    count = 2;
    return creators;
}

WSSS_EXPORT void setLoggerFinder(nvinfer1::ILoggerFinder* finder) {
    wsss::tensorrt::logger_finder = finder;
}
