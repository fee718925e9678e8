// An engine by TensorRT 10, 11 or TensorRT-RTX, whichever this program is linked to.
#include "engine.h"

#include <NvInferRuntime.h>
#include <cuda_runtime_api.h>

#include <cstdio>

#include "files.h"

namespace wsss::runner {
namespace {

class Logger final : public nvinfer1::ILogger {
    void log(Severity severity, const char* message) noexcept override {
        if (severity <= Severity::kWARNING) std::fprintf(stderr, "TensorRT: %s\n", message);
    }
} logger;

void demand(cudaError_t status, const char* what) {
    if (status != cudaSuccess) throw Failure(std::string("CUDA cannot ") + what + ": " + cudaGetErrorString(status));
}

void demand(bool done, const std::string& what) {
    if (!done) throw Failure("TensorRT cannot " + what);
}

// Memory of the GPU that only grows.
class Buffer {
public:
    Buffer() = default;
    Buffer(Buffer&& other) noexcept : data_(other.data_), bytes_(other.bytes_) { other.data_ = nullptr; }
    Buffer(const Buffer&) = delete;
    ~Buffer() { cudaFree(data_); }

    void* at_least(size_t bytes) {
        if (bytes > bytes_) {
            cudaFree(data_);
            data_ = nullptr;
            bytes_ = 0;
            demand(cudaMalloc(&data_, bytes), "take memory");
            bytes_ = bytes;
        }
        return data_;
    }

private:
    void* data_ = nullptr;
    size_t bytes_ = 0;
};

class TensorRtEngine final : public Engine {
public:
    TensorRtEngine(const std::string& plan, const std::string& plugins, const std::vector<std::string>& outputs)
        : outputs_(outputs), buffers_(outputs.size() + 1) {
        int devices = 0;
        demand(cudaGetDeviceCount(&devices), "find a GPU");
        runtime_.reset(nvinfer1::createInferRuntime(logger));
        demand(runtime_ != nullptr, "start. Hint: its library must be of the version of the headers this program was built with");
        if (!plugins.empty())
            demand(runtime_->getPluginRegistry().loadLibrary(plugins.c_str()) != nullptr,
                   "load the plugin library '" + plugins + "'");
        engine_.reset(runtime_->deserializeCudaEngine(plan.data(), plan.size()));
        demand(engine_ != nullptr, "read the engine. Hint: it is for one GPU, driver and version of TensorRT");
        demand_tensor("image", nvinfer1::TensorIOMode::kINPUT);
        for (const std::string& name : outputs_) demand_tensor(name, nvinfer1::TensorIOMode::kOUTPUT);
        demand(engine_->getNbIOTensors() == static_cast<int32_t>(buffers_.size()),
               "run an engine with other tensors than its record tells");
        context_.reset(engine_->createExecutionContext());
        demand(context_ != nullptr, "make a context for the engine");
        demand(cudaStreamCreate(&stream_), "make a stream");
    }
    ~TensorRtEngine() override { cudaStreamDestroy(stream_); }

    std::vector<Tensor> run(const Tensor& image) override {
        const auto& size = image.shape;
        demand(context_->setInputShape("image", nvinfer1::Dims4(1, size[0], size[1], size[2])), "take an image of this size");
        const size_t bytes = image.values.size() * sizeof(float);
        void* input = buffers_.back().at_least(bytes);
        demand(cudaMemcpyAsync(input, image.values.data(), bytes, cudaMemcpyHostToDevice, stream_), "copy the image");
        demand(context_->setTensorAddress("image", input), "take the image");
        std::vector<Tensor> results;
        for (size_t i = 0; i < outputs_.size(); ++i) {
            results.push_back(empty(context_->getTensorShape(outputs_[i].c_str())));
            void* output = buffers_[i].at_least(results[i].values.size() * sizeof(float));
            demand(context_->setTensorAddress(outputs_[i].c_str(), output), "give '" + outputs_[i] + "'");
        }
        demand(context_->enqueueV3(stream_), "run the engine");
        for (size_t i = 0; i < outputs_.size(); ++i) {
            const size_t count = results[i].values.size() * sizeof(float);
            demand(cudaMemcpyAsync(results[i].values.data(), buffers_[i].at_least(count), count, cudaMemcpyDeviceToHost, stream_),
                   "copy the maps");
        }
        demand(cudaStreamSynchronize(stream_), "run the engine");
        return results;
    }

private:
    void demand_tensor(const std::string& name, nvinfer1::TensorIOMode mode) const {
        const bool there = engine_->getTensorIOMode(name.c_str()) == mode;
        demand(there && engine_->getTensorDataType(name.c_str()) == nvinfer1::DataType::kFLOAT,
               "find '" + name + "' (float32) in the engine, which its record tells");
    }

    // The first axis is the batch, of 1.
    static Tensor empty(const nvinfer1::Dims& dims) {
        Tensor tensor;
        size_t count = 1;
        for (int32_t i = 1; i < dims.nbDims; ++i) {
            demand(dims.d[i] > 0, "tell the size of an output");
            tensor.shape.push_back(dims.d[i]);
            count *= static_cast<size_t>(dims.d[i]);
        }
        tensor.values.resize(count);
        return tensor;
    }

    std::vector<std::string> outputs_;
    std::vector<Buffer> buffers_;  // one an output, the last one for the image
    std::unique_ptr<nvinfer1::IRuntime> runtime_;
    std::unique_ptr<nvinfer1::ICudaEngine> engine_;
    std::unique_ptr<nvinfer1::IExecutionContext> context_;
    cudaStream_t stream_ = nullptr;
};

}  // namespace

std::unique_ptr<Engine> load_engine(const std::string& plan, const std::string& plugins,
                                    const std::vector<std::string>& outputs) {
    return std::make_unique<TensorRtEngine>(plan, plugins, outputs);
}

}  // namespace wsss::runner
