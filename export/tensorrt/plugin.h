// One of our operations as a TensorRT plugin (IPluginV3). The template holds what TensorRT asks of every plugin; an operation is
// a small struct:
//
//     struct Pcm {
//         static constexpr const char* kName;              the node's type in the ONNX file, of domain "wsss"
//         static constexpr int kInputs;                    input 0 gives the output its shape and type
//         template <class F> void fields(F&& field);       field("eps", eps): the node's attributes
//         int64_t workspace(const Shapes&, DType) const;   bytes for inputs of these shapes
//         void run(const View* inputs, const View& out, const View& workspace, const Context&) const;
//     };
//
// Inputs and output share one type: float32, float16 or bfloat16. Nothing is allocated when the engine runs: TensorRT gives the
// workspace. Errors are logged and end the inference; no exception leaves the library.
#pragma once

#include <NvInferRuntime.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <exception>
#include <new>
#include <vector>

#include "common/view.h"

namespace wsss::tensorrt {

constexpr const char* kNamespace = "wsss";
constexpr const char* kVersion = "1";

void log_error(const char* plugin, const char* message) noexcept;

using Shape = std::array<int64_t, kMaxDims>;
using Shapes = std::vector<Shape>;

inline Shape shape_of(const nvinfer1::Dims& dims) {
    Shape shape{};
    for (int i = 0; i < dims.nbDims; ++i) shape[i] = dims.d[i];
    return shape;
}

inline bool known(nvinfer1::DataType type) {
    using nvinfer1::DataType;
    return type == DataType::kFLOAT || type == DataType::kHALF || type == DataType::kBF16;
}

inline DType dtype_of(nvinfer1::DataType type) {
    if (type == nvinfer1::DataType::kHALF) return DType::kFloat16;
    return type == nvinfer1::DataType::kBF16 ? DType::kBFloat16 : DType::kFloat32;
}

inline View view_of(const nvinfer1::PluginTensorDesc& desc, const void* data, const Device& device) {
    View view;
    view.data = const_cast<void*>(data);
    view.dtype = dtype_of(desc.type);
    view.device = device;
    view.ndim = desc.dims.nbDims;
    view.size = shape_of(desc.dims);
    int64_t stride = 1;
    for (int i = view.ndim - 1; i >= 0; --i) {
        view.stride[i] = stride;
        stride *= view.size[i];
    }
    return view;
}

inline View bytes_view(void* data, int64_t count, const Device& device) {
    View view;
    view.data = data;
    view.dtype = DType::kUInt8;
    view.device = device;
    view.ndim = 1;
    view.size[0] = count;
    view.stride[0] = 1;
    return view;
}

// The attributes of an operation as TensorRT's fields. Ints and floats are 4 bytes wide.
class Fields {
public:
    template <class Op>
    explicit Fields(Op& op) {
        op.fields([this](const char* name, auto& value) {
            static_assert(sizeof(value) == 4, "a field is a float or an int32");
            const bool real = std::is_floating_point_v<std::remove_reference_t<decltype(value)>>;
            list_.emplace_back(name, &value, real ? nvinfer1::PluginFieldType::kFLOAT32 : nvinfer1::PluginFieldType::kINT32, 1);
        });
        collection_.nbFields = static_cast<int32_t>(list_.size());
        collection_.fields = list_.data();
    }

    Fields(const Fields&) = delete;
    Fields& operator=(const Fields&) = delete;

