// What stands in ENGINE.json, which `wsss export` writes beside an engine, as far as running needs it.
#pragma once

#include <array>
#include <filesystem>
#include <string>
#include <vector>

namespace wsss::runner {

struct Record {
    using Shape = std::array<long, 3>;  // batch, height, width

    std::string engine_sha256, plugins_sha256;  // the second is empty for an engine without plugin layers
    std::string made_with;                      // for people: TensorRT and its version, the GPU
    std::string profile;                        // as it was asked for; least and most are read from it
    Shape least{}, most{};
    std::array<float, 3> mean{}, deviation{};
    bool bgr = false;
    std::vector<std::string> outputs;

    bool takes(long height, long width) const {
        return least[0] == 1 && least[1] <= height && height <= most[1] && least[2] <= width && width <= most[2];
    }
};

Record read_record(const std::filesystem::path& path);

}  // namespace wsss::runner
