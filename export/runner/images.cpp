#include "images.h"

#include <algorithm>
#include <cctype>
#include <cstring>
#include <numeric>

#include "files.h"

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "numbers in files are little-endian");

namespace wsss::runner {
namespace {

constexpr uintmax_t kLargestFile = 1 << 30;
constexpr int64_t kLongestSide = 1 << 15;

[[noreturn]] void refuse(const std::string& why) {
    throw Failure(why);
}

void check_sides(int64_t height, int64_t width) {
    if (std::min(height, width) < 1 || std::max(height, width) > kLongestSide)
        refuse("it has " + std::to_string(height) + " rows and " + std::to_string(width) + " columns");
}

// The (value - mean) / deviation of pixels [H, W, 3], as [3, H, W].
Tensor normalised(const unsigned char* pixels, int64_t height, int64_t width, const Record& record) {
    Tensor image{{3, height, width}, std::vector<float>(3 * height * width)};
    float* next = image.values.data();
    for (int channel = 0; channel < 3; ++channel) {
        const unsigned char* from = pixels + (record.bgr ? 2 - channel : channel);
        for (int64_t i = 0; i < height * width; ++i)
            *next++ = (static_cast<float>(from[3 * i]) - record.mean[channel]) / record.deviation[channel];
    }
    return image;
}

// The digits at `at`, at most 6 of them; -1 where there are none.
int64_t whole_number(const std::string& text, size_t& at) {
    int64_t number = -1;
    for (int digits = 0; digits < 6 && at < text.size() && std::isdigit(static_cast<unsigned char>(text[at])); ++digits, ++at)
        number = std::max<int64_t>(number, 0) * 10 + (text[at] - '0');
    return number;
}

Tensor from_ppm(const std::string& file, const Record& record) {
    size_t at = 2;
    int64_t width = 0, height = 0, most = 0;
    for (int64_t* number : {&width, &height, &most}) {
        for (; at < file.size() && (std::isspace(static_cast<unsigned char>(file[at])) || file[at] == '#'); ++at)
            if (file[at] == '#') at = std::min(file.find('\n', at), file.size());
        *number = whole_number(file, at);
    }
    if (most != 255) refuse("it must have 8 bits a channel");
    ++at;  // one space, then the pixels
    check_sides(height, width);
    if (file.size() != at + 3 * height * width) refuse("it does not hold as many pixels as it says");
    return normalised(reinterpret_cast<const unsigned char*>(file.data()) + at, height, width, record);
}

bool stands(const std::string& text, size_t at, const std::string& wanted) {
    return at < text.size() && text.compare(at, wanted.size(), wanted) == 0;
}

// Where in the header of an .npy the value of `name` begins.
size_t entry(const std::string& header, const std::string& name) {
    size_t at = header.find("'" + name + "':");
    if (at == std::string::npos) refuse("its header does not tell '" + name + "'");
    return header.find_first_not_of(' ', at + name.size() + 3);
}

Tensor from_npy(const std::string& file, const Record& record) {
    const size_t wide = file.size() > 12 && file[6] >= 2 ? 4 : 2;
    uint32_t length = 0;
    if (file.size() > 8 + wide) std::memcpy(&length, file.data() + 8, wide);
    if (length == 0 || length > file.size() - 8 - wide) refuse("it ends within its header");
    const std::string header = file.substr(8 + wide, length);
    const bool bytes = stands(header, entry(header, "descr"), "'|u1'");
    if (!bytes && !stands(header, entry(header, "descr"), "'<f4'")) refuse("it must be uint8 or float32");
    if (!stands(header, entry(header, "fortran_order"), "False")) refuse("it must be in C order");
    std::vector<int64_t> shape;
    size_t at = entry(header, "shape");
    for (const char* mark = "("; stands(header, at, mark); mark = ",") {
        at = header.find_first_not_of(' ', at + 1);
        const int64_t side = whole_number(header, at);
        if (side >= 0) shape.push_back(side);
    }
    const bool fits = shape.size() == 3 && shape[bytes ? 2 : 0] == 3;
    if (!fits || !stands(header, at, ")"))
        refuse(bytes ? "pixels must have the shape (H, W, 3)" : "float32 must have the shape (3, H, W)");
    check_sides(shape[bytes ? 0 : 1], shape[bytes ? 1 : 2]);
    const char* data = file.data() + 8 + wide + length;
    const size_t count = 3 * shape[1] * (bytes ? shape[0] : shape[2]);
    if (file.size() - (data - file.data()) != count * (bytes ? 1 : 4)) refuse("it does not hold as many values as it says");
    if (bytes) return normalised(reinterpret_cast<const unsigned char*>(data), shape[0], shape[1], record);
    Tensor image{shape, std::vector<float>(count)};
    std::memcpy(image.values.data(), data, 4 * count);
    return image;
}

}  // namespace

Tensor read_image(const std::filesystem::path& path, const Record& record) {
    const std::string file = read_file(path, kLargestFile);
    try {
        if (file.compare(0, 2, "P6") == 0) return from_ppm(file, record);
        if (file.compare(0, 6, "\x93NUMPY") == 0) return from_npy(file, record);
        refuse("it must be a PPM (P6) or an NPY file");
    } catch (const Failure& error) {
        throw Failure("'" + shown(path) + "' cannot be read: " + error.what());
    }
}

void write_npy(const std::filesystem::path& path, const Tensor& tensor) {
    std::string header = "{'descr': '<f4', 'fortran_order': False, 'shape': (";
    for (int64_t size : tensor.shape) header += std::to_string(size) + ", ";
    header += "), }";
    header.resize((header.size() + 10 + 64) / 64 * 64 - 11, ' ');  // values begin at a multiple of 64
    header += '\n';
    std::string head = std::string("\x93NUMPY\x01\x00", 8);
    head += static_cast<char>(header.size() & 255);
    head += static_cast<char>(header.size() >> 8);
    write_file(path, head + header, tensor.values.data(), 4 * tensor.values.size());
}

}  // namespace wsss::runner