    const nvinfer1::PluginFieldCollection* get() const { return &collection_; }

private:
    std::vector<nvinfer1::PluginField> list_;
    nvinfer1::PluginFieldCollection collection_{};
};

// Reads what the ONNX node or the engine holds; a field that is not there keeps its default.
template <class Op>
void read_fields(Op& op, const nvinfer1::PluginFieldCollection& given) {
    op.fields([&](const char* name, auto& value) {
        for (int i = 0; i < given.nbFields; ++i) {
            const nvinfer1::PluginField& field = given.fields[i];
            if (field.data == nullptr || std::strcmp(field.name, name) != 0) continue;
            // the parser hands over whole numbers in 32 or 64 bits
            if (field.type == nvinfer1::PluginFieldType::kINT64)
                value = static_cast<std::remove_reference_t<decltype(value)>>(*static_cast<const int64_t*>(field.data));
            else
                std::memcpy(&value, field.data, sizeof(value));
        }
    });
}

template <class Op>
class Plugin final : public nvinfer1::IPluginV3,
                     public nvinfer1::IPluginV3OneCore,
                     public nvinfer1::IPluginV3OneBuild,
                     public nvinfer1::IPluginV3OneRuntime {
public:
    explicit Plugin(const Op& op) : op_(op) {}

    // core
    nvinfer1::IPluginCapability* getCapabilityInterface(nvinfer1::PluginCapabilityType type) noexcept override {
        if (type == nvinfer1::PluginCapabilityType::kBUILD) return static_cast<nvinfer1::IPluginV3OneBuild*>(this);
        if (type == nvinfer1::PluginCapabilityType::kRUNTIME) return static_cast<nvinfer1::IPluginV3OneRuntime*>(this);
        return static_cast<nvinfer1::IPluginV3OneCore*>(this);
    }
    nvinfer1::IPluginV3* clone() noexcept override { return new (std::nothrow) Plugin(op_); }
    const char* getPluginName() const noexcept override { return Op::kName; }
    const char* getPluginVersion() const noexcept override { return kVersion; }
    const char* getPluginNamespace() const noexcept override { return kNamespace; }

    // build
    int32_t getNbOutputs() const noexcept override { return 1; }
    int32_t configurePlugin(const nvinfer1::DynamicPluginTensorDesc*, int32_t inputs, const nvinfer1::DynamicPluginTensorDesc*,
                            int32_t) noexcept override {
        return inputs == Op::kInputs ? 0 : 1;
    }
    int32_t getOutputDataTypes(nvinfer1::DataType* types, int32_t, const nvinfer1::DataType* inputs,
                               int32_t) const noexcept override {
        types[0] = inputs[0];
        return 0;
    }
    int32_t getOutputShapes(const nvinfer1::DimsExprs* inputs, int32_t, const nvinfer1::DimsExprs*, int32_t,
                            nvinfer1::DimsExprs* outputs, int32_t, nvinfer1::IExprBuilder&) noexcept override {
        outputs[0] = inputs[0];
        return 0;
    }
    bool supportsFormatCombination(int32_t position, const nvinfer1::DynamicPluginTensorDesc* tensors, int32_t,
                                   int32_t) noexcept override {
        const nvinfer1::PluginTensorDesc& tensor = tensors[position].desc;
        return tensor.format == nvinfer1::TensorFormat::kLINEAR && known(tensor.type) && tensor.type == tensors[0].desc.type;
    }
    size_t getWorkspaceSize(const nvinfer1::DynamicPluginTensorDesc* inputs, int32_t count,
                            const nvinfer1::DynamicPluginTensorDesc*, int32_t) const noexcept override {
        try {
            return largest_workspace(inputs, count);
        } catch (const std::exception& error) {
            log_error(Op::kName, error.what());
            return 0;  // enqueue would refuse the same shapes with the same words
        }
    }

    // run
    int32_t onShapeChange(const nvinfer1::PluginTensorDesc*, int32_t, const nvinfer1::PluginTensorDesc*,
                          int32_t) noexcept override {
        return 0;
    }
    int32_t enqueue(const nvinfer1::PluginTensorDesc* input, const nvinfer1::PluginTensorDesc* output, const void* const* inputs,
                    void* const* outputs, void* workspace, cudaStream_t stream) noexcept override {
        try {
            Context context;
            context.device.kind = DeviceKind::kCuda;
            if (cudaGetDevice(&context.device.index) != cudaSuccess) throw std::runtime_error("there is no CUDA device");
            context.stream = stream;
            View views[Op::kInputs];
            Shapes shapes;
            for (int i = 0; i < Op::kInputs; ++i) {
                views[i] = view_of(input[i], inputs[i], context.device);
                shapes.push_back(views[i].size);
            }
            const View out = view_of(output[0], outputs[0], context.device);
            const int64_t space = op_.workspace(shapes, views[0].dtype);
            op_.run(views, out, bytes_view(workspace, space, context.device), context);
            return 0;
        } catch (const std::exception& error) {
            log_error(Op::kName, error.what());
            return 1;
        }
    }
    nvinfer1::IPluginV3* attachToContext(nvinfer1::IPluginResourceContext*) noexcept override { return clone(); }
    const nvinfer1::PluginFieldCollection* getFieldsToSerialize() noexcept override { return fields_.get(); }

private:
    // The kernels cut small inputs into more parts, so the largest shape of a profile need not have the largest workspace: every
    // number of images and every number of pixels, in steps of a tile, is asked for.
    size_t largest_workspace(const nvinfer1::DynamicPluginTensorDesc* inputs, int32_t count) const {
        constexpr int64_t kStep = 32, kMostImages = 64;
        Shapes shapes;
        for (int i = 0; i < count; ++i) shapes.push_back(shape_of(inputs[i].max));
        const Shape least = shape_of(inputs[0].min), most = shapes[0];
        const DType type = dtype_of(inputs[0].desc.type);
        const int64_t pixels = most[2] * most[3];
        const int64_t from = std::max<int64_t>(least[2] * least[3], 1) / kStep * kStep;
        int64_t largest = 0;
        for (int64_t images = std::max<int64_t>(least[0], 1); images <= most[0]; ++images) {
            if (images > kMostImages) images = most[0];  // no parts are left to cut
            for (int64_t p = from; p < pixels + kStep; p += kStep) {
                for (Shape& shape : shapes) {
                    if (shape[2] == 0) continue;  // a matrix of weights
                    shape[0] = images;
                    shape[2] = 1;
                    shape[3] = std::min(p + kStep, pixels);
                }
                largest = std::max(largest, op_.workspace(shapes, type));
            }
        }
        return static_cast<size_t>(largest);
    }

    Op op_;
    Fields fields_{op_};
};

template <class Op>
class Creator final : public nvinfer1::IPluginCreatorV3One {
public:
    const char* getPluginName() const noexcept override { return Op::kName; }
    const char* getPluginVersion() const noexcept override { return kVersion; }
    const char* getPluginNamespace() const noexcept override { return kNamespace; }
    const nvinfer1::PluginFieldCollection* getFieldNames() noexcept override { return names_.get(); }
    nvinfer1::IPluginV3* createPlugin(const char*, const nvinfer1::PluginFieldCollection* given,
                                      nvinfer1::TensorRTPhase) noexcept override {
        Op op;
        if (given != nullptr) read_fields(op, *given);
        return new (std::nothrow) Plugin<Op>(op);
    }

private:
    Op defaults_;
    Fields names_{defaults_};
};

}  // namespace wsss::tensorrt
