// What runs an engine. engine.cpp does it by TensorRT; everything else of this program knows neither TensorRT nor CUDA.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "images.h"

namespace wsss::runner {

class Engine {
public:
    virtual ~Engine() = default;
    // image [3, H, W] -> one tensor [C, h, w] an output, in the order given to load_engine
    virtual std::vector<Tensor> run(const Tensor& image) = 0;
};

// `plan`: the bytes of the engine, which are code: they must be the expected ones. `plugins`: a library's path, empty for none.
std::unique_ptr<Engine> load_engine(const std::string& plan, const std::string& plugins, const std::vector<std::string>& outputs);

}  // namespace wsss::runner
