// Images in, maps out. An image is a .ppm (P6, 8 bits) or an .npy of uint8 [H, W, 3], both RGB, or an .npy of float32 [3, H, W]
// that is normalised already.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <vector>

#include "record.h"

namespace wsss::runner {

struct Tensor {
    std::vector<int64_t> shape;
    std::vector<float> values;
};

Tensor read_image(const std::filesystem::path& path, const Record& record);
void write_npy(const std::filesystem::path& path, const Tensor& tensor);

}  // namespace wsss::runner
